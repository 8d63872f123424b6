"""What the backends with an event loop share: who reads, who writes, and when.

A :class:`Reactor` for each loop, one a worker, has the sockets of all its
connections in one poller, which the loop watches as if it were a single
socket. When the loop finds it readable the reactor takes a *turn*: it reads
each ready connection, parses, wakes whoever waits for a message, and at the end
sends what was said meanwhile, one system call for each connection that has
something to say.

All this happens in the thread of the loop. Another thread may send: it leaves
its frame with the reactor and wakes the loop.

A backend adds how its handlers wait and how they are woken.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..client import (
    PING,
    PING_TIMEOUT,
    SILENT,
    SLOW,
    BaseClient,
    Message,
    limit_reason,
    slow_reason,
    would_wait,
)
from ..compression import Deflate
from ..connection import CLOSED, CLOSING, OPEN, close_payload
from ..locks import Lock, thread_ident
from ..occasions import let_pass
from ..poller import Poller
from ..settings import Settings
from ..sockets import AT_ONCE, RawSocket

_log = logging.getLogger(__name__)

_OPEN = OPEN
_CLOSED = CLOSED
_CLOSING = CLOSING

# Bytes that are not worth copying to make one of several frames.
_MUCH = 65536
_AT_ONCE = AT_ONCE

#: Seconds between two looks at what is due: keepalive, and peers that take or say nothing.
TICK = 0.25


class Reactor:
    """The connections of one event loop.

    To be made in the loop's thread, after the worker's fork.
    """

    def __init__(self) -> None:
        self.poller = Poller()
        self.thread = thread_ident()
        self.pid = os.getpid()
        #: How many connections there are.
        self.count = 0
        #: Whether what is said now goes out at the end of a turn.
        self.in_turn = False
        #: How many calls are under way that may be followed at once by more to send.
        self.expecting = 0
        # By descriptor.
        self._clients: list[EventedClient | None] = []
        self._unsent: list[EventedClient] = []
        self._called = False
        self._counting = Lock()
        self._foreign_called = False
        self._foreign: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    # What a backend gives.

    def call_soon(self) -> None:
        """Have :meth:`send_all` called by the loop, in its thread, soon."""
        raise NotImplementedError

    def send_later(self) -> None:
        """Have :meth:`send_all` called in milliseconds, or when nothing is expected any more."""
        self.send_all()

    def call_from_thread(self) -> None:
        """Have :meth:`take_foreign` called by the loop; from any thread."""
        raise NotImplementedError

    def start(self) -> None:
        """There are connections now: watch the poller, and :meth:`tick` every ``TICK`` seconds."""
        raise NotImplementedError

    def stop(self) -> None:
        """There are no connections any more."""
        raise NotImplementedError

    # What the loop calls. Each passes on to one that C calls without an argument tuple, since
    # Cython can not hand such a one to a loop as a callback.

    def turn(self) -> None:
        """Serve the connections that are ready."""
        self._turn()

    def send_all(self) -> None:
        """Send what has been said since the last time."""
        self._send_all()

    def tick(self) -> None:
        """Do what time asks for."""
        self._tick()

    def _turn(self) -> None:
        poller = self.poller
        count = poller.wait()
        self.in_turn = True
        try:
            for i in range(count):
                client = self._clients[poller.fd(i)]
                if client is None:
                    continue
                try:
                    if poller.writable(i):
                        client.send_out()
                    if poller.readable(i):
                        client.read_in()
                        if poller.ended(i):
                            # That may have been the last bytes; the end itself is behind them.
                            client.read_again()
                except Exception:
                    self._failed(client)
        finally:
            self.in_turn = False
            self._send_all()

    def _send_all(self) -> None:
        self._called = False
        unsent = self._unsent
        self._unsent = []
        for client in unsent:
            try:
                client.send_out()
            except Exception:
                self._failed(client)

    def _tick(self) -> None:
        now = time.monotonic()
        for client in list(self._clients):
            if client is not None:
                try:
                    client.attend(now)
                except Exception:
                    self._failed(client)

    def take_foreign(self) -> None:
        """Do what other threads have left here."""
        # Before the look, so that what is left meanwhile is seen, or called for again.
        self._foreign_called = False
        foreign = self._foreign
        in_turn = self.in_turn
        self.in_turn = True
        try:
            while foreign:
                call, arguments = foreign.popleft()
                try:
                    call(*arguments)
                except Exception:
                    _log.exception("could not do what another thread asked for")
        finally:
            self.in_turn = in_turn
            if self._unsent and not in_turn:
                if self.expecting:
                    self.send_later()
                else:
                    self.send_all()

    def catch_up(self) -> None:
        """Do what other threads have left here, before what this one does next."""
        if self._foreign:
            self.take_foreign()

    def _failed(self, client: EventedClient) -> None:
        # One connection's trouble is not the others'.
        _log.exception("could not serve %r", client)
        client.lose()

    # What the clients call.

    def add(self, client: EventedClient) -> None:
        fd = client.fd
        if fd >= len(self._clients):
            self._clients.extend([None] * (fd + 1 - len(self._clients)))
        self.poller.watch(fd, True, False)
        self._clients[fd] = client
        self.count += 1
        if self.count == 1:
            self.start()

    def remove(self, client: EventedClient) -> None:
        fd = client.fd
        if self._clients[fd] is client:
            self.poller.watch(fd, False, False)
            self._clients[fd] = None
            self.count -= 1
            if self.count == 0:
                self.stop()

    def will_send(self, client: EventedClient) -> None:
        """Send what *client* has to say at the end of this turn."""
        self._unsent.append(client)
        if not self.in_turn and not self._called:
            self._called = True
            self.call_soon()

    def count_left(self, client: EventedClient, size: int) -> None:
        """Count the bytes that other threads have left for *client*; from any thread."""
        with self._counting:
            client._left += size

    def leave(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Have *call* made in the loop's thread, soon; from any thread, in order."""
        self._foreign.append((call, arguments))
        if not self._foreign_called:
            self._foreign_called = True
            self.call_from_thread()


class EventedClient(BaseClient):
    """A connection served by an event loop. See :class:`~.client.BaseClient`."""

    def __init__(
        self,
        environ: Mapping[str, Any],
        sock: socket.socket,
        settings: Settings,
        subprotocol: str | None,
        deflate: Deflate | None,
        reactor: Reactor,
    ) -> None:
        super().__init__(environ, sock, settings, subprotocol, deflate)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._raw = RawSocket(sock)
        self._reactor = reactor
        self._most_queued = settings.max_queue
        self._most_unsent = settings.write_limit
        self._most_shared = settings.room_limit
        # Messages received; those before _taken are gone.
        self._inbox: list[Any] = []
        self._taken = 0
        # What is being sent, of which _sent bytes are gone, and the frames after it.
        self._head: bytes | None = None
        self._sent = 0
        self._outbox: list[bytes] | None = None
        self._unsent = 0
        # Bytes that other threads have left with the reactor.
        self._left = 0
        self._will_send = False
        self._reading = True
        self._writing = False
        self._eof = False
        # Whether something came after our Close frame.
        self._answered = False
        self._lost = False
        # For attend: when the kernel last took bytes, of those that wait, and
        # when the connection ended.
        self._moved = False
        self._moved_at = 0.0
        self._ended_at: float | None = None
        # Whoever waits: one for a message, and all others, for whatever happens.
        self._receiver: Any = None
        self._others: list[Any] | None = None

    def attach(self, early: bytes = b"") -> None:
        """Begin to read; in the loop's thread.

        Apart from the making, so that a subclass whose ``__init__`` fails leaves nothing.

        :param early: what the server has read already.
        :raises OSError: if the kernel can not watch the socket.
        """
        self._reactor.add(self)
        if early:
            self._take_in(early)

    # What a backend gives.

    def _wake(self, waiter: Any) -> None:
        """Let one who waits look again."""
        raise NotImplementedError

    def changed(self) -> None:
        """Let all who wait look at the new state."""
        self._wake_receiver()
        if self._others:
            self._wake_others()

    def _wake_receiver(self) -> None:
        receiver = self._receiver
        if receiver is not None:
            self._receiver = None
            self._wake(receiver)

    def _wake_others(self) -> None:
        others, self._others = self._others, None
        for waiter in others or ():
            self._wake(waiter)

    def _add_waiter(self, waiter: Any, receiving: bool) -> None:
        if receiving and self._receiver is None:
            self._receiver = waiter
        elif self._others is None:
            self._others = [waiter]
        else:
            self._others.append(waiter)

    def _remove_waiter(self, waiter: Any) -> None:
        if self._receiver is waiter:
            self._receiver = None
        elif self._others and waiter in self._others:
            self._others.remove(waiter)

    # Reading.

    def read_in(self) -> None:
        """Read once and take what came. Called by the reactor."""
        data = self._raw.recv_now()
        if data is None:
            return
        if not data:
            self._eof = True
            self._connection.receive_eof()
            self._watch(False, self._writing)
            self.changed()
            return
        if len(data) == _AT_ONCE:
            self.read_again()
        self._take_in(data)

    def _take_in(self, data: bytes) -> None:
        """Take what came."""
        connection = self._connection
        self._heard = True
        self.bytes_received += len(data)
        if connection.state == _CLOSING:
            self._answered = True
        inbox = self._inbox
        before = len(inbox)
        connection.receive_into(data, inbox)
        if connection.has_replies:
            self._put(connection.take_replies())
        if self._asked_at:
            self._look_for_pong()
        if connection.state != _OPEN:
            self.changed()
        elif len(inbox) > before:
            self._wake_receiver()
            if self._others:
                self._wake_others()
        if connection.faulty:
            # Those who were woken run first, and may answer.
            self._reactor.leave(self.close_late, 1002, "")
        if self._has_enough():
            # TCP lets the peer wait: one that asks and does not read too.
            self._watch(False, self._writing)

    def read_again(self) -> None:
        """Have the poller tell of this connection again."""
        if self._reading and not self._eof and self.fd >= 0:
            self._reactor.poller.watch_again(self.fd)

    def _has_message(self) -> bool:
        return self._taken < len(self._inbox)

    def _is_too_late(self, deadline: float | None) -> bool:
        """Whether no message came before *deadline*, of ``time.monotonic()``."""
        return (
            deadline is not None
            and not self._has_message()
            and self._connection.state == _OPEN
            and time.monotonic() >= deadline
        )

    def _take(self) -> Message:
        """Take the next message off the queue."""
        inbox = self._inbox
        message: Message = inbox[self._taken]
        inbox[self._taken] = None
        self._taken += 1
        if self._taken == len(inbox):
            inbox.clear()
            self._taken = 0
        elif self._taken >= 1000 and self._taken * 2 >= len(inbox):
            # A handler that is never quite up to date must not pile them up.
            del inbox[: self._taken]
            self._taken = 0
        if not self._reading:
            self._read_on()
        return message

    def _read_on(self) -> None:
        """Read again, if what stopped it has passed."""
        if (
            not self._eof
            and self.fd >= 0
            and (
                len(self._inbox) - self._taken <= self._most_queued // 2
                or self._connection.state != _OPEN
            )
            and not self._has_enough()
        ):
            self._watch(True, self._writing)

    def _has_enough(self) -> bool:
        """Whether the peer has to wait: its messages, or what it asks for, are too many."""
        queued = len(self._inbox) - self._taken
        return self._unsent > self._most_unsent or (
            # What comes after the end is thrown away, down to the peer's Close frame.
            queued >= self._most_queued and self._connection.state == _OPEN
        )

    def _watch(self, reading: bool, writing: bool) -> None:
        self._reading = reading
        self._writing = writing
        if self.fd >= 0:
            self._reactor.poller.watch(self.fd, reading, writing)

    # Writing.

    def _put(self, frame: bytes) -> None:
        """Send a frame at the end of this turn. In the loop's thread."""
        if self._connection.compresses:
            frame = self._connection.compress(frame)
        self._put_ready(frame)

    def _put_ready(self, frame: bytes) -> None:
        """Send a frame that is compressed, if it has to be."""
        if self._head is None:
            self._head = frame
        elif self._outbox is None:
            self._outbox = [frame]
        else:
            self._outbox.append(frame)
        self._unsent += len(frame)
        if not self._will_send and not self._writing:
            self._will_send = True
            self._reactor.will_send(self)

    def send_out(self) -> None:
        """Send what the kernel takes. In the loop's thread."""
        self._will_send = False
        while self._head is not None:
            if self._outbox is not None and self._sent == 0 and len(self._head) < _MUCH:
                self._join()
            data = self._head
            count = self._raw.send_now(data, self._sent)
            if count < 0:
                self.lose()
                return
            if count:
                self._moved = True
            self._unsent -= count
            self.bytes_sent += count
            self._sent += count
            if self._sent < len(data):
                # The kernel is full; the poller tells when it is not.
                break
            self._sent = 0
            self._head = None
            if self._outbox is not None:
                self._join()
        waiting = self._head is not None
        if self._writing != waiting:
            self._moved = True
            self._watch(self._reading, waiting)
        if self._unsent <= self._most_unsent:
            if not self._reading:
                self._read_on()
            if self._others:
                self._wake_others()

    def _join(self) -> None:
        """Make one of as many frames as are worth copying."""
        pieces = [] if self._head is None else [self._head]
        size = sum(map(len, pieces))
        outbox = self._outbox or []
        count = 0
        for frame in outbox:
            if count and size >= _MUCH:
                break
            pieces.append(frame)
            size += len(frame)
            count += 1
        self._head = b"".join(pieces)
        self._outbox = outbox[count:] or None

    def put_late(self, frame: bytes) -> None:
        """Send a frame that another thread has left."""
        self._reactor.count_left(self, -len(frame))
        if self._connection.state == _OPEN:
            self._put(frame)

    def put_ready_late(self, frame: bytes) -> None:
        """The same for one that is compressed."""
        self._reactor.count_left(self, -len(frame))
        if self._connection.state == _OPEN:
            self._put_ready(frame)

    def _leave(self, frame: bytes) -> None:
        """Leave a frame for the loop, from another thread."""
        self._reactor.count_left(self, len(frame))
        self._reactor.leave(self.put_late, frame)

    def _has_much_to_send(self) -> bool:
        return self._unsent + self._left > self._most_unsent

    @property
    def unsent(self) -> int:
        return self._unsent + self._left

    def check_room(self) -> None:
        """See that a message can be sent without waiting; from any thread.

        :raises BlockingIOError: if much is waiting to be sent.
        """
        if self._connection.state == _OPEN and self._has_much_to_send():
            if not self._is_foreign():
                # It waits for the end of this turn, perhaps, and not for the client.
                self.send_out()
            if self._has_much_to_send():
                raise would_wait(self._unsent + self._left)

    def put_shared(self, frame: bytes, ready: bool) -> bool:
        if self._connection.state != _OPEN or (
            self._unsent + self._left > self._most_shared and not self._has_caught_up()
        ):
            return False
        self._connection.messages_sent += 1
        # Behind what another thread has left for the loop, since that was sent before.
        if not self._is_foreign() and self._left == 0:
            if ready:
                self._put_ready(frame)
            else:
                self._put(frame)
        elif ready:
            self._reactor.count_left(self, len(frame))
            self._reactor.leave(self.put_ready_late, frame)
        else:
            self._leave(frame)
        return True

    def _has_caught_up(self) -> bool:
        """Whether more can be sent to the client at second sight; it is given up if not."""
        if self._is_foreign():
            self._reactor.leave(self.give_up_late)
            return False
        # It waits for the end of this turn, perhaps, and not for the client.
        self.send_out()
        if self._unsent + self._left > self._most_shared:
            self.give_up(SLOW, 1008, limit_reason(self._unsent + self._left))
        return bool(self._connection.state == _OPEN)

    def give_up_late(self) -> None:
        """See for another thread whether the client has to be given up as a slow one."""
        if self._connection.state == _OPEN:
            self._has_caught_up()

    def put_now(self, frame: bytes) -> None:
        """Send a frame without waiting, from any thread."""
        if self._is_foreign():
            self._leave(frame)
        else:
            self._put(frame)

    def _is_foreign(self) -> bool:
        return bool(thread_ident() != self._reactor.thread)

    def _send_foreign(self, frame: bytes) -> None:
        """Leave a frame for the loop, from another thread, and wait if there is much.

        :raises ConnectionClosed: if the connection ends meanwhile.
        """
        self._leave(frame)
        while self._has_much_to_send():
            let_pass(0.001)
            if self._connection.state != _OPEN:
                raise self._ended()

    # Ending.

    def start_closing(self, code: int, reason: str) -> bool:
        """Send the Close frame; gives whether none was sent before. In the loop's thread."""
        frame = self._connection.close(code, reason)
        if not frame:
            return False
        self._put(frame)
        # What still comes is thrown away, down to the answer.
        self._watch(not self._eof, self._writing)
        self.changed()
        return True

    def _close_foreign(self, code: int, reason: str) -> None:
        """Do the closing handshake from another thread."""
        close_payload(code, reason)
        if self._connection.state != _OPEN:
            return
        deadline = time.monotonic() + self._settings.close_timeout
        self._reactor.leave(self.close_late, code, reason)
        while self._connection.state != _CLOSED and time.monotonic() < deadline:
            let_pass(0.002)
        self._reactor.leave(self.finish_closing)

    # What takes several waits is a generator, which waits at each yield for a
    # change or the deadline that it gives; so it stands here for handlers that
    # block and for coroutines.

    def closing(self, code: int, reason: str) -> Iterator[float]:
        """Do the closing handshake, :rfc:`6455` section 7.1.2. In the loop's thread."""
        # What other threads have sent goes before the Close frame.
        self._reactor.catch_up()
        if not self.start_closing(code, reason):
            return
        deadline = time.monotonic() + self._settings.close_timeout
        while self._connection.state != _CLOSED and time.monotonic() < deadline:
            yield deadline
        self.finish_closing()

    def settling(self) -> Iterator[float]:
        """See that the peer gets all that was sent, before the socket is closed.

        A socket closed with bytes unread resets the connection, and the peer
        may never see the Close frame. So our side is shut first, and the rest
        is read until the peer closes too.
        """
        # Not for ever: attend() ends a connection that takes no bytes.
        while self._head is not None:
            yield time.monotonic() + TICK
        deadline = time.monotonic() + self._settings.close_timeout
        if self._connection.state == _CLOSING:
            # Where we failed the connection the peer's answer comes first: uWSGI's router
            # ends both sides when it sees one end.
            while not (self._answered or self._eof) and time.monotonic() < deadline:
                yield deadline
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        while not self._eof and time.monotonic() < deadline:
            yield deadline

    def catching_up(self) -> Iterator[float]:
        """Wait while there is much to send.

        :raises ConnectionClosed: if the connection is lost meanwhile.
        """
        while self._unsent > self._most_unsent:
            yield time.monotonic() + TICK
        if self._lost:
            raise self._ended()

    def close_late(self, code: int, reason: str) -> None:
        """Begin the closing handshake for another thread."""
        self.start_closing(code, reason)

    @property
    def idle(self) -> bool:
        return self._receiver is not None and self._taken >= len(self._inbox)

    def begin_close(self, code: int, reason: str) -> None:
        close_payload(code, reason)
        if self._is_foreign():
            self._reactor.leave(self.close_late, code, reason)
        else:
            self.start_closing(code, reason)

    def begin_close_if_idle(self, code: int, reason: str) -> None:
        close_payload(code, reason)
        if self._is_foreign():
            self._reactor.leave(self.close_idle_late, code, reason)
        else:
            self.close_idle_late(code, reason)

    def close_idle_late(self, code: int, reason: str) -> None:
        """The same for another thread, whose look at :attr:`idle` may be out of date."""
        if self.idle:
            self.start_closing(code, reason)

    def end_waiting(self) -> None:
        self._reactor.leave(self.finish_closing)

    def finish_closing(self) -> None:
        """Wait for the peer's Close frame no longer."""
        self._connection.receive_eof()
        self.changed()

    def tell_at_last(self, code: int, reason: str) -> None:
        """Send the Close frame from another thread, where the loop is stuck and the worker ends."""
        frame = self._connection.close(code, reason)
        if frame and self.fd >= 0:
            # The loop is not asked to send it.
            self._will_send = True
            self._put(frame)
            self.send_out()

    def give_up(self, cause: str, code: int, reason: str) -> None:
        """End the connection with a peer from which nothing can be expected."""
        frame = self._connection.close(code, reason)
        if frame:
            self.dropped = cause
            self._put(frame)
            self.send_out()
        self.lose()

    def lose(self) -> None:
        """End the connection without another word, and wake who waits on it."""
        self._lost = True
        self._connection.receive_eof()
        self._drop_unsent()
        self._watch(self._reading, False)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.changed()

    def _drop_unsent(self) -> None:
        self._head = None
        self._outbox = None
        self._sent = 0
        self._unsent = 0

    def give_back(self) -> None:
        """Close the socket."""
        self._connection.receive_eof()
        if self.fd >= 0:
            self._reactor.remove(self)
            self.fd = -1
        self._eof = True
        self._drop_unsent()
        self._socket.close()
        # Its number may be another connection's from here on.
        self._raw = RawSocket(self._socket)
        self.changed()

    def attend(self, now: float) -> None:
        """Do what time asks for. Called by the reactor.

        :param now: ``time.monotonic()``.
        """
        if self._writing:
            if self._moved:
                self._moved = False
                self._moved_at = now
            elif now - self._moved_at > self._settings.send_timeout:
                self.give_up(SLOW, 1008, slow_reason(self._settings.send_timeout))
                return
        if self._connection.state != _OPEN:
            # The handler does not look; do not keep the peer waiting for it.
            if self._ended_at is None or self._writing:
                self._ended_at = now
            elif now - self._ended_at > self._settings.close_timeout and not self._lost:
                self.lose()
            return
        if not self._reading:
            # We do not listen now, so that silence says nothing of the peer.
            self._heard = True
        due = self._keep_alive(now)
        if due == PING:
            self._put(self._keepalive_ping())
        elif due == SILENT:
            self.give_up(PING_TIMEOUT, 1011, "keepalive ping timeout")
