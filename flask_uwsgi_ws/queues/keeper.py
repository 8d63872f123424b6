"""What a worker tells Redis every now and then: that it lives, and who is in its rooms."""

from __future__ import annotations

import json
import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ..client import worker_token
from .clients import AwayError, RefusedError

if TYPE_CHECKING:
    from .redis import RedisQueue

_log = logging.getLogger(__name__)

#: Seconds that a worker counts as living after it has said so.
ALIVE = 10
# Seconds between two times.
_BEAT = 3.0
#: Seconds that the list of a room's members lasts, unless it is written again.
PRESENCE = 3600
_REWRITE = 1200.0
# Rooms of which is told at once.
_AT_ONCE = 500


class Keeper:
    """Says that this worker lives and who is in its rooms, and sends what was kept."""

    def __init__(self, queue: RedisQueue) -> None:
        self._queue = queue
        self._work = threading.Event()
        self._lock = threading.Lock()
        # By room, those who have left.
        self._left: dict[str, set[str]] = {}
        self._write_at = self._beat_at = 0.0

    def forget(self, room: str, id: str) -> None:
        """A client has left a room."""
        with self._lock:
            self._left.setdefault(room, set()).add(id)
        self._work.set()

    def write_all(self) -> None:
        """Say again who is in the rooms."""
        self._write_at = 0.0
        self._work.set()

    def look(self) -> None:
        """A message has been kept."""
        self._work.set()

    def run(self) -> None:
        while True:
            due = min(self._beat_at, self._queue.kept_due())
            self._work.wait(max(due - time.monotonic(), 0.0))
            self._work.clear()
            is_time = time.monotonic() >= min(self._beat_at, self._write_at)
            if is_time:
                self._beat_at = time.monotonic() + _BEAT
            for step in (self._say_who_is_here, self._unwrite, self._queue.send_kept):
                if step == self._say_who_is_here and not is_time:
                    continue
                try:
                    step()
                except AwayError as error:
                    self._write_at, self._beat_at = 0.0, time.monotonic() + _BEAT
                    # If it is lost, the listener says so, and calls when it is back. What it
                    # refuses of one thing it may do of the next.
                    if not isinstance(error, RefusedError):
                        break
                except Exception:
                    _log.exception("could not tell Redis who is here")
                    self._beat_at = time.monotonic() + _BEAT
                    break

    def _say_who_is_here(self) -> None:
        self._live()
        if time.monotonic() >= self._write_at:
            self._write()

    def _live(self) -> None:
        self._beat_at = time.monotonic() + _BEAT
        key = self._queue.key("alive", worker_token())
        if not self._queue.command("exists", key):
            # Others may have taken this worker for one that was killed, and its clients for gone.
            self._write_at = 0.0
        self._queue.command("set", key, 1, ex=ALIVE)

    def _write(self) -> None:
        self._write_at = time.monotonic() + _REWRITE
        rooms = self._queue.rooms.names()
        for start in range(0, len(rooms), _AT_ONCE):
            self._queue.do_all(partial(self._add, rooms[start : start + _AT_ONCE]))
            self._beat_meanwhile()

    def _add(self, rooms: list[str], pipe: Any) -> None:
        for room in rooms:
            here = self._queue.rooms.presence(room)
            if here:
                key = self._queue.key("presence", room)
                values = {id: json.dumps(info) for id, info in here.items()}
                pipe.hset(key, mapping=values)
                pipe.expire(key, PRESENCE)

    def _unwrite(self) -> None:
        while self._left:
            with self._lock:
                left = [self._left.popitem() for _ in range(min(_AT_ONCE, len(self._left)))]
            try:
                self._queue.do_all(partial(self._remove, left))
            except AwayError:
                with self._lock:
                    for room, ids in left:
                        self._left.setdefault(room, set()).update(ids)
                raise
            self._beat_meanwhile()

    def _remove(self, left: list[tuple[str, set[str]]], pipe: Any) -> None:
        for room, ids in left:
            # Some may have come again.
            gone = ids - self._queue.rooms.presence(room).keys()
            if gone:
                pipe.hdel(self._queue.key("presence", room), *gone)

    def _beat_meanwhile(self) -> None:
        """Say that this worker lives, while something takes longer than that may wait."""
        if time.monotonic() >= self._beat_at:
            self._live()
