"""An app that sends to all its clients with send_nb; one of them, at /deaf, may not read."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from common import app as app
from common import start_native_thread, tell_end, websocket

from flask_uwsgi_ws import AsyncioWebSocket, ConnectionClosed
from flask_uwsgi_ws.locks import pause

# No two alike, and nothing that compresses well.
WORDS = base64.b85encode(random.Random(1).randbytes(30_000)).decode()

# Seconds to a client's next message where it had no room for one.
PATIENCE = 0.001


def numbered(count: int) -> Iterator[str]:
    """Give messages for all, and then for as long as there is somebody who is deaf."""
    number = 0
    while number < count or deaf():
        yield f"{number if number < count else 'more'} {WORDS}"
        number += 1


def deaf() -> list[Any]:
    return [client for client in websocket.clients if client.route == "/deaf"]


def listeners(message: str) -> list[Any]:
    if message.startswith("more"):
        return deaf()
    return [client for client in websocket.clients if client.route in {"/listen", "/deaf"}]


def broadcast(count: int, sleep: Callable[[float], None]) -> None:
    """Send from a thread, or from a greenlet."""
    for message in numbered(count):
        for client in listeners(message):
            while not sent(getattr(client, "sync", client), message):
                sleep(PATIENCE)
        sleep(PATIENCE)
    close_all()


def sent(client: Any, message: str) -> bool:
    """Send to a client that has room, or is deaf; tells whether it need not be tried again."""
    try:
        client.send_nb(message)
    except BlockingIOError:
        return bool(client.route == "/deaf")
    except ConnectionClosed:
        pass
    return True


async def broadcast_from_a_coroutine(count: int) -> None:
    for message in numbered(count):
        for client in listeners(message):
            while True:
                try:
                    await client.send_nb(message)
                except BlockingIOError:
                    if client.route != "/deaf":
                        await asyncio.sleep(PATIENCE)
                        continue
                except ConnectionClosed:
                    pass
                break
        await asyncio.sleep(PATIENCE)
    close_all()


def close_all() -> None:
    for client in websocket.clients:
        client.begin_close(1000, "that was all")


@app.get("/broadcast/<int:count>")
def broadcast_view(count: int) -> str:
    start_native_thread(broadcast, count, pause)
    return "begun"


if isinstance(websocket, AsyncioWebSocket):

    @websocket.route("/listen")
    @websocket.route("/deaf")
    async def listen(ws: Any) -> None:
        async for _ in ws:
            pass
        tell_end(ws, ws.close_code, ws.close_reason)

    @websocket.route("/broadcast/<int:count>")
    async def broadcast_handler(_ws: Any, count: int) -> None:
        await broadcast_from_a_coroutine(count)

    @websocket.route("/fill")
    async def fill(ws: Any) -> None:
        while True:
            try:
                await ws.send_nb(WORDS)
            except BlockingIOError:
                return

else:

    @websocket.route("/listen")
    @websocket.route("/deaf")
    def listen_blocking(ws: Any) -> None:
        for _ in ws:
            pass
        tell_end(ws, ws.close_code, ws.close_reason)

    @websocket.route("/broadcast/<int:count>")
    def broadcast_handler_blocking(_ws: Any, count: int) -> None:
        broadcast(count, time.sleep)

    @websocket.route("/fill")
    def fill_blocking(ws: Any) -> None:
        """Sends all that there is room for."""
        while True:
            try:
                ws.send_nb(WORDS)
            except BlockingIOError:
                return
