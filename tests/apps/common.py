"""What the apps of the tests share: the app with its options, and views that tell and do."""

from __future__ import annotations

import _thread
import asyncio
import atexit
import ctypes
import dataclasses
import gc
import importlib
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flask import Flask, request, url_for
from werkzeug.middleware.proxy_fix import ProxyFix

import flask_uwsgi_ws
from flask_uwsgi_ws import ConnectionClosed
from flask_uwsgi_ws.client import BaseClient
from flask_uwsgi_ws.prometheus import prometheus_page
from flask_uwsgi_ws.unpatched import unpatched

app = Flask("behaviour")
app.config["UWSGI_WEBSOCKET_MAX_SIZE"] = int(os.environ.get("MAX_SIZE", 32 * 2**20))
app.config["UWSGI_WEBSOCKET_MAX_QUEUE"] = int(os.environ.get("MAX_QUEUE", 1000))
if "WRITE_LIMIT" in os.environ:
    app.config["UWSGI_WEBSOCKET_WRITE_LIMIT"] = int(os.environ["WRITE_LIMIT"])
app.config["UWSGI_WEBSOCKET_SUBPROTOCOLS"] = ["chat.v2", "chat.v1"]
app.config["UWSGI_WEBSOCKET_CLOSE_TIMEOUT"] = float(os.environ.get("CLOSE_TIMEOUT", 1))
for name in ("PING_INTERVAL", "PING_TIMEOUT", "SEND_TIMEOUT", "CLOSE_WINDOW"):
    if name in os.environ:
        app.config["UWSGI_WEBSOCKET_" + name] = float(os.environ[name])
if "COMPRESSION" in os.environ:
    app.config["UWSGI_WEBSOCKET_COMPRESSION"] = json.loads(os.environ["COMPRESSION"])
if "LOG_LEVEL" in os.environ:
    app.logger.setLevel(os.environ["LOG_LEVEL"])
app.config["UWSGI_WEBSOCKET_AGGRESSIVE_PATCH"] = os.environ.get("AGGRESSIVE_PATCH") != "0"
if "STACK_SIZE" in os.environ:
    unpatched(_thread, "stack_size")(int(os.environ["STACK_SIZE"]))
websocket = getattr(flask_uwsgi_ws, os.environ.get("BACKEND", "WebSocket"))(app)
if "PROXY_FIX" in os.environ:
    app.wsgi_app = ProxyFix(app.wsgi_app)


def client_class() -> Any:
    """Give the class of the clients; on a server with greenlets WebSocket has another."""
    hub = os.environ.get("SERVER_HUB")
    if not hub or websocket.middleware.client is not flask_uwsgi_ws.WebSocketClient:
        return websocket.middleware.client
    module: Any = importlib.import_module(f"flask_uwsgi_ws.backends.{hub}")
    return getattr(module, f"{hub.capitalize()}WebSocketClient")


class FailingClient(client_class()):  # type: ignore[misc]
    """A user's client class, which the query has fail, take its time or name itself."""

    def __init__(self, environ: Any, *arguments: Any) -> None:
        super().__init__(environ, *arguments)
        if environ["QUERY_STRING"] == "fail-to-make":
            raise ValueError("no such client")
        if environ["QUERY_STRING"] == "take-long-to-make":
            time.sleep(0.3)
        if environ["QUERY_STRING"] == "ask-early":
            self.name = f"client {self.id}"


FailingClient.__name__ = FailingClient.__base__.__name__
websocket.middleware.client = FailingClient

#: Clients that registered themselves, each with blocking calls.
clients: dict[str, Any] = {}
#: What handlers told of how they ended.
ends: deque[str] = deque(maxlen=10_000)
#: Descriptors that are taken from the others.
hoarded: list[int] = []
#: What handlers that stay wait for.
released: set[str] = set()
#: The event loop of the handlers, where there is one.
loops: list[asyncio.AbstractEventLoop] = []


def url_of(ws: Any) -> str:
    """The path and the query that a client was opened with."""
    return f"{ws.environ['PATH_INFO']}?{ws.environ['QUERY_STRING']}"


def tell_end(ws: Any, *more: object) -> None:
    """Note that a handler ended, and how."""
    ends.append(" ".join(map(str, (url_of(ws), *more))))


def tell_close(ws: Any) -> None:
    tell_end(ws, ws.close_code, ws.close_reason)


@app.route("/leave-child")
def leave_child() -> str:
    """Leave a process that ends as one does that runs to its end, or with ``sys.exit``."""
    pid = os.fork()
    if pid:
        # Not waited for: gevent may miss its end.
        return str(pid)
    if request.query_string == b"exit":
        sys.exit()
    try:
        atexit._run_exitfuncs()
    finally:
        os._exit(0)


@app.route("/computing/<int:seconds>")
def computing(seconds: int) -> str:
    """Compute without a pause, so that nothing else goes on in this thread."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "computed"


def toil(ws: Any) -> None:
    """Keep the interpreter busy for as long as the client is there."""
    end = time.monotonic() + 10
    while ws.connected and time.monotonic() < end:
        sum(range(1000))


def about_client(ws: Any) -> dict[str, Any]:
    return {
        "connected": ws.connected,
        "closed": ws.closed,
        "close_code": ws.close_code,
        "subprotocol": ws.subprotocol,
        "id": ws.id,
        "fd": ws.fd,
        "timeout": ws.timeout,
        "path": ws.environ["PATH_INFO"],
        "query": ws.environ["QUERY_STRING"],
        "compiled": flask_uwsgi_ws.frames.COMPILED,
        "repr": repr(ws),
    }


def start_native_thread(function: Callable[..., object], *arguments: object) -> None:
    """Run a function in a thread of the system, under gevent too."""
    if "gevent" in sys.modules:
        import gevent

        gevent.get_hub().threadpool.spawn(function, *arguments)
    else:
        threading.Thread(target=function, args=arguments, daemon=True).start()


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


@app.get("/stack-size/<int:size>")
def set_stack_size(size: int) -> str:
    unpatched(_thread, "stack_size")(size)
    return ""


@app.get("/hoard/<int:left>")
def hoard(left: int) -> str:
    """Take all descriptors but some."""
    with suppress(OSError):
        while True:
            hoarded.append(os.open(os.devnull, os.O_RDONLY))
    for fd in hoarded[len(hoarded) - left :]:
        os.close(fd)
    del hoarded[len(hoarded) - left :]
    return ""


@app.get("/spend")
def spend() -> str:
    """Give the hoarded descriptors back."""
    for fd in hoarded:
        os.close(fd)
    hoarded.clear()
    return ""


@app.get("/clock")
def clock() -> str:
    return str(time.time())


@app.get("/save-coverage")
def save_coverage() -> str:
    """Keep what "make coverage" has counted here; not every loop of uWSGI ends by way of Python."""
    measured = sys.modules["coverage"].Coverage.current()
    measured.stop()
    measured.save()
    measured.start()
    return "saved"


@app.get("/ends")
def how_handlers_ended() -> list[str]:
    return list(ends)


@app.get("/left")
def left() -> dict[str, int]:
    """Count what connections could leave behind."""
    gc.collect()
    objects = gc.get_objects()
    counts = {
        "threads": len(os.listdir("/proc/self/task")),
        "clients": sum(isinstance(thing, BaseClient) for thing in objects),
        "registry": len(websocket.clients),
    }
    if "gevent" in sys.modules:
        import greenlet

        counts["greenlets"] = sum(isinstance(thing, greenlet.greenlet) for thing in objects)
    if loops:
        counts["tasks"] = len(asyncio.all_tasks(loops[0]))
    return counts


class Mallinfo(ctypes.Structure):
    """What glibc tells of its allocator, in the order of ``struct mallinfo2``."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


@app.get("/memory")
def memory() -> dict[str, int]:
    """Tell the bytes that are in use, all of them with PYTHONMALLOC=malloc."""
    ends.clear()
    gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo
    info = mallinfo()
    return {"used": info.uordblks + info.hblkhd, "free": info.fordblks}


@app.get("/trim")
def trim() -> str:
    """Give back to the system what is free; tells which worker has done so."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return str(os.getpid())


@app.get("/snapshot")
def snapshot() -> dict[str, Any]:
    """Tell what was counted in this worker, and what its clients say of themselves."""
    return {
        "pid": os.getpid(),
        **dataclasses.asdict(websocket.clients.snapshot()),
        "clients": [
            {"route": client.route, "path": client.environ["PATH_INFO"], "latency": client.latency}
            for client in websocket.clients
        ],
    }


app.add_url_rule("/metrics", view_func=prometheus_page(websocket))


@app.get("/release/<mark>")
def release(mark: str) -> str:
    """Let the handlers go that stay for *mark*."""
    released.add(mark)
    return "released"


@app.get("/url")
def url() -> str:
    return url_for("echo")


@app.get("/both")
def both_page() -> str:
    return "page"


@app.get("/send/<name>/<int:count>")
def send(name: str, count: int) -> str:
    """Send from this view and from threads, which go on after it.

    Where the view runs in the thread of an event loop it must not wait, for them or
    for the client: then another thread goes on.
    """
    client = clients[name]

    def many(mark: int, start: int = 0) -> None:
        for number in range(start, count):
            try:
                client.send(f"{mark} {number} " + "x" * 2000)
            except BlockingIOError:
                start_native_thread(many, mark, number)
                return

    for mark in (1, 2):
        threading.Thread(target=many, args=(mark,)).start()
    for mark in (3, 4):
        start_native_thread(many, mark)
    many(0)
    return "sent"


@app.get("/close-client/<name>")
def close_client(name: str) -> str:
    client = clients[name]
    client.close(4000, "from a view")
    return str(client.close_code)


@app.get("/close-client-in-thread/<name>")
def close_client_in_thread(name: str) -> str:
    start_native_thread(clients[name].close, 4001, "from a thread")
    return "closing"


@app.get("/sharedarea-in-thread/<name>")
def sharedarea_in_thread(name: str) -> str:
    """Let a thread that is not uWSGI's send from the sharedarea."""
    start_native_thread(clients[name].send_from_sharedarea, 0, 4000)
    return "begun"


@app.get("/flood/<name>")
def flood(name: str) -> str:
    """Let a thread send more than a client that does not read can be given."""
    client = clients[name]

    def many() -> None:
        try:
            for _ in range(1000):
                client.send(b"x" * 100_000)
        except ConnectionClosed as error:
            ends.append(f"flood of {name}: {error}")

    start_native_thread(many)
    return "begun"
