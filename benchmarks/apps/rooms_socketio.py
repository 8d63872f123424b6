"""A room on Flask-SocketIO in gevent; one factory for each of three ways to serve it.

The environment variable ``QUEUE`` is the URL of a Redis, if there is one.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from flask import Flask
from flask_socketio import SocketIO, join_room

ROOM = "room"


def _make(mode: str) -> Flask:
    app = Flask(__name__)
    # With a greenlet for each event, as by default, messages of one client overtake each other.
    socketio = SocketIO(
        app, async_mode=mode, async_handlers=False, message_queue=os.environ.get("QUEUE")
    )

    # The client is told that it is connected when this has returned.
    @socketio.on("connect")
    def connect(auth: Any) -> None:
        if not auth:
            join_room(ROOM)

    @socketio.on("publish")
    def publish(message: str) -> None:
        socketio.emit("message", message, to=ROOM)

    return app


def simple_websocket() -> Flask:
    # It would not be used if this was found.
    sys.modules["geventwebsocket"] = None  # type: ignore[assignment]
    return _make("gevent")


def gevent_websocket() -> Flask:
    return _make("gevent")


def uwsgi() -> Flask:
    return _make("gevent_uwsgi")
