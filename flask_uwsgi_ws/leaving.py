"""The end of a server that is not uWSGI: its clients are told.

``flask run`` and programs that serve the app themselves end with Ctrl-C, and with Werkzeug's
reloader when a file changes; this learns of it when the program ends, and holds the program up for
handlers that end meanwhile. A worker of gunicorn's is told to end by its arbiter (a reload, a stop,
``--timeout``, ``--max-requests``) and then waits for its requests, at most
``--graceful-timeout`` seconds.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import importlib
import os
import signal
import time
import weakref
from types import FrameType
from typing import TYPE_CHECKING, Any

from .ending import GOING_AWAY, SERVICE_RESTART, close_all, reason, worker_end
from .occasions import let_pass
from .servers import gunicorn_worker, server_hub

if TYPE_CHECKING:
    from .clients import Clients

# Seconds for the loops to begin the closes, at most, and for the Close frames to leave.
_HURRY, _LAST_MOMENT = 0.5, 0.05

# Seconds for those to be here whose handshakes have been answered: a busy machine may need some.
_ARRIVAL = 5.0

# Seconds within which one handler of several has to end, for the others to have more.
_PATIENCE = 1.0

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
            # Not a Thread, of which a process that the app forks would have lost count.
            _thread.start_new_thread(_watch, (worker,))
        elif server_hub() == "eventlet":
            _watch_interrupt()
    except BaseException:
        _watched_by = before
        raise
    if not before:
        atexit.register(_tell)


def _watch(worker: Any) -> None:
    pid = os.getpid()
    # A worker whose arbiter was killed ends without a word.
    while worker.alive and os.getppid() == worker.ppid:
        time.sleep(_MOMENT)
    if os.getpid() != pid:
        # A greenlet in what the app has forked.
        return
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


def pass_interrupt_on(error: BaseException) -> bool:
    """Give Ctrl-C, which came while this greenlet was the one that ran, to gevent's main greenlet.

    :param error: what was raised here.
    :returns: whether it was that, in a greenlet of gevent's hub.
    """
    if not isinstance(error, KeyboardInterrupt) or server_hub() != "gevent":
        return False
    gevent: Any = importlib.import_module("gevent")

    def interrupt() -> None:
        raise error

    # What is raised in the hub reaches it.
    gevent.get_hub().loop.run_callback(interrupt)
    return True


def _begin_all(code: int) -> None:
    for each in _registries:
        for client in each:
            client.begin_close(code, reason(code))


def _tell() -> None:
    if _watched_by != os.getpid():
        # Forked by the app: the connections are those of the process that did.
        return
    # Werkzeug's reloader starts the program anew; a stop looks the same from here. gunicorn does
    # not tell a worker why it ends.
    follows = os.environ.get("WERKZEUG_RUN_MAIN") == "true" or gunicorn_worker() is not None
    code = SERVICE_RESTART if follows else GOING_AWAY
    # For those whose handshake is being answered.
    worker_end().begin(code)
    told: set[Any] = set()
    now = time.monotonic()
    last, end = now + _ARRIVAL, now + _HURRY
    while True:
        # Before the look at who is here, so that nobody is in neither.
        coming = any(each.expected for each in _registries) and now < last
        clients = {client for each in _registries for client in each}
        for client in clients - told:
            client.begin_close(code, reason(code))
            end = now + _HURRY
        told |= clients
        left = any(client.connected or client.unsent for client in told) and now < end
        if not coming and not left:
            break
        let_pass(0.01)
        now = time.monotonic()
    for client in told:
        if client.connected:
            # Its loop is stuck.
            client.tell_at_last(code, reason(code))
    if told:
        let_pass(_LAST_MOMENT)
    if not _handlers_end(_PATIENCE):
        for client in told:
            client.end_waiting()
        _handlers_end(_HURRY)


def _handlers_end(patience: float) -> bool:
    """Wait for the requests that last as long as their handlers, while they end one after another.

    A thread with a hub that goes on while Python ends would crash the process.

    :param patience: seconds within which one has to end, for the others to be waited for.
    :returns: whether all have ended.
    """
    before, end = 0, 0.0
    while held := sum(each.held for each in _registries):
        now = time.monotonic()
        if held < before or not before:
            before, end = held, now + patience
        if now >= end:
            return False
        let_pass(0.01)
    return True
