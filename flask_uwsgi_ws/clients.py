"""The clients of one extension in this worker, and what has been counted of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .client import PING_TIMEOUT, SLOW
from .locks import Lock
from .settings import Settings


@dataclass(frozen=True)
class Snapshot:
    """What was counted in this worker since it started."""

    #: Connections now.
    open: int
    #: Connections there ever were.
    opened: int
    #: Connections that have ended, by close code (:rfc:`6455` section 7.4).
    closed: Mapping[int, int]
    #: Messages each way, and bytes, those of frames and control frames among them.
    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int
    #: Bytes that wait now to be sent, besides those that the kernel has taken.
    unsent: int
    #: Clients that were closed because they took no bytes for ``send_timeout``.
    slow_clients: int
    #: Clients that were closed because they did not answer a Ping within ``ping_timeout``.
    ping_timeouts: int
    #: Handlers that raised.
    handler_errors: int
    #: Frames made for messages to rooms and to all, one for all their members.
    shared_frames: int
    #: Messages that clients were sent with these.
    shared_messages: int
    #: Messages of the message queue that did not arrive in this worker.
    queue_lost: int


#: The counts that are sums over clients.
TRAFFIC = ("messages_received", "messages_sent", "bytes_received", "bytes_sent")


class Clients:
    """The clients of this worker: iterable from any thread, safe while they come and go.

    In ``AsyncioWebSocket`` a client's methods are coroutines; its ``sync`` has the others.
    """

    def __init__(self) -> None:
        self._clients: set[Any] = set()
        self._lock = Lock()
        self._opened = 0
        self._closed: Counter[int] = Counter()
        self._dropped: Counter[str] = Counter()
        self._handler_errors = 0
        self._shared_frames = self._shared_messages = self._queue_lost = 0
        # Of those that have ended.
        self._traffic = dict.fromkeys(TRAFFIC, 0)
        #: Handshakes that have been answered, or are being, whose clients are not here yet.
        self.expected = 0
        #: Requests that last as long as their handlers.
        self.held = 0
        #: Seconds, as in the settings; set with the first client.
        self.close_timeout = self.close_window = 0.0

    def __iter__(self) -> Iterator[Any]:
        """Give those that are here at this moment."""
        with self._lock:
            return iter(list(self._clients))

    def __len__(self) -> int:
        return len(self._clients)

    def __contains__(self, client: object) -> bool:
        return getattr(client, "_client", client) in self._clients

    def __repr__(self) -> str:
        return f"<{len(self)} clients>"

    def snapshot(self) -> Snapshot:
        """Give what has been counted in this worker."""
        with self._lock:
            traffic = dict(self._traffic)
            for client in self._clients:
                for name in TRAFFIC:
                    traffic[name] += getattr(client, name)
            return Snapshot(
                open=len(self._clients),
                unsent=sum(client.unsent for client in self._clients),
                opened=self._opened,
                closed=dict(self._closed),
                slow_clients=self._dropped[SLOW],
                ping_timeouts=self._dropped[PING_TIMEOUT],
                handler_errors=self._handler_errors,
                shared_frames=self._shared_frames,
                shared_messages=self._shared_messages,
                queue_lost=self._queue_lost,
                **traffic,
            )

    # For the middleware.

    def expect(self, settings: Settings) -> None:
        """A handshake is about to be answered with 101."""
        with self._lock:
            self.expected += 1
            self.close_timeout = settings.close_timeout
            self.close_window = settings.close_window

    def expect_no_more(self) -> None:
        """Its connection is here, or will not come."""
        with self._lock:
            self.expected -= 1

    def hold(self) -> None:
        """A request has begun that lasts as long as its handler."""
        with self._lock:
            self.held += 1

    def let_go(self) -> None:
        """It ends now."""
        with self._lock:
            self.held -= 1

    def add(self, client: Any) -> None:
        """A connection is open."""
        with self._lock:
            self._clients.add(client)
            self._opened += 1

    def remove(self, client: Any) -> bool:
        """A connection has ended and its handler too; gives whether it was here."""
        with self._lock:
            if client not in self._clients:
                return False
            self._clients.remove(client)
            self._closed[client.close_code or 1006] += 1
            if client.dropped:
                self._dropped[client.dropped] += 1
            for name in TRAFFIC:
                self._traffic[name] += getattr(client, name)
            return True

    def count_handler_error(self) -> None:
        with self._lock:
            self._handler_errors += 1

    def count_fanout(self, frames: int, messages: int) -> None:
        """Frames have been made, and sent so many times."""
        with self._lock:
            self._shared_frames += frames
            self._shared_messages += messages

    def count_lost(self, messages: int) -> None:
        """Messages of the queue have not arrived."""
        with self._lock:
            self._queue_lost += messages
