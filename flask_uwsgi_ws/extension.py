"""The Flask extension: routes, ``init_app`` and ``run``."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from flask import Blueprint, Flask, current_app, has_app_context
from werkzeug.debug import DebuggedApplication
from werkzeug.middleware.proxy_fix import ProxyFix

from . import runner, signals
from .backends.threads import WebSocketMiddleware
from .blueprints import SocketApp
from .client import Sendable
from .clients import Clients
from .contexts import Hook
from .ending import worker_end
from .limits import mercy_warning
from .loops import prepare_engine
from .messenger import Messenger
from .middleware import BaseMiddleware
from .occasions import let_pass
from .queues.base import MakeMessage
from .servers import (
    has_threads,
    loop_engine,
    server_hub,
    threads_beside,
    uwsgi_module,
    uwsgi_options,
)
from .settings import Settings, unknown_names
from .statistics import Statistics

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from .testing import WebSocketTestClient

Handler = TypeVar("Handler", bound=Callable[..., Any])
HookType = TypeVar("HookType", bound=Hook)

#: Where the extension keeps an app's part: ``app.extensions[EXTENSION]``.
EXTENSION = "uwsgi_websocket"


@dataclass
class _AppState:
    websocket: WebSocket
    settings: Settings | None = None
    #: The names that were warned of.
    unknown: set[str] = field(default_factory=set)


class WebSocket:
    """WebSocket routes for a Flask app on uWSGI, each connection in a thread.

    A route declared here is one of the app's own, a rule with
    ``websocket=True``; such a rule that was added to the app or a blueprint
    directly is served as well.

    :param app: the app; or call :meth:`init_app` later.
    :param options: of :class:`~flask_uwsgi_ws.settings.Settings`; they come
        before ``app.config``.
    :raises TypeError: for an option that there is none of.
    :raises ValueError: for an option's value that can not be meant.
    """

    #: The class of the middleware that is applied to the app.
    middleware: type[BaseMiddleware] = WebSocketMiddleware

    def __init__(self, app: Flask | None = None, **options: Any) -> None:
        Settings.load({}, options, {})
        self._options = options
        #: The clients of this worker; iterable from any thread.
        self.clients = Clients()
        #: What the clients' rooms are known to.
        self.messenger = Messenger(self.clients, self._any_settings, self.hand_over)
        self._statistics: Statistics | None = None
        #: The functions of :meth:`before_handshake`.
        self.hooks: list[Hook] = []
        # What is done to each app.
        self._setups: list[Callable[[Flask], None]] = []
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Apply the middleware to an app and replace its ``run``.

        Routes that were declared before, and those that will be, are added to
        each app that this was called with.

        :param app: the app.
        :raises RuntimeError: if the app has a WebSocket extension already.
        :raises ValueError: for a value in ``app.config`` that can not be meant.
        """
        if EXTENSION in app.extensions:
            raise RuntimeError(
                "this app has a WebSocket extension already; use that one, "
                f"app.extensions[{EXTENSION!r}].websocket"
            )
        self.prepare(app)
        # What is set already is checked now; the rest when it is first asked for.
        settings = Settings.load(app.config, self._options, uwsgi_options())
        if settings.message_queue is not None:
            if find_spec("redis") is None:
                raise RuntimeError("a message queue needs redis: pip install redis")
            from .queues.clients import check

            check(settings.message_queue)
        app.extensions[EXTENSION] = _AppState(self)
        self._warn_of_unknown_names(app)
        try:
            for setup in self._setups:
                setup(app)
        except BaseException:
            del app.extensions[EXTENSION]
            raise
        self._apps.add(app)
        if uwsgi_module() is not None and runner.debug_wanted():
            self._debug(app)
        self._apply_middleware(app)
        app.run = lambda *args, **options: self.run(app, *args, **options)  # type: ignore[method-assign]

    def prepare(self, app: Flask) -> None:
        """Do what the backend has to do early; :meth:`init_app` calls this first.

        :param app: the app.
        """
        prepare_engine()
        if loop_engine() in {"gevent", "asyncio"} and has_threads(uwsgi_options()):
            app.logger.error(threads_beside(loop_engine()))
        if uwsgi_module() is not None:
            signals.prepare()
        if "enable-metrics" in uwsgi_options():
            self.statistics()

    def statistics(self) -> Statistics:
        """Give what all workers have counted.

        To be called first when the app is loaded.
        """
        if self._statistics is None:
            self._statistics = Statistics(self.clients)
        return self._statistics

    def prepare_worker(self) -> None:
        """Start what all connections of this worker need, if that has not begun.

        :raises RuntimeError: if there is no thread for it.
        :raises OSError: if there is no descriptor for it.
        """
        worker_end().watch(self.clients)
        if self._statistics is not None:
            self._statistics.start()

    def hand_over(self, call: Callable[..., None], *arguments: Any) -> None:
        """Have something done where the clients are served; from any thread, in order."""
        call(*arguments)

    def _any_settings(self) -> Settings:
        """Give the options of the app that is meant, or of the only one."""
        app = self._app_here() or self._only_app("send to clients")
        return self.settings(app)

    def _app_here(self) -> Flask | None:
        app: Flask | None = None
        if has_app_context():
            app = current_app._get_current_object()  # type: ignore[attr-defined]
        return app if app in self._apps else None

    def uwsgi_defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give uWSGI options that this backend needs and ``app.run`` was not given.

        :param options: those that it was given.
        :raises RunError: if one of them does not go with this backend.
        """
        if options.get("gevent"):
            raise runner.RunError(
                "with gevent all handshakes of this app would be answered 501: leave gevent out, "
                "or use GeventWebSocket"
            )
        return {}

    def settings(self, app: Flask) -> Settings:
        """Give an app's options, which are read once, when they are first asked for.

        :param app: an app that :meth:`init_app` was called with.
        :raises ValueError: for a value in ``app.config`` that can not be meant.
        """
        state: _AppState = app.extensions[EXTENSION]
        if state.settings is None:
            state.settings = Settings.load(app.config, self._options, uwsgi_options())
            self._warn_of_unknown_names(app)
            warning = mercy_warning(state.settings)
            if warning:
                app.logger.warning(warning)
        return state.settings

    @staticmethod
    def _warn_of_unknown_names(app: Flask) -> None:
        state: _AppState = app.extensions[EXTENSION]
        for name, warning in unknown_names(app.config).items():
            if name not in state.unknown:
                app.logger.warning("there is no option %s", warning)
                state.unknown.add(name)

    def _apply_middleware(self, app: Flask) -> None:
        outer = app.wsgi_app
        if not isinstance(outer, ProxyFix):
            app.wsgi_app = self.middleware(outer, self, app)  # type: ignore[method-assign]
            return
        # What it makes of the environ is what the origin is compared with.
        while isinstance(outer.app, ProxyFix):
            outer = outer.app
        outer.app = self.middleware(outer.app, self, app)

    def _set_up(self, setup: Callable[[Flask], None]) -> None:
        """Do something to each app, to those that come later too."""
        for app in self._apps:
            setup(app)
        self._setups.append(setup)

    def route(self, rule: str, **options: Any) -> Callable[[Handler], Handler]:
        """Make a function the handler of a WebSocket URL.

        :param rule: the URL rule, as Flask's; its variables are arguments of
            the function, after the client.
        :param options: ``blueprint``, for a route of that one, and those of
            :meth:`flask.Flask.route` (``endpoint``, ``defaults``, ``subdomain``,
            ``host``, ``strict_slashes``, …).
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
        view_func: Callable[..., Any] | None = None,
        *,
        blueprint: Blueprint | None = None,
        **options: Any,
    ) -> None:
        """Make *view_func* the handler of a WebSocket URL; see :meth:`route`.

        :param rule: the URL rule.
        :param endpoint: its name for ``url_for``; the function's by default.
        :param view_func: the handler.
        :param blueprint: what the route belongs to, which is registered with the app as
            any other, ``app.register_blueprint(blueprint)``.
        :param options: those of :meth:`flask.Flask.add_url_rule`.
        :raises AssertionError: if the endpoint has another function already, or the blueprint
            has been registered before.
        :raises TypeError: for an ``async def`` where the backend does not await handlers.
        :raises ValueError: for ``websocket=False``.
        """
        self._check_handler(view_func)
        if not options.setdefault("websocket", True):
            raise ValueError("a WebSocket route has websocket=True; use app.route for others")
        options.setdefault("provide_automatic_options", False)
        if blueprint is not None:
            blueprint.add_url_rule(rule, endpoint, view_func, **options)
            return
        self._set_up(lambda app: app.add_url_rule(rule, endpoint, view_func, **options))

    def _check_handler(self, handler: Any) -> None:
        if not self.middleware.awaits and inspect.iscoroutinefunction(handler):
            raise TypeError(f"{handler!r} is 'async def': use AsyncioWebSocket for it")

    def register_blueprint(self, blueprint: Blueprint, **options: Any) -> None:
        """Register a blueprint all of whose routes are WebSocket routes.

        Its static files, and routes with ``websocket=False``, are plain ones. Its hooks and
        error handlers count, and blueprints nested in it are registered as well. For one that
        has views and WebSockets there is ``route(…, blueprint=…)``.

        :param blueprint: of Flask; its functions are handlers.
        :param options: those of :meth:`flask.Flask.register_blueprint` (``url_prefix``,
            ``subdomain``, ``name``, …).
        :raises ValueError: if the app has a blueprint of that name.
        :raises TypeError: for an ``async def`` where the backend does not await handlers.
        """

        def register(app: Flask) -> None:
            blueprint.register(SocketApp(app, self._check_handler), dict(options))  # type: ignore[arg-type]

        self._set_up(register)

    def before_handshake(self, hook: HookType) -> HookType:
        """Have a function called before each handshake is accepted, in its request.

        It is called after the app's and the blueprint's ``before_request`` functions, with a
        :class:`~.handshake.Handshake`, with which it may choose the subprotocol and add headers
        and cookies to the 101. What it returns, if not ``None``, is sent as response instead,
        and so is what :func:`flask.abort` raises.

        :param hook: the function.
        """
        self.hooks.append(hook)
        return hook

    def url_for(self, endpoint: str, *, _external: bool = True, **values: Any) -> str:
        """Build the URL of a WebSocket route.

        Outside a request Flask has to know the host (``SERVER_NAME``).

        :param endpoint: of the route; one that begins with a dot is of the request's blueprint.
        :param _external: ``False`` for the path alone, which ``new WebSocket`` takes as well.
        :param values: the variables of the URL, others for its query, and
            :func:`flask.url_for`'s ``_anchor`` and ``_scheme``.
        :returns: ``ws://…``, or ``wss://…`` where the request came through TLS.
        :raises RuntimeError: where the app or the host is not known.
        :raises werkzeug.routing.BuildError: if there is no such route or a variable is missing.
        """
        app = current_app if has_app_context() else self._only_app("url_for")
        url = app.url_for(endpoint, _external=True, **values)
        if _external:
            return url
        parts = urlsplit(url)
        return urlunsplit(("", "", *parts[2:]))

    def _only_app(self, what: str) -> Flask:
        if len(self._apps) != 1:
            raise RuntimeError(f"{what} needs an app context here: with app.app_context():")
        return next(iter(self._apps))

    def send_to(
        self,
        room: str,
        message: Sendable | MakeMessage,
        skip: Any = None,
        binary: bool | None = None,
    ) -> Any:
        """Send a message to all members of a room, wherever they are.

        From anywhere: handlers, views, threads, commands, timers, mules, and processes that are
        no uWSGI at all, if there is a ``message_queue``. Nobody is waited for but, where there is
        one, Redis. The members get the messages of one sender in the order in which they were
        sent.

        With ``AsyncioWebSocket`` a coroutine awaits this, and :meth:`broadcast`,
        :meth:`send_to_client` and :meth:`presence`; all others call them.

        :param room: its name.
        :param message: as :meth:`~.client.BlockingCalls.send` takes it; or, where rooms have a
            ``history``, a function that is given the message's id there and gives the message.
        :param skip: a client, or its id, that is not to get it.
        :param binary: as in :meth:`~.client.BlockingCalls.send`.
        :returns: the id of the message in the room's history; ``None`` if it has none yet.
        :raises QueueError: if it can not reach all members: there is no ``message_queue`` and more
            than one process, or Redis does not answer.
        :raises TypeError: for what is not a message, or a name that is no ``str``.
        :raises ValueError: for text that can not be UTF-8, or an empty name.
        """
        return self._call(partial(self.messenger.send_to, room, message, skip, binary))

    def broadcast(self, message: Sendable, skip: Any = None, binary: bool | None = None) -> Any:
        """Send a message to all clients; parameters and errors are those of :meth:`send_to`."""
        return self._call(partial(self.messenger.broadcast, message, skip, binary))

    def send_to_client(self, id: Any, message: Sendable, binary: bool | None = None) -> Any:
        """Send a message to one client, wherever it is.

        :param id: its :attr:`~.client.BaseClient.id`.
        :param message: as :meth:`~.client.BlockingCalls.send` takes it.
        :param binary: the same.
        :returns: whether the client is here, or a worker that may have it has got the message.
        :raises QueueError: as :meth:`send_to`.
        """
        return self._call(partial(self.messenger.send_to_client, id, message, binary))

    def presence(self, room: str) -> Any:
        """Tell who is in a room, over all workers.

        Those of a worker that was killed are among them for ten more seconds.

        :param room: its name.
        :returns: a dict of the clients' ids, each with the ``info`` of its
            :meth:`~.client.BlockingCalls.join`.
        :raises QueueError: as :meth:`send_to`.
        """
        return self._call(partial(self.messenger.presence, room))

    def _call(self, call: partial[Any]) -> Any:
        """Do what sends, in the way of the backend."""
        result = call()
        if self.messenger.rooms.much_was_sent() and server_hub():
            # A handler that only sends must let others run.
            let_pass(0)
        return result

    def run(
        self,
        app: Flask,
        debug: bool = False,
        host: str = "localhost",
        port: int = 5000,
        uwsgi_binary: str | None = None,
        **options: Any,
    ) -> None:
        """Replace this process by a uWSGI that serves *app*; ``app.run`` calls this.

        Does nothing inside uWSGI, so that a script may call it unguarded.

        :param app: the app; a variable of a module has to hold it.
        :param debug: Flask's debug mode, Werkzeug's debugger, and a reload
            when a file changes.
        :param host: where to listen.
        :param port: where to listen.
        :param uwsgi_binary: the uWSGI to run; else that of the environment
            variable ``FLASK_UWSGI_BINARY``, the one beside this Python, or the
            first in ``PATH``.
        :param options: ``ssl_context``, a pair of files (certificate, key) or
            ``'adhoc'``, and uWSGI's own, underscores or hyphens: ``True`` for
            a bare flag, ``False`` or ``None`` to leave out, a list to repeat.
        :raises SystemExit: with a line that says what to do, when uWSGI can
            not be started.
        """
        if uwsgi_module() is None:
            runner.run(app, debug, host, port, uwsgi_binary, options, self.uwsgi_defaults)

    def test_client(
        self, flask_client: FlaskClient | None = None, timeout: float | None = None
    ) -> WebSocketTestClient:
        """Make a client for tests, which needs no server and no port.

        :param flask_client: an ``app.test_client()``, whose cookies are sent and set; a new one
            of the app by default.
        :param timeout: seconds that its calls wait where they are not told; 10 by default.
        :raises RuntimeError: if it can not be told which app is meant.
        """
        from .testing import TIMEOUT, WebSocketTestClient

        if flask_client is None:
            apps = list(self._apps)
            if len(apps) != 1:
                raise RuntimeError(
                    f"this WebSocket serves {len(apps)} apps; say which: "
                    "websocket.test_client(app.test_client())"
                )
            flask_client = apps[0].test_client()
        return WebSocketTestClient(flask_client, TIMEOUT if timeout is None else timeout)

    @staticmethod
    def _debug(app: Flask) -> None:
        app.debug = True
        debugged = DebuggedApplication(app.wsgi_app, evalex=True)
        app.wsgi_app = debugged  # type: ignore[method-assign]
        app.logger.info("debugger PIN: %s", debugged.pin)
