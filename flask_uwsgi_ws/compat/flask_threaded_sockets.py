"""The names of flask-threaded-sockets.

``from flask_uwsgi_ws.compat.flask_threaded_sockets import …`` instead of ``from
flask_threaded_sockets import …`` is all that an app changes. Its server is Werkzeug's, with a
thread for each connection.
"""

from __future__ import annotations

from typing import ClassVar

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from .gevent_websocket import (
    Clients,
    FrameTooLargeException,
    ProtocolError,
    Sockets,
    WebSocket,
    WebSocketError,
    server,
)

__all__ = [
    "FrameTooLargeException",
    "ProtocolError",
    "Sockets",
    "ThreadedWebsocketServer",
    "ThreadedWsWSGIServer",
    "WebSocket",
    "WebSocketError",
    "WebSocketHandler",
]

#: The handler of requests, to be subclassed: Werkzeug's, since the app does the handshake.
WebSocketHandler = WSGIRequestHandler


class ThreadedWebsocketServer(ThreadedWSGIServer):
    """Werkzeug's threaded server; ``serve_forever()`` serves until Ctrl-C.

    :param host: where to listen.
    :param port: where to listen.
    :param app: the app.
    :param handler: a subclass of :data:`WebSocketHandler`.
    :param passthrough_errors: whether an error in a view ends the server.
    :param ssl_context: for pages over TLS; WebSockets are refused there, with 501.
    :param fd: the descriptor of a socket that listens already.
    :raises SystemExit: if it can not listen there.
    """

    #: All clients of this process, by address.
    clients: ClassVar[Clients] = server.clients


#: What the project's README calls it.
ThreadedWsWSGIServer = ThreadedWebsocketServer
