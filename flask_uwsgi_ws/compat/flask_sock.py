"""The names of flask-sock, and those of simple-websocket that its apps import.

``from flask_uwsgi_ws.compat.flask_sock import Sock`` serves such an app as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from flask import Blueprint, Flask

from .. import exceptions
from ..client import Message
from ..extension import EXTENSION, WebSocket
from ..servers import uwsgi_module
from ..settings import PREFIX, Settings
from .backend import RunsAsFlask, extension_class

__all__ = ["ConnectionClosed", "ConnectionError", "Server", "SimpleWebsocketError", "Sock"]

Handler = TypeVar("Handler", bound=Callable[..., Any])

# What flask-sock names the blueprint of routes that are declared before there is an app; it is
# part of their endpoints.
_EARLY = "__flask_sock"

_OPTIONS = "SOCK_SERVER_OPTIONS"
# Each names something of a thread or a selector that there is none of here.
_IGNORED = ("receive_bytes", "thread_class", "event_class", "selector_class")
_KNOWN = ("ping_interval", "max_message_size", "subprotocols", *_IGNORED)

# Bytes of UTF-8 that a Close frame has room for (RFC 6455 section 5.5).
_MOST_REASON = 123

_SENDABLE = (str, bytes, bytearray, memoryview)


class SimpleWebsocketError(RuntimeError):
    """What the errors here are."""


class ConnectionError(SimpleWebsocketError):
    """A connection could not be made. Nothing here raises it; there are apps that name it.

    :param status_code: the status of the response.
    """

    def __init__(self, status_code: int | None = None) -> None:
        super().__init__(f"there is no connection: {status_code}")
        #: The status of the response.
        self.status_code = status_code


class ConnectionClosed(SimpleWebsocketError, exceptions.ConnectionClosed):
    """The connection has ended. A handler that lets it through ends quietly.

    :param reason: the close code, :rfc:`6455` section 7.1.5; 1006 if the connection was lost
        without a Close frame.
    :param message: the text with it, section 7.1.6.
    """

    def __init__(self, reason: int = 1005, message: str | None = None) -> None:
        exceptions.ConnectionClosed.__init__(self, reason, message or "")
        #: The close code, which :attr:`code` is too.
        self.reason: Any = reason
        #: The text with it; ``None`` if there is none.
        self.message = message


class Server:
    """A connection, as handlers get it. It is made by :class:`Sock` alone.

    What else the client of this package can do it can do too, ``ws.join('news')`` for example
    (:class:`~flask_uwsgi_ws.client.BaseClient`).

    :param client: the connection.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._receive: Callable[[float | None], Message | None] = client.receive
        self._send: Callable[[Any], None] = client.send
        #: The WSGI environ of the opening handshake.
        self.environ: Mapping[str, Any] = client.environ
        #: The subprotocol agreed on (:rfc:`6455` section 1.9), or ``None``.
        self.subprotocol: str | None = client.subprotocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def __repr__(self) -> str:
        return repr(self._client)

    @property
    def connected(self) -> bool:
        """Whether messages can be sent: no Close frame has gone either way."""
        connected: bool = self._client.connected
        return connected

    @property
    def mode(self) -> str:
        """The server: ``werkzeug``, ``gunicorn``, ``eventlet``, ``gevent`` or ``uwsgi``."""
        for mode in ("werkzeug", "gunicorn"):
            if f"{mode}.socket" in self.environ:
                return mode
        if "eventlet.input" in self.environ:
            return "eventlet"
        if self.environ.get("SERVER_SOFTWARE", "").startswith("gevent"):
            return "gevent"
        return "unknown" if uwsgi_module() is None else "uwsgi"

    @property
    def close_reason(self) -> int:
        """The close code; 1005 while the connection lasts."""
        code: int | None = self._client.close_code
        return 1005 if code is None else code

    @property
    def close_message(self) -> str | None:
        """The text with the close code; ``None`` if there is none."""
        text: str = self._client.close_reason
        return text or None

    def _ended(self) -> ConnectionClosed:
        return ConnectionClosed(self._client.close_code or 1006, self.close_message)

    def receive(self, timeout: float | None = None) -> Message | None:
        """Wait for the next message.

        :param timeout: seconds to wait; ``None`` for ever, 0 not at all.
        :returns: ``str`` for text, ``bytes`` for binary, ``None`` when none came in time.
        :raises ConnectionClosed: when the connection has ended.
        """
        try:
            message = self._receive(timeout)
        except TimeoutError:
            return None
        except exceptions.ConnectionClosed:
            raise self._ended() from None
        if message is None:
            raise self._ended()
        return message

    def send(self, data: object) -> None:
        """Send a message; from any thread.

        :param data: bytes go as binary, and all else, as :class:`str` says it, as text.
        :raises ConnectionClosed: when the connection has ended, or the client takes no bytes for
            ``send_timeout`` seconds, which ends it.
        :raises ValueError: for text that can not be UTF-8.
        """
        if not isinstance(data, _SENDABLE):
            data = str(data)
        try:
            self._send(data)
        except exceptions.ConnectionClosed:
            raise self._ended() from None

    def close(self, reason: int | None = None, message: str | None = None) -> None:
        """Begin the closing handshake, :rfc:`6455` section 7.1.2, without waiting.

        :param reason: the close code; 1000 by default.
        :param message: a text for people, of which 123 bytes of UTF-8 are sent.
        :raises ConnectionClosed: when the connection has ended.
        :raises ValueError: for a code that can not be sent.
        """
        if not self._client.connected:
            raise self._ended()
        text = (message or "").encode()[:_MOST_REASON].decode(errors="ignore")
        self._client.begin_close(reason or 1000, text)


class Sock:
    """WebSocket routes for a Flask app.

    The app serves them wherever :class:`~flask_uwsgi_ws.WebSocket` does, and in uWSGI's gevent
    loop as well. ``app.run`` stays Flask's own.

    ``app.config['SOCK_SERVER_OPTIONS']`` is a dict, checked here and read at the first connection:
    ``ping_interval`` (seconds, which the answer may take as well; ``None`` or 0 for no Pings),
    ``max_message_size`` (bytes; ``None`` or 0 for no limit) and ``subprotocols`` (a list, or one
    name). ``receive_bytes``, ``thread_class``, ``event_class`` and ``selector_class`` have no
    effect, since a connection has no thread of its own that reads, and no selector. For what it
    does not say the options and defaults of :class:`~flask_uwsgi_ws.settings.Settings` hold; an
    option of theirs in ``app.config`` comes before it.

    :param app: the app; or call :meth:`init_app` later.
    :raises ValueError: for an option that there is none of, or a value that can not be meant.
    """

    def __init__(self, app: Flask | None = None) -> None:
        #: The app that routes are added to.
        self.app: Flask | None = None
        #: The blueprint of the routes that were declared before there was an app.
        self.bp: Blueprint | None = None
        if app is not None:
            self.init_app(app)

    @property
    def websocket(self) -> WebSocket:
        """The extension of this package that serves the app: rooms, ``broadcast`` and more.

        :raises RuntimeError: before :meth:`init_app`.
        """
        if self.app is None:
            raise RuntimeError("this Sock has no app yet: call init_app(app) first")
        websocket: WebSocket = self.app.extensions[EXTENSION].websocket
        return websocket

    def init_app(self, app: Flask) -> None:
        """Serve the routes in an app, those that were declared before, and those that will be.

        :param app: the app; one that has an extension of this package keeps it.
        :raises ValueError: as for the class.
        """
        _serve(app)
        if self.bp is not None:
            app.register_blueprint(self.bp)
        self.app = app

    def route(
        self, path: str, bp: Blueprint | None = None, **kwargs: Any
    ) -> Callable[[Handler], Handler]:
        """Make a function the handler of a WebSocket URL; what it returns is ignored.

        :param path: the URL rule, as Flask's; its variables are arguments of the function, after
            the connection.
        :param bp: the blueprint whose route it is, which is registered with the app as any other.
        :param kwargs: options of :meth:`flask.Flask.route`.
        """
        options = {"provide_automatic_options": False, **kwargs, "websocket": True}
        endpoint = options.pop("endpoint", None)

        def decorator(handler: Handler) -> Handler:
            if bp is not None:
                # There are apps whose Sock never sees them.
                bp.record(lambda state: _serve(state.app))  # type: ignore[arg-type]
            elif self.app is None and self.bp is None:
                self.bp = Blueprint(_EARLY, __name__)
            owner: Any = bp or self.app or self.bp
            owner.add_url_rule(path, endpoint, _adapted(handler), **options)
            return handler

        return decorator


def _adapted(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Make a handler one that gets a client of this package."""

    @functools.wraps(handler)
    def serve(client: Any, **arguments: Any) -> Any:
        return handler(Server(client), **arguments)

    return serve


def _serve(app: Flask) -> None:
    """See that an app has an extension."""
    state = app.extensions.get(EXTENSION)
    if state is None:
        extension = type("SockWebSocket", (_SockWebSocket, extension_class()), {})
        extension(app)
    elif not isinstance(state.websocket, _SockWebSocket):
        _take_options(app)


class _SockWebSocket(RunsAsFlask):
    """What differs from the extension that serves the app."""

    def init_app(self, app: Flask) -> None:
        Settings.load({}, _settings_in(app), {})
        super().init_app(app)

    def settings(self, app: Flask) -> Settings:
        # As late as flask-sock looks at them: they may be set after Sock(app).
        if app.extensions[EXTENSION].settings is None:
            _take_options(app)
        return super().settings(app)


def _take_options(app: Flask) -> None:
    for name, value in _settings_in(app).items():
        app.config.setdefault(PREFIX + name.upper(), value)


def _settings_in(app: Flask) -> dict[str, Any]:
    """Give what ``SOCK_SERVER_OPTIONS`` says, in the names of :class:`Settings`.

    :raises ValueError: for an option that there is none of.
    """
    options: Mapping[str, Any] = app.config.get(_OPTIONS) or {}
    for name in options:
        if name not in _KNOWN:
            close = get_close_matches(name, _KNOWN, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"there is no option {name!r} in {_OPTIONS}{hint}")
    settings: dict[str, Any] = {}
    if "ping_interval" in options:
        settings["ping_interval"] = options["ping_interval"] or None
        if options["ping_interval"]:
            settings["ping_timeout"] = options["ping_interval"]
    if "max_message_size" in options:
        settings["max_size"] = options["max_message_size"] or None
    names = options.get("subprotocols")
    if names:
        settings["subprotocols"] = [names] if isinstance(names, str) else names
    return settings
