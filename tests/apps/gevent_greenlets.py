"""The app of the gevent tests: greenlets, timeouts, patching."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from typing import Any

import gevent
import gevent.event
import gevent.monkey
import gevent.socket
from common import app as app
from common import clients, tell_end, websocket


@app.get("/patched")
def patched() -> dict[str, bool]:
    return {
        "socket": socket.socket is gevent.socket.socket,
        "sleep": time.sleep is gevent.sleep,
        "thread": gevent.monkey.is_module_patched("threading"),
        "epoll": hasattr(select, "epoll"),
    }


@websocket.route("/impatient/<how>")
def impatient(ws: Any, how: str) -> None:
    """Gives up waiting again and again; must not lose a message by that."""
    while ws.connected:
        message = None
        if how == "receive":
            try:
                message = ws.receive(timeout=0.002)
            except TimeoutError:
                continue
        else:
            with gevent.Timeout(0.002, False):
                message = ws.receive()
        if message is not None:
            ws.send(message)


@websocket.route("/kill-receiver")
def kill_receiver(ws: Any) -> None:
    waiting = gevent.spawn(ws.receive)
    gevent.sleep(0.05)
    waiting.kill()
    ws.send("killed" if waiting.dead else "alive")
    ws.send(f"then {ws.receive()}")


@websocket.route("/kill-late/<int:count>")
def kill_late(ws: Any, count: int) -> None:
    """Kills a receiver in the turn of the hub in which its message comes."""
    ws.send("ready")
    got: list[str] = []
    while len(got) < count:
        waiting = gevent.spawn(lambda: got.append(ws.receive()))
        gevent.sleep(0)
        gevent.sleep(0)
        waiting.kill()
    ws.send(" ".join(got))


@websocket.route("/kill-handler")
def kill_handler(ws: Any) -> None:
    gevent.getcurrent().kill(block=False)
    ws.receive()


@websocket.route("/many-greenlets/<int:count>")
def many_greenlets(ws: Any, count: int) -> None:
    def send(mark: int) -> None:
        for number in range(10):
            ws.send(f"{mark} {number} " + "x" * 20_000)
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(send, mark) for mark in range(count)], raise_error=True)


@websocket.route("/two-receivers")
def two_receivers(ws: Any) -> None:
    def receive() -> None:
        for message in ws:
            ws.send(message)

    gevent.joinall([gevent.spawn(receive) for _ in range(2)], raise_error=True)


@websocket.route("/rest")
def rest(ws: Any) -> None:
    gevent.sleep(float(ws.environ["QUERY_STRING"]))
    ws.send("rested")


@websocket.route("/register/<name>")
def register(ws: Any, name: str) -> None:
    clients[name] = ws
    for message in ws:
        ws.send(message)
    del clients[name]


@app.get("/from-threadpool/<name>")
def from_threadpool(name: str) -> str:
    """Send from native threads and wait for them, which others need not."""
    client = clients[name]

    def many(mark: int) -> None:
        for number in range(50):
            client.send(f"{mark} {number} " + "x" * 2000)

    pool = gevent.get_hub().threadpool
    for each in [pool.spawn(many, mark) for mark in range(3)]:
        each.get()
    pool.apply(client.close, (4004, "from a native thread"))
    return "sent"


def fill(fd: int) -> int:
    """Fill what the kernel keeps for the peer, to the last byte; says how many."""
    count = 0
    with socket.socket(fileno=os.dup(fd)) as ours:
        ours.settimeout(0)
        for size in (100_000, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    count += ours.send(bytes(size))
    return count


@app.get("/from-hub/<name>/<int:waiting>")
def from_hub(name: str, waiting: int) -> str:
    """Send *waiting* bytes and then more, in a callback of the hub, which can not wait.

    Before that, junk for which the kernel has room: how many bytes comes first in the answer.
    """
    client = clients[name]
    result = gevent.event.AsyncResult()

    def send() -> None:
        junk = fill(client.fd)
        client.send("x" * (waiting - 4))
        try:
            client.send("more")
        except Exception as error:
            result.set(f"{junk} {type(error).__name__}: {error}")
        else:
            result.set(f"{junk} sent")

    gevent.get_hub().loop.run_callback(send)
    return str(result.get(timeout=5))


@websocket.route("/in-threadpool")
def in_threadpool(ws: Any) -> None:
    """What a native thread may and what it may not."""

    def use() -> None:
        ws.send("sent")
        try:
            ws.receive(timeout=5)
        except RuntimeError as error:
            ws.send(f"RuntimeError: {error}")

    gevent.get_hub().threadpool.apply(use)
    tell_end(ws, os.getpid())
