"""Fast, correct WebSockets for Flask on uWSGI."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backends.asyncio import (
        AsyncioWebSocket,
        AsyncioWebSocketClient,
        AsyncioWebSocketMiddleware,
    )
    from .backends.gevent import GeventWebSocket, GeventWebSocketClient, GeventWebSocketMiddleware
    from .backends.threads import WebSocketClient, WebSocketMiddleware
    from .exceptions import ConnectionClosed
    from .extension import WebSocket
    from .queues.base import QueueError
    from .views import WebSocketView

__all__ = [
    "AsyncioWebSocket",
    "AsyncioWebSocketClient",
    "AsyncioWebSocketMiddleware",
    "ConnectionClosed",
    "GeventWebSocket",
    "GeventWebSocketClient",
    "GeventWebSocketMiddleware",
    "QueueError",
    "WebSocket",
    "WebSocketClient",
    "WebSocketMiddleware",
    "WebSocketView",
]
__version__ = "0.1.0"

_MODULES = {
    "ConnectionClosed": "exceptions",
    "QueueError": "queues.base",
    "WebSocket": "extension",
    "WebSocketClient": "backends.threads",
    "WebSocketMiddleware": "backends.threads",
    "WebSocketView": "views",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import what is asked for.

    Not everybody has gevent, and pytest, which imports the package at its start, must not import
    what a test's gevent has to patch first.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    backend = "gevent" if name.startswith("Gevent") else "asyncio"
    try:
        module = importlib.import_module(f".{_MODULES.get(name, f'backends.{backend}')}", __name__)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in {"gevent", "greenlet"}:
            raise
        raise ImportError(f"{name} needs gevent: pip install gevent") from None
    return getattr(module, name)
