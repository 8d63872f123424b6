"""Echo and broadcast on this package; one factory for each of its three classes."""

from __future__ import annotations

from typing import Any

from flask import Flask

LARGEST = 4 * 2**20


def _make(extension: type[Any]) -> tuple[Flask, Any]:
    app = Flask(__name__)
    app.config["UWSGI_WEBSOCKET_MAX_SIZE"] = LARGEST
    return app, extension(app)


def _make_sync(extension: type[Any]) -> Flask:
    app, websocket = _make(extension)
    clients = set()

    @websocket.route("/echo")
    def echo(ws: Any) -> None:
        for message in ws:
            ws.send(message)

    @websocket.route("/broadcast")
    def broadcast(ws: Any) -> None:
        clients.add(ws)
        try:
            for message in ws:
                for client in list(clients):
                    client.send(message)
        finally:
            clients.discard(ws)

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
    clients = set()

    @websocket.route("/echo")
    async def echo(ws: Any) -> None:
        async for message in ws:
            await ws.send(message)

    @websocket.route("/broadcast")
    async def broadcast(ws: Any) -> None:
        clients.add(ws)
        try:
            async for message in ws:
                for client in list(clients):
                    await client.send(message)
        finally:
            clients.discard(ws)

    return app
