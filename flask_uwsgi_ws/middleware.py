"""One request's way: match the route, check and answer the handshake, hand over to the backend."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import Flask, got_request_exception
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule
from werkzeug.wrappers import Response

from .client import BaseClient, keep_environ
from .compression import Deflate
from .contexts import ConnectionContext
from .ending import reason, worker_end
from .exceptions import ConnectionClosed
from .handshake import Answer, Handshake, is_handshake, negotiate, refusal
from .leaving import tell_at_end
from .logs import log_closed, log_opened
from .servers import (
    TEST_FAILED,
    Handover,
    plain_socket,
    refusal_here,
    request_is_held,
    take_connection,
)
from .settings import Settings

if TYPE_CHECKING:
    from .extension import WebSocket

#: Close code and reason where a handler can not have a thread (the IANA registry of
#: :rfc:`6455` section 11.7: "try again later").
NO_THREAD = 1013, "the server has no thread for this"


class NoThreadError(Exception):
    """There is no thread for what the app does before a handshake, or for its handler."""


def _nothing_left(error: Exception) -> Answer:
    return refusal(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the server has no thread or descriptor left for it; try again later",
        log=f"WebSocket handshake refused: {error}",
    )


def _about_to_end() -> Answer:
    return refusal(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "this process is about to end; try again at once",
        [("Retry-After", "1")],
    )


_TOO_LATE = (
    "; its handshake has been answered, so that there is no HTTP response any more: use "
    "ws.close(code, reason), or abort() in a before_request function"
)

Environ = dict[str, Any]


class Opening(NamedTuple):
    """What a client is made of, in the order of its arguments, and what it begins with.

    :param route: the rule of its URL.
    :param context: what its handler runs in.
    :param early: what it has sent already, which the server has read.
    :param holds: whether the request has to last as long as the handler.
    """

    environ: Environ
    sock: socket.socket
    settings: Settings
    subprotocol: str | None
    deflate: Deflate | None
    route: str
    context: ConnectionContext
    early: bytes
    holds: bool


class BaseMiddleware:
    """Takes the WebSocket handshakes out of the requests to an app.

    A subclass says which client its handlers get and how they are run.

    :param wsgi_app: what answers all other requests, ``app.wsgi_app``.
    :param websocket: the extension, for its options.
    :param app: the Flask app, for its routes.
    """

    #: The class of the client that a handler gets.
    client: type[BaseClient]

    #: Whether a handler may be ``async def``.
    awaits = False

    def __init__(self, wsgi_app: Callable[..., Any], websocket: WebSocket, app: Flask) -> None:
        self.wsgi_app = wsgi_app
        self.websocket = websocket
        self.app = app

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.websocket.messenger.serves(environ)
        if is_handshake(environ):
            kept = keep_environ(environ)
            context = ConnectionContext(self.app, kept)
            rule = context.match()
            if rule is not None:
                return self._shake_hands(environ, start_response, kept, context, rule)
        response: Iterable[bytes] = self.wsgi_app(environ, start_response)
        return response

    def _shake_hands(
        self,
        environ: Environ,
        start_response: Callable[..., Any],
        kept: Environ,
        context: ConnectionContext,
        rule: Rule,
    ) -> Iterable[bytes]:
        """Answer the handshake of a WebSocket route."""
        try:
            settings = self.websocket.settings(self.app)
        except ValueError as error:
            fault = "the server's configuration is wrong; its log says where"
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            return self._refuse(refusal(status, fault, log=str(error)), start_response)
        answer = self._obstacle_here(environ) or negotiate(environ, settings)
        if not answer.accepted:
            return self._refuse(answer, start_response)
        handshake = Handshake(self.app.response_class(), environ, answer.subprotocol)
        try:
            refused = self.ask_app(context, handshake, request_is_held(environ))
        except NoThreadError as error:
            return self._refuse(_nothing_left(error), start_response)
        if refused is not None:
            refused.headers.setdefault("Connection", "close")
            return refused(environ, start_response)
        try:
            answer = handshake.settle(answer)
            taken = self._take(environ, start_response, answer, settings)
        except BaseException as error:
            context.close(error)
            raise
        if taken is None or isinstance(taken, Answer):
            context.close()
            return [] if taken is None else self._refuse(taken, start_response)
        opening = Opening(
            kept,
            plain_socket(taken.fd),
            settings,
            answer.subprotocol,
            answer.deflate,
            rule.rule,
            context,
            taken.early,
            holds=taken.release is not None,
        )
        try:
            self.start(opening, self.app.view_functions[rule.endpoint], context.arguments)
        except Exception as error:
            # The 101 has been sent; all that is left to say to the client is the end.
            self.app.logger.exception("a WebSocket connection could not be served")
            opening.sock.close()
            context.close(error)
        finally:
            if taken.release is not None:
                taken.release()
                self.websocket.clients.let_go()
        return []

    def _obstacle_here(self, environ: Environ) -> Answer | None:
        """Say why no connection can be served here now."""
        if worker_end().code:
            return _about_to_end()
        obstacle = self.obstacle()
        if obstacle is not None:
            status = HTTPStatus.NOT_IMPLEMENTED
            return refusal(status, obstacle, log=f"WebSocket handshake refused: {obstacle}")
        return refusal_here(environ)

    def _take(
        self,
        environ: Environ,
        start_response: Callable[..., Any],
        answer: Answer,
        settings: Settings,
    ) -> Handover | Answer | None:
        """Accept a handshake and take its connection.

        :returns: the connection; a refusal that is to be sent instead; or ``None`` if the
            client left in the middle of its handshake.
        """
        clients = self.websocket.clients
        clients.expect(settings)
        if worker_end().code:
            # It has begun since the first look, and may not have seen that one is coming.
            clients.expect_no_more()
            return _about_to_end()
        try:
            self.prepare_worker()
            if request_is_held(environ):
                tell_at_end(clients)
        except (OSError, RuntimeError) as error:
            clients.expect_no_more()
            return _nothing_left(error)
        try:
            taken = take_connection(environ, start_response, answer)
        except OSError:
            clients.expect_no_more()
            return None
        except BaseException:
            clients.expect_no_more()
            raise
        if isinstance(taken, Answer):
            clients.expect_no_more()
        elif taken.release is not None:
            clients.hold()
        return taken

    def ask_app(
        self,
        context: ConnectionContext,
        handshake: Handshake,
        held: bool,  # noqa: ARG002
    ) -> Response | None:
        """Do what the app wants to be done before a handshake; see :meth:`.ConnectionContext.open`.

        :param context: the contexts of the connection.
        :param handshake: for the hooks.
        :param held: whether the request lasts as long as the handler.
        :returns: the response with which the app refuses it.
        :raises NoThreadError: if there is no thread for it.
        """
        return context.open(handshake, self.websocket.hooks)

    def make_client(self, opening: Opening, client_class: type[Any] | None = None) -> Any:
        """Make the client of a connection, which is one of ``websocket.clients`` from here on.

        :param opening: what it is made of.
        :param client_class: where it is not :attr:`client`.
        """
        clients = self.websocket.clients
        try:
            client: Any = (client_class or self.client)(*opening[:5])
            client.route = opening.route
            client.messenger = self.websocket.messenger
            clients.add(client)
            if client.known_id:
                # A subclass has asked for it in its making.
                client.messenger.rooms.know(client, client.known_id)
        finally:
            clients.expect_no_more()
        return client

    def opened(self, client: Any) -> None:
        """Take note that a client's handler is about to begin; in the thread that serves it.

        :param client: of the class :attr:`client`.
        """
        log_opened(self.app, client)
        code = worker_end().code
        if code:
            client.begin_close(code, reason(code))

    def ended(self, client: Any) -> None:
        """Take note that a connection has ended, and its handler too.

        :param client: of the class :attr:`client`.
        """
        if self.websocket.clients.remove(client):
            client.messenger.ended(client)
            log_closed(self.app, client)

    def serve(
        self,
        client: Any,
        handler: Callable[..., Any],
        arguments: dict[str, Any],
        context: ConnectionContext,
    ) -> None:
        """Run a handler to its end and close the connection accordingly.

        :param client: of the class :attr:`client`.
        :param handler: the function that the route names.
        :param arguments: its arguments from the URL.
        :param context: what it runs in, which is torn down when it has ended.
        """
        code, reason, failure = 1000, "", None
        try:
            result = handler(client, **arguments)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError(f"{handler!r} is 'async def': use AsyncioWebSocket for it")
        except ConnectionClosed:
            pass
        except BaseException as error:
            # SystemExit too: it would end the thread only, and the peer would not be told.
            failure = error
            code, reason = self.ending(client, error)
        context.pop(failure)
        failure = None
        client.close(code, reason)

    def ending(self, client: Any, error: BaseException) -> tuple[int, str]:
        """Say how a connection closes whose handler has raised *error*, and log it.

        :returns: the close code and reason.
        """
        if self.is_cancellation(error):
            return 1001, "the handler was told to end"
        self.websocket.clients.count_handler_error()
        got_request_exception.send(self.app, _async_wrapper=self.app.ensure_sync, exception=error)
        hint = _TOO_LATE if isinstance(error, HTTPException) else ""
        self.app.logger.error("WebSocket handler failed: %r%s", client, hint, exc_info=error)
        tell_test = client.environ.get(TEST_FAILED)
        if tell_test is not None:
            tell_test(error)
        return 1011, "internal error"

    def turned_away(self, error: Exception) -> None:
        """Log that a connection ends with :data:`NO_THREAD`."""
        self.app.logger.error("WebSocket connection turned away: %s", error)

    def is_cancellation(self, error: BaseException) -> bool:  # noqa: ARG002
        """Whether a handler that raised *error* was told to end, in the way of the backend."""
        return False

    def start(
        self, opening: Opening, handler: Callable[..., Any], arguments: dict[str, Any]
    ) -> None:
        """Make the client and run its handler in the way of the backend.

        Returns when the handler has ended where *opening* holds the request.

        :param opening: for :meth:`make_client`.
        :param handler: the function that the route names.
        :param arguments: its arguments from the URL.
        """
        raise NotImplementedError

    def prepare_worker(self) -> None:
        """Start what all connections of this worker need, if that has not begun.

        :raises RuntimeError: if there is no thread for it.
        :raises OSError: if there is no descriptor for it.
        """
        self.websocket.prepare_worker()
        self.websocket.messenger.start(self.websocket.settings(self.app))

    def obstacle(self) -> str | None:
        """Say what has to be changed for this backend to run here; ``None`` if it can."""
        return None

    def _refuse(self, answer: Answer, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if answer.log:
            self.app.logger.warning(answer.log)
        start_response(f"{answer.status.value} {answer.status.phrase}", answer.headers)
        return [answer.body]
