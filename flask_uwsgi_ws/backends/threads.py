"""The threads backend: a thread for each connection, blocking calls.

A handler's ``receive`` reads the socket itself, in one system call, and
``send`` writes it at once, in another. What must happen while a handler does
neither (a Pong, taking note of a Close, a Ping of ours) is done by one
attendant thread for all the connections of the worker, a few times a second.

Three locks for each connection, and their rules:

* ``_reading`` is held by whoever reads and parses. The attendant only tries
  it: if it is taken, the handler is reading and needs no help.
* ``_writing`` is held by whoever writes, from the look at the state to the last
  byte, so that no message follows a Close frame. Replies of the protocol never
  wait for it: they go to the backlog, which its holder empties.
* ``_order`` is held, never for long, by whoever settles what goes out before what: who compresses
  a message, adds a Close frame to the backlog, or adds a message to it without ``_writing``.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from werkzeug.wrappers import Response

from ..client import (
    PING,
    PING_TIMEOUT,
    SILENT,
    SLOW,
    BaseClient,
    BlockingCalls,
    Message,
    Sendable,
    limit_reason,
    slow_reason,
    would_wait,
)
from ..compression import Deflate
from ..connection import CLOSED, CLOSING, OPEN
from ..contexts import ConnectionContext
from ..exceptions import ConnectionClosed
from ..handlerthread import HandlerThread
from ..handshake import Handshake
from ..locks import Lock, pause, thread_ident
from ..middleware import NO_THREAD, BaseMiddleware, NoThreadError, Opening
from ..servers import loop_engine, server_hub, threads_run
from ..settings import LONGEST, Settings
from ..sockets import RawSocket
from ..unpatched import threads_are_patched

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

# Once: a client that is slow for long does not wake the attendant for each byte.
_ROOM = select.EPOLLOUT | select.EPOLLONESHOT

# Seconds that a message may be kept back to leave with others.
_HOLD = 0.001


def _remaining(deadline: float) -> float:
    """Seconds up to *deadline*, in what a system call takes."""
    return min(max(deadline - time.monotonic(), 0.0), 1e6)


class WebSocketClient(BaseClient, BlockingCalls):
    """A connection served by a thread. See :class:`~.client.BaseClient`."""

    def __init__(
        self,
        environ: Mapping[str, Any],
        sock: socket.socket,
        settings: Settings,
        subprotocol: str | None = None,
        deflate: Deflate | None = None,
    ) -> None:
        super().__init__(environ, sock, settings, subprotocol, deflate)
        sock.setblocking(True)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reading = Lock()
        self._writing = Lock()
        self._order = Lock()
        self._backlog: deque[bytes] = deque()
        # Bytes that a sender waits to write, who has taken them from the backlog.
        self._rest = 0
        # Whether the attendant waits for the kernel to have room for the backlog.
        self._watched = False
        # Bytes of messages in the backlog, and whether the attendant knows of them.
        self._held = 0
        self._holding = False
        self._may_hold = threads_run()
        self._receiver = 0
        self._read_size = _READ_LEAST
        self._send_timeout = settings.send_timeout
        self._most_unsent = settings.write_limit
        self._most_shared = settings.room_limit
        self._raw = RawSocket(sock)
        self._inbox: deque[Message] = deque()
        self._ended_at: float | None = None
        # Whether the connection closes while the handler may be waiting for a message.
        self._closing_early = False
        # Since when the kernel has taken nothing of the backlog, and what it had taken by then.
        self._stuck_at: float | None = None
        self._stuck_bytes = 0

    # Receiving.

    def receive(self, timeout: float | None = None) -> Message | None:
        if timeout is None:
            timeout = self.timeout
        deadline = 0.0 if timeout is None else time.monotonic() + max(timeout, 0)
        self._receiver = thread_ident()
        while True:
            if not self._inbox:
                if self._backlog:
                    self._send_backlog()
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
                    self._wait_for_backlog(LONGEST)
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
        """Wait until :meth:`_read` has something to do."""
        if self._connection.faulty:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(_remaining(deadline) * 1000))

    def _read(self, flags: int) -> None:
        """Read once and take what came. ``_reading`` is held."""
        if self._connection.faulty:
            # All messages before the fault are taken, and answered if they were to be.
            self._reply(self._connection.close())
            return
        size = self._read_size
        try:
            data = self._raw.recv(size, flags)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._connection.receive_eof()
            return
        if len(data) == size:
            self._read_size = min(size * 4, _READ_MOST)
        elif len(data) <= size // 8 and size > _READ_LEAST:
            self._read_size = size // 4
        self._take_in(data)

    def take_early(self, data: bytes) -> None:
        """Take what the server has read; before anything else is."""
        self._take_in(data)

    def _take_in(self, data: bytes) -> None:
        """Take what came. ``_reading`` is held."""
        connection = self._connection
        self._heard = True
        self.bytes_received += len(data)
        self._inbox.extend(connection.receive_data(data))
        if self._asked_at:
            self._look_for_pong()
        if connection.has_replies:
            self._reply(connection.take_replies())

    # Sending.

    def send(self, message: Sendable | None, binary: bool | None = None) -> None:
        self._send(self._frame(message, binary))

    def send_nb(self, message: Sendable | None, binary: bool | None = None) -> None:
        if self._connection.state == _OPEN and self.unsent > self._most_unsent:
            self._send_backlog()
            if self.unsent > self._most_unsent:
                raise would_wait(self.unsent)
        frame = self._frame(message, binary)
        with self._order:
            # A Close frame is added after its state has been set, and so behind this one.
            if self._connection.state != _OPEN:
                raise self._ended()
            self._backlog.append(self._connection.compress(frame))
        self._send_backlog()

    def put_shared(self, frame: bytes, ready: bool) -> bool:
        if self._backlog and self.unsent > self._most_shared:
            self._send_backlog()
            if self.unsent > self._most_shared:
                self._give_up_slow(limit_reason(self.unsent))
        with self._order:
            # As in send_nb.
            if self._connection.state != _OPEN:
                return False
            self._connection.messages_sent += 1
            self._backlog.append(frame if ready else self._connection.compress(frame))
        self._send_backlog()
        return True

    @property
    def unsent(self) -> int:
        return self._waiting() + self._rest

    def _waiting(self) -> int:
        """Count the bytes of the backlog."""
        return sum(map(len, self._backlog.copy()))

    def ping(self, data: bytes = b"") -> None:
        self._send(self._ping_frame(data))

    def _send(self, frame: bytes) -> None:
        self._writing.acquire()
        try:
            if self._connection.compresses:
                # In the order in which frames go out. One that does not go out after all finds
                # the connection ended, where nothing else will refer to it.
                with self._order:
                    data = self._hold_or_take(self._connection.compress(frame))
            else:
                data = self._hold_or_take(frame)
            if data:
                self._write(data, self._send_timeout)
        finally:
            self._writing.release()
            if self._backlog and not self._holding:
                self._send_backlog()

    def _hold_or_take(self, frame: bytes) -> bytes:
        """Give what is to be written, up to a frame; nothing if that is kept back."""
        if (
            self._inbox
            and self._may_hold
            and self._held < self._most_unsent
            and self._receiver == thread_ident()
            and self._connection.state == _OPEN
        ):
            self._hold(frame)
            return b""
        # Taken before the look at the state: if a Close frame is among
        # them the state tells, and if one comes later it goes out later.
        replies = self._take_backlog() if self._backlog else b""
        if self._connection.state != _OPEN:
            if replies:
                self._backlog.appendleft(replies)
            raise self._ended()
        return replies + frame if replies else frame

    def _hold(self, frame: bytes) -> None:
        """Keep a frame back, to leave with those that follow at once.

        More messages are here for the handler, so that it will come back for
        one soon and then send what it has said to all of them. Should it not,
        the attendant does, within some milliseconds.
        """
        self._backlog.append(frame)
        # Counted from the front, since compiled code does not count from the back.
        last = len(self._backlog) - 1
        if self._connection.state != _OPEN and last >= 0 and self._backlog[last] is frame:
            # It ended since the look at the state; its Close frame may be the one before.
            self._backlog.pop()
            raise self._ended()
        self._held += len(frame)
        if not self._holding:
            self._holding = True
            _attendant.hurry(self)

    def _write(self, data: bytes, timeout: float) -> None:
        """Write whole frames. ``_writing`` is held.

        :raises ConnectionClosed: if the peer takes nothing for *timeout*
            seconds or is gone. The connection is at its end then: after a part
            of a frame nothing else can follow.
        """
        sent = self._raw.send_now(data)
        if sent < 0:
            self._lose()
            raise self._ended() from None
        self.bytes_sent += sent
        if sent < len(data):
            self._write_rest(data, sent, timeout)

    def _write_rest(self, data: bytes, sent: int, timeout: float) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        view = memoryview(data)
        try:
            while sent < len(data):
                self._rest = len(data) - sent
                if not poll.poll(timeout * 1000):
                    self._give_up_slow(slow_reason(timeout))
                    raise self._ended()
                with contextlib.suppress(BlockingIOError):
                    count = self._socket.send(view[sent:], _NOW)
                    sent += count
                    self.bytes_sent += count
        except OSError:
            self._lose()
            raise self._ended() from None
        except BaseException:
            self._lose()
            raise
        finally:
            self._rest = 0

    def _reply(self, frames: bytes) -> None:
        """Send control frames, without waiting."""
        with self._order:
            self._backlog.append(frames)
        self._send_backlog()

    def _sending_is_busy(self) -> bool:
        return bool(self._writing.locked())

    def _send_backlog(self) -> None:
        """Write what is waiting, as much as the kernel takes at once.

        Waits for nothing: where somebody is writing, that one sends it, and where the kernel
        has no room, the attendant does when it has.
        """
        backlog = self._backlog
        while backlog and self._writing.acquire(False):
            try:
                data = self._take_backlog()
                sent = self._raw.send_now(data)
                if sent < 0:
                    self._lose()
                    return
                self.bytes_sent += sent
                if sent < len(data):
                    backlog.appendleft(data[sent:])
                    # The next message is not kept back but waits for the client.
                    self._held = self._most_unsent
            finally:
                self._writing.release()
            # Not before the release: the attendant may be told at once.
            if sent < len(data):
                if not self._watched:
                    self._watched = True
                    if not _attendant.watch(self):
                        self._watched = False
                return

    def _take_backlog(self) -> bytes:
        backlog = self._backlog
        self._held = 0
        return b"".join([backlog.popleft() for _ in range(len(backlog))])

    def _wait_for_backlog(self, timeout: float) -> None:
        """Let a peer that asks and does not read wait, rather than keep its answers."""
        end = time.monotonic() + timeout
        taken = -1
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        while self._waiting() > self._most_unsent:
            # A slow peer may take its time, as long as it takes something.
            if self.bytes_sent != taken:
                taken = self.bytes_sent
                slow_at = time.monotonic() + self._send_timeout
            poll.poll(_remaining(min(end, slow_at)) * 1000)
            self._send_backlog()
            if self.bytes_sent == taken and _remaining(slow_at) == 0:
                self._give_up_slow(slow_reason(self._send_timeout))
            if self._connection.state == CLOSED or _remaining(end) == 0:
                return

    # Ending.

    def close(self, code: int = 1000, reason: str = "") -> None:
        deadline = time.monotonic() + self._settings.close_timeout
        if not self._start_closing(code, reason, deadline):
            return
        # Whoever reads now will see the answer; else it is read here.
        if self._reading.acquire(True, _remaining(deadline)):
            try:
                while self._connection.state != CLOSED and self._readable(deadline):
                    self._read(_NOW)
                    if self._backlog:
                        self._wait_for_backlog(_remaining(deadline))
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
            with self._order:
                frame = self._connection.close(code, reason)
                data = self._take_backlog() + frame if frame else b""
            if data:
                self._write(data, timeout)
        except ConnectionClosed:
            return False
        finally:
            self._writing.release()
        return bool(frame)

    @property
    def idle(self) -> bool:
        return not self._inbox and bool(self._reading.locked())

    def begin_close(self, code: int, reason: str) -> None:
        frame = self._connection.close(code, reason)
        if frame:
            self._closing_early = True
            self._reply(frame)

    def _give_up_slow(self, why: str) -> None:
        if self._connection.state == _OPEN:
            self.dropped = SLOW
        self._connection.close(1008, why)
        self._lose()

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
        self._closing_early = False
        deadline = time.monotonic() + self._settings.close_timeout
        self._send_backlog()
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        while self._backlog and poll.poll(_remaining(deadline) * 1000):
            self._send_backlog()
            if self._backlog:
                # Somebody else is writing, or the kernel took a part.
                pause(0.001)
                if _remaining(deadline) == 0:
                    break
        with self._reading, contextlib.suppress(OSError):
            if self._connection.state == CLOSING and self._readable(deadline):
                self._socket.recv(_READ_MOST, _NOW)
            self._socket.shutdown(socket.SHUT_WR)
            while self._readable(deadline) and self._socket.recv(_READ_MOST, _NOW):
                if _remaining(deadline) == 0:
                    break
        if self._sending_is_busy():
            self._lose()

    def _turn_away(self, code: int, reason: str) -> None:
        """End a connection that can not be served, without waiting for the peer."""
        self._start_closing(code, reason, time.monotonic())
        self._close_socket()

    # For the attendant.

    def send_held(self) -> None:
        """Send what the handler has kept back and not come to send."""
        self._holding = False
        self._send_backlog()

    def send_waiting(self) -> None:
        """Send more of the backlog: the kernel has room."""
        self._watched = False
        self._send_backlog()

    def attend(self, now: float) -> None:
        """Do what is due while the handler is busy elsewhere. Never waits.

        :param now: ``time.monotonic()``.
        """
        if self._backlog:
            self._send_backlog()
        if not self._backlog or self.bytes_sent != self._stuck_bytes:
            self._stuck_at = None
        elif self._stuck_at is None:
            self._stuck_at = now
        elif now - self._stuck_at > self._send_timeout:
            self._give_up_slow(slow_reason(self._send_timeout))
        self._stuck_bytes = self.bytes_sent
        if self._connection.state != _OPEN:
            # The handler does not look; do not keep the peer waiting for it.
            patience = self._settings.close_timeout
            if self._closing_early and self._reading.locked():
                # Half of it is for the peer's answer, the rest for the handler, which waits too.
                patience /= 2
            if self._ended_at is None:
                self._ended_at = now
            elif now - self._ended_at > patience:
                self._lose()
            return
        if len(self._inbox) >= self._settings.max_queue or self._backlog:
            # We do not listen now, so that silence says nothing of the peer.
            self._heard = True
        elif self._connection.faulty and self._ended_at is None:
            # The handler has until the next time to answer what came before the fault.
            self._ended_at = now
        elif self._reading.acquire(False):
            try:
                self._read(_NOW)
            finally:
                self._reading.release()
        due = self._keep_alive(now)
        if due == PING:
            self._reply(self._keepalive_ping())
        elif due == SILENT:
            self.dropped = PING_TIMEOUT
            self._reply(self._connection.close(1011, "keepalive ping timeout"))
            if self._backlog:
                # Whoever is writing sends it; the next round is the last.
                self._ended_at = 0.0
            else:
                self._lose()


class _Attendant:
    """The thread that looks after all connections of this worker."""

    def __init__(self) -> None:
        self._clients: set[WebSocketClient] = set()
        self._lock = threading.Lock()
        self._holders: deque[WebSocketClient] = deque()
        # By descriptor, those whose backlog has waited for room; the poller tells when there is.
        self._watched: dict[int, WebSocketClient] = {}
        self._poller: select.epoll | None = None
        # An eventfd, and whether it has been written to.
        self._alarm = -1
        self._alarmed = False
        self._pid = 0

    def add(self, client: WebSocketClient) -> None:
        with self._lock:
            # A thread does not live on in a forked worker; start it anew there.
            if self._pid != os.getpid():
                self._start()
                self._pid = os.getpid()
            self._clients.add(client)
            if len(self._clients) == 1:
                self._wake()

    def remove(self, client: WebSocketClient) -> None:
        with self._lock:
            self._clients.discard(client)
            if self._watched.get(client.fd) is client:
                del self._watched[client.fd]
                assert self._poller is not None
                self._poller.unregister(client.fd)

    def watch(self, client: WebSocketClient) -> bool:
        """Have *client* told when the kernel has room for its backlog.

        :returns: whether it will be.
        """
        with self._lock:
            if client not in self._clients:
                return False
            assert self._poller is not None
            if client.fd in self._watched:
                self._poller.modify(client.fd, _ROOM)
            else:
                # First: the poller may tell of it before this thread goes on.
                self._watched[client.fd] = client
                try:
                    self._poller.register(client.fd, _ROOM)
                except BaseException:
                    del self._watched[client.fd]
                    raise
            return True

    def hurry(self, client: WebSocketClient) -> None:
        """See that what *client* keeps back is not kept for long."""
        self._holders.append(client)
        self._wake()

    def _wake(self) -> None:
        if not self._alarmed:
            self._alarmed = True
            os.eventfd_write(self._alarm, 1)

    def _start(self) -> None:
        poller = select.epoll()
        alarm = -1
        try:
            alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            poller.register(alarm, select.EPOLLIN)
            threading.Thread(
                target=self._run, args=(poller, alarm), name="flask-uwsgi-ws attendant", daemon=True
            ).start()
        except BaseException:
            poller.close()
            if alarm >= 0:
                os.close(alarm)
            raise
        self._poller, self._alarm, self._alarmed = poller, alarm, False

    def _run(self, poller: select.epoll, alarm: int) -> None:
        due = time.monotonic()
        while True:
            for fd, _ in poller.poll(_remaining(due) if self._clients else None):
                if fd == alarm:
                    os.eventfd_read(alarm)
                    # Before the look at who holds, so that who comes later wakes this again.
                    self._alarmed = False
                    if self._holders:
                        pause(_HOLD)
                        self._send_held()
                else:
                    self._send_waiting(fd)
            now = time.monotonic()
            if now >= due:
                due = now + _PERIOD
                self._attend(now)

    def _send_waiting(self, fd: int) -> None:
        client = self._watched.get(fd)
        if client is not None:
            self._safely(client, client.send_waiting)

    def _send_held(self) -> None:
        for _ in range(len(self._holders)):
            client = self._holders.popleft()
            self._safely(client, client.send_held)

    def _attend(self, now: float) -> None:
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            self._safely(client, client.attend, now)

    @staticmethod
    def _safely(client: WebSocketClient, call: Callable[..., None], *arguments: float) -> None:
        try:
            call(*arguments)
        except Exception:
            # One connection's trouble is not the others'.
            _log.exception("could not attend to %r", client)
            client._lose()


_attendant = _Attendant()


class WebSocketMiddleware(BaseMiddleware):
    """Does the handshake and runs the handler in a thread of its own."""

    client = WebSocketClient
    _warned = False

    def obstacle(self) -> str | None:
        if loop_engine() == "gevent":
            return (
                "WebSocket has a thread for each connection, which gevent's loop does not go "
                "with; use GeventWebSocket, or start uWSGI without --gevent"
            )
        if threads_are_patched() and not server_hub():
            return (
                "gevent or eventlet has replaced threads here, and the server does not run their "
                "loop; take monkey.patch_all() or monkey_patch() out, or start uWSGI with --gevent"
            )
        if server_hub() and not self._client_of_hub():
            return (
                f"{self.client.__name__} is for threads, and this server has greenlets: make it a "
                "subclass of GeventWebSocketClient here"
            )
        return None

    def _client_of_hub(self) -> type[Any] | None:
        """Give the class of client for the server's hub that runs this request."""
        hub = server_hub()
        module: Any = importlib.import_module(f"{__package__}.{hub}")
        kind: type[Any] = getattr(module, f"{hub.capitalize()}WebSocketClient")
        if self.client is WebSocketClient:
            return kind
        return self.client if issubclass(self.client, kind) else None

    def ask_app(
        self, context: ConnectionContext, handshake: Handshake, held: bool
    ) -> Response | None:
        if held or not threads_run():
            return super().ask_app(context, handshake, held)
        try:
            context.thread = HandlerThread()
        except RuntimeError as error:
            raise NoThreadError(f"{error}") from error
        hooks = self.websocket.hooks
        try:
            if context.asks_app(hooks):
                refused = context.thread.call(context.open, handshake, hooks)
            else:
                # Flask's own part leaves nothing behind, and the way to a thread takes time.
                refused = context.open(handshake, hooks)
        except BaseException:
            context.close()
            raise
        if refused is not None:
            context.close()
        return refused

    def start(
        self, opening: Opening, handler: Callable[..., Any], arguments: dict[str, Any]
    ) -> None:
        if opening.holds and server_hub():
            from .hubs import hold

            hold(self, opening, handler, arguments, self._client_of_hub())
            return
        client = self.make_client(opening)
        context, thread = opening.context, opening.context.thread

        def run() -> None:
            if thread is not None:
                threading.current_thread().name = f"websocket {client.id}"
            try:
                self.opened(client)
                self.serve(client, handler, arguments, context)
            finally:
                _attendant.remove(client)
                try:
                    client._give_back()
                finally:
                    self.ended(client)

        if opening.early:
            client.take_early(opening.early)
        try:
            _attendant.add(client)
        except (OSError, RuntimeError) as error:
            self.turned_away(error)
            client._turn_away(*NO_THREAD)
            context.close(error)
            self.ended(client)
            return
        if thread is not None:
            context.thread = None
            thread.leave(lambda: context.run(run))
            return
        if not opening.holds:
            self._warn_of_no_threads()
        context.run(run)

    def is_cancellation(self, error: BaseException) -> bool:
        # A server of greenlets that ends kills them.
        greenlet = sys.modules.get("greenlet")
        return greenlet is not None and isinstance(error, greenlet.GreenletExit)

    def _warn_of_no_threads(self) -> None:
        if not self._warned:
            self._warned = True
            self.app.logger.warning(
                "Python threads are off in this uWSGI, so each WebSocket holds a request "
                "for as long as it lasts; start uWSGI with --enable-threads"
            )
