"""Fast, correct WebSockets for Flask on uWSGI."""

import importlib
from typing import TYPE_CHECKING, Any

from .backends.threads import WebSocketClient, WebSocketMiddleware
from .exceptions import ConnectionClosed
from .extension import WebSocket
from .views import WebSocketView

if TYPE_CHECKING:
    from .backends.asyncio import (
        AsyncioWebSocket,
        AsyncioWebSocketClient,
        AsyncioWebSocketMiddleware,
    )
    from .backends.gevent import GeventWebSocket, GeventWebSocketClient, GeventWebSocketMiddleware

__all__ = [
    "AsyncioWebSocket",
    "AsyncioWebSocketClient",
    "AsyncioWebSocketMiddleware",
    "ConnectionClosed",
    "GeventWebSocket",
    "GeventWebSocketClient",
    "GeventWebSocketMiddleware",
    "WebSocket",
    "WebSocketClient",
    "WebSocketMiddleware",
    "WebSocketView",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a backend when it is asked for, since not everybody has gevent."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    backend = "gevent" if name.startswith("Gevent") else "asyncio"
    try:
        module = importlib.import_module(f".backends.{backend}", __name__)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in {"gevent", "greenlet"}:
            raise
        raise ImportError(f"{name} needs gevent: pip install gevent") from None
    return getattr(module, name)
