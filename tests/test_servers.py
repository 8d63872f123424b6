"""The servers that are not uWSGI, each with each backend that runs on it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path

import pytest
import websocket as websocket_client
from certificates import make_certificate
from elsewhere import CELLS, KINDS, Elsewhere
from endings import goes
from members import Member, in_view, outside
from peers import close_of, ended, eventually, leaves_nothing, open_client
from playwright.sync_api import Browser
from raw import RawClient, frame, handshake
from redis_server import Redis
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection


@pytest.fixture(params=CELLS, ids="-".join, scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[Elsewhere]:
    """The app of the behavioural suite, on each server with each backend."""
    with Elsewhere(*request.param) as server:
        yield server


@pytest.mark.parametrize("message", ["hi é€😀", b"\x00\xff", "", b"", b"x" * 2**22], ids=len)
def test_message_comes_back(running: Elsewhere, message: str | bytes) -> None:
    with open_client(running, "/echo") as ws:
        ws.send(message)
        assert ws.recv(timeout=30) == message


def test_message_in_fragments_with_pings_in_between(running: Elsewhere) -> None:
    parts = [f"part {i} é€😀 ".encode() for i in range(20)]
    with RawClient(running.port) as client:
        for i, part in enumerate(parts[:-1]):
            client.send(frame(0 if i else 1, part, fin=False) + frame(9, b"%d" % i))
            assert client.receive() == (0x8A, b"%d" % i)
        client.send(frame(0, parts[-1]))
        assert client.receive() == (0x81, b"".join(parts))


def test_end_of_a_process_that_a_view_forked_ends_no_connection(running: Elsewhere) -> None:
    lives_on_without_child(running, "/leave-child")


@pytest.mark.parametrize("size", [2, 100_000])
def test_messages_right_behind_the_handshake_are_not_lost(running: Elsewhere, size: int) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as sock:
        begin = frame(1, b"a" * size) + frame(9, b"ping") + frame(1, b"second")
        sock.sendall(handshake(running.address) + begin)
        sock.sendall(frame(1, b"third"))
        answer = b""
        while not answer.endswith(b"third"):
            answer += sock.recv(65536)
    _, _, answer = answer.partition(b"\r\n\r\n")
    # The Pong may come before the answer to what was sent before the Ping.
    pong = b"\x8a\x04ping"
    assert answer.count(pong) == 1
    head = b"\x81\x02" if size == 2 else b"\x81\x7f" + struct.pack("!Q", size)
    expected = head + b"a" * size + b"\x81\x06second" + b"\x81\x05third"
    assert answer.replace(pong, b"") == expected


def test_close_codes_reach_both_sides(running: Elsewhere) -> None:
    with open_client(running, "/close/4001/enough?run") as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert (ws.close_code, ws.close_reason) == (4001, "enough")
    with open_client(running, "/iterate?run-4002") as ws:
        ws.close(4002, "bye")
    assert ended(running, "/iterate?run-4002") == "4002 bye"


def test_faulty_frame_closes_with_1002(running: Elsewhere) -> None:
    assert close_of(running, "/echo", frame(0, b"lone"))[0] == 1002


def test_client_that_vanishes_ends_its_handler(running: Elsewhere) -> None:
    client = RawClient(running.port, "/push?vanish")
    client.receive()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()
    assert ended(running, "/push?vanish").startswith("1006")


def test_handler_that_raises_ends_with_1011_and_is_logged_as_on_uwsgi(running: Elsewhere) -> None:
    before = len(running.noise())
    with open_client(running, "/fail") as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert ws.close_code == 1011
    assert eventually(lambda: "RuntimeError: on purpose" in running.noise()[before:])
    assert "WebSocket handler failed" in running.log
    assert running.noise()[before].startswith("Traceback")


def test_20_clients_at_once_and_pages_beside_them(running: Elsewhere) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(open_client(running, "/echo")) for _ in range(20)]
        for i, ws in enumerate(clients):
            ws.send(f"client {i}")
        assert running.get("/both") == (200, "page")
        answers = [ws.recv(timeout=10) for ws in clients]
    assert answers == [f"client {i}" for i in range(20)]


def test_client_can_be_reached_from_views_and_other_handlers(running: Elsewhere) -> None:
    with open_client(running, "/register/target") as target:
        target.send("ready")
        assert target.recv(timeout=10) == "ready"
        with open_client(running, "/send-to/target/1/5"):
            heard = [str(target.recv(timeout=10)) for _ in range(5)]
        assert [line.split(" x")[0] for line in heard] == [f"1 {i}" for i in range(5)]
        with open_client(running, "/close-other/target"), pytest.raises(ConnectionClosed):
            target.recv(timeout=10)
        assert target.close_code == 4002


def test_websocket_client_library_takes_the_answer(running: Elsewhere) -> None:
    # It refuses a 101 that says "Connection: close" beside "Connection: Upgrade".
    ws = websocket_client.create_connection(running.ws + "/echo", timeout=10)
    ws.send("text")
    assert ws.recv() == "text"
    ws.close()


def test_connections_leave_nothing_behind(running: Elsewhere) -> None:
    def use() -> None:
        for _ in range(50):
            with open_client(running, "/echo") as ws:
                ws.send("x")
                ws.recv(timeout=10)

    leaves_nothing(running, use)


def test_browser_talks_to_the_echo(running: Elsewhere, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(f"http://{running.address}/both")
    answer = page.evaluate(
        """() => new Promise((resolve) => {
            const socket = new WebSocket(`ws://${location.host}/echo`);
            socket.onopen = () => socket.send('from Chromium');
            socket.onmessage = (event) => { socket.said = event.data; socket.close(4000, 'done'); };
            socket.onclose = (event) => resolve([socket.said, event.code, event.wasClean]);
        })"""
    )
    page.close()
    assert answer == ["from Chromium", 4000, True]


def test_handshake_without_upgrade_is_told_what_a_proxy_has_to_do(running: Elsewhere) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as sock:
        sock.sendall(handshake(running.address, Upgrade=None, Connection="close"))
        with sock.makefile("rb") as stream:
            answer = stream.read()
    assert answer.split()[1] == b"426"
    assert b"a proxy in front must pass the Upgrade and Connection headers on" in answer


def test_handler_that_does_nothing_but_broadcast_lets_others_be_served(running: Elsewhere) -> None:
    path = "/broadcast-until/all-are-told"
    with RawClient(running.port, path) as client, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(client.rest)
        pages = [running.get("/both") for _ in range(3)]
        running.get("/release/all-are-told")
        assert reading.result(30)
    assert pages == [(200, "page")] * 3


def test_thread_that_closes_a_client_whose_handler_has_ended_gets_no_error(
    running: Elsewhere,
) -> None:
    before = running.noise()
    for _ in range(5):
        with open_client(running, "/register/late") as ws:
            ws.send("ready")
            ws.recv(timeout=10)
            with open_client(running, "/close-other/late"), pytest.raises(ConnectionClosed):
                ws.recv(timeout=10)
    assert eventually(lambda: running.left()["registry"] == 0)
    assert running.noise() == before


def test_log_tells_of_the_connections_and_of_no_trouble(running: Elsewhere) -> None:
    asked = itertools.count()
    with ExitStack() as stack:
        for path in ("/echo", "/push", "/close/4001/x", "/register/log"):
            stack.enter_context(open_client(running, f"{path}?{next(asked)}"))
    for path in ("/push", "/echo"):
        with RawClient(running.port, f"{path}?{next(asked)}") as client:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for number in range(next(asked)):
        assert eventually(lambda number=number: f"?{number} HTTP/1.1" in running.log)
    lines = [line for line in running.log.splitlines() if any(f"?{i} " in line for i in range(9))]
    assert all(" 101 " in line for line in lines)
    # But what the handler that raises left there.
    tracebacks = [line for line in running.noise() if "on purpose" not in line]
    assert tracebacks in ([], ["Traceback (most recent call last):"])


# Each with a server of its own.


def test_waitress_is_refused_with_what_to_do() -> None:
    with Elsewhere("waitress") as server:
        status, text = refusal_of(server)
        assert status == 501
        assert "this server (waitress is one) does not give its connections away" in text
        assert "gunicorn --threads" in text
        assert server.get("/both") == (200, "page")


def test_worker_of_gunicorn_that_serves_one_at_a_time_is_refused_with_what_to_do() -> None:
    with Elsewhere("gunicorn-sync") as server:
        status, text = refusal_of(server)
        assert status == 501
        assert "start gunicorn with --threads 100 or with -k gevent" in text


def test_worker_of_gunicorn_with_one_thread_is_refused_with_what_to_do() -> None:
    with Elsewhere("gunicorn-gthread", "WebSocket", "--threads", "1") as server:
        status, text = refusal_of(server)
        assert status == 501
        assert "start gunicorn with --threads 100 or with -k gevent" in text
        assert server.get("/both") == (200, "page")


@pytest.mark.parametrize("name", ["eventlet", "gunicorn-eventlet"])
def test_gevent_backend_on_eventlet_is_refused_with_what_to_do(name: str) -> None:
    with Elsewhere(name, env={"BACKEND": "GeventWebSocket", "SERVER_HUB": ""}) as server:
        status, text = refusal_of(server)
        assert status == 501
        assert "GeventWebSocket does not run on eventlet; use WebSocket, which does" in text


@pytest.mark.parametrize("name", ["gunicorn-gevent", "eventlet"])
def test_client_class_for_threads_in_a_server_of_greenlets_is_refused(name: str) -> None:
    with Elsewhere(name, env={"SERVER_HUB": ""}) as server:
        status, text = refusal_of(server)
        assert status == 501
        assert "WebSocketClient is for threads" in text


@pytest.mark.parametrize(
    ("name", "options", "env"),
    [
        ("pywsgi", (), {"HANDLER_OF_GEVENT_WEBSOCKET": "1"}),
        (
            "gunicorn-gevent",
            ("-k", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"),
            None,
        ),
    ],
    ids=["pywsgi", "gunicorn"],
)
def test_handshake_that_gevent_websocket_has_answered_is_not_answered_again(
    name: str, options: tuple[str, ...], env: dict[str, str] | None
) -> None:
    with Elsewhere(name, "WebSocket", *options, env=env) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
            sock.sendall(handshake(server.address))
            with sock.makefile("rb") as stream:
                assert stream.read().count(b"HTTP/1.1 ") == 1
        assert eventually(lambda: "the server has answered it already, as gevent-w" in server.log)
        assert not server.noise()


@pytest.mark.parametrize("name", ["gunicorn-gthread", "gunicorn-gevent"])
def test_certificate_of_gunicorns_is_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    make_certificate(tmp_path)
    files = ["--certfile", str(tmp_path / "cert.pem"), "--keyfile", str(tmp_path / "key.pem")]
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        Elsewhere(name, "WebSocket", *files) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock,
        context.wrap_socket(sock) as secure,
    ):
        secure.sendall(handshake(server.address))
        with secure.makefile("rb") as stream:
            answer = stream.read()
    assert answer.split()[1] == b"501"
    assert b"have a proxy in front of it" in answer


GUNICORNS = [cell for cell in CELLS if cell[0].startswith("gunicorn")]
of_gunicorn = pytest.mark.parametrize("cell", GUNICORNS, ids="-".join)


@of_gunicorn
def test_reload_of_gunicorn_ends_connections_with_1012_and_the_next_worker_serves(
    cell: tuple[str, str],
) -> None:
    with Elsewhere(*cell) as server:
        with ExitStack() as stack:
            clients = [stack.enter_context(open_client(server, "/echo")) for _ in range(5)]
            busy = stack.enter_context(open_client(server, "/push"))
            before = server.workers()
            server.reload()
            assert [closed(ws) for ws in [*clients, busy]] == [(1012, "service restart")] * 6
        assert eventually(lambda: not {*server.workers()} & {*before}, 15)
        with open_client(server, "/echo") as ws:
            ws.send("again")
            assert ws.recv(timeout=10) == "again"
        assert not server.noise()


@pytest.mark.parametrize("name", ["gunicorn-gthread", "gunicorn-gevent"])
def test_app_may_have_a_signal_handler_of_its_own(name: str) -> None:
    with Elsewhere(name, app="own_sigterm") as server, open_client(server, "/echo") as ws:
        server.reload()
        assert closed(ws) == (1012, "service restart")


@pytest.mark.parametrize("name", ["gunicorn-gthread", "gunicorn-gevent"])
def test_worker_whose_arbiter_was_killed_ends(name: str) -> None:
    with Elsewhere(name) as server, open_client(server, "/push") as ws:
        worker = server.worker
        try:
            server.send(signal.SIGKILL)
            assert closed(ws)[0] == 1012
            assert goes(worker, 15)
        finally:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


@of_gunicorn
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_stop_of_gunicorn_ends_connections_with_1012(cell: tuple[str, str], number: int) -> None:
    with Elsewhere(*cell) as server:
        with open_client(server, "/echo") as ws, open_client(server, "/push") as busy:
            # gunicorn's gthread waits for itself, until it is killed, where SIGQUIT comes while it
            # gives a request to its pool, which may have answered already.
            time.sleep(0.3)
            server.send(number)
            assert closed(ws)[0] == closed(busy)[0] == 1012
        server.process.wait(20)
        assert not server.noise()


@of_gunicorn
def test_last_request_of_a_gunicorn_worker_ends_its_connections_with_1012(
    cell: tuple[str, str],
) -> None:
    with Elsewhere(*cell, "--max-requests", "20") as server, open_client(server, "/echo") as ws:
        for _ in range(20):
            server.get("/both")
        assert closed(ws) == (1012, "service restart")


@of_gunicorn
def test_gunicorns_timeout_leaves_connections_that_are_longer_alone(cell: tuple[str, str]) -> None:
    with Elsewhere(*cell, "--timeout", "2") as server, open_client(server, "/echo") as ws:
        pid = server.worker
        for _ in range(10):
            ws.send("still")
            assert ws.recv(timeout=10) == "still"
            time.sleep(0.5)
        assert server.worker == pid


@pytest.mark.parametrize("backend", KINDS["gunicorn-gevent"].backends)
def test_worker_that_gunicorn_ends_for_its_timeout_ends_connections_with_1012(backend: str) -> None:
    cell = "gunicorn-gevent", backend, "--timeout", "2"
    with Elsewhere(*cell) as server, open_client(server, "/echo") as ws:
        ws.send("x")
        assert ws.recv(timeout=10) == "x"
        with suppress(OSError, HTTPException):
            # Which the hub does not come back from.
            server.get("/computing/30")
        assert closed(ws)[0] == 1012


@pytest.mark.parametrize(
    ("name", "backend"),
    [cell for cell in CELLS if cell[0] in ("pywsgi", "eventlet")],
)
def test_interrupt_of_a_program_tells_its_connections(name: str, backend: str) -> None:
    with Elsewhere(name, backend) as server:
        with open_client(server, "/echo") as ws, open_client(server, "/push") as busy:
            ws.send("x")
            assert ws.recv(timeout=10) == "x"
            assert busy.recv(timeout=10)
            server.send(signal.SIGINT)
            assert closed(ws)[0] == closed(busy)[0] == 1001
        server.process.wait(20)


@pytest.mark.parametrize("name", ["pywsgi", "eventlet"])
def test_interrupt_of_a_program_whose_coroutine_computes_ends_it(name: str) -> None:
    with Elsewhere(name, "AsyncioWebSocket", app="greened") as server:
        with open_client(server, "/computing") as ws:
            assert ws.recv(timeout=10) == "computes"
            time.sleep(0.3)
            server.send(signal.SIGINT)
            assert closed(ws)[0] == 1001
        server.process.wait(20)
        assert "handler failed" not in server.log


@pytest.mark.parametrize("backend", KINDS["pywsgi"].backends)
def test_stop_of_a_server_with_a_pool_tells_its_connections(backend: str) -> None:
    with Elsewhere("pywsgi", backend, env={"POOL": "100"}) as server:
        with open_client(server, "/iterate") as ws, open_client(server, "/push") as busy:
            assert busy.recv(timeout=10)
            server.send(signal.SIGTERM)
            assert closed(ws)[0] == closed(busy)[0] == 1001
        server.process.wait(20)
        assert not server.noise()


@pytest.mark.parametrize("backend", KINDS["gunicorn-gthread"].backends)
def test_interrupt_of_flask_run_tells_a_client_whose_handler_sleeps(backend: str) -> None:
    with Elsewhere("werkzeug", backend) as server:
        with open_client(server, "/sleep?30") as ws, open_client(server, "/echo") as other:
            other.send("x")
            assert other.recv(timeout=10) == "x"
            interrupt_between_requests(server)
            assert closed(ws)[0] == closed(other)[0] == 1001
        server.process.wait(20)


@pytest.mark.parametrize("backend", KINDS["gunicorn-gthread"].backends)
def test_interrupt_tells_a_client_whose_handshake_has_just_been_answered(backend: str) -> None:
    with Elsewhere("werkzeug", backend) as server:
        with open_client(server, "/iterate?take-long-to-make") as ws:
            interrupt_between_requests(server)
            assert closed(ws)[0] == 1001
        server.process.wait(20)


@pytest.mark.parametrize("backend", KINDS["gunicorn-gevent"].backends)
def test_exit_of_what_a_view_of_gunicorns_greenlets_forked_ends_no_connection(backend: str) -> None:
    # It goes on with the worker's greenlets until it has ended.
    with Elsewhere("gunicorn-gevent", backend) as server:
        lives_on_without_child(server, "/leave-child?exit")
        assert not server.noise()


@pytest.mark.parametrize("backend", KINDS["gunicorn-gthread"].backends)
def test_interrupt_waits_for_handlers_that_end_one_after_another(backend: str) -> None:
    with Elsewhere("werkzeug", backend) as server:
        with open_client(server, "/part?0.2") as ws, open_client(server, "/part?0.6") as other:
            interrupt_between_requests(server)
            assert closed(ws)[0] == closed(other)[0] == 1001
        assert server.process.wait(20) == 0
        assert server.log.splitlines().count("parted") == 2


def test_interrupt_of_a_program_that_has_patched_nothing_tells_its_connections() -> None:
    with Elsewhere("pywsgi", "GeventWebSocket", env={"PATCH": "0"}) as server:
        with open_client(server, "/echo") as ws:
            ws.send("x")
            assert ws.recv(timeout=10) == "x"
            server.send(signal.SIGINT)
            assert closed(ws)[0] == 1001
        server.process.wait(20)


def lives_on_without_child(server: Elsewhere, leave: str) -> None:
    with open_client(server, "/echo") as ws:
        ws.send("before")
        assert ws.recv(timeout=10) == "before"
        assert goes(int(server.get(leave)[1]))
        ws.send("after")
        assert ws.recv(timeout=10) == "after"


def interrupt_between_requests(server: Elsewhere) -> None:
    # socketserver shuts the connection down whose thread it is starting while Ctrl-C comes; the
    # thread may have answered already. When it has taken another, it has done with those before.
    server.get("/both")
    server.send(signal.SIGINT)


def closed(ws: ClientConnection) -> tuple[int | None, str | None]:
    with suppress(ConnectionClosed):
        while True:
            ws.recv(timeout=20)
    return ws.close_code, ws.close_reason


def refusal_of(server: Elsewhere) -> tuple[int, str]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(handshake(server.address))
        return answer_on(sock)


def answer_on(sock: socket.socket) -> tuple[int, str]:
    response = HTTPResponse(sock)
    response.begin()
    return response.status, response.read().decode().strip()


ASYNCIO = [name for name, backend in CELLS if backend == "AsyncioWebSocket"]


@pytest.fixture(params=ASYNCIO, scope="module")
def greened(request: pytest.FixtureRequest) -> Iterator[Elsewhere]:
    """Coroutines beside views, on each server."""
    with Elsewhere(request.param, "AsyncioWebSocket", app="greened") as server:
        yield server


@pytest.mark.parametrize("path", ["/log", "/log-in-thread", "/to-thread"])
def test_coroutines_wait_for_what_views_wait_for_too(greened: Elsewhere, path: str) -> None:
    with ThreadPoolExecutor(4) as pool, ExitStack() as stack:
        clients = [stack.enter_context(open_client(greened, path)) for _ in range(10)]
        for turn in range(5):
            pages = [pool.submit(greened.get, "/log") for _ in range(4)]
            for ws in clients:
                ws.send(f"turn {turn}")
            assert [ws.recv(timeout=20) for ws in clients] == [f"turn {turn}"] * 10
            assert [page.result(20) for page in pages] == [(200, "logged")] * 4
    assert eventually(lambda: greened.get("/clients") == (200, "0"))


def test_view_sends_while_a_coroutine_waits_as_views_do(greened: Elsewhere) -> None:
    with open_client(greened, "/silent") as other, open_client(greened, "/asleep") as ws:
        assert ws.recv(timeout=10) == "sleeps"
        time.sleep(0.2)
        assert greened.get("/broadcast/from-a-view") == (200, "None []")
        greened.get("/put/wake-up")
        assert {ws.recv(timeout=10) for _ in range(2)} == {"from-a-view", "wake-up"}
        assert other.recv(timeout=10) == "from-a-view"
    assert not greened.noise()


def test_view_that_is_a_coroutine_awaits_what_it_sends(greened: Elsewhere) -> None:
    with open_client(greened, "/log") as ws, ThreadPoolExecutor(1) as pool:
        view = pool.submit(greened.get, "/await-broadcast/hello")
        heard = []
        # The loops of the view and of the handler take turns.
        while not view.done():
            ws.send("x")
            heard.append(ws.recv(timeout=10))
        assert view.result() == (200, "None")
        heard.append(ws.recv(timeout=10))
    assert "hello" in heard
    assert not greened.noise()


@pytest.mark.parametrize("name", ASYNCIO)
def test_first_handshake_may_come_while_a_view_that_is_a_coroutine_waits(name: str) -> None:
    with (
        Elsewhere(name, "AsyncioWebSocket", app="greened") as server,
        ThreadPoolExecutor(1) as pool,
    ):
        view = pool.submit(server.get, "/await-broadcast/hello")
        time.sleep(0.2)
        with open_client(server, "/log") as ws:
            ws.send("x")
            assert {ws.recv(timeout=10) for _ in range(2)} == {"x", "hello"}
        assert view.result(10) == (200, "None")
        assert not server.noise()


@pytest.mark.parametrize("name", ASYNCIO)
def test_first_handshakes_of_a_worker_may_come_at_once(name: str) -> None:
    with Elsewhere(name, "AsyncioWebSocket") as server, ExitStack() as stack:
        worker = server.worker
        os.kill(worker, signal.SIGSTOP)
        clients = []
        try:
            for _ in range(5):
                sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
                clients.append(stack.enter_context(sock))
                sock.sendall(handshake(server.address) + frame(1, b"here"))
        finally:
            os.kill(worker, signal.SIGCONT)
        for sock in clients:
            answer = b""
            while not answer.endswith(b"\x81\x04here"):
                data = sock.recv(4096)
                assert data
                answer += data


def test_handler_gets_what_a_view_puts_into_a_queue(greened: Elsewhere) -> None:
    with open_client(greened, "/word") as ws:
        assert ws.recv(timeout=10) == "ready"
        assert greened.get("/put/hello") == (200, "hello")
        assert ws.recv(timeout=10) == "hello"


def test_view_that_closes_a_client_that_does_not_answer_holds_up_nobody_else(
    greened: Elsewhere,
) -> None:
    # Without those of other tests.
    assert eventually(lambda: greened.get("/clients") == (200, "0"))
    with RawClient(greened.port, "/silent"), ThreadPoolExecutor(1) as pool:
        assert eventually(lambda: greened.get("/clients") == (200, "1"))
        closing = pool.submit(greened.get, "/close-all")
        served = 0
        while not closing.done():
            served += greened.get("/pid")[0] == 200
        assert closing.result() == (200, "closed")
    # It waits for seconds, in which others are answered one after the other.
    assert served > 20


@pytest.mark.parametrize("name", ["werkzeug", "gunicorn-gthread"])
def test_thread_that_can_have_no_hub_answers_503_and_the_server_lives(name: str) -> None:
    with Elsewhere(name, "GeventWebSocket") as server:
        pid = server.worker
        server.get("/hoard/8")
        # libev would end the process.
        assert refusal_of(server)[0] == 503
        server.get("/spend")
        with open_client(server, "/echo") as ws:
            ws.send("again")
            assert ws.recv(timeout=10) == "again"
        assert server.worker == pid


def test_program_that_has_no_descriptor_left_for_its_end_answers_503() -> None:
    with Elsewhere("eventlet") as server:
        # All on one connection: eventlet ends when it has no descriptor for another.
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("GET", "/hoard/0")
        connection.getresponse().read()
        connection.sock.sendall(handshake(server.address))
        assert answer_on(connection.sock)[0] == 503
        connection.request("GET", "/spend")
        connection.getresponse().read()
        connection.close()
        with open_client(server, "/echo") as ws:
            ws.send("again")
            assert ws.recv(timeout=10) == "again"


def test_what_another_thread_has_sent_goes_out_before_the_end() -> None:
    cell = "gunicorn-gthread", "GeventWebSocket"
    with Elsewhere(*cell) as server, open_client(server, "/thread-sends") as ws:
        heard = [ws.recv(timeout=10) for _ in range(6)]
        assert heard == [*(f"{number}" for number in range(5)), "last"]
        assert closed(ws)[0] == 1000


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_rooms_through_redis(cell: tuple[str, str], tmp_path: Path) -> None:
    with Redis(tmp_path) as redis:
        options = json.dumps({"message_queue": redis.url, "queue_prefix": "tests"})
        with Elsewhere(*cell, app="rooms", env={"OPTIONS": options}) as server:
            with Member(server, "a") as one, Member(server, "a") as two:
                one.do("send_to", room="a", message="from a handler")
                assert [one.next(), two.next()] == ["from a handler"] * 2
                outside(redis.url, "tests").send_to("a", "from outside")
                assert [one.next(), two.next()] == ["from outside"] * 2
                assert in_view(server, "presence", room="a").keys() == {one.id, two.id}
            assert not server.noise()


# Every package that has a stand-in, on every server.
MOVED = [
    (app, name, "WebSocket")
    for app in (
        "flask_sock",
        "flask_sockets",
        "flask_threaded_sockets",
        "flask_uwsgi_websocket",
        "flask_uwsgi_websocket_asyncio",
    )
    for name in ("werkzeug", *KINDS)
]
MOVED += [
    ("flask_uwsgi_websocket", name, "GeventWebSocket") for name in ("gunicorn-gevent", "pywsgi")
]


@pytest.mark.parametrize("cell", MOVED, ids="-".join)
def test_app_that_moved_by_an_import_talks(cell: tuple[str, str, str]) -> None:
    app, name, backend = cell
    with Elsewhere(name, backend, app=f"compat_pages.{app}") as server, ExitStack() as stack:
        paths = ("/echo", "/loud/shout", "/chat/Ada")
        echo, shout, ada = (stack.enter_context(open_client(server, path)) for path in paths)
        for ws, answer in ((echo, "hello"), (shout, "HELLO")):
            ws.send("hello")
            assert ws.recv(timeout=10) == answer
        # Its handler may begin after that of who comes later.
        assert ada.recv(timeout=10) == "Ada is here"
        with open_client(server, "/chat/Grace") as grace:
            assert ada.recv(timeout=10) == "Grace is here"
            assert grace.recv(timeout=10) == "Grace is here"
            ada.send("é€😀")
            assert [ws.recv(timeout=10) for ws in (ada, grace)] == ["Ada: é€😀"] * 2
        assert ada.recv(timeout=10) == "Grace has left"
        echo.send("bye")
        assert closed(echo)[0] == 1000
        assert not server.noise()
