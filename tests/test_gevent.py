"""The gevent backend's own: patching, greenlets, native threads, and where it does not run."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from modes import MODES
from peers import messages, open_client
from raw import RawClient, frame
from uwsgi_server import APPS, Server, free_port, uwsgi_command
from websockets.exceptions import ConnectionClosed

from flask_uwsgi_ws.settings import Settings

GEVENT = MODES["gevent"]

LIMIT = Settings().write_limit


@pytest.fixture(scope="module")
def greenlets() -> Iterator[Server]:
    with GEVENT.serve(app="gevent_greenlets") as running:
        yield running


# Patching.


@pytest.mark.smoke
def test_init_app_lets_gevent_patch_the_standard_library(greenlets: Server) -> None:
    patched = json.loads(greenlets.get("/patched")[1])
    assert patched == {"socket": True, "sleep": True, "thread": True, "epoll": False}
    assert "could not patch" not in greenlets.log


def test_patching_takes_less_away_where_it_is_not_to_be_aggressive() -> None:
    env = {"AGGRESSIVE_PATCH": "0"}
    with GEVENT.serve(app="gevent_greenlets", env=env) as server:
        patched = json.loads(server.get("/patched")[1])
        assert (patched["socket"], patched["epoll"]) == (True, True)


def test_what_was_taken_before_the_patching_is_named_in_the_log() -> None:
    with GEVENT.serve(app="gevent_late") as server:
        for name in ("socket.socket", "ssl.SSLContext", "threading.Lock"):
            assert f"{name} in gevent_late" in server.log
        assert "--gevent-early-monkey-patch" in server.log


def test_nothing_is_named_where_uwsgi_has_patched_early() -> None:
    with GEVENT.serve("--gevent-early-monkey-patch", app="gevent_late") as server:
        assert "could not patch" not in server.log


# Where it does not run.


@pytest.mark.parametrize("name", ["gevent", "asyncio-engine"])
@pytest.mark.parametrize("threads", [1, 4])
def test_threads_beside_an_event_loop_are_warned_of(name: str, threads: int) -> None:
    mode = MODES[name]
    uwsgi, env = uwsgi_command("uwsgi")
    command = [*uwsgi, *mode.options, "--threads", str(threads), "--module", f"{mode.app}:app"]
    command += ["--http-socket", f"127.0.0.1:{free_port()}"]
    env["BACKEND"] = mode.backend
    with subprocess.Popen(command, cwd=APPS, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        # Until the app is loaded; serving with both may crash.
        log = "".join(itertools.takewhile(lambda line: "ready in" not in line, process.stderr))
        process.kill()
    assert ("leave threads out" in log) == (threads > 1)


@pytest.mark.parametrize("mode", ["threads", "asyncio-alone"])
def test_handshake_without_gevents_loop_is_refused_and_the_log_says_what_to_do(mode: str) -> None:
    options = MODES[mode].options
    with Server("behaviour", *options, env={"BACKEND": "GeventWebSocket"}) as server:
        with RawClient(server.port) as client:
            assert client.status == 501
            assert b"--gevent" in client.rest()
        assert "start uWSGI with --gevent 100" in server.log
        assert server.get("/both") == (200, "page")


@pytest.mark.parametrize("option", [(), ("--gevent-monkey-patch",)], ids=["bare", "patched"])
def test_threads_backend_in_gevents_loop_is_refused_and_the_log_names_the_other(
    option: tuple[str, ...],
) -> None:
    env = {"BACKEND": "WebSocket"}
    with Server("behaviour", "--gevent", "100", *option, env=env) as server:
        with RawClient(server.port) as client:
            assert client.status == 501
            assert b"GeventWebSocket" in client.rest()
        assert "use GeventWebSocket" in server.log


# Greenlets.


@pytest.mark.parametrize("how", ["receive", "gevent.Timeout"])
def test_receive_that_times_out_loses_no_message(greenlets: Server, how: str) -> None:
    moments = random.Random(1)
    with open_client(greenlets, f"/impatient/{how}") as ws:
        for number in range(300):
            ws.send(f"{number}")
            time.sleep(moments.random() * 0.004)
        assert [ws.recv(timeout=10) for _ in range(300)] == [f"{n}" for n in range(300)]


def test_greenlet_that_is_killed_in_receive_takes_no_message(greenlets: Server) -> None:
    with open_client(greenlets, "/kill-receiver") as ws:
        assert ws.recv(timeout=10) == "killed"
        ws.send("one")
        assert ws.recv(timeout=10) == "then one"


def test_greenlet_that_is_killed_as_its_message_comes_does_not_lose_it(greenlets: Server) -> None:
    with open_client(greenlets, "/kill-late/200") as ws:
        assert ws.recv(timeout=10) == "ready"
        for number in range(200):
            ws.send(f"{number}")
            time.sleep(0.001)
        assert ws.recv(timeout=10) == " ".join(map(str, range(200)))


def test_handler_that_is_killed_closes_its_connection(greenlets: Server) -> None:
    with open_client(greenlets, "/kill-handler") as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert ws.close_code in {1001, 1011}


@pytest.mark.smoke
def test_many_greenlets_send_to_one_client_without_mixing(greenlets: Server) -> None:
    with open_client(greenlets, "/many-greenlets/100") as ws:
        seen: dict[str, list[int]] = {}
        for message in messages(ws):
            mark, number, rest = str(message).split(" ")
            assert rest == "x" * 20_000
            seen.setdefault(mark, []).append(int(number))
    assert seen == {f"{mark}": list(range(10)) for mark in range(100)}


def test_two_greenlets_that_receive_share_the_messages(greenlets: Server) -> None:
    with open_client(greenlets, "/two-receivers") as ws:
        for number in range(50):
            ws.send(f"{number}")
        assert sorted(int(ws.recv(timeout=10)) for _ in range(50)) == list(range(50))


def test_handlers_that_sleep_do_so_at_once(greenlets: Server) -> None:
    begun = time.monotonic()
    with ExitStack() as stack:
        clients = [stack.enter_context(open_client(greenlets, "/rest?0.5")) for _ in range(20)]
        assert greenlets.get("/pid")[0] == 200
        assert [ws.recv(timeout=10) for ws in clients] == ["rested"] * 20
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("waiting", [LIMIT - 1, LIMIT, LIMIT + 1])
def test_callback_of_the_hub_is_told_where_send_would_wait(greenlets: Server, waiting: int) -> None:
    with RawClient(greenlets.port, "/register/slow") as client:
        client.send(frame(1, b"ready"))
        assert client.receive() == (0x81, b"ready")
        junk, answer = greenlets.get(f"/from-hub/slow/{waiting}")[1].split(" ", 1)
        client.skip(int(junk))
        assert client.receive() == (0x81, b"x" * (waiting - 4))
        if waiting > LIMIT:
            assert answer.startswith(f"BlockingIOError: {waiting} bytes are waiting")
        else:
            assert answer == "sent"
            assert client.receive() == (0x81, b"more")
        client.send(frame(1, b"still here"))
        assert client.receive() == (0x81, b"still here")


# Native threads.


@pytest.mark.smoke
def test_native_threads_send_and_close(greenlets: Server) -> None:
    with open_client(greenlets, "/register/native") as ws:
        ws.send("ready")
        assert ws.recv(timeout=10) == "ready"
        assert greenlets.get("/from-threadpool/native") == (200, "sent")
        seen: dict[str, list[int]] = {}
        for message in messages(ws):
            mark, number, rest = str(message).split(" ")
            assert rest == "x" * 2000
            seen.setdefault(mark, []).append(int(number))
        assert (ws.close_code, ws.close_reason) == (4004, "from a native thread")
    assert seen == {f"{mark}": list(range(50)) for mark in range(3)}


def test_receive_in_a_native_thread_says_what_to_do(greenlets: Server) -> None:
    with open_client(greenlets, "/in-threadpool") as ws:
        assert ws.recv(timeout=10) == "sent"
        assert str(ws.recv(timeout=10)).startswith("RuntimeError: ")
