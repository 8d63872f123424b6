"""One request's way: match the route, check and answer the handshake, hand over to the backend."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RoutingException

from .client import BaseClient, keep_environ
from .compression import Deflate
from .ending import reason, worker_end
from .exceptions import ConnectionClosed
from .handshake import Answer, is_handshake, negotiate, refusal
from .logs import log_closed, log_opened
from .servers import plain_socket, refusal_here, take_connection
from .settings import Settings

if TYPE_CHECKING:
    from .extension import WebSocket

#: Close code and reason where a handler can not have a thread (the IANA registry of
#: :rfc:`6455` section 11.7: "try again later").
NO_THREAD = 1013, "the server has no thread for this"

Environ = dict[str, Any]


class Opening(NamedTuple):
    """What a client is made of, in the order of its arguments, and the rule of its URL."""

    environ: Environ
    sock: socket.socket
    settings: Settings
    subprotocol: str | None
    deflate: Deflate | None
    route: str


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
        route = self.match(environ) if is_handshake(environ) else None
        if route is None:
            response: Iterable[bytes] = self.wsgi_app(environ, start_response)
            return response
        try:
            settings = self.websocket.settings(self.app)
        except ValueError as error:
            fault = "the server's configuration is wrong; its log says where"
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            return self._refuse(refusal(status, fault, log=str(error)), start_response)
        if worker_end().code:
            return self._refuse(
                refusal(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "this process is about to end; try again at once",
                    [("Retry-After", "1")],
                ),
                start_response,
            )
        obstacle = self.obstacle()
        if obstacle is not None:
            status = HTTPStatus.NOT_IMPLEMENTED
            return self._refuse(
                refusal(status, obstacle, log=f"WebSocket handshake refused: {obstacle}"),
                start_response,
            )
        answer = refusal_here(environ) or negotiate(environ, settings)
        if not answer.accepted:
            return self._refuse(answer, start_response)
        clients = self.websocket.clients
        clients.expect(settings)
        try:
            self.prepare_worker()
        except (OSError, RuntimeError) as error:
            clients.expect_no_more()
            return self._refuse(
                refusal(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "the server has no thread or descriptor left for it; try again later",
                    log=f"WebSocket handshake refused: {error}",
                ),
                start_response,
            )
        try:
            fd = take_connection(environ, start_response, answer)
        except OSError:
            # The client left in the middle of its handshake.
            clients.expect_no_more()
            return []
        if isinstance(fd, Answer):
            clients.expect_no_more()
            return self._refuse(fd, start_response)
        rule, handler, arguments = route
        sock = plain_socket(fd)
        opening = Opening(
            keep_environ(environ), sock, settings, answer.subprotocol, answer.deflate, rule
        )
        try:
            self.start(opening, handler, arguments)
        except Exception:
            # The 101 has been sent; all that is left to say to the client is the end.
            self.app.logger.exception("a WebSocket connection could not be served")
            sock.close()
        return []

    def match(self, environ: Environ) -> tuple[str, Callable[..., Any], dict[str, Any]] | None:
        """Find the handler of a handshake's URL.

        :returns: the URL rule, the handler and the arguments from the URL; ``None``
            where there is no WebSocket route, so that Flask answers.
        """
        app = self.app
        try:
            adapter = app.create_url_adapter(app.request_class(environ))
            if adapter is None:
                return None
            rule, arguments = adapter.match(method="GET", return_rule=True, websocket=True)
        except (HTTPException, RoutingException):
            return None
        return rule.rule, app.view_functions[rule.endpoint], dict(arguments)

    def make_client(self, opening: Opening) -> Any:
        """Make the client of a connection, which is one of ``websocket.clients`` from here on.

        :param opening: what it is made of.
        :returns: one of the class :attr:`client`.
        """
        clients = self.websocket.clients
        try:
            client: Any = self.client(*opening[:-1])
            client.route = opening.route
            clients.add(client)
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
            log_closed(self.app, client)

    def serve(self, client: Any, handler: Callable[..., Any], arguments: dict[str, Any]) -> None:
        """Run a handler to its end and close the connection accordingly.

        :param client: of the class :attr:`client`.
        :param handler: the function that the route names.
        :param arguments: its arguments from the URL.
        """
        code, reason = 1000, ""
        try:
            result = handler(client, **arguments)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError(f"{handler!r} is 'async def': use AsyncioWebSocket for it")
        except ConnectionClosed:
            pass
        except BaseException as error:
            # SystemExit too: it would end the thread only, and the peer would not be told.
            code, reason = self.ending(client, error)
        client.close(code, reason)

    def ending(self, client: Any, error: BaseException) -> tuple[int, str]:
        """Say how a connection closes whose handler has raised *error*, and log it.

        :returns: the close code and reason.
        """
        if self.is_cancellation(error):
            return 1001, "the handler was told to end"
        self.websocket.clients.count_handler_error()
        self.app.logger.error("WebSocket handler failed: %r", client, exc_info=error)
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

    def obstacle(self) -> str | None:
        """Say what has to be changed for this backend to run here; ``None`` if it can."""
        return None

    def _refuse(self, answer: Answer, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if answer.log:
            self.app.logger.warning(answer.log)
        start_response(f"{answer.status.value} {answer.status.phrase}", answer.headers)
        return [answer.body]
