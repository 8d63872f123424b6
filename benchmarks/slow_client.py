"""Measure what one client that never reads costs the others of a broadcast.

python -m benchmarks.slow_client [--clients 200] [--rounds 1]

1000 messages of 4 KiB, one every 10 ms or as fast as the machine can, to all clients with
``send_nb``: the time from the making of a message to its arrival, with the slow client and without.
"""

from __future__ import annotations

import argparse
import base64
import os
import select
import socket
import statistics
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from .measure import SPARE, cores
from .process import Failed, Process, end_servers_on_signals
from .servers import uwsgi

COUNT, SIZE = 1000, 4096
FRAME = 4 + SIZE
# Seconds without a message, after which a run has failed.
PATIENCE = 20
OPTIONS = {
    "threads": ("threads", "--threads", "2"),
    "gevent": ("gevent", "--gevent", "100"),
    "asyncio": ("asynchronous", "--asyncio", "100", "--greenlet"),
    "asyncio-thread": ("asynchronous", "--threads", "2"),
}


@dataclass(frozen=True)
class Sample:
    """*p50* and *p99* in milliseconds, and bytes by which the worker grew.

    *missed* counts messages that a client had no room for, *slow* clients closed for that.
    """

    p50: float
    p99: float
    growth: int
    missed: int
    slow: int


def connect(port: int, path: str, room: int = 0) -> socket.socket:
    """Open a connection, for which the kernel keeps *room* bytes if that is given."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    if room:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    sock.connect(("127.0.0.1", port))
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            raise Failed("the handshake was not answered")
        head += byte
    if b" 101 " not in head[:20]:
        raise Failed(f"answered {head[:40]!r}")
    return sock


def arrivals(listeners: list[socket.socket]) -> Iterator[int]:
    """Give for each message to each listener the nanoseconds that it took."""
    poll = select.epoll()
    buffers = {sock.fileno(): bytearray() for sock in listeners}
    sockets = {sock.fileno(): sock for sock in listeners}
    for fd in buffers:
        poll.register(fd, select.EPOLLIN)
    left = COUNT * len(listeners)
    last = time.monotonic()
    while left:
        for fd, _ in poll.poll(0.1):
            data = sockets[fd].recv(262144)
            now = time.monotonic_ns()
            if not data:
                raise Failed("a client that reads was closed")
            buffer = buffers[fd]
            buffer += data
            while len(buffer) >= FRAME:
                opcode, size = struct.unpack_from("!BxH", buffer)
                if (opcode, size) != (0x82, SIZE):
                    raise Failed(f"not the message: {bytes(buffer[:8])!r}")
                yield now - int(buffer[4:24])
                del buffer[:FRAME]
                left -= 1
                last = time.monotonic()
        if time.monotonic() - last > PATIENCE:
            raise Failed(f"{left} messages did not come")


def measure(mode: str, clients: int, slow: bool) -> Sample:
    """Run a server on the first core and the clients on the last.

    :raises Failed: if a client that reads did not get all.
    """
    factory, *options = OPTIONS[mode]
    first, last = cores()
    os.sched_setaffinity(0, {last})
    command = uwsgi(f"slow_client_app:{factory}()", *options)
    with Process(command, clients + SPARE, {first}) as process:
        listeners = [connect(process.port, "/listen") for _ in range(clients)]
        deaf = [connect(process.port, "/listen", 4096)] if slow else []
        before = process.memory()
        sender = connect(process.port, "/broadcast")
        try:
            took = sorted(arrivals(listeners))
            growth = process.memory() - before
            _, size = sender.recv(2, socket.MSG_WAITALL)
            missed, dropped = map(int, sender.recv(size, socket.MSG_WAITALL).split())
        finally:
            for sock in (*listeners, *deaf, sender):
                sock.close()
    p50, p99 = (took[len(took) * share // 100] / 1e6 for share in (50, 99))
    return Sample(p50, p99, growth, missed, dropped)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow_client")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    end_servers_on_signals()
    print(f"{COUNT} messages of {SIZE} bytes to {arguments.clients} clients, medians in ms")
    titles = f"{'':16}{'p50':>9}{'p99':>9}{'slow: p50':>11}{'p99':>9}{'ratio':>8}"
    print(f"{titles}{'memory':>11}{'missed':>8}")
    for mode in OPTIONS:
        alone = [measure(mode, arguments.clients, False) for _ in range(arguments.rounds)]
        beside = [measure(mode, arguments.clients, True) for _ in range(arguments.rounds)]
        p50, p99 = (statistics.median(getattr(s, n) for s in alone) for n in ("p50", "p99"))
        slow50, slow99 = (statistics.median(getattr(s, n) for s in beside) for n in ("p50", "p99"))
        print(
            f"{mode:16}{p50:9.2f}{p99:9.2f}{slow50:11.2f}{slow99:9.2f}{slow99 / p99:8.2f}"
            f"{beside[-1].growth / 1024:+7.0f} KiB{beside[-1].missed:8}",
            flush=True,
        )


if __name__ == "__main__":
    main()
