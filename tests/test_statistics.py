"""What is counted of connections, and where it can be seen."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from modes import Mode
from peers import eventually, open_client
from raw import RawClient, frame
from uwsgi_server import ROOT, Server, free_port
from websockets.exceptions import ConnectionClosed

METRICS = ROOT / "uwsgi-configs" / "metrics.ini"


@pytest.fixture
def counting(mode: Mode) -> Iterator[Server]:
    """A server of which nothing has been asked yet."""
    with mode.serve(env={"LOG_LEVEL": "INFO"}) as running:
        yield running


def snapshot(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.get("/snapshot")[1])
    return found


def test_connections_are_counted_logged_and_forgotten(counting: Server) -> None:
    with open_client(counting, "/echo") as one, open_client(counting, "/echo") as other:
        for message in ("text", b"binary", "x" * 1000):
            one.send(message)
            assert one.recv(timeout=10) == message
        other.send("1")
        assert other.recv(timeout=10) == "1"
        # What is sent is counted when the system has taken it, and may be here before.
        sent = 4 + 6 + 1000 + 1 + 2 + 2 + 4 + 2
        assert eventually(lambda: snapshot(counting)["bytes_sent"] == sent)
        now = snapshot(counting)
        assert (now["open"], now["opened"], now["closed"]) == (2, 2, {})
        assert (now["messages_received"], now["messages_sent"]) == (4, 4)
        # Frames' headers are 6, 6, 8 and 6 bytes from clients, and have no mask from us.
        assert now["bytes_received"] == 4 + 6 + 1000 + 1 + 6 + 6 + 8 + 6
        assert now["clients"] == [{"route": "/echo", "path": "/echo", "latency": None}] * 2
        other.close(4000, "enough")
        assert eventually(lambda: snapshot(counting)["open"] == 1)
        assert snapshot(counting)["closed"] == {"4000": 1}
    with RawClient(counting.port, "/fail") as client:
        assert client.receive()[0] == 0x88
    with RawClient(counting.port, "/echo"):
        pass
    assert eventually(lambda: sum(snapshot(counting)["closed"].values()) == 4)
    then = snapshot(counting)
    assert (then["open"], then["opened"]) == (0, 4)
    assert then["closed"] == {"4000": 1, "1000": 1, "1011": 1, "1006": 1}
    assert then["handler_errors"] == 1
    assert (then["slow_clients"], then["ping_timeouts"]) == (0, 0)
    assert then["messages_received"] == 4
    # A line is written after the client has been counted.
    assert eventually(lambda: counting.log.count("WebSocket closed") == 4)
    opened = re.findall(r"WebSocket open id='(\w+)' route='/echo' remote='127", counting.log)
    closed = re.findall(
        r"WebSocket closed id='(\w+)' route='/echo' .* code=(\d+) seconds=[\d.]+ "
        r"received=(\d+) sent=(\d+)\n",
        counting.log,
    )
    assert len(opened) == 3
    assert {each[0] for each in closed} == set(opened)
    # A Close frame of 8 bytes and its reason from the client, one of 4 from us.
    assert ("4000", str(1 + 6 + 8 + 6), str(1 + 2 + 4)) in [each[1:] for each in closed]


def test_log_is_quiet_below_info(plain: Server) -> None:
    with open_client(plain, "/echo") as client:
        client.send("hello")
        client.recv(timeout=10)
    assert "WebSocket open" not in plain.log


def test_those_who_come_and_go_do_not_disturb_who_looks(plain: Server) -> None:
    clients: list[RawClient] = []
    for _ in range(30):
        clients.append(RawClient(plain.port))
        assert eventually(lambda: len(snapshot(plain)["clients"]) <= len(clients) + 1)
        if len(clients) == 5:
            clients.pop(0).socket.close()
    assert eventually(lambda: snapshot(plain)["open"] == len(clients))
    for client in clients:
        client.socket.close()


def test_slow_and_silent_clients_are_counted(limited: Server, pinging: Server) -> None:
    before = snapshot(limited)["slow_clients"]
    with RawClient(limited.port, "/stream?never-read"):
        assert eventually(lambda: snapshot(limited)["slow_clients"] == before + 1, 10)
    before = snapshot(pinging)["ping_timeouts"]
    with RawClient(pinging.port, "/iterate?mute"):
        assert eventually(lambda: snapshot(pinging)["ping_timeouts"] == before + 1, 10)


def test_latency_is_that_of_the_last_ping(pinging: Server) -> None:
    with open_client(pinging, "/iterate?latency"):
        assert eventually(
            lambda: any(
                client["latency"] is not None and 0 < client["latency"] < 2
                for client in snapshot(pinging)["clients"]
            ),
            10,
        )


# All workers together.


def metrics(server: Server, port: int) -> dict[str, int]:
    """What uWSGI's stats server says of the package's metrics."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as stats:
        said = json.loads(b"".join(iter(lambda: stats.recv(65536), b"")))
    assert said["pid"] == server.process.pid
    return {
        name.removeprefix("websocket."): value["value"]
        for name, value in said["metrics"].items()
        if name.startswith("websocket.")
    }


def page(server: Server) -> dict[str, float]:
    """What the page for Prometheus says, the workers' counts added up."""
    status, text = server.get("/metrics")
    assert status == 200
    sums: dict[str, float] = {}
    for name, labels, value in re.findall(r"^(websocket_\w+){(.*)} ([\d.]+)$", text, re.M):
        code = re.search(r'code="(\w+)"', labels)
        key = f"{name} {code[1]}" if code else name
        sums[key] = sums.get(key, 0) + float(value)
    return sums


def comes(source: Callable[[], Mapping[str, float]], expected: Mapping[str, float]) -> bool:
    """Wait for figures, which a worker tells once a second and uWSGI reads one by one."""
    return eventually(lambda: expected.items() <= source().items(), 20)


def test_metrics_and_the_page_for_prometheus_tell_of_all_workers(mode: Mode) -> None:
    port = free_port()
    options = ("--processes", "2", "--ini", str(METRICS), "--stats", f"127.0.0.1:{port}")
    with mode.serve(*options) as server:
        found: dict[int, list[RawClient]] = {}

        def spread() -> bool:
            client = RawClient(server.port, "/worker")
            client.send(frame(1, b"which?"))
            found.setdefault(int(client.receive()[1]), []).append(client)
            return len(found) == 2

        assert eventually(spread, 30)
        count = sum(map(len, found.values()))
        assert comes(lambda: metrics(server, port), {"open": count, "messages_received": count})
        seen = {"websocket_connections": count, "websocket_messages_sent_total": count}
        assert comes(lambda: page(server), seen)
        # Those of a worker that dies are gone, and what it had counted stays.
        dead, alive = sorted(found, key=lambda pid: len(found[pid]))
        gone = len(found.pop(dead))
        os.kill(dead, signal.SIGKILL)
        assert comes(lambda: page(server), {"websocket_connections": count - gone})
        assert comes(lambda: metrics(server, port), {"open": count - gone, "opened": count})
        for client in found[alive]:
            client.send(frame(8, b"\x03\xe8"))
            client.rest()
            client.socket.close()
        closed = count - gone
        seen = {"websocket_connections": 0, "websocket_connections_closed_total 1000": closed}
        assert comes(lambda: page(server), seen)
        assert comes(lambda: metrics(server, port), {"open": 0, "closed.1000": closed})


def test_worker_that_ends_tells_what_it_counted_last(mode: Mode) -> None:
    port = free_port()
    with mode.serve("--ini", str(METRICS), "--stats", f"127.0.0.1:{port}") as server:
        worker = server.worker
        with open_client(server, "/echo") as client:
            client.send("hello")
            client.recv(timeout=10)
            os.kill(worker, signal.SIGHUP)
            with pytest.raises(ConnectionClosed):
                client.recv(timeout=10)
            assert client.close_code == 1012
        assert eventually(lambda: worker not in server.workers() and server.workers(), 20)
        counted = {"messages_received": 1, "messages_sent": 1, "opened": 1, "closed.1012": 1}
        assert comes(lambda: metrics(server, port), {"open": 0, **counted})
        assert page(server)["websocket_connections_closed_total 1012"] == 1


def test_configuration_names_every_metric() -> None:
    from flask_uwsgi_ws.statistics import METRIC_OPTIONS

    assert re.findall(r"^metric = (.*)$", METRICS.read_text(), re.M) == list(METRIC_OPTIONS)
