"""The app of the behavioural suite, for clients with blocking calls.

Each route is one way of using a client; ``behaviour_asyncio.py`` has the same.
"""

from __future__ import annotations

import _thread
import concurrent.futures
import importlib
import os
import time
from contextlib import suppress
from typing import Any

from common import about_client, clients, released, tell_close, tell_end, toil, websocket
from common import app as app

from flask_uwsgi_ws import ConnectionClosed
from flask_uwsgi_ws.unpatched import unpatched


def number_in(ws: Any) -> float:
    return float(ws.environ["QUERY_STRING"])


@websocket.route("/both", endpoint="both_socket")
def both_socket(ws: Any) -> None:
    ws.send("socket")


@websocket.route("/echo")
def echo(ws: Any) -> None:
    while True:
        msg = ws.receive()
        ws.send(msg)


@websocket.route("/iterate")
def iterate(ws: Any) -> None:
    for message in ws:
        ws.send(message)
    tell_close(ws)


@websocket.route("/worker")
def worker(ws: Any) -> None:
    for _ in ws:
        ws.send(str(os.getpid()))


@websocket.route("/hello/<name>/<int:times>")
def hello(ws: Any, name: str, times: int) -> None:
    for _ in range(times):
        ws.send(f"hello {name}")


@websocket.route("/greeting", defaults={"word": "good day"})
def greeting(ws: Any, word: str) -> None:
    ws.send(word)


@websocket.route("/about")
def about(ws: Any) -> None:
    ws.send_json(about_client(ws))


@websocket.route("/close/<int:code>/<reason>")
def close(ws: Any, code: int, reason: str) -> None:
    ws.close(code, reason)
    ws.close(code, reason)
    tell_close(ws)


@websocket.route("/answer-at-length")
def answer_at_length(ws: Any) -> None:
    try:
        for _ in ws:
            for _ in range(4):
                ws.send(b"x" * 12_000)
                time.sleep(0.002)
    except ConnectionClosed as error:
        tell_end(ws, error)


# Of Flask's, since the extension's would refuse it.
@app.route("/coroutine", websocket=True)
async def coroutine(ws: Any) -> None:
    ws.send("not run")


@websocket.route("/fail")
def fail(ws: Any) -> None:
    raise (SystemExit if ws.environ["QUERY_STRING"] else RuntimeError)("on purpose")


@websocket.route("/end")
def end(ws: Any) -> None:
    """What receive gives at the end: None once, then ConnectionClosed, and from send at once."""
    told: list[str] = []
    message = ws.receive()
    while message is not None:
        message = ws.receive()
    told.append("none")
    for call in (ws.receive, ws.recv_nb, lambda: ws.send("x"), lambda: ws.send(object()), ws.ping):
        try:
            call()
        except ConnectionClosed as error:
            told.append(f"{error.code}")
    tell_end(ws, *told)


@websocket.route("/push")
def push(ws: Any) -> None:
    """Only sends; how long it goes on after the client left is for the test to see."""
    try:
        while True:
            ws.send("tick")
            time.sleep(0.05)
    finally:
        tell_close(ws)


@websocket.route("/stream")
def stream(ws: Any) -> None:
    """Only sends, and never rests."""
    message = "x" * 1000
    try:
        while True:
            ws.send(message)
    except ConnectionClosed as error:
        tell_end(ws, error)


@websocket.route("/sleep")
def sleep(ws: Any) -> None:
    time.sleep(number_in(ws))


@websocket.route("/part")
def part(ws: Any) -> None:
    for _ in ws:
        pass
    time.sleep(number_in(ws))
    os.write(2, b"parted\n")


@websocket.route("/thread-sends")
def thread_sends(ws: Any) -> None:
    """Have a real thread send, and send after it, and end."""
    done = unpatched(_thread, "allocate_lock")()
    done.acquire()

    def send() -> None:
        for number in range(5):
            ws.send(f"{number}")
        done.release()

    unpatched(_thread, "start_new_thread")(send, ())
    done.acquire()
    ws.send("last")


@websocket.route("/toil")
def toil_in_threads(ws: Any) -> None:
    """Waits for native threads, which leave it little time."""
    executor = concurrent.futures.ThreadPoolExecutor
    if os.environ["BACKEND"] == "GeventWebSocket":
        executor = importlib.import_module("gevent.threadpool").ThreadPoolExecutor
    with executor(2) as threads:
        list(threads.map(toil, (ws, ws)))
    tell_close(ws)


@websocket.route("/stay/<mark>")
def stay(ws: Any, mark: str) -> None:
    """Does not care whether the client is still there."""
    ws.send("here")
    while mark not in released:
        time.sleep(0.02)
    tell_end(ws)


@websocket.route("/broadcast-until/<mark>")
def broadcast_until(ws: Any, mark: str) -> None:
    """Does nothing else, and does not wait either."""
    while mark not in released:
        websocket.broadcast("x" * 1000)
    tell_end(ws)


@websocket.route("/insist/<mark>")
def insist(ws: Any, mark: str) -> None:
    """Goes on asking when it has been told that this is the end."""
    ws.send("here")
    while mark not in released:
        with suppress(ConnectionClosed):
            ws.recv_nb()
        with suppress(ConnectionClosed):
            ws.send("x")
        time.sleep(0.02)
    tell_end(ws)


@websocket.route("/answer-slowly")
def answer_slowly(ws: Any) -> None:
    """Sleeps after each answer."""
    for message in ws:
        ws.send(message)
        time.sleep(number_in(ws))


@websocket.route("/begin/<mark>")
def begin(ws: Any, mark: str) -> None:
    """Takes the first message when it is told to; answers with the beginning of each."""
    while mark not in released:
        time.sleep(0.02)
    for message in ws:
        ws.send(message[:10])


@websocket.route("/answer-when-told/<mark>")
def answer_when_told(ws: Any, mark: str) -> None:
    """After each answer it rests until it is told to go on."""
    for message in ws:
        ws.send(message)
        while f"{mark}-{message}" not in released:
            time.sleep(0.02)


@websocket.route("/wait")
def wait(ws: Any) -> None:
    """Receives with a timeout, and without waiting."""
    try:
        ws.receive(timeout=0.1)
    except TimeoutError:
        ws.send("timeout")
    ws.timeout = 0.1
    try:
        ws.recv()
    except TimeoutError:
        ws.send("own timeout")
    ws.send(f"nothing {ws.recv_nb()!r}")
    ws.timeout = None
    ws.send(f"then {ws.receive(timeout=5)!r}")
    message = ""
    while message == "":
        message = ws.recv_nb()
    ws.send(f"and {message!r}")


@websocket.route("/types")
def types(ws: Any) -> None:
    """Sends what can be sent, then what can not, and tells of the errors."""
    ws.send("text")
    ws.send(b"bytes")
    ws.send(bytearray(b"bytearray"))
    ws.send(memoryview(b"memoryview"))
    ws.send("as binary", binary=True)
    ws.send(b"as text", binary=False)
    ws.send_binary("binary")
    ws.send("")
    ws.send(b"")
    ws.send_json({"a": [1, None]})
    for bad in (5, None, ["x"], "\ud800", object()):
        try:
            ws.send(bad)
        except (TypeError, ValueError) as error:
            ws.send(f"{type(error).__name__}: {error}")
    for call in (
        lambda: ws.send(b"\xff", binary=False),
        lambda: ws.ping(b"x" * 126),
        lambda: ws.close(1005),
        lambda: ws.close(1000, "x" * 124),
        lambda: ws.send_from_sharedarea(7, 0),
        lambda: ws.send_from_sharedarea(-1, 0),
    ):
        try:
            call()
        except ValueError as error:
            ws.send(f"ValueError: {error}")


@websocket.route("/json")
def json_route(ws: Any) -> None:
    ws.send_json(ws.receive_json())
    for _ in range(2):
        try:
            ws.receive_json()
        except ValueError as error:
            ws.send(f"not JSON: {error}")
    try:
        ws.send_json(float("nan"))
    except ValueError:
        ws.send("no NaN")


@websocket.route("/sharedarea/<int:position>")
def sharedarea(ws: Any, position: int) -> None:
    ws.send_from_sharedarea(0, position)
    ws.send_binary_from_sharedarea(0, position)


@websocket.route("/register/<name>")
def register(ws: Any, name: str) -> None:
    """Can be reached by its name from views, threads and other handlers."""
    clients[name] = ws
    try:
        for message in ws:
            ws.send(message)
    finally:
        del clients[name]


@websocket.route("/send-to/<name>/<int:mark>/<int:count>")
def send_to(_ws: Any, name: str, mark: int, count: int) -> None:
    """Sends to another client."""
    for number in range(count):
        clients[name].send(f"{mark} {number} " + "x" * 2000)


@websocket.route("/close-other/<name>")
def close_other(_ws: Any, name: str) -> None:
    clients[name].close(4002, "from another handler")
