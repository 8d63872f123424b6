"""The asyncio backend's own: tasks, cancellation, plain functions, threads; in both its modes."""

from __future__ import annotations

import importlib.util
import random
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from modes import MODES, NO_THREAD
from peers import ended, eventually, leaves_nothing, messages, open_client
from raw import RawClient, frame
from uwsgi_server import Server
from websockets.exceptions import ConnectionClosed

MODE_NAMES = ("asyncio-engine", "asyncio-thread")


@pytest.fixture(params=MODE_NAMES, scope="module")
def mode_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def tasks(mode_name: str) -> Iterator[Server]:
    with MODES[mode_name].serve(app="asyncio_tasks") as running:
        yield running


# The loop.


def test_loop_is_uvloops_where_that_is_installed(tasks: Server) -> None:
    installed = importlib.util.find_spec("uvloop") is not None
    with open_client(tasks, "/loop") as ws:
        assert str(ws.recv(timeout=10)).startswith("uvloop" if installed else "asyncio")


@pytest.mark.parametrize("name", MODE_NAMES)
def test_loop_is_asyncios_where_uvloop_is_not_wanted(name: str) -> None:
    env = {"FLASK_UWSGI_WS_UVLOOP": "0"}
    with MODES[name].serve(app="asyncio_tasks", env=env) as server:
        with open_client(server, "/loop") as ws:
            assert str(ws.recv(timeout=10)).startswith("asyncio")
        exchange_slowly(server, "/impatient/wait_for", 100)
        with open_client(server, "/in-thread") as ws:
            assert ws.recv(timeout=10) == "begin"


# Cancellation.


def exchange_slowly(server: Server, path: str, count: int) -> None:
    """Send messages at any moment of a handler's 2 ms of patience; each has to come back."""
    moments = random.Random(1)
    with open_client(server, path) as ws:
        for number in range(count):
            ws.send(f"{number}")
            time.sleep(moments.random() * 0.004)
        assert [ws.recv(timeout=10) for _ in range(count)] == [f"{n}" for n in range(count)]


@pytest.mark.parametrize("how", ["wait_for", "timeout", "receive"])
def test_receive_that_times_out_loses_no_message(tasks: Server, how: str) -> None:
    if how == "timeout" and sys.version_info < (3, 11):
        pytest.skip("asyncio.timeout is of Python 3.11")
    exchange_slowly(tasks, f"/impatient/{how}", 300)


def test_receive_that_is_cancelled_takes_no_message(tasks: Server) -> None:
    with open_client(tasks, "/cancel-receive") as ws:
        assert ws.recv(timeout=10) == "cancelled"
        ws.send("one")
        assert ws.recv(timeout=10) == "then one"


def test_receive_that_is_cancelled_as_its_message_comes_does_not_lose_it(tasks: Server) -> None:
    with open_client(tasks, "/cancel-late/200") as ws:
        assert ws.recv(timeout=10) == "ready"
        for number in range(200):
            ws.send(f"{number}")
            time.sleep(0.001)
        assert ws.recv(timeout=10) == " ".join(map(str, range(200)))


def test_handler_that_is_cancelled_closes_its_connection(tasks: Server) -> None:
    with open_client(tasks, "/cancel-handler") as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert ws.close_code in {1001, 1011}


# Several tasks of one handler.


@pytest.mark.smoke
def test_gathered_receives_and_sends_each_have_a_message(tasks: Server) -> None:
    with open_client(tasks, "/gather") as ws:
        for message in "abc":
            ws.send(message)
        assert sorted(str(ws.recv(timeout=10)) for _ in range(3)) == ["a", "b", "c"]
        numbers = [str(ws.recv(timeout=10)).split(" ") for _ in range(20)]
        assert numbers == [[f"{number}", "x" * 50_000] for number in range(20)]


def test_one_task_receives_while_another_sends(tasks: Server) -> None:
    with open_client(tasks, "/receive-and-send?both") as ws:
        for number in range(5):
            ws.send(f"{number}")
            assert f"got {number}" in iter(lambda: ws.recv(timeout=10), None)
            assert "tick" in iter(lambda: ws.recv(timeout=10), None)
    assert ended(tasks, "/receive-and-send?both") == "ConnectionClosed"


def test_receive_beside_a_timer_in_asyncio_wait_loses_no_message(tasks: Server) -> None:
    exchange_slowly(tasks, "/first-completed", 200)
    assert ended(tasks, "/first-completed?") == "ticked"


@pytest.mark.smoke
def test_tasks_that_a_handler_leaves_are_cancelled_and_their_finally_runs(tasks: Server) -> None:
    with open_client(tasks, "/leave-tasks?returns") as ws:
        ws.send("return")
        lines = {f"/leave-tasks?returns {name}" for name in ("outer", "inner")}
        assert eventually(lambda: lines <= set(tasks.ends())), tasks.ends()
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert ws.close_code == 1000
    assert "never awaited" not in tasks.log
    assert "was destroyed but it is pending" not in tasks.log


def test_task_that_is_left_waiting_in_receive_does_not_keep_the_connection(tasks: Server) -> None:
    log = len(tasks.log)
    with open_client(tasks, "/leave-receiver") as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert ws.close_code == 1000
    assert "Traceback" not in tasks.log[log:]


def test_context_variable_belongs_to_one_handler_and_its_tasks(tasks: Server) -> None:
    with ExitStack() as stack:
        clients = {name: stack.enter_context(open_client(tasks, f"/name/{name}")) for name in "abc"}
        for name, ws in clients.items():
            assert ws.recv(timeout=10) == f"nobody then {name}"
        for name, ws in clients.items():
            ws.send("who?")
            assert ws.recv(timeout=10) == name
        assert tasks.get("/name") == (200, "nobody")


# Plain functions, threads and views.


@pytest.mark.smoke
def test_plain_function_has_a_thread_and_holds_nobody_up(tasks: Server) -> None:
    with ExitStack() as stack:
        # Asked for by name, so that the app knows the loop.
        known = stack.enter_context(open_client(tasks, "/register/for-plain"))
        known.send("ready")
        assert known.recv(timeout=10) == "ready"
        clients = [
            stack.enter_context(open_client(tasks, f"/plain?{number}")) for number in range(5)
        ]
        for ws in clients:
            assert ws.recv(timeout=10) == "in a thread"
            assert ws.recv(timeout=10) == "timeout"
        # Each of them blocks until all five have come.
        for ws in clients[:4]:
            ws.send("meet")
        known.send("meanwhile")
        assert known.recv(timeout=10) == "meanwhile"
        clients[4].send("meet")
        assert [ws.recv(timeout=10) for ws in clients] == ["meet"] * 5
    for number in range(5):
        assert ended(tasks, f"/plain?{number}") == "1000"


def test_plain_function_that_raises_closes_with_1011_and_is_logged(tasks: Server) -> None:
    with open_client(tasks, "/plain-fail") as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert ws.close_code == 1011
    assert "RuntimeError: on purpose, in a thread" in tasks.log


def test_plain_function_that_can_not_have_a_thread_is_turned_away_and_the_next_is_not(
    tasks: Server,
) -> None:
    tasks.get(f"/stack-size/{NO_THREAD}")
    with open_client(tasks, "/plain?without") as ws, pytest.raises(ConnectionClosed) as closed:
        ws.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
        1013,
        "the server has no thread for this",
    )
    tasks.get("/stack-size/0")
    with open_client(tasks, "/plain-close/4001/enough") as ws, pytest.raises(ConnectionClosed):
        ws.recv(timeout=10)
    assert "turned away: can't start new thread" in tasks.log


def test_plain_function_closes_with_a_code_and_a_reason(tasks: Server) -> None:
    with open_client(tasks, "/plain-close/4001/enough") as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert (ws.close_code, ws.close_reason) == (4001, "enough")
    assert ended(tasks, "/plain-close/4001/enough?") == "handshake done"


def test_sync_has_the_blocking_calls_for_a_thread(tasks: Server) -> None:
    with open_client(tasks, "/in-thread?used") as ws:
        assert ws.recv(timeout=10) == "begin"
        ws.send("one")
        assert [ws.recv(timeout=10) for _ in range(4)] == [
            "one",
            "timeout",
            "timeout",
            "nothing ''",
        ]
        ws.send('{"a": 1}')
        assert ws.recv(timeout=10) == '{"a": 1}'
        for message in ("two", b"three"):
            ws.send(message)
            assert ws.recv(timeout=10) == message
    assert ended(tasks, "/in-thread?used") == "1000"


def test_sync_does_not_wait_in_the_thread_of_the_loop(tasks: Server) -> None:
    with open_client(tasks, "/sync-in-handler?begun") as ws:
        assert ws.recv(timeout=10) == "sent"
        assert str(ws.recv(timeout=10)).startswith("RuntimeError: ")
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert (ws.close_code, ws.close_reason) == (4000, "begun")
    assert ended(tasks, "/sync-in-handler?begun") == "4000 False"


def test_receive_in_a_view_waits_where_views_have_threads(mode_name: str, tasks: Server) -> None:
    expected = {"asyncio-engine": "RuntimeError", "asyncio-thread": "TimeoutError"}
    with open_client(tasks, "/register/viewed") as ws:
        ws.send("ready")
        assert ws.recv(timeout=10) == "ready"
        assert tasks.get("/receive/viewed") == (200, expected[mode_name])
        ws.send("still served")
        assert ws.recv(timeout=10) == "still served"


@pytest.mark.smoke
def test_thread_uses_the_coroutines_by_run_coroutine_threadsafe(tasks: Server) -> None:
    with open_client(tasks, "/register/threadsafe") as ws:
        ws.send("ready")
        assert ws.recv(timeout=10) == "ready"
        assert tasks.get("/coroutine-in-thread/threadsafe") == (200, "begun")
        assert list(messages(ws)) == [f"message {number}" for number in range(20)]
        assert (ws.close_code, ws.close_reason) == (4003, "from a thread")
    assert ended(tasks, "/register/threadsafe?") == "thread done"


def test_coroutines_can_be_awaited_in_the_loop_of_another_thread(tasks: Server) -> None:
    with open_client(tasks, "/register/other-loop") as ws:
        ws.send("ready")
        assert ws.recv(timeout=10) == "ready"
        assert tasks.get("/own-loop/other-loop") == (200, "begun")
        assert ws.recv(timeout=10) == "from another loop"
        assert [ws.recv(timeout=10) for _ in range(5)] == [f"at once {i}" for i in range(5)]
        assert "own loop" in str(ws.recv(timeout=10))


def test_task_that_calls_exit_ends_no_other_connection() -> None:
    with (
        MODES["asyncio-thread"].serve(app="asyncio_tasks") as server,
        open_client(server, "/loop"),
        open_client(server, "/register/other") as other,
    ):
        worker = server.worker
        with open_client(server, "/exit-in-task") as ws:
            ws.send("go on")
        other.send("still served")
        assert other.recv(timeout=10) == "still served"
        assert server.worker == worker
        assert eventually(lambda: "SystemExit: 3" in server.log)


def test_plain_handler_that_raises_stop_iteration_closes_with_1011(tasks: Server) -> None:
    with open_client(tasks, "/stop-iteration") as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert ws.close_code == 1011


def test_nothing_is_left_of_tasks_and_threads(tasks: Server) -> None:
    def use_all() -> None:
        for path in ("/impatient/wait_for", "/leave-tasks", "/leave-receiver", "/plain"):
            for _ in range(10):
                with RawClient(tasks.port, path) as client:
                    client.send(frame(1, b"x"))

    leaves_nothing(tasks, use_all)
