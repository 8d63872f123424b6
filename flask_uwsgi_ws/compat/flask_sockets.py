"""The names of Flask-Sockets, and those of gevent-websocket that its apps use.

``from flask_uwsgi_ws.compat.flask_sockets import Sockets`` instead of ``from flask_sockets import
Sockets`` is all that an app changes. ``worker`` is the class for ``gunicorn -k``, and
``WebSocketHandler`` the one for gevent's ``pywsgi.WSGIServer``.
"""

from __future__ import annotations

import importlib
from typing import Any

from . import gevent_websocket
from .gevent_websocket import (
    FrameTooLargeException,
    ProtocolError,
    Sockets,
    WebSocket,
    WebSocketError,
)

__all__ = [
    "FrameTooLargeException",
    "ProtocolError",
    "Sockets",
    "WebSocket",
    "WebSocketError",
]


def __getattr__(name: str) -> Any:
    """Make what needs gevent or gunicorn when it is asked for."""
    if name in {"WebSocketHandler", "WebSocketServer"}:
        return getattr(gevent_websocket, name)
    if name == "Worker":
        name = "worker"
    if name != "worker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        gunicorn: Any = importlib.import_module("gunicorn.workers.ggevent")
    except (ModuleNotFoundError, RuntimeError) as error:
        # gunicorn says in a RuntimeError that it finds no gevent, or an old one.
        raise ImportError(f"{name}: {error}; pip install gunicorn gevent") from None
    # The app does the handshake, so that there is nothing to add. The same class each time.
    made = type("Worker", (gunicorn.GeventWorker,), {"__module__": __name__})
    return globals().setdefault("worker", made)
