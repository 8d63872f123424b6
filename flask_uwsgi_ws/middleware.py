"""One request's way: match the route, check and answer the handshake, hand over to the backend."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RoutingException

from .client import BaseClient, keep_environ
from .exceptions import ConnectionClosed
from .handshake import Answer, is_handshake, negotiate, refusal
from .servers import take_connection

if TYPE_CHECKING:
    from .extension import WebSocket

Environ = dict[str, Any]


class BaseMiddleware:
    """Takes the WebSocket handshakes out of the requests to an app.

    A subclass says which client its handlers get and how they are run.

    :param wsgi_app: what answers all other requests, ``app.wsgi_app``.
    :param websocket: the extension, for its options.
    :param app: the Flask app, for its routes.
    """

    #: The class of the client that a handler gets.
    client: type[BaseClient]

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
        answer = negotiate(environ, settings)
        if not answer.accepted:
            return self._refuse(answer, start_response)
        try:
            fd = take_connection(environ, start_response, answer)
        except OSError:
            # The client left in the middle of its handshake.
            return []
        if isinstance(fd, Answer):
            return self._refuse(fd, start_response)
        handler, arguments = route
        sock = socket.socket(fileno=fd)
        try:
            client = self.client(keep_environ(environ), sock, settings, answer.subprotocol)
        except BaseException:
            sock.close()
            raise
        self.start(client, lambda: self.serve(client, handler, arguments))
        return []

    def match(self, environ: Environ) -> tuple[Callable[..., Any], dict[str, Any]] | None:
        """Find the handler of a handshake's URL.

        :returns: the handler and the arguments from the URL; ``None`` where
            there is no WebSocket route, so that Flask answers.
        """
        app = self.app
        try:
            adapter = app.create_url_adapter(app.request_class(environ))
            if adapter is None:
                return None
            rule, arguments = adapter.match(method="GET", return_rule=True, websocket=True)
        except (HTTPException, RoutingException):
            return None
        return app.view_functions[rule.endpoint], dict(arguments)

    def serve(self, client: Any, handler: Callable[..., Any], arguments: dict[str, Any]) -> None:
        """Run a handler to its end and close the connection accordingly.

        :param client: of the class :attr:`client`.
        :param handler: the function that the route names.
        :param arguments: its arguments from the URL.
        """
        code, reason = 1000, ""
        try:
            handler(client, **arguments)
        except ConnectionClosed:
            pass
        except BaseException:
            # SystemExit too: it would end the thread only, and the peer would not be told.
            self.app.logger.exception("WebSocket handler failed: %r", client)
            code, reason = 1011, "internal error"
        client.close(code, reason)

    def start(self, client: Any, serve: Callable[[], None]) -> None:
        """Run *serve* in the way of the backend, and give the socket back after it.

        :param client: of the class :attr:`client`.
        :param serve: runs the handler.
        """
        raise NotImplementedError

    def _refuse(self, answer: Answer, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if answer.log:
            self.app.logger.warning(answer.log)
        start_response(f"{answer.status.value} {answer.status.phrase}", answer.headers)
        return [answer.body]
