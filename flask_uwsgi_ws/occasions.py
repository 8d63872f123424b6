"""Waiting, in a thread or in a greenlet of a server's, for what another thread does."""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any

from .locks import Lock, pause
from .servers import server_hub
from .unpatched import threads_are_patched


class Occasion:
    """Is waited for by the one who made it, until somebody, in any thread, says that it is here.

    Where a server's hub runs the one who waits, gevent's or eventlet's, others go on meanwhile.
    """

    def __init__(self) -> None:
        self._hub = server_hub()
        self._lock = Lock()
        self._over = False
        if self._hub:
            self._fd = os.eventfd(0, os.EFD_CLOEXEC)
        else:
            self._waiting = Lock()
            self._waiting.acquire()

    def set(self) -> None:
        """It is here; to be called once."""
        if not self._hub:
            self._waiting.release()
            return
        with self._lock:
            if not self._over:
                os.eventfd_write(self._fd, 1)
        self._leave()

    def wait(self) -> None:
        """Wait for it; to be called once."""
        if not self._hub:
            self._waiting.acquire()
            return
        try:
            _wait_to_read(self._hub, self._fd)
        finally:
            # A greenlet that is killed does not wait to the end.
            self._leave()

    def _leave(self) -> None:
        """One of the two is done with the descriptor; the second one closes it."""
        with self._lock:
            is_last, self._over = self._over, True
        if is_last:
            os.close(self._fd)


def let_pass(seconds: float) -> None:
    """Let some time pass, in this thread or, where it is a hub's, in this greenlet."""
    local = sys.modules.get("gevent._hub_local")
    if threads_are_patched():
        time.sleep(seconds)
    elif local is not None and local.get_hub_if_exists() is not None:
        # A server of gevent's whose program has not patched the standard library.
        gevent: Any = importlib.import_module("gevent")
        gevent.sleep(seconds)
    else:
        pause(seconds)


def _wait_to_read(hub: str, fd: int) -> None:
    if hub == "gevent":
        sockets: Any = importlib.import_module("gevent.socket")
        sockets.wait_read(fd)
    else:
        hubs: Any = importlib.import_module("eventlet.hubs")
        hubs.trampoline(fd, read=True)
