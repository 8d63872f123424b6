"""The threads backend: a thread for each connection, blocking calls.

A handler's ``receive`` reads the socket itself, in one system call, and
``send`` writes it at once, in another. What must happen while a handler does
neither (a Pong, taking note of a Close, a Ping of ours) is done by one
attendant thread for all the connections of the worker, a few times a second.

Two locks for each connection, and their rules:

* ``_reading`` is held by whoever reads and parses. The attendant only tries
  it: if it is taken, the handler is reading and needs no help.
* ``_writing`` is held by whoever writes, from the look at the state to the last
  byte, so that no message follows a Close frame. Replies of the protocol never
  wait for it: they go to the backlog, which its holder empties.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ..client import Message, Sendable, SyncClient
from ..connection import CLOSED, CLOSING, OPEN
from ..exceptions import ConnectionClosed
from ..locks import Lock
from ..middleware import BaseMiddleware
from ..servers import threads_run
from ..settings import Settings
from ..sockets import RawSocket

_log = logging.getLogger(__name__)

_NOW = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_OPEN = OPEN

# A read asks for this much at first, and for more while reads come back full:
# most connections are idle, and what they wait with is their memory.
_READ_LEAST = 4096
_READ_MOST = 262144

# The attendant's period, seconds: a Ping waits half of it on average when the
# handler is not reading. A round costs about 1 µs a connection.
_PERIOD = 0.25

# Bytes of replies that may wait for a peer that does not read, before reading
# from it waits for it too.
_BACKLOG_MOST = 65536


def _remaining(deadline: float) -> float:
    """Seconds up to *deadline*, in what a system call takes."""
    return min(max(deadline - time.monotonic(), 0.0), 1e6)


class WebSocketClient(SyncClient):
    """A connection served by a thread. See :class:`~.client.BaseClient`."""

    def __init__(
        self,
        environ: Mapping[str, Any],
        sock: socket.socket,
        settings: Settings,
        subprotocol: str | None = None,
    ) -> None:
        super().__init__(environ, sock, settings, subprotocol)
        sock.setblocking(True)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reading = Lock()
        self._writing = Lock()
        self._backlog: deque[bytes] = deque()
        self._read_size = _READ_LEAST
        self._send_timeout = settings.send_timeout
        self._raw = RawSocket(sock)
        # For the attendant: whether bytes came since its last round, and the
        # time of the last that it knows of and of its Ping.
        self._heard = False
        self._heard_at = time.monotonic()
        self._pinged_at: float | None = None
        self._ended_at: float | None = None

    # Receiving.

    def receive(self, timeout: float | None = None) -> Message | None:
        if timeout is None:
            timeout = self.timeout
        deadline = 0.0 if timeout is None else time.monotonic() + max(timeout, 0)
        while True:
            if not self._inbox:
                if timeout is None:
                    self._wait()
                else:
                    self._wait_until(deadline)
            try:
                return self._inbox.popleft()
            except IndexError:
                # Another thread that receives may have been quicker.
                if self._connection.state != _OPEN:
                    break
        self._end_of_messages()
        return None

    def recv_nb(self) -> Message | None:
        """Give the next message if it is here.

        :returns: ``''`` if there is none, ``None`` once when the connection
            has ended.
        :raises ConnectionClosed: after that ``None``.
        """
        try:
            return self.receive(timeout=0)
        except TimeoutError:
            return ""

    def _wait(self) -> None:
        """Read until there is a message or the connection has ended."""
        self._reading.acquire()
        try:
            while not self._inbox and self._connection.state == _OPEN:
                self._read(0)
                if self._backlog:
                    self._wait_for_backlog(self._send_timeout)
        finally:
            self._reading.release()

    def _wait_until(self, deadline: float) -> None:
        """The same as :meth:`_wait`, up to *deadline* of ``time.monotonic()``.

        :raises TimeoutError: when it has passed.
        """
        if self._reading.acquire(True, _remaining(deadline)):
            try:
                while not self._inbox and self._connection.state == _OPEN:
                    if not self._readable(deadline):
                        break
                    self._read(_NOW)
                    if self._backlog:
                        self._wait_for_backlog(_remaining(deadline))
                    # A peer may send for ever what is not a message.
                    if _remaining(deadline) == 0:
                        break
            finally:
                self._reading.release()
        if not self._inbox and self._connection.state == _OPEN:
            raise TimeoutError("no message came in time")

    def _readable(self, deadline: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(_remaining(deadline) * 1000))

    def _read(self, flags: int) -> None:
        """Read once and take what came. ``_reading`` is held."""
        size = self._read_size
        try:
            data = self._raw.recv(size, flags)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        connection = self._connection
        if not data:
            connection.receive_eof()
            return
        if len(data) == size:
            self._read_size = min(size * 4, _READ_MOST)
        elif len(data) <= size // 8 and size > _READ_LEAST:
            self._read_size = size // 4
        self._heard = True
        for message in connection.receive_data(data):
            self._inbox.append(message)
        if connection.has_replies:
            self._backlog.append(connection.take_replies())
            self._send_backlog()

    # Sending.

    def send(self, message: Sendable | None, binary: bool | None = None) -> None:
        self._send(self._frame(message, binary))

    def ping(self, data: bytes = b"") -> None:
        """Send a Ping, :rfc:`6455` section 5.5.2; the Pong is dealt with here.

        :param data: at most 125 bytes.
        :raises ConnectionClosed: when the connection has ended.
        :raises TypeError: for what is not bytes.
        :raises ValueError: for more than 125 bytes.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"a Ping carries bytes, not {type(data).__name__}")
        self._send(self._connection.ping(bytes(data)))

    def _send(self, frame: bytes) -> None:
        self._writing.acquire()
        try:
            # Taken before the look at the state: if a Close frame is among
            # them the state tells, and if one comes later it goes out later.
            replies = self._take_backlog() if self._backlog else b""
            if self._connection.state != _OPEN:
                if replies:
                    self._backlog.appendleft(replies)
                raise self._ended()
            self._write(replies + frame if replies else frame, self._send_timeout)
        finally:
            self._writing.release()
            if self._backlog:
                self._send_backlog()

    def _write(self, data: bytes, timeout: float) -> None:
        """Write whole frames. ``_writing`` is held.

        :raises ConnectionClosed: if the peer takes nothing for *timeout*
            seconds or is gone. The connection is at its end then: after a part
            of a frame nothing else can follow.
        """
        try:
            sent = self._raw.send(data, _NOW)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose()
            raise self._ended() from None
        if sent < len(data):
            self._write_rest(data, sent, timeout)

    def _write_rest(self, data: bytes, sent: int, timeout: float) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        view = memoryview(data)
        try:
            while sent < len(data):
                if not poll.poll(timeout * 1000):
                    raise ConnectionClosed(1006, f"the client took no bytes for {timeout} seconds")
                with contextlib.suppress(BlockingIOError):
                    sent += self._socket.send(view[sent:], _NOW)
        except OSError:
            self._lose()
            raise self._ended() from None
        except BaseException:
            self._lose()
            raise

    def _sending_is_busy(self) -> bool:
        return self._writing.locked()

    def _send_backlog(self) -> None:
        """Write the waiting replies, as many as the kernel takes at once.

        Waits for nothing: where somebody is writing, that one sends them.
        """
        backlog = self._backlog
        while backlog and self._writing.acquire(False):
            try:
                data = self._take_backlog()
                try:
                    sent = self._raw.send(data, _NOW)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    self._lose()
                    return
                if sent < len(data):
                    backlog.appendleft(data[sent:])
                    return
            finally:
                self._writing.release()

    def _take_backlog(self) -> bytes:
        backlog = self._backlog
        return b"".join([backlog.popleft() for _ in range(len(backlog))])

    def _wait_for_backlog(self, timeout: float) -> None:
        """Let a peer that asks and does not read wait, rather than keep its answers."""
        deadline = time.monotonic() + min(timeout, self._send_timeout)
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        while sum(map(len, self._backlog)) > _BACKLOG_MOST:
            if not poll.poll(_remaining(deadline) * 1000):
                if timeout >= self._send_timeout:
                    self._lose()
                return
            self._send_backlog()

    # Ending.

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Do the closing handshake, :rfc:`6455` section 7.1.2; once is enough.

        Waits for the peer's Close frame, at most ``close_timeout`` seconds.

        :param code: why: 1000 to 1003, 1007 to 1014, 3000 to 4999.
        :param reason: the same for people, at most 123 bytes of UTF-8.
        :raises ValueError: for another code or a longer reason.
        """
        deadline = time.monotonic() + self._settings.close_timeout
        if not self._start_closing(code, reason, deadline):
            return
        # Whoever reads now will see the answer; else it is read here.
        if self._reading.acquire(True, _remaining(deadline)):
            try:
                while self._connection.state != CLOSED and self._readable(deadline):
                    self._read(_NOW)
                    if _remaining(deadline) == 0:
                        break
                # Nobody has to be woken: what was sent may still be on its way,
                # and a reset would take it back.
                self._connection.receive_eof()
                return
            finally:
                self._reading.release()
        if self._connection.state != CLOSED:
            self._lose()

    def _start_closing(self, code: int, reason: str, deadline: float) -> bool:
        timeout = _remaining(deadline)
        if not self._writing.acquire(True, timeout):
            # Somebody is stuck in the middle of a frame.
            self._connection.close(code, reason)
            self._lose()
            return False
        try:
            frame = self._connection.close(code, reason)
            if frame:
                self._write(self._take_backlog() + frame, timeout)
        except ConnectionClosed:
            return False
        finally:
            self._writing.release()
        return bool(frame)

    def _lose(self) -> None:
        """End the connection without another word; wakes who waits on it."""
        self._connection.receive_eof()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _give_back(self) -> None:
        """Close the socket, when the handler has returned."""
        try:
            self._settle()
        finally:
            self._close_socket()

    def _close_socket(self) -> None:
        self._lose()
        # Nobody can be in a system call on the descriptor when it closes, or
        # use its number after that: another connection may get it at once.
        with self._reading, self._writing:
            self.fd = -1
            self._backlog.clear()
            self._socket.close()
            self._raw = RawSocket(self._socket)

    def _settle(self) -> None:
        """See that the peer gets all that was sent.

        A socket closed with bytes unread resets the connection, and the peer
        may never see the Close frame. So our side is shut first, and the rest
        is read until the peer closes too. Where we failed the connection, the
        peer's answer is awaited before that: uWSGI's router ends both sides
        when it sees one end.
        """
        deadline = time.monotonic() + self._settings.close_timeout
        self._send_backlog()
        with self._reading, contextlib.suppress(OSError):
            if self._connection.state == CLOSING and self._readable(deadline):
                self._socket.recv(_READ_MOST, _NOW)
            self._socket.shutdown(socket.SHUT_WR)
            while self._readable(deadline) and self._socket.recv(_READ_MOST, _NOW):
                if _remaining(deadline) == 0:
                    break
        if self._sending_is_busy():
            self._lose()

    def _turn_away(self) -> None:
        """End a connection that can not be served, without waiting for the peer."""
        self._start_closing(1013, "the server has no thread for this", time.monotonic())
        self._close_socket()

    # For the attendant.

    def attend(self, now: float) -> None:
        """Do what is due while the handler is busy elsewhere. Never waits.

        :param now: ``time.monotonic()``.
        """
        if self._heard:
            self._heard = False
            self._heard_at = now
            self._pinged_at = None
        if self._backlog:
            self._send_backlog()
        if self._connection.state != _OPEN:
            # The handler does not look; do not keep the peer waiting for it.
            if self._ended_at is None:
                self._ended_at = now
            elif now - self._ended_at > self._settings.close_timeout:
                self._lose()
            return
        if not self._reading_is_wanted() or self._backlog:
            # We do not listen now, so that silence says nothing of the peer.
            self._heard = True
        elif self._reading.acquire(False):
            try:
                self._read(_NOW)
            finally:
                self._reading.release()
        self._keep_alive(now)

    def _keep_alive(self, now: float) -> None:
        interval, timeout = self._settings.ping_interval, self._settings.ping_timeout
        if self._pinged_at is not None:
            if timeout is not None and now - self._pinged_at > timeout and not self._heard:
                self._backlog.append(self._connection.close(1011, "keepalive ping timeout"))
                self._send_backlog()
                self._lose()
        elif interval is not None and now - self._heard_at > interval:
            self._pinged_at = now
            self._backlog.append(self._connection.ping())
            self._send_backlog()


class _Attendant:
    """The thread that looks after all connections of this worker."""

    def __init__(self) -> None:
        self._clients: set[WebSocketClient] = set()
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._pid = 0

    def add(self, client: WebSocketClient) -> None:
        with self._lock:
            self._clients.add(client)
            self._some.set()
            # A thread does not live on in a forked worker; start it anew there.
            if self._pid != os.getpid():
                threading.Thread(
                    target=self._run, name="flask-uwsgi-ws attendant", daemon=True
                ).start()
                self._pid = os.getpid()

    def remove(self, client: WebSocketClient) -> None:
        with self._lock:
            self._clients.discard(client)
            if not self._clients:
                self._some.clear()

    def _run(self) -> None:
        while True:
            self._some.wait()
            time.sleep(_PERIOD)
            with self._lock:
                clients = list(self._clients)
            now = time.monotonic()
            for client in clients:
                try:
                    client.attend(now)
                except Exception:
                    # One connection's trouble is not the others'.
                    _log.exception("could not attend to %r", client)
                    client._lose()


_attendant = _Attendant()


class WebSocketMiddleware(BaseMiddleware):
    """Does the handshake and runs the handler in a thread of its own."""

    client = WebSocketClient
    _warned = False

    def start(self, client: Any, serve: Callable[[], None]) -> None:
        def run() -> None:
            try:
                serve()
            finally:
                _attendant.remove(client)
                client._give_back()

        try:
            _attendant.add(client)
            if threads_run():
                threading.Thread(target=run, name=f"websocket {client.id}", daemon=True).start()
                return
        except RuntimeError as error:
            self.app.logger.error("WebSocket connection turned away: %s", error)
            _attendant.remove(client)
            client._turn_away()
            return
        self._warn_of_no_threads()
        run()

    def _warn_of_no_threads(self) -> None:
        if not self._warned:
            self._warned = True
            self.app.logger.warning(
                "Python threads are off in this uWSGI, so each WebSocket holds a request "
                "for as long as it lasts; start uWSGI with --enable-threads"
            )
