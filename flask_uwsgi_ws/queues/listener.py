"""What Redis tells a worker, on a connection of its own."""

from __future__ import annotations

import contextlib
import logging
import random
import select
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redis import RedisError

from ..client import worker_token
from ..rooms import Place
from .base import read_place
from .clients import FAILURES, AwayError, RefusedError, close
from .letters import Letter, decode

if TYPE_CHECKING:
    from .redis import RedisQueue

_log = logging.getLogger(__name__)

# Seconds of silence after which Redis is asked whether it is there.
_SILENCE = 5.0
# Seconds between the attempts to reach it again: the first, and the most of them.
_BACK_OFF = 0.1, 1.0
# Seconds that a client that joins waits for Redis to say that its room is subscribed.
_PATIENCE = 5.0
# Publishers of a channel whose numbers are known.
_PUBLISHERS = 1000


class Listener:
    """Has the connection on which Redis tells, which nobody else touches."""

    def __init__(self, queue: RedisQueue) -> None:
        self._queue = queue
        self._lock = threading.Lock()
        # Rooms whose members came or went, and what wakes the listener to look at them.
        self._changed: set[str] = set()
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        # Of the connection: what is subscribed, answers that are to come, and what is confirmed.
        self._subscribed: set[str] = set()
        self._pending: dict[str, int] = {}
        self._confirmed: set[str] = set()
        self._waiting: dict[str, threading.Event] = {}
        # Why Redis is lost; empty while it is not.
        self.why = ""
        self._connected = False
        # By room, the place of the last message; by channel and publisher's tag, its number.
        self._places: dict[str, Place] = {}
        self._heard: dict[str, OrderedDict[str, int]] = {}

    # What others call.

    def need(self, room: str) -> None:
        """Wait until a room is subscribed, if Redis is there."""
        with self._lock:
            if room in self._confirmed:
                return
            waiting = None if self.why else self._waiting.setdefault(room, threading.Event())
        # Also while Redis is lost: it may be just about to be back.
        self.look_at(room)
        if waiting is not None:
            waiting.wait(_PATIENCE)

    def look_at(self, room: str) -> None:
        """See whether a room is to be subscribed, or not any more."""
        with self._lock:
            self._changed.add(room)
        # If it does not go in, it has been rung often enough.
        with contextlib.suppress(BlockingIOError):
            self._ring.send(b"!")

    # Its own thread.

    def run(self) -> None:
        attempt = 0
        while True:
            client = None
            self._connected = False
            try:
                client = self._queue.connect()
                pubsub = client.pubsub()
                try:
                    self._listen(pubsub)
                finally:
                    pubsub.close()
            except Exception as error:
                self._lose(error)
            finally:
                if client is not None:
                    close(client)
            attempt = 0 if self._connected else attempt + 1
            least, most = _BACK_OFF
            # A part of it by chance, so that not all workers come back at the same moment.
            time.sleep(min(least * 2**attempt, most) * random.uniform(0.5, 1))

    def _listen(self, pubsub: Any) -> None:
        queue = self._queue
        with self._lock:
            self._changed.update(queue.rooms.names())
            self._subscribed.clear()
            self._pending.clear()
            self._confirmed.clear()
        pubsub.subscribe(queue.key("all", ""), queue.key("worker", worker_token()))
        # There is no public name for it; get_message would not wake when the bell rings.
        wait = _waiter(pubsub.connection._sock, self._bell)
        asked = False
        while True:
            # What has begun to come is waited for; without a timeout the rest of a large message
            # in TLS would be an error.
            if pubsub.connection.can_read(timeout=0):
                # Who joins while much comes is not to wait for the end of it.
                self._subscribe(pubsub)
                message = pubsub.get_message(timeout=_SILENCE)
                asked = False
                if message is not None:
                    self._take(message)
                continue
            self._subscribe(pubsub)
            ready = wait(_SILENCE)
            if not ready:
                if asked:
                    raise RedisError(f"no answer within {_SILENCE:g} seconds")
                pubsub.ping()
                asked = True
            elif self._bell.fileno() in ready:
                self._bell.recv(4096)

    def _subscribe(self, pubsub: Any) -> None:
        """Subscribe to the rooms that have members now, and to no others."""
        if not self._changed:
            return
        wanted, unwanted = [], []
        with self._lock:
            for room in self._changed:
                here = room in self._queue.rooms
                if not here and (waiting := self._waiting.pop(room, None)) is not None:
                    # Whoever came has gone.
                    waiting.set()
                if here and room not in self._subscribed:
                    self._subscribed.add(room)
                    self._pending[room] = self._pending.get(room, 0) + 1
                    wanted.append(self._queue.key("room", room))
                elif not here:
                    # Also of one that was left while Redis was lost.
                    self._places.pop(room, None)
                    self._heard.pop(self._queue.key("room", room), None)
                    if room in self._subscribed:
                        self._subscribed.remove(room)
                        self._confirmed.discard(room)
                        unwanted.append(self._queue.key("room", room))
            self._changed.clear()
        if unwanted:
            pubsub.unsubscribe(*unwanted)
        if wanted:
            pubsub.subscribe(*wanted)

    def _take(self, message: dict[str, Any]) -> None:
        kind, channel = message["type"], message["channel"]
        if kind == "message":
            self._hear(channel.decode(), message["data"])
        elif kind == "subscribe":
            if not self._connected:
                self._connected = True
                self._find()
            prefix = self._queue.key("room", "")
            if channel.decode().startswith(prefix):
                self._confirm(channel.decode().removeprefix(prefix))

    def _confirm(self, room: str) -> None:
        with self._lock:
            self._pending[room] -= 1
            if self._pending[room]:
                # It was left and needed again; another answer is to come.
                return
            del self._pending[room]
        if self._queue.has_history and room in self._queue.rooms:
            try:
                self._catch_up(room)
            except RefusedError as error:
                # It is this room's trouble, and not that of others.
                _log.warning("the history of room %r can not be read: %s", room, error)
        with self._lock:
            if room not in self._subscribed:
                # Left again; who waits for it has come since, and is told the next time.
                return
            self._confirmed.add(room)
            waiting = self._waiting.pop(room, None)
        if waiting is not None:
            waiting.set()

    def _catch_up(self, room: str) -> None:
        """Deliver what the room's history has beyond the last message that was heard."""
        queue, channel = self._queue, self._queue.key("room", room)
        place = self._places.get(room)
        if place is None:
            last = queue.read_history(room, 1)
            self._places[room] = last[-1][0] if last else (0, 0)
            # Who came while Redis was lost here has had the history up to some message.
            place = queue.rooms.begin_at(room, self._places[room])
        if place is None:
            return
        letters = queue.read_history(room)
        if letters and (0, 0) < place < letters[0][0]:
            _log.warning("the history of room %r does not go back to the last message here", room)
        for there, letter in letters:
            if there > place:
                self._places[room] = max(there, self._places[room])
                if self._is_new(channel, letter, counts=False):
                    self._deliver(queue.deliver, room, letter.message, letter.skip, there)

    def _hear(self, channel: str, data: bytes) -> None:
        id, _, rest = data.partition(b"\n")
        found = decode(rest)
        try:
            place = read_place(id.decode()) if id else None
        except ValueError:
            found = None
        if found is None:
            _log.warning("ignored what somebody else published to %r", channel)
            return
        letter, sender = found
        prefix = self._queue.key("room", "")
        room = channel.removeprefix(prefix)
        # What was on its way when the last member left is nobody's, though others may have come.
        if channel.startswith(prefix) and (room not in self._subscribed or room in self._pending):
            return
        if place is not None:
            if place <= self._places.get(room, (0, 0)):
                return
            self._places[room] = place
        # What this worker itself has published its clients have had from there.
        counts = place is None and sender != self._queue.token
        if self._is_new(channel, letter, counts):
            self._deliver(self._queue.hear, channel, place, letter, sender)

    @staticmethod
    def _deliver(call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception:
            # One message's trouble is not the others'.
            _log.exception("could not deliver a message")

    def _is_new(self, channel: str, letter: Letter, counts: bool) -> bool:
        """Look at a message's number; those that are missing before it are lost."""
        heard = self._heard.setdefault(channel, OrderedDict())
        last = heard.pop(letter.tag, None)
        heard[letter.tag] = letter.number if last is None else max(last, letter.number)
        if len(heard) > _PUBLISHERS:
            heard.popitem(last=False)
        if last is None:
            return True
        missing = letter.number - last - 1
        if missing > 0 and counts:
            self._queue.rooms.count_lost(missing)
            _log.warning("%d messages to %r did not arrive in this worker", missing, channel)
        return missing >= 0

    def _find(self) -> None:
        """Redis is here, maybe again."""
        was_lost, self.why = self.why, ""
        self._queue.back()
        if was_lost:
            _log.warning("Redis is back")

    def _lose(self, error: Exception) -> None:
        if not self.why:
            self.why = f"{AwayError.because(error)}"
            _log.error(
                "Redis is lost: %s; until it is back, clients get no messages of other workers",
                error,
                # What is no trouble with Redis is one of ours.
                exc_info=None if isinstance(error, (*FAILURES, AwayError)) else error,
            )
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        for each in waiting:
            each.set()


def _waiter(*sockets: socket.socket) -> Callable[[float], list[int]]:
    """Give what waits so many seconds for one of them to be readable, and gives these."""
    fds = [each.fileno() for each in sockets]
    if not hasattr(select, "poll"):
        # eventlet has taken it away, since it has none that lets others run.
        return lambda seconds: select.select(fds, [], [], seconds)[0]
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return lambda seconds: [fd for fd, _ in poll.poll(seconds * 1000)]
