"""Connections on eventlet's hub, for ``WebSocket`` in a server of eventlet's."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

# It has no types.
import eventlet  # type: ignore[import-untyped,import-not-found,unused-ignore]
from eventlet import hubs

from ..compression import Deflate
from ..settings import Settings
from .evented import TICK
from .hubs import HubClient, HubReactor, reactor_of_thread


class _Timer:
    """A call in so many seconds, as gevent's timers are."""

    def __init__(self, hub: Any, seconds: float) -> None:
        self._hub, self._seconds, self._timer = hub, seconds, None

    def start(self, call: Callable[[], object]) -> None:
        self._timer = self._hub.schedule_call_global(self._seconds, call)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        self._timer = None


class EventletReactor(HubReactor):
    """The connections of this thread's hub."""

    def __init__(self) -> None:
        self._loop: Any = hubs.get_hub()
        super().__init__(
            self._loop.greenlet,
            partial(self._loop.schedule_call_global, 0),
            partial(_Timer, self._loop),
            eventlet.sleep,
        )
        self._listener: Any = None
        self._ticks: Any = None
        # What other threads wake the hub with, which is not for them to call.
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._listen(self._bell, self._rung)

    def _listen(self, fd: int, call: Callable[[], object]) -> Any:
        return self._loop.add(self._loop.READ, fd, lambda _: call(), lambda _: None, None)

    def _rung(self) -> None:
        os.eventfd_read(self._bell)
        self.take_foreign()

    def start(self) -> None:
        self._listener = self._listen(self.poller.fileno(), self.turn)
        self._tick_later()

    def stop(self) -> None:
        self._loop.remove(self._listener)
        self._ticks.cancel()

    def _tick_later(self) -> None:
        self._ticks = self._loop.schedule_call_global(TICK, self._tick_again)

    def _tick_again(self) -> None:
        self._tick_later()
        self.tick()

    def call_from_thread(self) -> None:
        os.eventfd_write(self._bell, 1)


class EventletWebSocketClient(HubClient):
    """A connection served by a greenlet of eventlet's. See :class:`~..client.BaseClient`."""

    def __init__(
        self,
        environ: Mapping[str, Any],
        sock: socket.socket,
        settings: Settings,
        subprotocol: str | None = None,
        deflate: Deflate | None = None,
    ) -> None:
        reactor = reactor_of_thread(EventletReactor)
        super().__init__(environ, sock, settings, subprotocol, deflate, reactor)
