"""The end of a server that is not uWSGI: its clients are told.

``flask run`` and programs that serve the app themselves end with Ctrl-C, and with Werkzeug's
reloader when a file changes; this learns of it when the program ends. A worker of gunicorn's is
told to end by its arbiter (a reload, a stop, ``--timeout``, ``--max-requests``) and then waits
for its requests, at most ``--graceful-timeout`` seconds.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import signal
import threading
import time
import weakref
from types import FrameType
from typing import TYPE_CHECKING, Any

from .ending import GOING_AWAY, SERVICE_RESTART, close_all, reason, worker_end
from .occasions import let_pass
from .servers import server_hub

if TYPE_CHECKING:
    from .clients import Clients

# Seconds for the loops to begin the closes, at most, and for the Close frames to leave.
_HURRY, _LAST_MOMENT = 0.5, 0.05

# Seconds between two looks at whether gunicorn's worker is to end; it may do so 0.1 s later.
_MOMENT = 0.05

_registries: weakref.WeakSet[Clients] = weakref.WeakSet()
_watched_by = 0


def tell_at_end(clients: Clients) -> None:
    """See that *clients* are told of the end of this program, or worker.

    To be called in a request.
    """
    global _watched_by
    _registries.add(clients)
    if _watched_by != os.getpid():
        if not _watched_by:
            atexit.register(_tell)
        _watched_by = os.getpid()
        worker = _gunicorn_worker()
        if worker is not None:
            # A greenlet in a worker of greenlets, whose clients are theirs.
            threading.Thread(target=_watch, args=(worker,), daemon=True).start()
        elif server_hub() == "eventlet":
            _watch_interrupt()


def _gunicorn_worker() -> Any:
    # There is no other way to it than through its signal handlers.
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return worker if hasattr(worker, "alive") and hasattr(worker, "cfg") else None


def _watch(worker: Any) -> None:
    while worker.alive:
        time.sleep(_MOMENT)
    worker_end().begin(SERVICE_RESTART)
    close_all(list(_registries), SERVICE_RESTART, time.sleep)


def _watch_interrupt() -> None:
    """Learn of Ctrl-C, after which eventlet's server waits for its connections, without an end."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    hubs: Any = importlib.import_module("eventlet.hubs")
    hub: Any = hubs.get_hub()
    bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    told: list[int] = []

    def end(_: int) -> None:
        os.eventfd_read(bell)
        _begin_all(GOING_AWAY)
        # In the hub, from where it reaches the main greenlet.
        signal.default_int_handler(told[0], None)

    def interrupted(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if len(told) > 1:
            signal.default_int_handler(number, frame)
        # Not here, where it would end whichever greenlet runs.
        os.eventfd_write(bell, 1)

    hub.add(hub.READ, bell, end, lambda _: None, None)
    # Only the main thread may.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, interrupted)


def _begin_all(code: int) -> list[Any]:
    clients = [client for each in _registries for client in each]
    for client in clients:
        client.begin_close(code, reason(code))
    return clients


def _tell() -> None:
    # Werkzeug's reloader starts the program anew; a stop looks the same from here. gunicorn does
    # not tell a worker why it ends.
    follows = os.environ.get("WERKZEUG_RUN_MAIN") == "true" or _gunicorn_worker() is not None
    code = SERVICE_RESTART if follows else GOING_AWAY
    clients = _begin_all(code)
    end = time.monotonic() + _HURRY
    while any(client.connected for client in clients) and time.monotonic() < end:
        let_pass(0.01)
    if clients:
        let_pass(_LAST_MOMENT)
