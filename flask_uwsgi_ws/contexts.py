"""The request context of a connection: made in the request of its handshake, and its handler's."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from flask import Flask, got_request_exception, request_started, session
from flask.sessions import SecureCookieSessionInterface, SessionMixin
from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.routing import RoutingException
from werkzeug.wrappers import Response

from .handlerthread import HandlerThread
from .handshake import Handshake
from .sessions import ReadOnlySession

P = ParamSpec("P")
R = TypeVar("R")

# A hook of ``before_handshake``; what it gives is a response, or None.
Hook = Callable[[Handshake], Any]


class ConnectionContext:
    """Flask's contexts of one connection, which pass from its request to its handler.

    They live in a :class:`contextvars.Context` of their own, in which both run, so that ``g``
    and ``request`` are the same objects in both, and are torn down once, at the end.

    :param app: the app.
    :param environ: the WSGI environ of the handshake, which has to outlive its request.
    """

    # There is one for each connection.
    __slots__ = ("_pushed", "_request_context", "app", "thread", "variables")

    def __init__(self, app: Flask, environ: dict[str, Any]) -> None:
        self.app = app
        #: Where the contexts are; one thread, greenlet or task at a time may run in it.
        self.variables = contextvars.copy_context()
        self._request_context = self.variables.run(app.request_context, environ)
        self._pushed = False
        #: The thread in which :meth:`open` was called and the contexts are to be torn down, if
        #: that matters.
        self.thread: HandlerThread | None = None

    def match(self) -> Any:
        """Find the WebSocket route of the handshake's URL.

        :returns: the :class:`~werkzeug.routing.Rule`; ``None`` where there is none.
        """
        adapter = self._request_context.url_adapter
        if adapter is None:
            return None
        try:
            rule, arguments = adapter.match(method="GET", return_rule=True, websocket=True)
        except (HTTPException, RoutingException):
            return None
        matched = self._request_context.request
        matched.url_rule, matched.view_args = rule, dict(arguments)
        return rule

    def open(self, handshake: Handshake, hooks: Iterable[Hook]) -> Response | None:
        """Push the contexts and do what Flask does before a view, and the hooks of the extension.

        :param handshake: what the hooks may look at and change.
        :param hooks: the functions of ``before_handshake``.
        :returns: the response of the app's that refuses the handshake; ``None`` to go on. After
            a refusal or an error there is nothing left to :meth:`close`.
        """
        return self.variables.run(self._open, handshake, hooks)

    def _open(self, handshake: Handshake, hooks: Iterable[Hook]) -> Response | None:
        matched = self._request_context.request
        rule, arguments = matched.url_rule, matched.view_args
        refused: Response | None = None
        error: BaseException | None = None
        self._pushed = True
        try:
            try:
                self._request_context.push()
                # Flask has matched again, in its own way.
                matched.url_rule, matched.view_args = rule, arguments
                matched.routing_exception = None
                refused, error = self._ask_app(handshake, hooks)
                self._save_session(handshake.response if refused is None else refused)
                if refused is None:
                    handshake.check()
                    self._freeze_session()
            except Exception as raised:
                refused, error = self._answer_to(raised)
        except BaseException as raised:
            error = raised
            raise
        finally:
            if error is not None or refused is not None:
                self.pop(error)
        return refused

    def _ask_app(
        self, handshake: Handshake, hooks: Iterable[Hook]
    ) -> tuple[Response | None, BaseException | None]:
        """Give the app's response if it refuses, and the error that nobody has handled."""
        app = self.app
        try:
            request_started.send(app, _async_wrapper=app.ensure_sync)
            answer = app.preprocess_request()
            for hook in hooks:
                if answer is None:
                    answer = app.ensure_sync(hook)(handshake)
            if answer is None:
                _load_user(app)
                return None, None
            return app.make_response(answer), None
        except Exception as error:
            return self._answer_to(error)

    def _answer_to(self, error: Exception) -> tuple[Response, BaseException | None]:
        """Give what the app's error handlers say; as Flask does, in an ``except`` clause."""
        app = self.app
        try:
            return app.make_response(app.handle_user_exception(error)), None
        except Exception as unhandled:
            got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=unhandled)
            propagate = app.config["PROPAGATE_EXCEPTIONS"]
            if app.testing or app.debug if propagate is None else propagate:
                raise
            app.log_exception(sys.exc_info())
            fault = InternalServerError(original_exception=unhandled)
            return app.make_response(app.handle_http_exception(fault)), unhandled

    def _save_session(self, response: Response) -> None:
        opened = _session()
        interface = self.app.session_interface
        if not interface.is_null_session(opened):
            interface.save_session(self.app, opened, response)  # type: ignore[arg-type]

    def _freeze_session(self) -> None:
        """See that a change of the session, which no response could tell of, is an error."""
        opened = _session()
        # Flask's null session says itself why it can not be changed.
        if not self.app.session_interface.is_null_session(opened):
            # Flask has no other way to give a context a session.
            name = "_session" if hasattr(self._request_context, "_session") else "session"
            setattr(self._request_context, name, ReadOnlySession(opened))

    @property
    def arguments(self) -> dict[str, Any]:
        """The handler's arguments from the URL, as URL value preprocessors left them."""
        return self._request_context.request.view_args or {}

    def run(self, call: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        """Call something in the contexts; from outside them."""
        return self.variables.run(call, *arguments, **options)

    def close(self, error: BaseException | None = None) -> None:
        """Tear the contexts down, from outside them; once is enough. See :meth:`pop`."""
        if self.thread is None:
            self.variables.run(self.pop, error)
        else:
            self.thread.leave(lambda: self.variables.run(self.pop, error))
            self.thread = None

    def asks_app(self, hooks: Iterable[Hook]) -> bool:
        """Tell whether :meth:`open` calls what the app has brought, and not Flask's own only."""
        app = self.app
        return bool(
            list(hooks)
            or app.before_request_funcs
            or app.url_value_preprocessors
            or request_started.receivers
            or hasattr(app, "login_manager")
            or type(app.session_interface) is not SecureCookieSessionInterface
        )

    def pop(self, error: BaseException | None) -> None:
        """Tear the contexts down, from inside them; once is enough.

        An error in a teardown function is logged.

        :param error: what the handler raised, for the functions of ``teardown_request`` and
            ``teardown_appcontext``.
        """
        if not self._pushed:
            return
        self._pushed = False
        try:
            self._request_context.pop(error)
        except (Exception, SystemExit):
            self.app.logger.exception("the context of a WebSocket handler could not be torn down")


def _session() -> SessionMixin:
    """Give the session itself and not the proxy, which an interface may keep."""
    opened: SessionMixin = session._get_current_object()  # type: ignore[attr-defined]
    return opened


def _load_user(app: Flask) -> None:
    """Have Flask-Login load its user as long as the session can be changed, which that may do."""
    if hasattr(app, "login_manager") and "flask_login" in sys.modules:
        sys.modules["flask_login"].current_user._get_current_object()
