"""A client for tests of sockets, which needs no server and no port.

The app serves a socket pair in a thread of its own, with the middleware, the backend and the
framing that it has in uWSGI. The client's side speaks with the ``websockets`` package, so that a
fault of our framing shows.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from flask import Flask
from flask.testing import EnvironBuilder, FlaskClient
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.uri import parse_uri
from werkzeug.datastructures import Headers
from werkzeug.test import TestResponse
from werkzeug.wrappers import Request
from werkzeug.wsgi import get_current_url

from .client import Message, Sendable, from_json, to_json
from .connection import close_payload
from .exceptions import ConnectionClosed
from .servers import TEST_FAILED, TEST_SOCKET

#: Seconds that a call waits for the handler where it is not told how long.
TIMEOUT = 10.0

# Seconds to wait for the handler where the test has failed already.
_SHORT = 1.0


class HandshakeRefused(Exception):
    """The app answered the opening handshake with an HTTP response.

    :param response: that response.
    """

    def __init__(self, response: TestResponse) -> None:
        super().__init__(f"{response.status}: {response.text.strip()[:200]}")
        #: The response, as ``app.test_client()`` gives it: ``status_code``, ``text``, ``json``,
        #: ``headers``.
        self.response = response


class WebSocketTestClient:
    """Opens connections to an app's sockets; :meth:`.WebSocket.test_client` makes one.

    :param flask_client: whose app it is, and whose cookies are sent and set.
    :param timeout: seconds that a call waits where it is not told how long.
    """

    def __init__(self, flask_client: FlaskClient, timeout: float = TIMEOUT) -> None:
        self.flask_client = flask_client
        self.timeout = timeout

    def connect(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        subprotocols: Sequence[str] | None = None,
        origin: str | None = None,
        compression: bool = False,
        query_string: Mapping[str, Any] | str | None = None,
        base_url: str | None = None,
        environ_overrides: Mapping[str, Any] | None = None,
    ) -> TestConnection:
        """Open a connection; leaving its ``with`` block closes it.

        :param path: the URL's path, or all of it (``ws://localhost/echo``).
        :param headers: more headers of the handshake; they replace those of the same name.
        :param subprotocols: what to offer, :rfc:`6455` section 1.9.
        :param origin: the origin of the page; a client without one is not a browser.
        :param compression: whether to offer permessage-deflate, :rfc:`7692`.
        :param query_string: the URL's query, if it is not in *path*.
        :param base_url: where the app is, as in :class:`flask.testing.EnvironBuilder`.
        :param environ_overrides: values of the WSGI environ that count before all others.
        :raises HandshakeRefused: if the app does not open it.
        :raises TimeoutError: if it does not answer.
        """
        app = self.flask_client.application
        if path.startswith(("ws://", "wss://")):
            path = "http" + path.removeprefix("ws")
        protocol = ClientProtocol(
            parse_uri("ws://localhost/"),
            origin=origin,  # type: ignore[arg-type]
            extensions=[ClientPerMessageDeflateFactory()] if compression else None,
            subprotocols=subprotocols,  # type: ignore[arg-type]
            max_size=None,
        )
        request = protocol.connect()
        protocol.send_request(request)
        # The app gets an environ and not these bytes.
        protocol.data_to_send()
        wanted = Headers([pair for pair in request.headers.raw_items() if pair[0] != "Host"])
        for name, value in Headers(headers).items():
            wanted.set(name, value)
        builder = EnvironBuilder(
            app,
            path,
            base_url,
            query_string=query_string,
            headers=wanted,
            environ_base=self.flask_client.environ_base,
            environ_overrides=environ_overrides,
        )
        try:
            environ = builder.get_environ()
        finally:
            builder.close()
        environ["wsgi.multithread"] = True
        if "Cookie" not in wanted:
            self.flask_client._add_cookies_to_wsgi(environ)
        return TestConnection(self, environ, protocol)


class TestConnection:
    """The client's side of a connection, from :meth:`WebSocketTestClient.connect`.

    Several threads may use it.
    """

    # For pytest: this is no class of tests.
    __test__ = False

    def __init__(
        self, client: WebSocketTestClient, environ: dict[str, Any], protocol: ClientProtocol
    ) -> None:
        self._timeout = client.timeout
        self._path = environ["PATH_INFO"]
        self._environ = environ
        self._protocol = protocol
        self._response: Response | None = None
        self._messages: deque[Message] = deque()
        self._parts: list[Frame] = []
        self._pongs: list[bytes] = []
        self._ended = False
        self._failures: list[BaseException] = []
        # Guards the protocol, and tells of what comes.
        self._changed = threading.Condition()
        # What is to be sent, and held by who sends it. The reader never waits for it, since the
        # app may read on only when it is read from.
        self._outbox: deque[bytes] = deque()
        self._writing = threading.Lock()
        self._socket, served = socket.socketpair()
        self._socket.settimeout(self._timeout)
        environ[TEST_SOCKET] = served
        if _propagates(client.flask_client.application):
            environ[TEST_FAILED] = self._failures.append
        self._request = _Request(client.flask_client.application, dict(environ), served)
        threading.Thread(target=self._read, name="websocket test client", daemon=True).start()
        try:
            self._finish_handshake(client.flask_client)
        except BaseException:
            self.drop()
            raise

    def _finish_handshake(self, flask_client: FlaskClient) -> None:
        if not self._wait(lambda: self._response is not None or self._ended, self._timeout):
            raise TimeoutError(f"{self._path} did not answer within {self._timeout:g} seconds")
        if self._response is None:
            self._request.over.wait(self._timeout)
            response = self._request.refusal(flask_client)
            self._keep_cookies(flask_client, response.headers)
            raise HandshakeRefused(response)
        if self._protocol.handshake_exc is not None:
            raise self._protocol.handshake_exc
        self._keep_cookies(flask_client, self.headers)

    def _keep_cookies(self, flask_client: FlaskClient, headers: Headers) -> None:
        url = urlsplit(get_current_url(self._environ))
        flask_client._update_cookies_from_response(
            url.hostname or "localhost", url.path, headers.getlist("Set-Cookie")
        )

    # What the server said.

    @property
    def headers(self) -> Headers:
        """The headers of the 101 response."""
        assert self._response is not None
        return Headers(list(self._response.headers.raw_items()))

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the app chose."""
        return self._protocol.subprotocol

    @property
    def connected(self) -> bool:
        """Whether messages can be sent: no Close frame has gone either way."""
        return self._protocol.state is OPEN

    @property
    def close_code(self) -> int | None:
        """The code that ended the connection, ``None`` while it lasts; see the handler's."""
        close = self._close()
        return None if close is None else close.code

    @property
    def close_reason(self) -> str:
        """The reason in that Close frame."""
        close = self._close()
        return close.reason if close else ""

    def _close(self) -> Close | None:
        protocol = self._protocol
        first = protocol.close_rcvd if protocol.close_rcvd_then_sent else protocol.close_sent
        if first is None and self._ended:
            return Close(1006, "")
        return first

    # Messages.

    def send(self, message: Sendable) -> None:
        """Send a message.

        :param message: ``str`` goes as text, bytes as binary.
        :raises ConnectionClosed: when the connection has ended.
        :raises TimeoutError: if the app does not read.
        """
        if isinstance(message, str):
            self._say(lambda: self._protocol.send_text(message.encode()))
        elif isinstance(message, (bytes, bytearray, memoryview)):
            self._say(lambda: self._protocol.send_binary(bytes(message)))
        else:
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")

    def send_json(self, value: Any) -> None:
        """Send *value* as JSON in a text message; raises as :meth:`send` does."""
        self.send(to_json(value))

    def receive(self, timeout: float | None = None) -> Message | None:
        """Wait for the next message.

        :param timeout: seconds to wait; ``None`` for those of the client.
        :returns: ``str`` for text, ``bytes`` for binary, ``None`` when the connection has ended.
        :raises TimeoutError: when no message came in time.
        :raises BaseException: what the handler raised, where the app's exceptions propagate
            (``TESTING``, ``PROPAGATE_EXCEPTIONS``); once.
        """
        seconds = self._timeout if timeout is None else timeout
        with self._changed:
            there = self._changed.wait_for(lambda: self._messages or not self.connected, seconds)
            if self._messages:
                return self._messages.popleft()
        if not there:
            raise TimeoutError(f"no message came from {self._path} within {seconds:g} seconds")
        self._raise_failure()
        return None

    def receive_json(self, timeout: float | None = None) -> Any:
        """Wait for a message and read it as JSON; raises as :meth:`receive` does.

        :raises ValueError: if it is not JSON.
        """
        return from_json(self.receive(timeout))

    def __iter__(self) -> Iterator[Message]:
        """Give the messages until the connection ends."""
        while (message := self.receive()) is not None:
            yield message

    def ping(self, data: bytes = b"ping", timeout: float | None = None) -> None:
        """Send a Ping and wait for its Pong, :rfc:`6455` section 5.5.2.

        :param data: at most 125 bytes.
        :raises ConnectionClosed: when the connection has ended.
        :raises TimeoutError: if no Pong came in time.
        """
        before = len(self._pongs)
        self._say(lambda: self._protocol.send_ping(data))
        seconds = self._timeout if timeout is None else timeout
        if not self._wait(lambda: data in self._pongs[before:], seconds):
            raise TimeoutError(f"no Pong came from {self._path} within {seconds:g} seconds")

    # Ending.

    def close(self, code: int = 1000, reason: str = "", timeout: float | None = None) -> None:
        """Do the closing handshake, and wait for the end of the handler.

        :param code: why, as for the handler's ``close``.
        :param reason: the same for people, at most 123 bytes of UTF-8.
        :param timeout: seconds to wait; ``None`` for those of the client.
        :raises TimeoutError: naming the path, if the handler does not end.
        :raises BaseException: what the handler raised; see :meth:`receive`.
        """
        close_payload(code, reason)
        seconds = self._timeout if timeout is None else timeout
        with contextlib.suppress(ConnectionClosed, OSError):
            self._say(lambda: self._protocol.send_close(code, reason), quietly=True)
        if not self._request.over.wait(seconds):
            self.drop()
            raise TimeoutError(
                f"the handler of {self._path} has not ended {seconds:g} seconds after the close: "
                "it has to look for the end, as receive and send do"
            )
        self._wait(lambda: self._ended, seconds)
        self._raise_failure()

    def drop(self) -> None:
        """End the connection without a word, as a client does that loses the network."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> TestConnection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        # What went wrong first is for the test to tell.
        with contextlib.suppress(Exception):
            self.close(timeout=min(self._timeout, _SHORT))

    def __repr__(self) -> str:
        state = "open" if self.connected else f"ended {self.close_code}"
        return f"<{type(self).__name__} {self._path!r} {state}>"

    # The socket.

    def _wait(self, check: Callable[[], bool], seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(check, seconds)

    def _raise_failure(self) -> None:
        if self._failures:
            raise self._failures.pop(0)
        error, self._request.error = self._request.error, None
        if error is not None:
            raise error

    def _say(self, what: Callable[[], None], quietly: bool = False) -> None:
        """Send a frame that *what* makes."""
        with self._changed:
            if not self.connected:
                if not quietly:
                    self._raise_failure()
                raise ConnectionClosed(self.close_code or 1006, self.close_reason)
            what()
            self._outbox.extend(self._protocol.data_to_send())
        try:
            self._send_out()
        except TimeoutError:
            # After a part of a frame nothing else can follow.
            self.drop()
            raise TimeoutError(
                f"the handler of {self._path} has read nothing for {self._timeout:g} seconds"
            ) from None
        except OSError:
            # It may be what the reader left that did not go out; the next call tells of the end.
            pass

    def _send_out(self) -> None:
        while self._outbox and self._writing.acquire(blocking=False):
            try:
                while self._outbox:
                    data = self._outbox.popleft()
                    if data:
                        self._socket.sendall(data)
                    else:
                        self._socket.shutdown(socket.SHUT_WR)
            finally:
                self._writing.release()

    def _read(self) -> None:
        data = b"more"
        while data:
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            with self._changed:
                self._take(data)
                self._changed.notify_all()
            with contextlib.suppress(OSError):
                self._send_out()
        self._socket.close()

    def _take(self, data: bytes) -> None:
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
            self._ended = True
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._response = event
            elif isinstance(event, Frame):
                self._take_frame(event)
        self._outbox.extend(self._protocol.data_to_send())

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG:
            self._pongs.append(bytes(frame.data))
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        self._parts.append(frame)
        if frame.fin:
            whole = b"".join(part.data for part in self._parts)
            text = self._parts[0].opcode is Opcode.TEXT
            self._parts.clear()
            self._messages.append(whole.decode() if text else whole)


class _Request:
    """The request of a handshake, in a thread of its own, as Werkzeug has it."""

    def __init__(self, app: Flask, environ: dict[str, Any], served: socket.socket) -> None:
        self._app = app
        self._environ = environ
        self._served = served
        self._status = ""
        self._headers = Headers()
        self._body = b""
        #: What the app raised.
        self.error: BaseException | None = None
        #: Set when the handler has ended, and what tears the request down has run.
        self.over = threading.Event()
        name = f"websocket test {environ['PATH_INFO']}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            answer = self._app(self._environ, self._start_response)
            try:
                self._body += b"".join(answer)
            finally:
                close = getattr(answer, "close", None)
                if close is not None:
                    close()
        except BaseException as error:
            self.error = error
        finally:
            # First: who is woken by the end of the socket finds all that there is to know.
            self.over.set()
            self._served.close()

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        del exc_info
        self._status, self._headers = status, Headers(headers)
        return self._write

    def _write(self, data: bytes) -> None:
        self._body += data

    def refusal(self, flask_client: FlaskClient) -> TestResponse:
        """Give the response that is not a 101.

        :raises BaseException: what the app raised instead.
        """
        if self.error is not None:
            raise self.error
        response: TestResponse = flask_client.response_wrapper(
            [self._body], self._status, self._headers, request=Request(self._environ)
        )
        return response


def _propagates(app: Flask) -> bool:
    """Tell whether exceptions are for the test to see, as Flask's own test client does."""
    propagate = app.config["PROPAGATE_EXCEPTIONS"]
    return bool(app.testing or app.debug if propagate is None else propagate)
