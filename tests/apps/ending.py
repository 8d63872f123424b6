"""The app of the tests of a worker's end, the same for blocking handlers and coroutines."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import uwsgi
from common import app as app
from common import websocket
from flask import Flask
from handlers import as_handler, sleep

libc = ctypes.CDLL(None)


def leave_word(text: str) -> None:
    """Tell what happened to whoever comes when this process is no more; in uWSGI's log."""
    os.write(1, f"word: {text}\n".encode())


def at_exit() -> None:
    leave_word("atexit")
    end = time.monotonic() + float(os.environ.get("TRIM_AT_EXIT", "0"))
    while time.monotonic() < end:
        # Holds the lock of the C library's memory, but not the GIL.
        libc.malloc_trim(0)


uwsgi.atexit = at_exit


def route(rule: str) -> Callable[[Any], None]:
    def decorator(handler: Callable[..., Any]) -> None:
        websocket.add_url_rule(rule, handler.__name__, as_handler(handler))

    return decorator


@route("/echo")
async def echo(ws: Any) -> None:
    while True:
        await ws.send(await ws.receive())


@route("/worker")
async def worker(ws: Any) -> None:
    while True:
        await ws.send(await ws.receive())
        await ws.send(str(os.getpid()))


@route("/finish")
async def finish(ws: Any) -> None:
    """Has something to do when the client has gone."""
    while (message := await ws.receive()) is not None:
        await ws.send(message)
    await sleep(0.5)
    leave_word(f"finished {ws.close_code} {ws.close_reason}")


@route("/stubborn")
async def stubborn(ws: Any) -> None:
    """Does not care that it has ended."""
    await ws.send("here")
    while True:
        await sleep(0.05)


@route("/compute")
async def compute(ws: Any) -> None:
    """Computes when it is told to, without a pause and without end."""
    await ws.send("here")
    await ws.receive()
    leave_word("computes")
    while True:
        sum(range(1000))


@route("/slow")
async def slow(ws: Any) -> None:
    """Has taken a message, and answers it a little later."""
    while True:
        message = await ws.receive()
        await sleep(0.2)
        await ws.send(message)


@route("/much")
async def much(ws: Any) -> None:
    """Says more than the kernel takes at once."""
    await ws.receive()
    for number in range(200):
        await ws.send_nb(f"{number} " + "x" * 20_000)
    await ws.receive()


@route("/count")
async def count(ws: Any) -> None:
    """Tells how many messages it took and how many it answered."""
    taken = answered = 0
    try:
        while (message := await ws.receive()) is not None:
            taken += 1
            await ws.send(message)
            answered += 1
    finally:
        leave_word(f"taken {ws.environ['QUERY_STRING']} {taken} {answered}")


@app.get("/reload")
def reload() -> str:
    uwsgi.reload()
    return "reloading"


@app.get("/fork")
def fork() -> str:
    """Leave a process that goes on by itself."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.read(read, 1)
        return str(pid)
    # uWSGI blocks all in its threads.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.write(write, b"x")
    while True:
        time.sleep(0.05)


@app.get("/take-wakeup-fd")
def take_wakeup_fd() -> str:
    """Do as an event loop does that runs in the main thread."""
    signal.set_wakeup_fd(-1)
    return "taken"


@app.get("/take-sighup")
def take_sighup() -> str:
    signal.signal(signal.SIGHUP, lambda *_: leave_word("took SIGHUP"))
    return "taken"


@app.get("/compute")
def compute_in_view() -> str:
    """Hold the loop up for longer than it may take to turn."""
    end = time.monotonic() + 3
    while time.monotonic() < end:
        sum(range(1000))
    return "done"


@app.get("/burn")
def burn() -> str:
    """Have more memory than --reload-on-rss allows."""
    hoard.append(b"x" * 200_000_000)
    return "burnt"


hoard: list[bytes] = []

if "OWN_SIGNAL_HANDLERS" in os.environ:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: leave_word("the app's handler"))

if "TWO_APPS" in os.environ:
    second = Flask("second")
    second_websocket = type(websocket)(second, close_timeout=1.0)
    second_websocket.add_url_rule("/second", "echo", app.view_functions["echo"])
    first_app = app.wsgi_app

    def choose(environ: Any, start_response: Any) -> Any:
        chosen = second.wsgi_app if environ["PATH_INFO"] == "/second" else first_app
        return chosen(environ, start_response)

    app.wsgi_app = choose
