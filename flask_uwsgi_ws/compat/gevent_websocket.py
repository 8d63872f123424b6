"""What Flask-Sockets and flask-threaded-sockets have in common: gevent-websocket's object.

Handlers get a :class:`WebSocket`, which has the names of gevent-websocket's and is served by a
client of ours. Neither gevent nor gunicorn is needed to import this.
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from flask import Blueprint, Flask
from werkzeug.routing import Map

from ..blueprints import SocketApp
from ..exceptions import ConnectionClosed
from ..frames import serialize
from .backend import RunsAsFlask, extension_class

Handler = TypeVar("Handler", bound=Callable[..., Any])

# What the endpoints of sockets begin with: those packages have them apart from the views', so
# that a view and a handler may have the same name.
_PREFIX = "websocket:"

# Seconds in which messages to a client that is leaving are lost without an error, as in TCP.
_LEAVING = 1.0

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10

# Beyond all ports; for clients that have none, or the same as another.
_numbers = itertools.count(65536)

_log = logging.getLogger(__name__)

#: That whose handler runs.
_served: ContextVar[WebSocket | None] = ContextVar("flask_uwsgi_ws_served", default=None)


class WebSocketError(OSError):
    """A connection has ended, or something can not be sent."""


class ProtocolError(WebSocketError):
    """A frame that the protocol does not allow."""


class FrameTooLargeException(ProtocolError):
    """Not raised here; for ``except`` clauses. A client that sends too much is closed with 1009."""


class Client:
    """One of :attr:`Server.clients`.

    :param address: host and port.
    :param ws: what its handler has.
    """

    def __init__(self, address: tuple[str, int], ws: WebSocket) -> None:
        self.address = address
        self.ws = ws


class Clients(dict[tuple[str, int], Client]):
    """A dict in which others may come and go while it is iterated over."""

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self.keys())

    def keys(self) -> list[tuple[str, int]]:  # type: ignore[override]
        return list(super().keys())

    def values(self) -> list[Client]:  # type: ignore[override]
        return list(super().values())

    def items(self) -> list[tuple[tuple[str, int], Client]]:  # type: ignore[override]
        return list(super().items())


class Server:
    """What stands for gevent-websocket's server: ``ws.handler.server``."""

    def __init__(self) -> None:
        #: All clients of this process, by address.
        self.clients = Clients()

    def enter(self, ws: WebSocket) -> tuple[str, int]:
        """Add a client; gives the address that it is kept under."""
        host, port = ws.environ.get("REMOTE_ADDR", ""), str(ws.environ.get("REMOTE_PORT", ""))
        address = (host, int(port) if port.isdigit() else next(_numbers))
        while True:
            client = Client(address, ws)
            if self.clients.setdefault(address, client) is client:
                return address
            address = (host, next(_numbers))


server = Server()


class ConnectionHandler:
    """What stands for gevent-websocket's handler: ``ws.handler``.

    :param ws: the connection.
    """

    server = server
    logger = _log

    def __init__(self, ws: WebSocket) -> None:
        self.websocket = ws

    @property
    def environ(self) -> Mapping[str, Any]:
        """The WSGI environ of the handshake."""
        return self.websocket.environ

    @property
    def client_address(self) -> tuple[str, int]:
        """Host and port of the client."""
        return self.websocket.address

    @property
    def active_client(self) -> Client:
        """This connection's one of ``server.clients``.

        :raises KeyError: when its handler has ended.
        """
        return self.server.clients[self.client_address]


class WebSocket:
    """A connection, as handlers of gevent-websocket know it.

    What else the client of this package can do it can do too, ``ws.join('news')`` for example
    (:class:`~flask_uwsgi_ws.client.BaseClient`).

    :param client: of ours, which serves it.
    """

    OPCODE_CONTINUATION = 0
    OPCODE_TEXT = _TEXT
    OPCODE_BINARY = _BINARY
    OPCODE_CLOSE = _CLOSE
    OPCODE_PING = _PING
    OPCODE_PONG = _PONG

    def __init__(self, client: Any) -> None:
        #: The client of this package, with all that it can do.
        self.client = client
        #: Host and port of the client.
        self.address: tuple[str, int] = ("", 0)
        self._receive = client.receive
        self._send = client.send
        self._received = 0
        # Whether the handler has been told of the end, has made it, or has ended itself.
        self._ended = False
        # When the first message could not be sent any more, and how many had been received.
        self._lost: tuple[float, int] | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"a WebSocket has no attribute {name!r}")
        return getattr(self.client, name)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended and all that it brought has been received."""
        client = self.client
        # What came before the end is still to be had, as where frames are read one by one.
        return self._ended or (client.closed and client.messages_received <= self._received)

    @property
    def environ(self) -> Mapping[str, Any]:
        """The WSGI environ of the handshake; it is the request's."""
        environ: Mapping[str, Any] = self.client.environ
        return environ

    @property
    def origin(self) -> str | None:
        """The ``Origin`` header."""
        return self.environ.get("HTTP_ORIGIN")

    @property
    def protocol(self) -> str | None:
        """The subprotocols that the client has asked for."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL")

    @property
    def version(self) -> str | None:
        """The version of the protocol, ``"13"``."""
        return self.environ.get("HTTP_SEC_WEBSOCKET_VERSION")

    @property
    def path(self) -> str | None:
        """The path of the URL."""
        return self.environ.get("PATH_INFO")

    @property
    def handler(self) -> ConnectionHandler:
        """What has ``server.clients``, all clients of this process."""
        return ConnectionHandler(self)

    @property
    def logger(self) -> logging.Logger:
        """A logger."""
        return _log

    def receive(self) -> str | bytearray | None:
        """Wait for the next message.

        :returns: ``str`` for text, ``bytearray`` for binary, and ``None`` when the connection
            has ended.
        :raises WebSocketError: after that.
        """
        try:
            message: str | bytes | None = self._receive()
        except ConnectionClosed as error:
            raise WebSocketError(str(error)) from None
        if message is None:
            self._ended = True
            return None
        self._received += 1
        return bytearray(message) if isinstance(message, bytes) else message

    def send(
        self,
        message: Any,
        binary: bool | None = None,
        do_compress: bool = False,  # noqa: ARG002
    ) -> None:
        """Send a message; from any thread or greenlet.

        What is sent to a client that is leaving may be lost without an error, as anywhere.

        :param message: ``str`` goes as text, bytes as binary.
        :param binary: ``True`` or ``False`` to send as binary or text whatever *message* is.
        :param do_compress: does nothing; ``UWSGI_WEBSOCKET_COMPRESSION`` compresses.
        :raises WebSocketError: when the connection has ended.
        :raises TypeError: for what is neither ``str`` nor bytes.
        :raises ValueError: for text that can not be UTF-8.
        """
        try:
            self._send(message, binary)
        except ConnectionClosed as error:
            self._not_sent(error)

    def _not_sent(self, error: ConnectionClosed) -> None:
        """Raise what says that a message could not be sent, if the handler is to know by now."""
        now = time.monotonic()
        if self._lost is None or self._lost[1] != self._received:
            # Answers to what came before the end are no error where that has not been told yet.
            self._lost = now, self._received
        # Others, who go through all clients, can not know that this one is about to be gone.
        if (self._ended and _served.get() is self) or now - self._lost[0] > _LEAVING:
            raise WebSocketError(str(error)) from None

    def send_frame(
        self,
        message: Any,
        opcode: int,
        do_compress: bool = False,  # noqa: ARG002
    ) -> None:
        """Send a frame of any kind, :rfc:`6455` section 5.2.

        :param message: its payload; for text and Pings anything, which ``str`` makes text.
        :param opcode: one of ``OPCODE_TEXT``, ``OPCODE_BINARY``, ``OPCODE_PING``, ``OPCODE_PONG``
            and ``OPCODE_CLOSE``, whose payload is a code in two bytes and a reason.
        :param do_compress: does nothing, as in :meth:`send`.
        :raises ProtocolError: for another opcode.
        :raises WebSocketError: when the connection has ended.
        :raises ValueError: for a control frame over 125 bytes, or a code that may not be sent.
        """
        if opcode == _TEXT:
            self.send(_text(message), False)
        elif opcode == _BINARY:
            self.send(bytes(message), True)
        elif self.closed:
            raise WebSocketError("the connection has ended")
        elif opcode == _CLOSE:
            payload = bytes(message)
            code = int.from_bytes(payload[:2], "big") if payload else 1000
            self.close(code, payload[2:])
        elif opcode == _PING:
            try:
                self.client.ping(_text(message).encode())
            except ConnectionClosed as error:
                self._not_sent(error)
        elif opcode == _PONG:
            payload = bytes(message)
            if len(payload) > 125:
                raise ValueError(f"a Pong carries 125 bytes at most, not {len(payload)}")
            self.client.put_shared(serialize(_PONG, payload), True)
        else:
            raise ProtocolError(f"a frame of opcode {opcode} can not be sent by itself")

    def close(self, code: int = 1000, message: str | bytes | None = b"") -> None:
        """Begin the closing handshake, :rfc:`6455` section 7.1.2, without waiting for its end.

        :param code: why: 1000 to 1003, 1007 to 1014, 3000 to 4999.
        :param message: the same for people, at most 123 bytes of UTF-8.
        :raises ValueError: for another code or a longer message.
        """
        reason = message.decode() if isinstance(message, bytes) else message or ""
        self.client.begin_close(code, reason)
        self._ended = True

    def __repr__(self) -> str:
        return f"<WebSocket of {self.client!r}>"


def _text(message: Any) -> str:
    if isinstance(message, (bytes, bytearray, memoryview)):
        return bytes(message).decode()
    return message if isinstance(message, str) else str(message or "")


def adapt(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Make a handler of ours of one that takes a :class:`WebSocket`.

    :param handler: the function.
    """

    @functools.wraps(handler)
    def serve(client: Any, **arguments: Any) -> Any:
        ws = WebSocket(client)
        environ = client.environ
        environ["wsgi.websocket"] = ws
        environ["wsgi.websocket_version"] = ws.version
        ws.address = server.enter(ws)
        _served.set(ws)
        try:
            return handler(ws, **arguments)
        except WebSocketError:
            # If the connection lasts, the error is another's, and to be logged.
            if not client.closed:
                raise
        finally:
            ws._ended = True
            server.clients.pop(ws.address, None)
            # The two know each other.
            environ["wsgi.websocket"] = None

    return serve


def _adapted(app: Flask, name: str, handler: Callable[..., Any]) -> tuple[str, Callable[..., Any]]:
    """Give an endpoint that is free, or has this handler, and what serves it."""
    for number in itertools.count(1):
        endpoint = name if number == 1 else f"{name}:{number}"
        known = app.view_functions.get(endpoint)
        if known is None:
            return endpoint, adapt(handler)
        if getattr(known, "__wrapped__", None) == handler:
            return endpoint, known
    raise AssertionError("there is a number for each")


class _AdaptingApp(SocketApp):
    """An app as a blueprint of sockets sees it, whose handlers take a :class:`WebSocket`."""

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view_func: Callable[..., Any] | None = None,
        provide_automatic_options: bool | None = None,
        **options: Any,
    ) -> None:
        is_static = getattr(view_func, "__name__", "") == "send_static_file"
        if view_func is not None and not is_static and options.get("websocket", True):
            object.__getattribute__(self, "_check")(view_func)
            app: Flask = object.__getattribute__(self, "_app")
            endpoint, view_func = _adapted(app, endpoint or "", view_func)
        super().add_url_rule(rule, endpoint, view_func, provide_automatic_options, **options)


class Sockets:
    """The routes of an app whose handlers take a :class:`WebSocket`.

    ``app.run`` stays Flask's own.

    :param app: the app; or call :meth:`init_app` later.
    """

    def __init__(self, app: Flask | None = None) -> None:
        #: The extension of this package that serves them: rooms, ``broadcast`` and more.
        self.websocket = type("SocketsWebSocket", (RunsAsFlask, extension_class()), {})()
        #: The blueprints that were registered, by name.
        self.blueprints: dict[str, Blueprint] = {}
        self._app: Flask | None = None
        self.websocket._set_up(_prepare)
        if app is not None:
            self.init_app(app)

    @property
    def url_map(self) -> Map:
        """The URL rules of the app.

        :raises RuntimeError: before :meth:`init_app`.
        """
        if self._app is None:
            raise RuntimeError("these sockets have no app yet: call init_app(app) first")
        return self._app.url_map

    def init_app(self, app: Flask) -> None:
        """Serve the routes, those that come later too, beside the pages of an app.

        :param app: the app.
        :raises RuntimeError: if it has a WebSocket extension already.
        """
        self.websocket.init_app(app)
        self._app = app

    def route(self, rule: str, **options: Any) -> Callable[[Handler], Handler]:
        """Make a function the handler of a WebSocket URL.

        :param rule: the URL rule; its variables are arguments of the function, after the
            connection.
        :param options: those of :meth:`add_url_rule`.
        """

        endpoint = options.pop("endpoint", None)

        def decorator(handler: Handler) -> Handler:
            self.add_url_rule(rule, endpoint, handler, **options)
            return handler

        return decorator

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        f: Callable[..., Any] | None = None,
        *,
        view_func: Callable[..., Any] | None = None,
        **options: Any,
    ) -> None:
        """Make a function the handler of a WebSocket URL.

        :param rule: the URL rule.
        :param endpoint: its name for ``url_for``; the function's by default.
        :param f: the function; ``view_func`` is another name of it.
        :param options: those of :class:`werkzeug.routing.Rule` (``defaults``, ``subdomain``, …).
            ``methods`` and ``websocket`` do nothing.
        :raises TypeError: for no function, or an ``async def``.
        """
        handler = f if f is not None else view_func
        if handler is None:
            raise TypeError("a route needs a function")
        self.websocket._check_handler(handler)
        name = _PREFIX + (endpoint or str(getattr(handler, "__name__", type(handler).__name__)))
        for ignored in ("methods", "websocket"):
            options.pop(ignored, None)

        def add(app: Flask) -> None:
            own, view = _adapted(app, name, handler)
            app.add_url_rule(
                rule, own, view, provide_automatic_options=False, websocket=True, **options
            )

        self.websocket._set_up(add)

    def add_view(
        self, url: str, f: Callable[..., Any], endpoint: str | None = None, **options: Any
    ) -> None:
        """Do as :meth:`add_url_rule`, with the arguments in another order."""
        self.add_url_rule(url, endpoint, f, **options)

    def register_blueprint(self, blueprint: Blueprint, **options: Any) -> None:
        """Register a blueprint all of whose routes are WebSocket routes.

        :param blueprint: of Flask.
        :param options: those of :meth:`flask.Flask.register_blueprint` (``url_prefix``, …).
        :raises TypeError: for an ``async def``.
        """
        name: str = options.get("name", blueprint.name)
        self.blueprints[name] = blueprint

        def register(app: Flask) -> None:
            names = (_PREFIX + name + suffix for suffix in _suffixes())
            free = next(each for each in names if each not in app.blueprints)
            view = cast(Flask, _AdaptingApp(app, self.websocket._check_handler))
            blueprint.register(view, {**options, "name": free})

        self.websocket._set_up(register)


def _suffixes() -> Iterator[str]:
    yield ""
    for number in itertools.count(2):
        yield f":{number}"


def _prepare(app: Flask) -> None:
    """Let ``url_for`` find sockets by the names of their functions."""

    def build(_: Exception, endpoint: str, values: dict[str, Any]) -> Any:
        if _PREFIX + endpoint not in app.view_functions:
            return None
        return app.url_for(_PREFIX + endpoint, **values)

    app.url_build_error_handlers.append(build)


def __getattr__(name: str) -> Any:
    """Make what needs gevent when it is asked for."""
    if name not in {"WebSocketHandler", "WebSocketServer"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from gevent import pywsgi
    except ModuleNotFoundError:
        raise ImportError(f"{name} needs gevent: pip install gevent") from None
    # Nothing is left to do for either: the handshake is the app's.
    return pywsgi.WSGIHandler if name == "WebSocketHandler" else pywsgi.WSGIServer
