"""The names of Flask-uWSGI-WebSocket.

``from flask_uwsgi_ws.compat.flask_uwsgi_websocket import …`` serves its apps as they are: messages
are received as bytes and sent as text, whatever type they have. Handlers get an object around the
client of this package.
"""

from __future__ import annotations

import functools
import inspect
import threading
import types
from collections.abc import Callable, Coroutine, Generator, Mapping
from typing import Any, TypeVar

from flask import Blueprint, Flask
from werkzeug.routing import Map

from .. import exceptions, extension
from ..client import Message, Sendable
from ..middleware import BaseMiddleware, Opening
from ..servers import uwsgi_module
from .backend import extension_class

__all__ = [
    "AsyncWebSocket",
    "AsyncWebSocketClient",
    "AsyncWebSocketMiddleware",
    "AsyncioNotAvailable",
    "AsyncioWebSocket",
    "AsyncioWebSocketClient",
    "AsyncioWebSocketMiddleware",
    "ConnectionClosed",
    "GeventNotInstalled",
    "GeventWebSocket",
    "GeventWebSocketClient",
    "GeventWebSocketMiddleware",
    "WebSocket",
    "WebSocketClient",
    "WebSocketMiddleware",
    "coroutine",
    "uwsgi",
]

Client = TypeVar("Client", bound="_Client")
Result = TypeVar("Result")

# What the endpoints of sockets begin with: they were apart from the app's, so that a view and a
# handler may have the same name.
_PREFIX = "websocket:"

#: uWSGI's own module; ``None`` outside it.
uwsgi = uwsgi_module()


class GeventNotInstalled(Exception):
    """``GeventWebSocket`` needs gevent."""


class AsyncioNotAvailable(Exception):
    """Not raised here; for ``except`` clauses."""


class ConnectionClosed(exceptions.ConnectionClosed, ConnectionError):
    """The connection has ended. A handler that lets it through ends quietly.

    An :exc:`OSError` too, which uWSGI's own functions raise.

    :param code: the close code, :rfc:`6455` section 7.1.5.
    :param reason: the close reason, section 7.1.6.
    """


def _raised(error: exceptions.ConnectionClosed) -> ConnectionClosed:
    return ConnectionClosed(error.code, error.reason)


def _as_bytes(message: Message) -> bytes:
    return message.encode() if isinstance(message, str) else message


class _Client:
    """What handlers get; ``ws.join('news')`` and all else of this package's client is here too.

    A subclass may have an ``__init__`` of its own, in which the connection is open already.

    :param environ: the WSGI environ of the opening handshake.
    :param fd: the descriptor of the connection.
    :param timeout: seconds, which nothing here waits for.
    """

    _native: Any = None
    _receive: Any
    _send: Any
    _owner: Any

    def __init__(self, environ: Mapping[str, Any], fd: int, timeout: float | None = 5) -> None:
        #: The WSGI environ of the opening handshake.
        self.environ = environ
        #: The descriptor of the connection.
        self.fd = fd
        #: What the extension was given.
        self.timeout = timeout

    @classmethod
    def of(cls: type[Client], native: Any, timeout: float | None) -> Client:
        """Make the object for a connection, where its handler runs.

        :param native: the client of this package.
        :param timeout: what the extension was given.
        """
        client = cls.__new__(cls)
        client._native = native
        client._receive, client._send = native.receive, native.send
        client._owner = client._caller()
        client.__init__(native.environ, native.fd, timeout)  # type: ignore[misc]
        return client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def __repr__(self) -> str:
        return repr(self._native)

    def _caller(self) -> object:
        """Tell who runs here: the thread, greenlet or task."""
        raise NotImplementedError

    def _lost(self, error: exceptions.ConnectionClosed) -> None:
        """End the handler whose client has gone, and not one that sends to others as well."""
        if self._caller() == self._owner:
            raise _raised(error) from None

    @property
    def id(self) -> str:
        """A name for this connection that no other has."""
        name: str = self._native.id
        return name

    @property
    def connected(self) -> bool:
        """Whether messages can be sent: no Close frame has gone either way.

        To set it to ``False`` is to call :meth:`close`; nothing makes it true again.
        """
        connected: bool = self._native.connected
        return connected

    @connected.setter
    def connected(self, connected: bool) -> None:
        if not connected:
            self.close()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin the closing handshake, :rfc:`6455` section 7.1.2, without waiting; from anywhere.

        :param code: see :meth:`~flask_uwsgi_ws.client.BlockingCalls.close`.
        :param reason: the same.
        :raises ValueError: for another code or a longer reason.
        """
        self._native.begin_close(code, reason)


class WebSocketClient(_Client):
    """A connection, as the handlers of :class:`WebSocket` get it."""

    def _caller(self) -> object:
        return threading.get_ident()

    def receive(self) -> bytes | None:
        """Wait for the next message.

        :returns: the message, text as UTF-8; ``None`` once when the connection has ended.
        :raises ConnectionClosed: after that ``None``.
        """
        try:
            message: Message | None = self._receive()
        except exceptions.ConnectionClosed as error:
            raise _raised(error) from None
        return message.encode() if isinstance(message, str) else message

    def recv(self) -> bytes | None:
        """The same as :meth:`receive`."""
        return self.receive()

    def recv_nb(self) -> bytes:
        """Give the next message if it is here, else ``b''``.

        :raises ConnectionClosed: when the connection has ended.
        """
        try:
            message: Message | None = self._native.recv_nb()
        except exceptions.ConnectionClosed as error:
            raise _raised(error) from None
        if message is None:
            raise ConnectionClosed(self._native.close_code or 1006, self._native.close_reason)
        return _as_bytes(message)

    def send(self, msg: Sendable | None, binary: bool = False) -> None:
        """Send a text message, or a binary one; from any thread.

        To a client that has gone nothing is sent; its own handler is told.

        :param msg: ``str`` or bytes; those that are no UTF-8 go as binary.
        :param binary: whether it is binary in any case.
        :raises ConnectionClosed: in the connection's own handler, when it has ended.
        :raises TypeError: for what is neither ``str`` nor bytes.
        :raises ValueError: for text that can not be UTF-8.
        """
        try:
            try:
                self._send(msg, bool(binary))
            except ValueError:
                if isinstance(msg, str):
                    raise
                self._send(msg, True)
        except exceptions.ConnectionClosed as error:
            self._lost(error)

    def send_binary(self, msg: Sendable | None) -> None:
        """Send a binary message; raises as :meth:`send` does."""
        self.send(msg, True)


class AsyncWebSocketClient(WebSocketClient):
    """A connection, as the handlers of :class:`AsyncWebSocket` get it."""


class GeventWebSocketClient(WebSocketClient):
    """A connection, as the handlers of ``GeventWebSocket`` get it."""


class Call(Coroutine[Any, Any, Result]):
    """A coroutine that a generator can ``yield from`` as well.

    :param call: what it does.
    """

    __slots__ = ("_call",)

    def __init__(self, call: Coroutine[Any, Any, Result]) -> None:
        self._call = call

    def __await__(self) -> Generator[Any, Any, Result]:
        return self._call.__await__()

    __iter__ = __await__

    def send(self, value: Any) -> Any:
        return self._call.send(value)

    def throw(self, *error: Any) -> Any:
        return self._call.throw(*error)

    def close(self) -> None:
        self._call.close()


def coroutine(function: Callable[..., Any]) -> Callable[..., Call[Any]]:
    """Make a coroutine of a generator function, as ``asyncio.coroutine`` did before Python 3.11.

    :param function: it may ``yield from`` coroutines; or one that gives an awaitable or a value.
    """
    awaitable: Callable[..., Any] = types.coroutine(function)

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Call[Any]:
        return Call(_result_of(awaitable, arguments, options))

    return call


async def _result_of(
    function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> Any:
    result = function(*arguments, **options)
    return await result if inspect.isawaitable(result) else result


class AsyncioWebSocketClient(_Client):
    """A connection, as the handlers of ``AsyncioWebSocket`` get it.

    What waits is a coroutine, for ``await`` and for ``yield from``.
    """

    def _caller(self) -> object:
        from ..backends.asyncio import current_task

        return current_task()

    def receive(self) -> Call[bytes | None]:
        """Wait for the next message; as :meth:`WebSocketClient.receive`."""
        return Call(self._receive_bytes())

    def recv(self) -> Call[bytes | None]:
        """The same as :meth:`receive`."""
        return self.receive()

    def a_recv(self) -> Call[bytes | None]:
        """The same as :meth:`receive`."""
        return self.receive()

    async def _receive_bytes(self) -> bytes | None:
        try:
            message: Message | None = await self._receive()
        except exceptions.ConnectionClosed as error:
            raise _raised(error) from None
        return message.encode() if isinstance(message, str) else message

    def recv_nb(self) -> bytes | str | None:
        """Give the next message if it is here, else ``''``; not a coroutine.

        :returns: the message as bytes; ``None`` once when the connection has ended.
        :raises ConnectionClosed: after that ``None``.
        """
        call = self._native.recv_nb()
        try:
            call.send(None)
        except StopIteration as done:
            message: Message | None = done.value
        except exceptions.ConnectionClosed as error:
            raise _raised(error) from None
        else:
            # It lets others go on before it looks again, for which this can not wait.
            call.close()
            return ""
        return _as_bytes(message) if message else message

    def send(self, msg: Sendable | None, binary: bool = False) -> Call[None]:
        """Send a message; parameters and errors are those of :meth:`WebSocketClient.send`."""
        return Call(self._send_message(msg, bool(binary)))

    def a_send(self, msg: Sendable | None, binary: bool = False) -> Call[None]:
        """The same as :meth:`send`."""
        return self.send(msg, binary)

    def send_binary(self, msg: Sendable | None) -> Call[None]:
        """Send a binary message; raises as :meth:`send` does."""
        return self.send(msg, True)

    async def _send_message(self, msg: Sendable | None, binary: bool) -> None:
        try:
            try:
                await self._send(msg, binary)
            except ValueError:
                if isinstance(msg, str):
                    raise
                await self._send(msg, True)
        except exceptions.ConnectionClosed as error:
            self._lost(error)

    def send_nb(self, msg: Sendable | None) -> None:
        """Send a message without waiting; not a coroutine, and from any thread.

        :param msg: as in :meth:`send`.
        :raises ConnectionClosed: when the connection has ended.
        :raises BlockingIOError: if more than ``write_limit`` bytes wait to be sent; the message is
            not sent then.
        """
        sync = self._native.sync
        try:
            try:
                sync.send_nb(msg, False)
            except ValueError:
                if isinstance(msg, str):
                    raise
                sync.send_nb(msg, True)
        except exceptions.ConnectionClosed as error:
            raise _raised(error) from None


class _Middleware(BaseMiddleware):
    """Has a client of this package serve a connection, and gives its handler :attr:`client`.

    :param wsgi_app: what answers all other requests.
    :param websocket: the extension.
    :param app: the app; the extension's by default.
    """

    #: The class of the object that handlers get; may be replaced.
    client: Any

    #: What serves the connection.
    native: Any

    def __init__(
        self, wsgi_app: Callable[..., Any], websocket: Any, app: Flask | None = None
    ) -> None:
        super().__init__(wsgi_app, websocket, websocket.app if app is None else app)
        # What the other middleware makes; for handlers it is the class's that counts.
        self.client = self.native

    def start(
        self, opening: Opening, handler: Callable[..., Any], arguments: dict[str, Any]
    ) -> None:
        super().start(opening, self._adapted(handler), arguments)

    def _object_of(self, native: Any) -> Any:
        websocket: Any = self.websocket
        return type(self).client.of(native, websocket.timeout)

    def _adapted(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Make a handler one that gets a client of this package."""

        @functools.wraps(handler)
        def serve(native: Any, **arguments: Any) -> Any:
            return handler(self._object_of(native), **arguments)

        return serve


class _AsyncioMiddleware(_Middleware):
    def _adapted(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        awaited = coroutine(handler)

        # Without functools.wraps, behind which the backend would see a generator function.
        async def serve(native: Any, **arguments: Any) -> None:
            await awaited(self._object_of(native), **arguments)

        return serve


class _Extension(extension.WebSocket):
    """What the extensions have in common.

    :param app: the app; or call :meth:`init_app` later.
    :param timeout: seconds, the clients' ``timeout``, which nothing here waits for.
    :param options: of :class:`~flask_uwsgi_ws.settings.Settings`.
    """

    def __init__(self, app: Flask | None = None, timeout: float | None = 5, **options: Any) -> None:
        #: The app.
        self.app = app
        #: What the clients have as ``timeout``.
        self.timeout = timeout
        #: The blueprints that were registered, by name.
        self.blueprints: dict[str, Blueprint] = {}
        super().__init__(app, **options)

    def init_app(self, app: Flask) -> None:
        self.app = app
        super().init_app(app)

        def run(*arguments: Any, **options: Any) -> None:
            self.run(options.pop("app", app), *arguments, **options)

        app.run = run  # type: ignore[method-assign]

    @property
    def url_map(self) -> Map:
        """The URL rules of the app."""
        rules: Map = self._the_app.url_map
        return rules

    @property
    def view_functions(self) -> dict[str, Callable[..., Any]]:
        """The functions of the app, handlers and views, by their endpoints in :attr:`url_map`."""
        functions: dict[str, Callable[..., Any]] = self._the_app.view_functions
        return functions

    @property
    def _the_app(self) -> Flask:
        if self.app is None:
            raise RuntimeError("this WebSocket has no app yet: call init_app(app) first")
        return self.app

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view_func: Callable[..., Any] | None = None,
        **options: Any,
    ) -> None:
        if view_func is not None:
            endpoint = _PREFIX + (endpoint or view_func.__name__)
        # The opening handshake is always GET.
        options.pop("methods", None)
        super().add_url_rule(rule, endpoint, view_func, **options)

    def register_blueprint(self, blueprint: Blueprint, **options: Any) -> None:
        name = wanted = options.pop("name", blueprint.name)
        number = 1
        while self.blueprints.get(name) is blueprint:
            number += 1
            name = f"{wanted}:{number}"
        # One for pages may have the same name, or be the same.
        super().register_blueprint(blueprint, name=_PREFIX + name, **options)
        self.blueprints[name] = blueprint

    def run(
        self,
        app: Flask | str | None = None,
        debug: bool = False,
        *arguments: Any,
        **options: Any,
    ) -> None:
        """Replace this process by uWSGI; see :meth:`flask_uwsgi_ws.WebSocket.run`.

        :param app: the app; by default, and for the name of one (``'chat:app'``), the extension's,
            which is found by itself.
        :param debug: as there; the app's by default.
        """
        found = app if isinstance(app, Flask) else self._the_app
        super().run(found, debug or found.debug, *arguments, **options)


# In uWSGI's gevent loop handlers are greenlets, which the functions of uWSGI's let switch.
_Base: Any = extension_class()


class WebSocketMiddleware(_Middleware, _Base.middleware):  # type: ignore[misc]
    """Does the handshake and gives the handler a :class:`WebSocketClient`."""

    client = WebSocketClient
    native = _Base.middleware.client


class WebSocket(_Extension, _Base):  # type: ignore[misc]
    """WebSocket routes for a Flask app on uWSGI; the parameters are those of the original.

    Each connection has a thread, or a greenlet in uWSGI's gevent loop.

    :param app: the app; or call ``init_app`` later.
    :param timeout: seconds, the clients' ``timeout``, which nothing here waits for.
    :param options: of :class:`~flask_uwsgi_ws.settings.Settings`.
    """

    middleware = WebSocketMiddleware

    def uwsgi_defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG002
        # With gevent another extension is chosen in uWSGI.
        return {}


class AsyncWebSocketMiddleware(WebSocketMiddleware):
    """Does the handshake and gives the handler an :class:`AsyncWebSocketClient`."""

    client = AsyncWebSocketClient


class AsyncWebSocket(WebSocket):
    """The same as :class:`WebSocket`; the original was for ``uwsgi --async``."""

    middleware = AsyncWebSocketMiddleware


def _classes(kind: str, native: Any, client: type[_Client], middleware: Any) -> dict[str, Any]:
    """Make an extension and its middleware from a backend's."""
    middleware = type(
        f"{kind}WebSocketMiddleware",
        (middleware, native.middleware),
        {"__module__": __name__, "client": client, "native": native.middleware.client},
    )
    made = type(
        f"{kind}WebSocket",
        (_Extension, native),
        {"__module__": __name__, "__doc__": native.__doc__, "middleware": middleware},
    )
    return {middleware.__name__: middleware, made.__name__: made}


class _NoGevent:
    def __init__(self, *_: Any, **__: Any) -> None:
        raise GeventNotInstalled("GeventWebSocket needs gevent: pip install gevent")


# Made by __getattr__.
GeventWebSocket: type[Any]
GeventWebSocketMiddleware: type[Any]
AsyncioWebSocket: type[Any]
AsyncioWebSocketMiddleware: type[Any]

_GEVENT = ("GeventWebSocket", "GeventWebSocketMiddleware")
_ASYNCIO = ("AsyncioWebSocket", "AsyncioWebSocketMiddleware")


def __getattr__(name: str) -> Any:
    """Make what needs gevent or asyncio when it is asked for."""
    if name in _GEVENT:
        try:
            from ..backends import gevent
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in {"gevent", "greenlet"}:
                raise
            made: dict[str, Any] = dict.fromkeys(_GEVENT, _NoGevent)
        else:
            made = _classes("Gevent", gevent.GeventWebSocket, GeventWebSocketClient, _Middleware)
    elif name in _ASYNCIO:
        from ..backends import asyncio

        made = _classes(
            "Asyncio", asyncio.AsyncioWebSocket, AsyncioWebSocketClient, _AsyncioMiddleware
        )
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals().update(made)
    return made[name]
