"""Echo on this package after some work with each message; one factory for each of its classes."""

from __future__ import annotations

import time
from typing import Any

from flask import Flask

# Of processor time, for a message.
WORK_SECONDS = 200e-6


def _work() -> None:
    end = time.thread_time() + WORK_SECONDS
    while time.thread_time() < end:
        pass


def _make_sync(extension: type[Any]) -> Flask:
    app = Flask(__name__)

    @extension(app).route("/echo")
    def echo(ws: Any) -> None:
        for message in ws:
            _work()
            ws.send(message)

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

    app = Flask(__name__)

    @AsyncioWebSocket(app).route("/echo")
    async def echo(ws: Any) -> None:
        async for message in ws:
            _work()
            await ws.send(message)

    return app
