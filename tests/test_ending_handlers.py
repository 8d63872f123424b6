"""What a worker's end is for handlers and their clients: their last words, their time, and who
comes meanwhile."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from endings import (
    RELOAD,
    STOP,
    Reloading,
    close_of,
    goes,
    greeted,
    is_back,
    is_gone,
    on_all_modes,
    serve,
    serve_all_modes,
    words,
)
from peers import eventually
from raw import RawClient, frame
from uwsgi_server import Server

# Seconds for handlers that never end.
SHORT = 1.0


@pytest.fixture(scope="module")
def hasty() -> Iterator[dict[str, Server]]:
    """A server in each mode that waits for nobody for long."""
    with ExitStack() as stack:
        yield serve_all_modes(stack, lambda _: (), CLOSE_TIMEOUT=str(SHORT))


@pytest.fixture(scope="module")
def unhurried() -> Iterator[dict[str, Server]]:
    """A server in each mode that takes its time to end, with an app that sets signal handlers."""
    env = {"CLOSE_TIMEOUT": "30", "CLOSE_WINDOW": "1.5", "OWN_SIGNAL_HANDLERS": "1"}
    with ExitStack() as stack:
        yield serve_all_modes(stack, lambda _: (), **env)


def test_handler_finishes_after_the_close_and_before_atexit(
    reloading: dict[str, Reloading],
) -> None:
    def check(mode: str) -> None:
        server = reloading[mode].server
        worker = server.worker
        before = len(words(server))
        client = greeted(server.port, "/finish")
        os.kill(worker, signal.SIGHUP)
        assert close_of(client) == RELOAD
        assert is_back(server, worker)
        # uWSGI calls no uwsgi.atexit in its asyncio engine.
        told = ["finished 1012 service restart"] + ["atexit"] * (mode != "asyncio-engine")
        assert words(server)[before:] == told

    on_all_modes(check)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_stubborn_handler_holds_the_worker_for_close_timeout(
    number: int, hasty: dict[str, Server]
) -> None:
    def check(mode: str) -> None:
        server = hasty[mode]
        worker = server.worker
        with RawClient(server.port, "/stubborn") as client:
            assert client.receive() == (0x81, b"here")
            os.kill(worker, number)
            start = time.monotonic()
            while client.receive()[0] != 0x88:
                pass
            # Its end may be all that is to be heard: the client does not answer.
            assert goes(worker)
            # A second is allowed; the rest is for a busy machine.
            assert time.monotonic() - start < SHORT + 1 + 3
        assert is_back(server, worker)

    on_all_modes(check)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_handler_that_computes_without_a_pause_holds_the_worker_for_close_timeout(
    number: int, hasty: dict[str, Server]
) -> None:
    def check(mode: str) -> None:
        server = hasty[mode]
        worker = server.worker
        before = words(server).count("computes")
        with RawClient(server.port, "/compute") as client, greeted(server.port) as other:
            assert client.receive() == (0x81, b"here")
            client.send(frame(1, b"begin"))
            assert eventually(lambda: words(server).count("computes") > before)
            os.kill(worker, number)
            start = time.monotonic()
            assert goes(worker)
            # A second is allowed, and close_window; the rest is for a busy machine.
            assert time.monotonic() - start < SHORT + 1.5 + 3
            told = STOP if number == signal.SIGINT else RELOAD
            for each in (client, other):
                first, payload = each.receive()
                assert (first, payload[2:].decode()) == (0x88, told[1])
        assert is_back(server, worker)

    on_all_modes(check)


def test_view_that_computes_is_finished_on_a_graceful_reload(hasty: dict[str, Server]) -> None:
    def check(mode: str) -> None:
        if mode == "asyncio-engine":
            # uWSGI's engine ends at once.
            return
        server = hasty[mode]
        worker = server.worker
        # So that there is somebody who looks after the end.
        greeted(server.port).socket.close()
        answers: list[tuple[int, str]] = []
        view = threading.Thread(target=lambda: answers.append(server.get("/compute")))
        view.start()
        time.sleep(0.5)
        os.kill(worker, signal.SIGHUP)
        view.join()
        assert answers == [(200, "done")]
        assert is_back(server, worker)

    on_all_modes(check)


def test_message_that_a_handler_has_taken_is_answered_before_the_close(
    reloading: dict[str, Reloading],
) -> None:
    def check(mode: str) -> None:
        server = reloading[mode].server
        client = RawClient(server.port, "/slow")
        client.send(frame(1, b"one"))
        time.sleep(0.1)
        worker = server.worker
        os.kill(worker, signal.SIGTERM)
        assert client.receive() == (0x81, b"one")
        assert close_of(client) == RELOAD
        assert is_back(server, worker)

    on_all_modes(check)


def test_messages_that_wait_to_be_sent_go_out_before_the_close(
    reloading: dict[str, Reloading],
) -> None:
    def check(mode: str) -> None:
        server = reloading[mode].server
        client = RawClient(server.port, "/much")
        client.send(frame(1, b"begin"))
        # By then the kernel has taken what it takes; the rest waits in the worker.
        time.sleep(0.5)
        worker = server.worker
        os.kill(worker, signal.SIGHUP)
        time.sleep(0.2)
        for number in range(200):
            first, payload = client.receive()
            assert (first, payload.split()[0]) == (0x81, b"%d" % number)
        assert close_of(client) == RELOAD
        assert is_back(server, worker)

    on_all_modes(check)


def test_closes_are_spread_over_close_window(unhurried: dict[str, Server]) -> None:
    # That of the servers.
    count, window = 20, 1.5

    def is_spread(server: Server) -> bool:
        clients = [greeted(server.port) for _ in range(count)]
        times = [0.0] * count

        def wait_for_close(i: int) -> None:
            close_of(clients[i])
            times[i] = time.monotonic()

        threads = [threading.Thread(target=wait_for_close, args=(i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        worker = server.worker
        os.kill(worker, signal.SIGHUP)
        for thread in threads:
            thread.join()
        assert is_back(server, worker)
        times.sort()
        # In each third there are some.
        thirds = Counter(int((each - times[0]) / window * 3) for each in times)
        return times[-1] - times[0] > window * 0.7 and all(thirds[i] >= 2 for i in range(3))

    def check(mode: str) -> None:
        # A machine that stands still for half a second may hide it once, but not each time.
        assert any(is_spread(unhurried[mode]) for _ in range(3))

    on_all_modes(check)


def test_handler_finishes_though_its_client_does_not_answer_the_close() -> None:
    with ExitStack() as stack:
        servers = serve_all_modes(stack, lambda _: (), CLOSE_TIMEOUT="8")

        def check(mode: str) -> None:
            server = servers[mode]
            worker = server.worker
            with greeted(server.port, "/finish") as client:
                os.kill(worker, signal.SIGHUP)
                assert client.receive() == (0x88, b"\x03\xf4service restart")
                assert goes(worker)
            assert eventually(lambda: "finished 1012 service restart" in words(server))
            assert is_back(server, worker)

        on_all_modes(check)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGHUP])
def test_signal_soon_after_a_reload_has_all_told_who_are_left(second: signal.Signals) -> None:
    told = {b"\x03\xf4service restart"}
    if second == signal.SIGINT:
        told.add(b"\x03\xe9going away")

    def check(mode: str) -> None:
        with serve(mode, CLOSE_WINDOW="10", TRIM_AT_EXIT="1") as server:
            worker = server.worker
            clients = [greeted(server.port) for _ in range(10)]
            os.kill(worker, signal.SIGHUP)
            # One of them has been told by then.
            assert select.select([client.socket for client in clients], (), (), 20)[0]
            # The same within a second is the same.
            time.sleep(0.3 if second == signal.SIGINT else 1.2)
            os.kill(worker, second)
            frames = [client.receive() for client in clients]
            assert {first for first, _ in frames} == {0x88}
            assert {payload for _, payload in frames} == told
            for client in clients:
                client.socket.close()
            if mode != "asyncio-engine":
                # Which has no such moment.
                assert eventually(lambda: "atexit" in words(server))
                time.sleep(0.1)
                os.kill(worker, second)
            assert goes(worker)
            assert is_back(server, worker)

    on_all_modes(check)


def test_second_signal_is_not_waited_for(unhurried: dict[str, Server]) -> None:
    def check(mode: str) -> None:
        server = unhurried[mode]
        worker = server.worker
        with RawClient(server.port, "/stubborn") as client:
            assert client.receive() == (0x81, b"here")
            os.kill(worker, signal.SIGTERM)
            while client.receive()[0] != 0x88:
                pass
            time.sleep(1.2)
            assert not is_gone(worker)
            os.kill(worker, signal.SIGTERM)
            assert goes(worker, 15)
        assert is_back(server, worker)

    on_all_modes(check)


def status_of_handshake(server: Server) -> int:
    try:
        with RawClient(server.port) as client:
            if client.status == 503:
                assert client.header("Retry-After") == ["1"]
            return client.status
    except OSError:
        return 0


def test_handshakes_during_the_end_are_refused_with_503_or_served_by_the_next_worker(
    unhurried: dict[str, Server],
) -> None:
    def check(mode: str) -> None:
        server = unhurried[mode]
        worker = server.worker
        with RawClient(server.port, "/stubborn") as client:
            assert client.receive() == (0x81, b"here")
            os.kill(worker, signal.SIGTERM)
            while client.receive()[0] != 0x88:
                pass
            if mode != "asyncio-engine":
                assert {status_of_handshake(server) for _ in range(3)} == {503}
            # The handler would have the worker stay for long.
            time.sleep(1.2)
            os.kill(worker, signal.SIGTERM)
            if mode == "asyncio-engine":
                # It accepts no more; what comes waits for the next worker.
                assert status_of_handshake(server) == 101
        assert is_back(server, worker)
        assert greeted(server.port).status == 101

    on_all_modes(check)


def test_harakiri_does_not_touch_a_connection(reloading: dict[str, Reloading]) -> None:
    def check(mode: str) -> None:
        server = reloading[mode].server
        worker = server.worker
        client = greeted(server.port)
        # The master looks each second.
        time.sleep(8.2)
        client.send(frame(1, b"still here"))
        assert client.receive() == (0x81, b"still here")
        assert server.worker == worker

    on_all_modes(check)


def test_signal_to_a_process_that_the_app_forked_does_not_end_the_worker(
    reloading: dict[str, Reloading],
) -> None:
    def check(mode: str) -> None:
        server = reloading[mode].server
        client = greeted(server.port)
        for number in (signal.SIGTERM, signal.SIGHUP):
            child = int(server.get("/fork")[1])
            os.kill(child, number)
            ended = goes(child)
            if not ended:
                os.kill(child, signal.SIGKILL)
            assert ended
            client.send(frame(1, b"still here"))
            assert client.receive() == (0x81, b"still here")
        # Nor has it taken the worker's signals away.
        worker = server.worker
        os.kill(worker, signal.SIGINT)
        assert close_of(client) == STOP
        assert is_back(server, worker)

    on_all_modes(check)


def test_signal_is_noticed_though_a_view_took_the_wakeup_descriptor() -> None:
    with serve("asyncio-alone") as server:
        client = greeted(server.port)
        worker = server.worker
        assert server.get("/take-wakeup-fd")[0] == 200
        os.kill(worker, signal.SIGTERM)
        # The main thread, which alone runs Python's handlers, has to come by.
        assert eventually(lambda: server.get("/pid")[0] == 200)
        assert close_of(client) == RELOAD
        assert goes(worker)


def test_signal_that_the_app_has_taken_does_not_end_the_worker() -> None:
    with serve("asyncio-alone") as server:
        assert server.get("/take-sighup")[0] == 200
        client = greeted(server.port)
        os.kill(server.worker, signal.SIGHUP)
        server.get("/pid")
        assert eventually(lambda: "took SIGHUP" in words(server))
        client.send(frame(1, b"still here"))
        assert client.receive() == (0x81, b"still here")


def test_handler_that_the_app_sets_when_it_is_loaded_does_not_hinder_the_end(
    unhurried: dict[str, Server],
) -> None:
    def check(mode: str) -> None:
        server = unhurried[mode]
        client = greeted(server.port)
        worker = server.worker
        os.kill(worker, signal.SIGTERM)
        assert close_of(client) == RELOAD
        assert is_back(server, worker)
        assert "the app's handler" not in words(server)

    on_all_modes(check)


def test_mercy_that_is_too_short_is_warned_of_once() -> None:
    with serve("threads", "--worker-reload-mercy", "1") as server:
        greeted(server.port)
        greeted(server.port)
        assert server.log.count("--worker-reload-mercy") == 1, server.log


def test_lazy_app_and_several_extensions() -> None:
    def check(mode: str) -> None:
        with serve(mode, "--lazy-apps", TWO_APPS="1") as server:
            worker = server.worker
            clients = [greeted(server.port), greeted(server.port, "/second")]
            os.kill(worker, signal.SIGTERM)
            assert [close_of(client) for client in clients] == [RELOAD] * 2
            assert is_back(server, worker)

    on_all_modes(check)


def test_mule_and_spooler_are_left_alone(tmp_path: object) -> None:
    with serve("threads", "--mule", "--spooler", str(tmp_path)) as server:
        worker = server.worker
        assert eventually(lambda: len(server.workers()) == 3)
        others = [pid for pid in server.workers() if pid != worker]
        client = greeted(server.port)
        os.kill(worker, signal.SIGHUP)
        assert close_of(client) == RELOAD
        assert is_back(server, worker)
        assert set(others) <= set(server.workers())
        server.process.send_signal(signal.SIGINT)
        assert goes(server.process.pid)
