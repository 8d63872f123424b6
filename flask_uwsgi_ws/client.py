"""What the client objects of all backends share: the contract's names, values and rules.

Nothing here waits; how to wait and wake is what a backend adds.
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

from .compression import Deflate
from .connection import OPEN, Connection
from .exceptions import ConnectionClosed
from .library import read_sharedarea
from .locks import Lock
from .servers import uwsgi_module
from .settings import Settings

_OPEN = OPEN

_naming = Lock()

#: What :meth:`BaseClient._keep_alive` says.
QUIET, PING, SILENT = 0, 1, 2

# Seconds in which what has come meanwhile is read by a worker that was held up.
_TIME_TO_READ = 0.2

#: Why we gave a client up: it took no bytes for ``send_timeout``, or did not answer a Ping.
SLOW, PING_TIMEOUT = "slow", "ping timeout"

Message = str | bytes
Sendable = str | bytes | bytearray | memoryview


class BaseClient:
    """One WebSocket connection, as its handler sees it.

    :param environ: the WSGI environ of the opening handshake.
    :param sock: the connection; it is the client's from here on.
    :param settings: the options of the extension.
    :param subprotocol: the one chosen in the handshake.
    :param deflate: the compression agreed on there.
    """

    def __init__(
        self,
        environ: Mapping[str, Any],
        sock: socket.socket,
        settings: Settings,
        subprotocol: str | None = None,
        deflate: Deflate | None = None,
    ) -> None:
        #: The WSGI environ of the opening handshake.
        self.environ = environ
        #: Descriptor of the connection; -1 once it has been given back.
        self.fd = sock.fileno()
        #: The subprotocol agreed on (:rfc:`6455` section 1.9), or ``None``.
        self.subprotocol = subprotocol
        #: Seconds that ``receive`` waits when it is not told; ``None`` for ever.
        self.timeout: float | None = None
        self._socket = sock
        self._settings = settings
        self._connection = Connection(min(settings.max_size or 0, sys.maxsize), deflate)
        self._id: str | None = None
        #: What the client's rooms are known to; the middleware sets it.
        self.messenger: Any = None
        self._end_told = False
        # For the keepalive: whether bytes came since the last look, when they
        # last came, and when our unanswered Ping went out.
        self._heard = False
        self._heard_at = time.monotonic()
        self._pinged_at: float | None = None
        self._overdue_at: float | None = None
        # When the Ping went out that has not been answered, 0 for none, what it carried, and
        # the seconds that the last answer took.
        self._asked_at = 0.0
        self._asked = b""
        self._latency: float | None = None
        #: When the connection was opened, of ``time.monotonic()``.
        self.opened_at = self._heard_at
        #: The rule of the URL that it was opened with.
        self.route = ""
        #: Why we gave the client up: ``"slow"``, ``"ping timeout"``, or not at all.
        self.dropped = ""
        #: Bytes that the client has sent so far, with those of frames and control frames.
        self.bytes_received = 0
        #: Bytes that have been sent to the client so far, counted alike.
        self.bytes_sent = 0

    @property
    def id(self) -> str:
        """A name for this connection that no other has, on any machine."""
        if self._id is None:
            made = worker_token() + os.urandom(8).hex()
            with _naming:
                # Another thread may have asked at the same time.
                self._id = self._id or made
            if self.messenger is not None:
                self.messenger.rooms.know(self, self._id)
        return self._id

    @property
    def known_id(self) -> str:
        """The :attr:`id`, if somebody has asked for it; else an empty text."""
        return self._id or ""

    @property
    def rooms(self) -> frozenset[str]:
        """The rooms that the client is in."""
        rooms: frozenset[str] = self.messenger.rooms.rooms_of(self)
        return rooms

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

    @property
    def latency(self) -> float | None:
        """Seconds from the last Ping of the keepalive to its Pong; ``None`` before the first."""
        return self._latency

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent, besides those that the kernel has taken."""
        raise NotImplementedError

    @property
    def messages_received(self) -> int:
        """Messages that the client has sent so far."""
        return self._connection.messages_received

    @property
    def messages_sent(self) -> int:
        """Messages that have been sent to the client so far."""
        return self._connection.messages_sent

    @property
    def idle(self) -> bool:
        """Whether the handler waits for a message, and has none left to answer."""
        raise NotImplementedError

    def begin_close(self, code: int, reason: str) -> None:
        """Begin the closing handshake, :rfc:`6455` section 7.1.2, without waiting.

        From any thread. What was sent before goes out first.

        :param code: see :meth:`~.client.BlockingCalls.close`.
        :param reason: the same.
        """
        raise NotImplementedError

    def end_waiting(self) -> None:
        """Wait for the peer's Close frame no longer, where that keeps a thread; from any thread."""

    def begin_close_if_idle(self, code: int, reason: str) -> None:
        """The same, but only if the client is :attr:`idle` when it comes to it."""
        if self.idle:
            self.begin_close(code, reason)

    def _ended(self) -> ConnectionClosed:
        return ConnectionClosed(self.close_code or 1006, self.close_reason)

    def _end_of_messages(self) -> None:
        """Tell once that the connection has ended; from then on, raise."""
        if self._end_told:
            raise self._ended()
        self._end_told = True

    # For what is sent to many, see rooms.py.

    @property
    def compresses(self) -> bool:
        """Whether messages to the client are compressed."""
        return self._connection.compresses

    @property
    def shared_compression(self) -> tuple[Any, ...] | None:
        """What a compressed message depends on besides itself, if that can be said."""
        return self._connection.shared_compression

    def compress_shared(self, frame: bytes) -> bytes:
        """Compress a message for all who have the same :attr:`shared_compression`."""
        return self._connection.compress(frame)

    def put_shared(self, frame: bytes, ready: bool) -> bool:
        """Send a message that others get too, without waiting; from any thread.

        A client for which more than ``room_limit`` bytes wait is given up.

        :param frame: of the message.
        :param ready: whether it is compressed, or not to be.
        :returns: whether it was put on its way.
        """
        raise NotImplementedError

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
                    raise _no_text(error) from None
            return connection.send_binary(message.encode())
        if not isinstance(message, (bytes, bytearray, memoryview)):
            raise _no_message(message)
        if binary is False:
            try:
                return connection.send_utf8(bytes(message))
            except UnicodeDecodeError as error:
                raise ValueError(f"text is not UTF-8: {error}") from None
        if isinstance(message, bytes):
            return connection.send_binary(message)
        return connection.send_buffer(message)

    def _ping_frame(self, data: object) -> bytes:
        """Make a Ping.

        :raises ConnectionClosed: when the connection has ended.
        :raises TypeError: for what is not bytes.
        :raises ValueError: for more than 125 bytes.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"a Ping carries bytes, not {type(data).__name__}")
        if self._connection.state != _OPEN:
            raise self._ended()
        return self._connection.ping(bytes(data))

    def _keep_alive(self, now: float) -> int:
        """Say what the silence of the peer asks for.

        :param now: ``time.monotonic()``.
        :returns: ``QUIET``, ``PING`` to send one now, or ``SILENT`` to give the peer up.
        """
        if self._heard:
            self._heard = False
            self._heard_at = now
            self._pinged_at = self._overdue_at = None
        interval, timeout = self._settings.ping_interval, self._settings.ping_timeout
        if self._pinged_at is not None:
            if timeout is not None and now - self._pinged_at > timeout:
                # Where this worker was held up, the answer may be here and not read yet.
                if self._overdue_at is None:
                    self._overdue_at = now
                elif now - self._overdue_at > _TIME_TO_READ:
                    return SILENT
        elif interval is not None and now - self._heard_at > interval:
            self._pinged_at = now
            return PING
        return QUIET

    def _keepalive_ping(self) -> bytes:
        """Make a Ping whose answer tells the latency."""
        self._asked_at = time.monotonic()
        # No two alike, so that a late Pong is not taken for the answer to a later Ping.
        self._asked = struct.pack("!d", self._asked_at)
        return self._connection.ping(self._asked)

    def _look_for_pong(self) -> None:
        if self._connection.last_pong == self._asked:
            self._latency = time.monotonic() - self._asked_at
            self._asked_at = 0.0

    def __repr__(self) -> str:
        state = "open" if self.connected else f"ended {self.close_code}"
        # Which a client chose; in a log it must not begin a line.
        path = self.environ.get("PATH_INFO", "")
        return f"<{type(self).__name__} {self.id} {path!r} {state}>"


def _no_message(message: object) -> TypeError:
    # Not inspect.iscoroutine: it does not know those of compiled functions.
    if isinstance(message, Coroutine):
        message.close()
        return TypeError("a message is not a coroutine: 'await' is missing before it")
    return TypeError(
        f"a message is str, bytes, bytearray or memoryview, not {type(message).__name__}; "
        "for other values there is send_json"
    )


def _no_text(error: UnicodeEncodeError) -> ValueError:
    return ValueError(f"text can not be sent as UTF-8: {error}")


def payload_of(message: object, binary: bool | None) -> tuple[bool, bytes]:
    """Look at a message that is to be sent to many.

    :param binary: as in :meth:`BlockingCalls.send`.
    :returns: whether it is binary, and its payload.
    :raises TypeError: for what is not a message.
    :raises ValueError: for text that can not be UTF-8.
    """
    if isinstance(message, str):
        try:
            return bool(binary), str.encode(message)
        except UnicodeEncodeError as error:
            raise _no_text(error) from None
    if not isinstance(message, (bytes, bytearray, memoryview)):
        raise _no_message(message)
    payload = bytes(message)
    if binary is False:
        try:
            payload.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"text is not UTF-8: {error}") from None
    return binary is not False, payload


def would_wait(waiting: int) -> BlockingIOError:
    """Say that a message was not sent, since so many bytes are waiting to be."""
    return BlockingIOError(f"{waiting} bytes are waiting to be sent: the client reads too slowly")


def limit_reason(waiting: int) -> str:
    """Say why a client was given up that many messages of rooms wait for."""
    return f"{waiting} bytes were waiting for the client"


def slow_reason(seconds: float) -> str:
    """Say why a slow client was given up."""
    return f"the client took no bytes for {seconds:g} seconds"


def sharedarea(area: int, position: int) -> bytes:
    """Copy a part of uWSGI's sharedarea, from *position* to its end.

    :raises RuntimeError: outside uWSGI.
    :raises ValueError: where there is no such area or position.
    """
    if uwsgi_module() is None:
        raise RuntimeError("the sharedarea is uWSGI's; run the app in uWSGI")
    if area < 0 or position < 0:
        raise ValueError("a sharedarea's id and position start at 0")
    return read_sharedarea(area, position)


def to_json(value: Any) -> str:
    """Say *value* in JSON; raises as ``send_json`` does."""
    return json.dumps(value, allow_nan=False)


def from_json(message: Message | None) -> Any:
    """Read a message as JSON; raises as ``receive_json`` does."""
    if message is None:
        return None
    try:
        return json.loads(message)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


class BlockingCalls:
    """The contract's blocking calls, of which a subclass gives those that wait."""

    __slots__ = ()

    messenger: Any

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

    def send_nb(self, message: Sendable | None, binary: bool | None = None) -> None:
        """Send a message without waiting, so that a slow client holds nobody up.

        :raises BlockingIOError: if more than ``write_limit`` bytes are waiting to be sent; the
            message is not sent then. Else as :meth:`send`.
        """
        raise NotImplementedError

    def recv_nb(self) -> Message | None:
        """Give the next message if it is here.

        :returns: ``''`` if there is none, ``None`` once when the connection
            has ended.
        :raises ConnectionClosed: after that ``None``.
        """
        raise NotImplementedError

    def join(
        self, room: str, info: Any = None, *, last: int | None = None, since: str | None = None
    ) -> bool:
        """Enter a room; the client gets its messages from here on (:meth:`.WebSocket.send_to`).

        A client leaves its rooms when its handler ends.

        :param room: its name.
        :param info: what :meth:`.WebSocket.presence` is to tell of the client; any JSON.
        :param last: how many of the room's last messages the client gets first.
        :param since: the id of a message after which it gets all first, and *last* does not
            matter; ``None`` and ``""`` are none. For both there has to be a ``history``.
        :returns: whether the client, if *since* is given, has missed nothing since: the history
            goes back so far.
        :raises QueueError: if there is a message queue that does not answer, and history is asked
            for; the client is in the room all the same.
        :raises TypeError: for a name that is no ``str``, a *last* that is no number, or an *info*
            that is not JSON.
        :raises ValueError: for an empty name, a *since* that is no id, or without a ``history``.
        """
        joined: bool = self.messenger.join(self, room, info, last, since)
        return joined

    def leave(self, room: str) -> None:
        """Leave a room; does nothing if the client is not in it."""
        self.messenger.leave(self, room)

    def ping(self, data: bytes = b"") -> None:
        """Send a Ping, :rfc:`6455` section 5.5.2; the Pong is dealt with here.

        :param data: at most 125 bytes.
        :raises ConnectionClosed: when the connection has ended.
        :raises TypeError: for what is not bytes.
        :raises ValueError: for more than 125 bytes.
        """
        raise NotImplementedError

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Do the closing handshake, :rfc:`6455` section 7.1.2; once is enough.

        Waits for the peer's Close frame, at most ``close_timeout`` seconds.

        :param code: why: 1000 to 1003, 1007 to 1014, 3000 to 4999.
        :param reason: the same for people, at most 123 bytes of UTF-8.
        :raises ValueError: for another code or a longer reason.
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
        self.send(to_json(value))

    def receive_json(self, timeout: float | None = None) -> Any:
        """Wait for a message and read it as JSON.

        ``None`` is the end, once, or a ``null``; :attr:`connected` tells which.

        :raises ValueError: if it is not JSON, or nested too deeply; else as :meth:`receive`.
        """
        return from_json(self.receive(timeout))

    def send_from_sharedarea(self, id: int, pos: int = 0) -> None:
        """Send uWSGI's sharedarea *id* from *pos* to its end as text.

        :param id: which area, in the order of ``--sharedarea``.
        :param pos: the first byte.
        :raises RuntimeError: outside uWSGI.
        :raises ValueError: where there is no such area or position, or no
            UTF-8; else as :meth:`send`.
        """
        self.send(sharedarea(id, pos), binary=False)

    def send_binary_from_sharedarea(self, id: int, pos: int = 0) -> None:
        """Send uWSGI's sharedarea *id* from *pos* to its end as binary.

        Parameters and errors are those of :meth:`send_from_sharedarea`.
        """
        self.send(sharedarea(id, pos), binary=True)

    def __iter__(self) -> Iterator[Message]:
        """Give the messages until the connection ends."""
        return self

    def __next__(self) -> Message:
        try:
            message = self.receive()
        except ConnectionClosed:
            raise StopIteration from None
        if message is None:
            raise StopIteration
        return message


# By process: what is forked has another.
_tokens: dict[int, str] = {}


def worker_token() -> str:
    """Give what the ids of all clients of this process begin with, and no other's do."""
    pid = os.getpid()
    # Of several threads that are the first to ask, all get the same.
    return _tokens.get(pid) or _tokens.setdefault(pid, os.urandom(8).hex())


# Text that many connections have in common: the names and values of their headers. It is
# kept once, as long as there is not much of it; what a peer sends can not make it grow.
_COMMON: dict[str, str] = {}
_COMMON_MOST = 1000


def _common(text: Any) -> Any:
    if type(text) is not str or len(text) > 100:
        return text
    if len(_COMMON) < _COMMON_MOST:
        return _COMMON.setdefault(text, text)
    return _COMMON.get(text, text)


def keep_environ(environ: Mapping[str, Any]) -> dict[str, Any]:
    """Copy an environ so that it outlives its request, in little memory.

    uWSGI empties its own when the request ends, and reading the request's
    body or errors stream after that would use memory that is gone.

    :param environ: the WSGI environ.
    """
    kept = {
        _common(name): value if name in _OWN else _common(value)
        for name, value in environ.items()
        # Werkzeug's request, made for the routing, holds the old environ.
        if name != "werkzeug.request"
    }
    kept["wsgi.input"] = io.BytesIO()
    # eventlet leaves it out where there is none.
    kept.setdefault("QUERY_STRING", "")
    return kept


# Different for each connection.
_OWN = frozenset(("HTTP_SEC_WEBSOCKET_KEY", "REMOTE_ADDR", "REMOTE_PORT"))
