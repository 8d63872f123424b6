"""The app of the behavioural suite, for clients whose calls are coroutines.

Each route does what the same route of ``behaviour.py`` does.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any

from common import about_client, clients, loops, released, tell_close, tell_end, toil, websocket
from common import app as app

from flask_uwsgi_ws import ConnectionClosed

others: dict[str, Any] = {}


def number_in(ws: Any) -> float:
    return float(ws.environ["QUERY_STRING"])


@websocket.route("/both", endpoint="both_socket")
async def both_socket(ws: Any) -> None:
    await ws.send("socket")


@websocket.route("/echo")
async def echo(ws: Any) -> None:
    loops[:] = [asyncio.get_running_loop()]
    while True:
        msg = await ws.receive()
        await ws.send(msg)


@websocket.route("/iterate")
async def iterate(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)
    tell_close(ws)


@websocket.route("/worker")
async def worker(ws: Any) -> None:
    async for _ in ws:
        await ws.send(str(os.getpid()))


@websocket.route("/hello/<name>/<int:times>")
async def hello(ws: Any, name: str, times: int) -> None:
    for _ in range(times):
        await ws.send(f"hello {name}")


@websocket.route("/greeting", defaults={"word": "good day"})
async def greeting(ws: Any, word: str) -> None:
    await ws.send(word)


@websocket.route("/about")
async def about(ws: Any) -> None:
    await ws.send_json(about_client(ws))


@websocket.route("/close/<int:code>/<reason>")
async def close(ws: Any, code: int, reason: str) -> None:
    await ws.close(code, reason)
    await ws.close(code, reason)
    tell_close(ws)


@websocket.route("/fail")
async def fail(ws: Any) -> None:
    raise (SystemExit if ws.environ["QUERY_STRING"] else RuntimeError)("on purpose")


@websocket.route("/end")
async def end(ws: Any) -> None:
    """What receive gives at the end: None once, then ConnectionClosed, and from send at once."""
    told: list[str] = []
    message = await ws.receive()
    while message is not None:
        message = await ws.receive()
    told.append("none")
    for call in (ws.receive, ws.recv_nb, lambda: ws.send("x"), lambda: ws.send(object()), ws.ping):
        try:
            await call()
        except ConnectionClosed as error:
            told.append(f"{error.code}")
    tell_end(ws, *told)


@websocket.route("/push")
async def push(ws: Any) -> None:
    """Only sends; how long it goes on after the client left is for the test to see."""
    try:
        while True:
            await ws.send("tick")
            await asyncio.sleep(0.05)
    finally:
        tell_close(ws)


@websocket.route("/stream")
async def stream(ws: Any) -> None:
    """Only sends, and never rests."""
    message = "x" * 1000
    try:
        while True:
            await ws.send(message)
    except ConnectionClosed as error:
        tell_end(ws, error)


@websocket.route("/sleep")
async def sleep(ws: Any) -> None:
    await asyncio.sleep(number_in(ws))


@websocket.route("/part")
async def part(ws: Any) -> None:
    async for _ in ws:
        pass
    await asyncio.sleep(number_in(ws))
    os.write(2, b"parted\n")


@websocket.route("/toil")
async def toil_in_threads(ws: Any) -> None:
    """Waits for native threads, which leave it little time."""
    await asyncio.gather(asyncio.to_thread(toil, ws), asyncio.to_thread(toil, ws))
    tell_close(ws)


@websocket.route("/stay/<mark>")
async def stay(ws: Any, mark: str) -> None:
    """Does not care whether the client is still there."""
    await ws.send("here")
    while mark not in released:
        await asyncio.sleep(0.02)
    tell_end(ws)


@websocket.route("/broadcast-until/<mark>")
async def broadcast_until(ws: Any, mark: str) -> None:
    """Does nothing else, and does not wait either."""
    while mark not in released:
        await websocket.broadcast("x" * 1000)
    tell_end(ws)


@websocket.route("/insist/<mark>")
async def insist(ws: Any, mark: str) -> None:
    """Goes on asking when it has been told that this is the end."""
    await ws.send("here")
    while mark not in released:
        with suppress(ConnectionClosed):
            await ws.recv_nb()
        with suppress(ConnectionClosed):
            await ws.send("x")
        await asyncio.sleep(0.02)
    tell_end(ws)


@websocket.route("/answer-slowly")
async def answer_slowly(ws: Any) -> None:
    """Sleeps after each answer."""
    async for message in ws:
        await ws.send(message)
        await asyncio.sleep(number_in(ws))


@websocket.route("/begin/<mark>")
async def begin(ws: Any, mark: str) -> None:
    """Takes the first message when it is told to; answers with the beginning of each."""
    while mark not in released:
        await asyncio.sleep(0.02)
    async for message in ws:
        await ws.send(message[:10])


@websocket.route("/answer-when-told/<mark>")
async def answer_when_told(ws: Any, mark: str) -> None:
    """After each answer it rests until it is told to go on."""
    async for message in ws:
        await ws.send(message)
        while f"{mark}-{message}" not in released:
            await asyncio.sleep(0.02)


@websocket.route("/wait")
async def wait(ws: Any) -> None:
    """Receives with a timeout, and without waiting."""
    try:
        await ws.receive(timeout=0.1)
    except TimeoutError:
        await ws.send("timeout")
    ws.timeout = 0.1
    try:
        await ws.recv()
    except TimeoutError:
        await ws.send("own timeout")
    await ws.send(f"nothing {await ws.recv_nb()!r}")
    ws.timeout = None
    await ws.send(f"then {await ws.receive(timeout=5)!r}")
    message = ""
    while message == "":
        message = await ws.recv_nb()
    await ws.send(f"and {message!r}")


@websocket.route("/types")
async def types(ws: Any) -> None:
    """Sends what can be sent, then what can not, and tells of the errors."""
    await ws.send("text")
    await ws.send(b"bytes")
    await ws.a_send(bytearray(b"bytearray"))
    await ws.send_nb(memoryview(b"memoryview"))
    await ws.send("as binary", binary=True)
    await ws.send(b"as text", binary=False)
    await ws.send_binary("binary")
    await ws.send("")
    await ws.send(b"")
    await ws.send_json({"a": [1, None]})
    for bad in (5, None, ["x"], "\ud800", object()):
        try:
            await ws.send(bad)
        except (TypeError, ValueError) as error:
            await ws.send(f"{type(error).__name__}: {error}")
    for call in (
        lambda: ws.send(b"\xff", binary=False),
        lambda: ws.ping(b"x" * 126),
        lambda: ws.close(1005),
        lambda: ws.close(1000, "x" * 124),
        lambda: ws.send_from_sharedarea(7, 0),
        lambda: ws.send_from_sharedarea(-1, 0),
    ):
        try:
            await call()
        except ValueError as error:
            await ws.send(f"ValueError: {error}")


@websocket.route("/json")
async def json_route(ws: Any) -> None:
    await ws.send_json(await ws.receive_json())
    for _ in range(2):
        try:
            await ws.receive_json()
        except ValueError as error:
            await ws.send(f"not JSON: {error}")
    try:
        await ws.send_json(float("nan"))
    except ValueError:
        await ws.send("no NaN")


@websocket.route("/sharedarea/<int:position>")
async def sharedarea(ws: Any, position: int) -> None:
    await ws.send_from_sharedarea(0, position)
    await ws.send_binary_from_sharedarea(0, position)


@websocket.route("/register/<name>")
async def register(ws: Any, name: str) -> None:
    """Can be reached by its name from views, threads and other handlers."""
    clients[name], others[name] = ws.sync, ws
    try:
        async for message in ws:
            await ws.send(message)
    finally:
        del clients[name], others[name]


@websocket.route("/send-to/<name>/<int:mark>/<int:count>")
async def send_to(_ws: Any, name: str, mark: int, count: int) -> None:
    """Sends to another client."""
    for number in range(count):
        await others[name].send(f"{mark} {number} " + "x" * 2000)


@websocket.route("/close-other/<name>")
async def close_other(_ws: Any, name: str) -> None:
    await others[name].close(4002, "from another handler")
