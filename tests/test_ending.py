"""Each way in which uWSGI ends a worker: what its clients are told, and when it is gone."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from endings import RELOAD, STOP, Reloading, close_of, goes, greeted, is_back, on_all_modes, serve
from peers import eventually
from raw import RawClient
from uwsgi_server import Server

CLIENTS = 10


def told(server: Server, end: Callable[[], object]) -> Counter[tuple[int, str]]:
    """Have some clients, end their worker, and count how they were closed."""
    clients = [greeted(server.port) for _ in range(CLIENTS)]
    end()
    return Counter(close_of(client) for client in clients)


# A master that goes on, and its workers.


def to_worker(number: int) -> Callable[[Server, Path], None]:
    return lambda server, _: os.kill(server.worker, number)


def to_master(number: int) -> Callable[[Server, Path], None]:
    return lambda server, _: server.process.send_signal(number)


def touch(name: str) -> Callable[[Server, Path], None]:
    # The master compares whole seconds, with what it has seen first.
    def call(_: Server, folder: Path) -> None:
        time.sleep(1.2)
        seconds = (folder / name).stat().st_mtime + 10
        os.utime(folder / name, (seconds, seconds))

    return call


RELOADS = {
    "sighup-to-worker": to_worker(signal.SIGHUP),
    "sigterm-to-worker": to_worker(signal.SIGTERM),
    "sighup-to-master": to_master(signal.SIGHUP),
    # A stop with --die-on-term only.
    "sigterm-to-master": to_master(signal.SIGTERM),
    "uwsgi.reload": lambda server, _: server.get("/reload"),
    "touch-reload": touch("reload"),
    "touch-workers-reload": touch("workers-reload"),
    "touch-chain-reload": touch("chain-reload"),
}


@pytest.mark.parametrize("way", RELOADS)
def test_reload_tells_all_clients_1012(way: str, reloading: dict[str, Reloading]) -> None:
    def check(mode: str) -> None:
        server, folder = reloading[mode].server, reloading[mode].folder
        worker = server.worker
        assert told(server, lambda: RELOADS[way](server, folder)) == {RELOAD: CLIENTS}
        assert is_back(server, worker)
        assert goes(worker)

    on_all_modes(check)


def test_sigint_to_a_worker_tells_all_clients_1001(
    reloading: dict[str, Reloading],
) -> None:
    def check(mode: str) -> None:
        server = reloading[mode].server
        worker = server.worker
        assert told(server, lambda: os.kill(worker, signal.SIGINT)) == {STOP: CLIENTS}
        assert is_back(server, worker)

    on_all_modes(check)


# Limits at which uWSGI ends a worker by itself.


def get(server: Server, times: int) -> None:
    for _ in range(times):
        server.get("/pid")


def test_max_requests_and_reload_on_rss_tell_all_clients_1012() -> None:
    options = ("--max-requests", "30", "--reload-on-rss", "150", "--min-worker-lifetime", "0")

    def check(mode: str) -> None:
        with serve(mode, *options) as server:
            for reach in (lambda: get(server, 30), lambda: server.get("/burn")):
                worker = server.worker
                assert told(server, reach) == {RELOAD: CLIENTS}
                assert is_back(server, worker)

    on_all_modes(check)


def test_max_worker_lifetime_tells_all_clients_1012() -> None:
    def check(mode: str) -> None:
        with serve(mode, "--max-worker-lifetime", "8", "--min-worker-lifetime", "1") as server:
            worker = server.worker
            assert told(server, lambda: None) == {RELOAD: CLIENTS}
            assert is_back(server, worker)

    on_all_modes(check)


def test_worker_that_cheaper_ends_tells_its_clients_1012() -> None:
    options = ("--processes", "2", "--cheaper", "1", "--cheaper-initial", "2")

    def check(mode: str) -> None:
        with serve(mode, *options, "--cheaper-overload", "10") as server:
            clients: dict[int, list[RawClient]] = {}

            def both_serve() -> bool:
                client = greeted(server.port, "/worker")
                clients.setdefault(int(client.receive()[1]), []).append(client)
                return len(clients) == 2

            assert eventually(both_serve, 30)
            # The oldest one goes.
            first = min(clients)
            assert {close_of(client) for client in clients[first]} == {RELOAD}
            assert goes(first)
            assert greeted(server.port).status == 101

    on_all_modes(check)


# A stop.

STOPS: dict[str, tuple[int, tuple[str, ...]]] = {
    "sigint": (signal.SIGINT, ()),
    "sigterm-with-die-on-term": (signal.SIGTERM, ("--die-on-term",)),
}


@pytest.mark.parametrize("stop", STOPS)
def test_stop_tells_all_clients_1001(stop: str) -> None:
    number, options = STOPS[stop]

    def check(mode: str) -> None:
        with serve(mode, *options) as server:
            assert told(server, lambda: server.process.send_signal(number)) == {STOP: CLIENTS}
            assert goes(server.process.pid)

    on_all_modes(check)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_worker_without_a_master_tells_all_clients_1001(number: int) -> None:
    def check(mode: str) -> None:
        with serve(mode, master=False) as server:
            assert told(server, lambda: server.process.send_signal(number)) == {STOP: CLIENTS}
            assert goes(server.process.pid)

    on_all_modes(check)


def test_ctrl_c_reaches_master_and_worker_and_tells_all_clients_1001() -> None:
    def check(mode: str) -> None:
        with serve(mode) as server:
            worker = server.worker

            def ctrl_c() -> None:
                os.kill(worker, signal.SIGINT)
                server.process.send_signal(signal.SIGINT)

            assert told(server, ctrl_c) == {STOP: CLIENTS}
            assert goes(server.process.pid)

    on_all_modes(check)
