"""Sends to all listeners with ``send_nb``; one factory for each class of this package."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from flask import Flask

from flask_uwsgi_ws import ConnectionClosed

COUNT, SIZE = 1000, 4096
# Seconds from one message to the next.
PACE = 0.01


def messages() -> Iterator[bytes]:
    for _ in range(COUNT):
        yield b"%020d" % time.monotonic_ns() + bytes(SIZE - 20)


def _make_sync(extension: type[Any]) -> Flask:
    app = Flask(__name__)
    websocket = extension(app)

    @websocket.route("/listen")
    def listen(ws: Any) -> None:
        for _ in ws:
            pass

    @websocket.route("/broadcast")
    def broadcast(ws: Any) -> None:
        missed = 0
        for message in messages():
            for client in websocket.clients:
                if client is not ws:
                    try:
                        client.send_nb(message)
                    except BlockingIOError:
                        missed += 1
                    except ConnectionClosed:
                        pass
            time.sleep(PACE)
        ws.send(f"{missed} {websocket.clients.snapshot().slow_clients}")

    return app


def threads() -> Flask:
    from flask_uwsgi_ws import WebSocket

    return _make_sync(WebSocket)


def gevent() -> Flask:
    from flask_uwsgi_ws import GeventWebSocket

    return _make_sync(GeventWebSocket)


def asynchronous() -> Flask:
    from flask_uwsgi_ws import AsyncioWebSocket

    app = Flask(__name__)
    websocket = AsyncioWebSocket(app)

    @websocket.route("/listen")
    async def listen(ws: Any) -> None:
        async for _ in ws:
            pass

    @websocket.route("/broadcast")
    async def broadcast(ws: Any) -> None:
        missed = 0
        for message in messages():
            for client in websocket.clients:
                if client is not ws:
                    try:
                        await client.send_nb(message)
                    except BlockingIOError:
                        missed += 1
                    except ConnectionClosed:
                        pass
            await asyncio.sleep(PACE)
        await ws.send(f"{missed} {websocket.clients.snapshot().slow_clients}")

    return app
