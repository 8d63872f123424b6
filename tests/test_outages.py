"""What fails around the connections: worker, router, log, clock, descriptors."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from endings import is_back
from modes import MODES, NO_THREAD, Mode
from peers import eventually, frames, leaves_nothing, more, open_client
from raw import RawClient, frame
from uwsgi_server import Server


def talks(client: RawClient) -> bool:
    client.send(frame(1, b"hello"))
    return client.receive() == (0x81, b"hello")


def test_clients_of_a_killed_worker_see_an_abnormal_end(mode: Mode) -> None:
    with mode.serve() as server:
        worker = server.worker
        clients = [RawClient(server.port) for _ in range(5)]
        assert all(map(talks, clients))
        os.kill(worker, signal.SIGKILL)
        for client in clients:
            # No Close frame, which is 1006 for them.
            assert client.rest() == b""
        assert eventually(lambda: server.workers() not in ([], [worker]), 20)
        with RawClient(server.port) as client:
            assert talks(client)
        assert server.worker != worker


def test_killed_router_leaves_the_worker_nothing_and_another_follows(mode: Mode) -> None:
    with mode.serve(router=True) as server:
        worker = server.worker
        with RawClient(server.port) as client:
            assert talks(client)
        left = settled(server)
        clients = [RawClient(server.port) for _ in range(5)]
        assert all(map(talks, clients))
        (router,) = (pid for pid in server.workers() if pid != worker)
        os.kill(router, signal.SIGKILL)
        for client in clients:
            assert client.rest() == b""
        assert eventually(lambda: router not in server.workers() and len(server.workers()) == 2, 20)

        def served() -> bool:
            try:
                with RawClient(server.port) as client:
                    return client.status == 101 and talks(client)
            except OSError:
                return False

        assert eventually(served, 20)
        assert server.worker == worker
        assert not more(server, left)


def settled(server: Server) -> dict[str, int]:
    """What the server holds when there is no client."""
    assert eventually(lambda: server.left()["registry"] == server.left()["clients"] == 0)
    return server.left()


def test_out_of_descriptors_answers_503_and_the_worker_lives(mode: Mode) -> None:
    with mode.serve("--max-fd", "64") as server:
        worker = server.worker
        with RawClient(server.port) as client:
            assert talks(client)

        def use_up() -> None:
            clients: list[RawClient] = []
            try:
                while not clients or clients[-1].status == 101:
                    clients.append(RawClient(server.port))
                    assert len(clients) < 100
                # The last descriptor may have gone to the request itself: then uWSGI could not
                # accept it, and closes it without an answer.
                assert clients[-1].status in {503, 0}
                assert all(map(talks, clients[:-1]))
            finally:
                for client in clients:
                    client.socket.close()

        # Once before it is counted: uWSGI's second thread may get its own descriptor only now.
        use_up()
        left = settled(server)
        use_up()
        assert not more(server, left)
        assert server.worker == worker
        with RawClient(server.port) as client:
            assert talks(client)


@pytest.mark.parametrize("few", [1, 2, 3, 4])
def test_first_clients_that_find_few_descriptors_leave_nothing_broken(mode: Mode, few: int) -> None:
    with mode.serve("--max-fd", "64", master=False) as server:
        assert server.get(f"/hoard/{few}")[0] == 200
        for _ in range(2):
            # 0 where uWSGI itself had none left for the request.
            with RawClient(server.port) as client:
                assert client.status in {0, 101, 503}
        assert eventually(lambda: server.get("/spend")[0] == 200)
        with RawClient(server.port) as client:
            assert talks(client)
        left = settled(server)
        assert left["clients"] == left["registry"] == 0
        with RawClient(server.port) as client:
            assert talks(client)
            os.kill(server.process.pid, signal.SIGINT)
            assert client.receive() == (0x88, b"\x03\xe9going away")


def test_worker_without_a_descriptor_tells_its_clients_of_its_end(mode: Mode) -> None:
    with mode.serve("--max-fd", "64") as server:
        worker = server.worker
        with RawClient(server.port) as client:
            assert talks(client)
            server.get("/hoard/0")
            with socket.create_connection(("127.0.0.1", server.port)) as last:
                last.sendall(b"GET / HTTP/1.1\r\n")
                time.sleep(0.2)
                os.kill(worker, signal.SIGHUP)
                assert client.receive() == (0x88, b"\x03\xf4service restart")
        assert is_back(server, worker)


def test_out_of_threads_is_told_and_nobody_else_is_harmed(mode: Mode) -> None:
    with mode.serve(env={"STACK_SIZE": str(NO_THREAD)}) as server:
        worker = server.worker
        for _ in range(2):
            with RawClient(server.port) as client:
                assert client.status == 503
                assert b"no thread" in client.rest()
        server.get("/stack-size/0")
        with RawClient(server.port) as client:
            assert talks(client)
        left = settled(server)
        with RawClient(server.port) as other, RawClient(server.port) as another:
            assert talks(other)
            server.get(f"/stack-size/{NO_THREAD}")
            for _ in range(3):
                with RawClient(server.port) as client:
                    if mode is MODES["threads"]:
                        assert client.status == 503
                        assert b"no thread" in client.rest()
                    else:
                        assert talks(client)
            assert talks(other)
            # The end needs none either.
            os.kill(worker, signal.SIGHUP)
            for client in (other, another):
                assert client.receive() == (0x88, b"\x03\xf4service restart")
                client.send(frame(8, b"\x03\xf4"))
                assert client.rest() == b""
        assert is_back(server, worker)
        server.get("/stack-size/0")
        with RawClient(server.port) as client:
            assert talks(client)
        assert not more(server, left)


@pytest.mark.parametrize("log", [["--logto", "/dev/full"], ["--logger", "file:/dev/full"]])
def test_full_disk_under_the_log_harms_nobody(mode: Mode, log: list[str]) -> None:
    with mode.serve(*log, env={"LOG_LEVEL": "INFO"}) as server:
        with RawClient(server.port) as client:
            assert talks(client)

        def use() -> None:
            for _ in range(3):
                with RawClient(server.port, "/fail") as failing, RawClient(server.port) as client:
                    assert failing.receive() == (0x88, b"\x03\xf3internal error")
                    assert talks(client)
            with RawClient(server.port, Origin="http://evil.example") as client:
                assert client.status == 403

        leaves_nothing(server, use)


@pytest.mark.parametrize("jump", ["-3d", "+3d"])
def test_jump_of_the_clock_does_nothing(mode: Mode, jump: str, tmp_path: Path) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.fail("no libfaketime found: apt-get install faketime")
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    env = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        # That one has no jumps.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PING_INTERVAL": "0.3",
        "PING_TIMEOUT": "5",
    }
    with mode.serve(env=env) as server:
        before = float(server.get("/clock")[1])
        with open_client(server, "/iterate") as ws, RawClient(server.port, "/iterate") as quiet:
            clock.write_text(f"{jump}\n")
            assert eventually(lambda: abs(float(server.get("/clock")[1]) - before) > 86400)
            ws.send("hello")
            assert ws.recv(timeout=10) == "hello"
            # The keepalive's Ping, again and again, and nothing else.
            for _ in range(3):
                first, payload = quiet.receive()
                assert first == 0x89
                quiet.send(frame(10, payload))
        with RawClient(server.port, "/wait") as client:
            for expected in (b"timeout", b"own timeout"):
                assert (0x81, expected) in frames(client)
