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
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from .ending import GOING_AWAY, SERVICE_RESTART, close_all, reason, worker_end
from .occasions import let_pass
from .servers import gunicorn_worker, server_hub

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

    :raises OSError: if there is no descriptor left for it.
    :raises RuntimeError: if there is no thread left.
    """
    global _watched_by
    _registries.add(clients)
    before = _watched_by
    if before == os.getpid():
        return
    # Before others can be here: who starts a greenlet lets them run.
    _watched_by = os.getpid()
    try:
        worker = gunicorn_worker()
        if worker is not None:
            # A greenlet in a worker of greenlets, whose clients are theirs.
            threading.Thread(target=_watch, args=(worker,), daemon=True).start()
        elif server_hub():
            _watch_interrupt(server_hub())
    except BaseException:
        _watched_by = before
        raise
    if not before:
        atexit.register(_tell)


def _watch(worker: Any) -> None:
    # A worker whose arbiter was killed ends without a word.
    while worker.alive and os.getppid() == worker.ppid:
        time.sleep(_MOMENT)
    worker_end().begin(SERVICE_RESTART)
    close_all(list(_registries), SERVICE_RESTART, time.sleep)


def _watch_interrupt(hub: str) -> None:
    """Learn of Ctrl-C in a server of greenlets.

    After it eventlet's server waits for its connections, without an end, and in gevent's it ends
    whichever greenlet runs, which may be one that serves a client, or all of them.

    :param hub: whose greenlets they are.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    told: list[int] = []

    def end() -> None:
        _begin_all(GOING_AWAY)
        # In the hub, from where it reaches the main greenlet.
        signal.default_int_handler(told[0], None)

    ring = _gevent_bell(end) if hub == "gevent" else _eventlet_bell(end)

    def interrupted(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if len(told) > 1:
            signal.default_int_handler(number, frame)
        ring()

    # Only the main thread may.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, interrupted)


def _gevent_bell(call: Callable[[], None]) -> Callable[[], None]:
    """Give what has the hub of this thread make a call, from a signal handler too."""
    gevent: Any = importlib.import_module("gevent")
    watcher = gevent.get_hub().loop.async_(ref=False)
    watcher.start(call)
    ring: Callable[[], None] = watcher.send
    return ring


def _eventlet_bell(call: Callable[[], None]) -> Callable[[], None]:
    hubs: Any = importlib.import_module("eventlet.hubs")
    hub: Any = hubs.get_hub()
    bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def rung(_: int) -> None:
        os.eventfd_read(bell)
        call()

    hub.add(hub.READ, bell, rung, lambda _: None, None)
    return lambda: os.eventfd_write(bell, 1)


def _begin_all(code: int) -> list[Any]:
    clients = [client for each in _registries for client in each]
    for client in clients:
        client.begin_close(code, reason(code))
    return clients


def _tell() -> None:
    # Werkzeug's reloader starts the program anew; a stop looks the same from here. gunicorn does
    # not tell a worker why it ends.
    follows = os.environ.get("WERKZEUG_RUN_MAIN") == "true" or gunicorn_worker() is not None
    code = SERVICE_RESTART if follows else GOING_AWAY
    clients = _begin_all(code)
    end = time.monotonic() + _HURRY
    while any(client.connected for client in clients) and time.monotonic() < end:
        let_pass(0.01)
    for client in clients:
        if client.connected:
            # Its loop is stuck.
            client.tell_at_last(code, reason(code))
    if clients:
        let_pass(_LAST_MOMENT)
