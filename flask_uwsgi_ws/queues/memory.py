"""Rooms of one process, and what they remember."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..locks import Lock
from ..rooms import Place
from .base import MessageQueue, Outgoing, QueueError, is_complete, place_id, wanted


@dataclass
class _History:
    messages: deque[tuple[Place, Outgoing]]
    used_at: float = 0.0


class MemoryQueue(MessageQueue):
    """Reaches the clients of this process, which has to be the only one.

    :param obstacle: says why there may be clients elsewhere; an empty text if there are not.
    """

    def __init__(self, *arguments: Any, obstacle: Callable[[], str]) -> None:
        super().__init__(*arguments)
        self._obstacle = obstacle
        self._lock = Lock()
        # Of each room, the last used at the end.
        self._history: OrderedDict[str, _History] = OrderedDict()
        self._last: Place = (0, 0)

    def _check(self) -> None:
        obstacle = self._obstacle()
        if obstacle:
            raise QueueError(
                f"{obstacle}; set UWSGI_WEBSOCKET_MESSAGE_QUEUE to the URL of the Redis that joins "
                "them, such as redis://localhost:6379"
            )

    def send_to(self, room: str, message: Outgoing, skip: str | None) -> str | None:
        self._check()
        if not self.settings.history:
            self.deliver(room, message, skip)
            return None
        # To the end under the lock: the order of the history is that of the members.
        with self._lock:
            now = time.time_ns() // 1_000_000
            place = self._last = max((now, 0), (self._last[0], self._last[1] + 1))
            self._keep(room, place, message)
            self.deliver(room, message, skip, place)
        return place_id(place)

    def _keep(self, room: str, place: Place, message: Outgoing) -> None:
        self._forget()
        kept = self._history.setdefault(room, _History(deque(maxlen=self.settings.history)))
        kept.messages.append((place, message))
        kept.used_at = time.monotonic()
        self._history.move_to_end(room)

    def _forget(self) -> None:
        """Drop the rooms that nothing has been said in for long."""
        oldest = time.monotonic() - self.settings.history_ttl
        while self._history and next(iter(self._history.values())).used_at < oldest:
            self._history.popitem(last=False)

    def broadcast(self, message: Outgoing, skip: str | None) -> None:
        self._check()
        self.deliver_to_all(message, skip)

    def send_to_client(self, id: str, message: Outgoing) -> bool:
        self._check()
        return self.deliver_to_client(id, message)

    def join(
        self, client: Any, room: str, info: Any, last: int | None, since: Place | None
    ) -> bool:
        wishes = last is not None or since is not None
        if wishes:
            self._check()
        self.rooms.add(client, room, info, wishes)
        if not wishes:
            return True
        with self._lock:
            self._forget()
            kept = self._history.get(room)
            messages = list(kept.messages) if kept else []
            self.catch_up(client, room, wanted(messages, last, since), None)
        return since is None or is_complete(messages, since)

    def leave(self, client: Any, rooms: Iterable[str]) -> None:
        """There is nobody else to tell."""

    def presence(self, room: str) -> dict[str, Any]:
        self._check()
        return self.rooms.presence(room)
