"""What the client objects of all backends share: the contract's names, values and rules.

Nothing here waits; how to wait and wake is what a backend adds.
"""

from __future__ import annotations

import io
import json
import socket
import sys
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from .connection import OPEN, Connection
from .exceptions import ConnectionClosed
from .servers import uwsgi_module
from .settings import Settings

_OPEN = OPEN

Message = str | bytes
Sendable = str | bytes | bytearray | memoryview


class BaseClient:
    """One WebSocket connection, as its handler sees it.

    :param environ: the WSGI environ of the opening handshake.
    :param sock: the connection; it is the client's from here on.
    :param settings: the options of the extension.
    :param subprotocol: the one chosen in the handshake.
    """

    def __init__(
        self,
        environ: Mapping[str, Any],
        sock: socket.socket,
        settings: Settings,
        subprotocol: str | None = None,
    ) -> None:
        #: The WSGI environ of the opening handshake.
        self.environ = environ
        #: Descriptor of the connection; -1 once it has been given back.
        self.fd = sock.fileno()
        #: A name for this connection that no other has, on any machine.
        self.id = uuid.uuid4().hex
        #: The subprotocol agreed on (:rfc:`6455` section 1.9), or ``None``.
        self.subprotocol = subprotocol
        #: Seconds that ``receive`` waits when it is not told; ``None`` for ever.
        self.timeout: float | None = None
        self._socket = sock
        self._settings = settings
        self._connection = Connection(min(settings.max_size or 0, sys.maxsize))
        self._inbox: deque[Message] = deque()
        self._end_told = False

    @property
    def connected(self) -> bool:
        """Whether messages can be sent: no Close frame has gone either way."""
        return self._connection.state == _OPEN

    @property
    def closed(self) -> bool:
        """The opposite of :attr:`connected`."""
        return self._connection.state != _OPEN

    @property
    def close_code(self) -> int | None:
        """The code that ended the connection, ``None`` while it lasts.

        That of the first Close frame, sent or received; 1005 if it named none,
        1006 if the connection was lost without one (:rfc:`6455` section 7.1.5).
        """
        return self._connection.close_code

    @property
    def close_reason(self) -> str:
        """The reason in that Close frame (:rfc:`6455` section 7.1.6)."""
        return self._connection.close_reason

    def _ended(self) -> ConnectionClosed:
        return ConnectionClosed(self.close_code or 1006, self.close_reason)

    def _end_of_messages(self) -> None:
        """Tell once that the connection has ended; from then on, raise."""
        if self._end_told:
            raise self._ended()
        self._end_told = True

    def _frame(self, message: Sendable | None, binary: bool | None) -> bytes:
        """Make the frame of a message.

        :raises ConnectionClosed: when the connection has ended.
        :raises TypeError: for what is not a message.
        :raises ValueError: for text that can not be UTF-8.
        """
        connection = self._connection
        if connection.state != _OPEN:
            raise self._ended()
        if isinstance(message, str):
            if not binary:
                try:
                    return connection.send_text(message)
                except UnicodeEncodeError as error:
                    raise ValueError(f"text can not be sent as UTF-8: {error}") from None
            return connection.send_binary(message.encode())
        if not isinstance(message, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"a message is str, bytes, bytearray or memoryview, not {type(message).__name__}; "
                "for other values there is send_json"
            )
        payload = bytes(message)
        if binary is False:
            try:
                return connection.send_text(payload.decode())
            except UnicodeDecodeError as error:
                raise ValueError(f"text is not UTF-8: {error}") from None
        return connection.send_binary(payload)

    @staticmethod
    def _sharedarea(area: int, position: int) -> bytes:
        """Copy a part of uWSGI's sharedarea, from *position* to its end.

        :raises RuntimeError: outside uWSGI.
        :raises ValueError: where there is no such area or position.
        """
        uwsgi = uwsgi_module()
        if uwsgi is None:
            raise RuntimeError("the sharedarea is uWSGI's; run the app in uWSGI")
        if area < 0 or position < 0:
            raise ValueError("a sharedarea's id and position start at 0")
        # Unlike its memoryview, this reads under the area's lock.
        return bytes(uwsgi.sharedarea_read(area, position))

    def _reading_is_wanted(self) -> bool:
        return len(self._inbox) < self._settings.max_queue

    def __repr__(self) -> str:
        state = "open" if self.connected else f"ended {self.close_code}"
        path = self.environ.get("PATH_INFO", "")
        return f"<{type(self).__name__} {self.id} {path} {state}>"


class SyncClient(BaseClient):
    """What the clients with blocking calls share."""

    def receive(self, timeout: float | None = None) -> Message | None:
        """Wait for the next message.

        :param timeout: seconds to wait; ``None`` waits as :attr:`timeout` says.
        :returns: ``str`` for text, ``bytes`` for binary (:rfc:`6455` section
            5.6), and ``None`` once when the connection has ended.
        :raises ConnectionClosed: after that ``None``.
        :raises TimeoutError: when no message came in time.
        """
        raise NotImplementedError

    def recv(self, timeout: float | None = None) -> Message | None:
        """The same as :meth:`receive`."""
        return self.receive(timeout)

    def send(self, message: Sendable | None, binary: bool | None = None) -> None:
        """Send a message; from any thread, never interleaved with another.

        :param message: ``str`` goes as text, bytes as binary. ``None``, which is what
            ``receive`` gives at the end, can not be sent, but ends a loop that tries to.
        :param binary: ``True`` or ``False`` to send as binary or text
            whatever *message* is.
        :raises ConnectionClosed: when the connection has ended, or the client
            takes no bytes for ``send_timeout`` seconds, which ends it.
        :raises TypeError: for what is neither ``str`` nor bytes.
        :raises ValueError: for text that can not be UTF-8.
        """
        raise NotImplementedError

    def send_binary(self, message: Sendable | None) -> None:
        """Send a binary message; raises as :meth:`send` does."""
        self.send(message, binary=True)

    def send_json(self, value: Any) -> None:
        """Send *value* as JSON in a text message.

        :raises TypeError: for what JSON can not say.
        :raises ValueError: for NaN and the infinities, for which it has no words; else as
            :meth:`send`.
        """
        self.send(json.dumps(value, allow_nan=False))

    def receive_json(self, timeout: float | None = None) -> Any:
        """Wait for a message and read it as JSON.

        ``None`` is the end, once, or a ``null``; :attr:`connected` tells which.

        :raises ValueError: if it is not JSON, or nested too deeply; else as :meth:`receive`.
        """
        message = self.receive(timeout)
        if message is None:
            return None
        try:
            return json.loads(message)
        except RecursionError:
            raise ValueError("the JSON is nested too deeply") from None

    def send_from_sharedarea(self, id: int, pos: int = 0) -> None:
        """Send uWSGI's sharedarea *id* from *pos* to its end as text.

        :param id: which area, in the order of ``--sharedarea``.
        :param pos: the first byte.
        :raises RuntimeError: outside uWSGI.
        :raises ValueError: where there is no such area or position, or no
            UTF-8; else as :meth:`send`.
        """
        self.send(self._sharedarea(id, pos), binary=False)

    def send_binary_from_sharedarea(self, id: int, pos: int = 0) -> None:
        """Send uWSGI's sharedarea *id* from *pos* to its end as binary.

        Parameters and errors are those of :meth:`send_from_sharedarea`.
        """
        self.send(self._sharedarea(id, pos), binary=True)

    def __iter__(self) -> Iterator[Message]:
        """Give the messages until the connection ends."""
        while True:
            try:
                message = self.receive()
            except ConnectionClosed:
                return
            if message is None:
                return
            yield message


def keep_environ(environ: Mapping[str, Any]) -> dict[str, Any]:
    """Copy an environ so that it outlives its request.

    uWSGI empties its own when the request ends, and reading the request's
    body or errors stream after that would use memory that is gone.

    :param environ: the WSGI environ.
    """
    kept = dict(environ)
    kept["wsgi.input"] = io.BytesIO()
    return kept
