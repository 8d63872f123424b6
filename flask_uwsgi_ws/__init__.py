"""Fast, correct WebSockets for Flask on uWSGI."""

from .backends.threads import WebSocketClient, WebSocketMiddleware
from .exceptions import ConnectionClosed
from .extension import WebSocket

__all__ = ["ConnectionClosed", "WebSocket", "WebSocketClient", "WebSocketMiddleware"]
__version__ = "0.1.0"
