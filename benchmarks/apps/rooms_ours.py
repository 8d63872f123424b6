"""A room on this package; one factory for each of its three classes.

What is published goes to the room's members with ``send_to``; ``/counted`` tells the worker's
counts. The environment variable ``QUEUE`` is the URL of a Redis, if there is one.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from flask import Flask

ROOM = "room"


def _make(extension: type[Any]) -> tuple[Flask, Any]:
    app = Flask(__name__)
    websocket = extension(app, message_queue=os.environ.get("QUEUE"))

    @app.route("/counted")
    def counted() -> dict[str, Any]:
        return asdict(websocket.clients.snapshot())

    return app, websocket


def _make_sync(extension: type[Any]) -> Flask:
    app, websocket = _make(extension)

    @websocket.route("/listen")
    def listen(ws: Any) -> None:
        ws.join(ROOM)
        ws.send("joined")
        for _ in ws:
            pass

    @websocket.route("/publish")
    def publish(ws: Any) -> None:
        for message in ws:
            websocket.send_to(ROOM, message)

    return app


# Each imports its own class: one backend's library is not to be loaded in another's measurement.
def threads() -> Flask:
    from flask_uwsgi_ws import WebSocket

    return _make_sync(WebSocket)


def gevent() -> Flask:
    from flask_uwsgi_ws import GeventWebSocket

    return _make_sync(GeventWebSocket)


def asyncio() -> Flask:
    from flask_uwsgi_ws import AsyncioWebSocket

    app, websocket = _make(AsyncioWebSocket)

    @websocket.route("/listen")
    async def listen(ws: Any) -> None:
        await ws.join(ROOM)
        await ws.send("joined")
        async for _ in ws:
            pass

    @websocket.route("/publish")
    async def publish(ws: Any) -> None:
        async for message in ws:
            await websocket.send_to(ROOM, message)

    return app
