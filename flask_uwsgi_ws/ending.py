"""The end of a worker: its clients are told, and its handlers may finish, before uWSGI ends it.

However uWSGI ends a worker, it is learnt of in one of three ways:

* by a signal, of which ``signals.py`` tells;
* by a call of ``uwsgi.atexit``, after a graceful end that no signal came before;
* by ``limits.py``, where uWSGI does not look whether it should end.

A thread of its own ends the connections. Where uWSGI runs an event loop that does not come back,
since a handler computes without a pause, that thread ends the process as well.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import os
import signal
import socket
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from . import signals
from .limits import limit_is_reached, limits_are_set
from .locks import Lock, pause
from .servers import has_master, loop_engine, threads_run, uwsgi_module, uwsgi_options
from .unpatched import unpatched

if TYPE_CHECKING:
    from .clients import Clients

_log = logging.getLogger(__name__)

#: The close codes for a worker that another follows, and for one that none does (:rfc:`6455`
#: section 7.4.1 and the IANA registry that section 11.7 set up).
SERVICE_RESTART, GOING_AWAY = 1012, 1001

_REASONS = {SERVICE_RESTART: "service restart", GOING_AWAY: "going away"}

# Seconds that a handler has to answer what it has received, before its client is told.
_GRACE = 0.5

# Between two looks at who is left.
_MOMENT = 0.01

# Where nobody waits for handlers any more: for the loops to begin the closes, at most, and for
# the Close frames to leave.
_HURRY, _LAST_MOMENT = 1.0, 0.05

# Seconds in which an event loop that works comes by.
_TURN = 0.5

# Exit codes by which uWSGI's master knows that a worker ended as it was told.
_RELOADED, _STOPPED = 17, 30

# Seconds in which a signal comes twice and means it once: Ctrl-C reaches the worker from the
# terminal and from the master, a service manager may signal both as well.
_TWICE = 1.0


class WorkerEnd:
    """Ends the connections of this process when uWSGI ends it."""

    def __init__(self) -> None:
        #: The close code, once the end has begun; 0 before.
        self.code = 0
        self._began_at = 0.0
        self._first = 0
        self._registries: weakref.WeakSet[Clients] = weakref.WeakSet()
        self._last_calls: list[Callable[[], None]] = []
        self._lock = Lock()
        # What is left to do before the end is learnt of; each may find no thread or descriptor.
        self._steps = [
            self._start_ending,
            self._watch_signals,
            self._watch_limits,
            self._watch_exit,
        ]
        self._starting = Lock()
        # What the thread for the end waits for, and the signal that it passes on, 0 for none.
        self._ordered = Lock()
        self._ordered.acquire()
        self._ending = False
        self._signal = 0
        self._done = False
        self._hurried = False
        # uWSGI is ending the process, or has been told to.
        self._leaving = False
        self._exiting = False
        # Has something called by the event loop that uWSGI runs, where there is one.
        self._call_in_loop: Callable[[Callable[[], object]], object] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening: list[int] = []

    def watch(self, clients: Clients) -> None:
        """See that *clients* are told.

        To be called when there is one; where uWSGI runs an event loop, in its thread. After an
        error it may be called again.

        :raises RuntimeError: if there is no thread for it.
        :raises OSError: if there is no descriptor for it.
        """
        with self._lock:
            self._registries.add(clients)
        if not self._steps or uwsgi_module() is None or not threads_run():
            return
        with self._starting:
            while self._steps:
                self._steps[0]()
                del self._steps[0]

    def call_in_loop(self, call: Callable[[Callable[[], object]], object]) -> None:
        """Take note of how to have something called by the event loop that uWSGI runs.

        :param call: takes what is to be called, from any thread.
        """
        self._call_in_loop = call

    def call_last(self, call: Callable[[], None]) -> None:
        """Call something in any thread when all connections have ended, before uWSGI goes on."""
        self._last_calls.append(call)

    # How it is learnt of.

    def _start_ending(self) -> None:
        # At the end there may be no thread to be had.
        _start_thread(self._wait_for_order)

    def _watch_signals(self) -> None:
        if loop_engine() == "asyncio":
            self._loop = asyncio.get_running_loop()
            self._call_in_loop = self._loop.call_soon_threadsafe
            # Now, as long as there is a descriptor to look with.
            self._listening = list(_listening())
        signals.catch(self._told)

    def _watch_limits(self) -> None:
        if limits_are_set():
            _start_thread(self._look_at_limits)

    def _look_at_limits(self) -> None:
        while not self.code:
            pause(1)
            if limit_is_reached() and not self.code:
                os.kill(os.getpid(), signal.SIGHUP)
                return

    def _watch_exit(self) -> None:
        uwsgi: Any = uwsgi_module()
        before = getattr(uwsgi, "atexit", None)
        pid = os.getpid()

        def at_exit() -> None:
            # Not in what the app has forked: the connections are the worker's.
            if os.getpid() == pid:
                with self._lock:
                    self._leaving = True
                signals.take_back()
                self.begin(SERVICE_RESTART if has_master() else GOING_AWAY)
                self._let_end(0)
                while not (self._done or self._hurried):
                    # gevent's, where its loop has to go on meanwhile.
                    time.sleep(_MOMENT)
                self._exiting = True
            if before is not None:
                before()

        uwsgi.atexit = at_exit

    def _told(self, number: int) -> None:
        """A signal came; in the thread that waits for them."""
        if self._is_told_twice(number):
            return
        if self.code:
            self._hurry(number)
            return
        self.begin(close_code(number))
        # uWSGI's graceful end waits at uwsgi.atexit, but for the asyncio engine's, which ends at
        # once, as all others do.
        graceful = number == signal.SIGHUP and self._loop is None
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._accept_no_more)
        if graceful:
            signals.pass_on(number)
        self._let_end(0 if graceful else number)

    def _is_told_twice(self, number: int) -> bool:
        first = self._first = self._first or number
        # A stop after a reload is something else.
        same = number == signal.SIGHUP or first != signal.SIGHUP
        return bool(self.code) and same and time.monotonic() - self._began_at < _TWICE

    def _hurry(self, number: int) -> None:
        """Tell those who are left and wait for nobody: who signals again will not."""
        left = [client for each in list(self._registries) for client in each]
        for client in left:
            client.begin_close(close_code(number), reason(close_code(number)))
        end = time.monotonic() + _HURRY
        while any(client.connected for client in left) and time.monotonic() < end:
            pause(_MOMENT)
        pause(_LAST_MOMENT)
        # Not before: uWSGI, where it waits at uwsgi.atexit, goes on then.
        self._hurried = True
        self._pass_on(number)
        self._see_that_the_loop_turns()

    def _accept_no_more(self) -> None:
        """Leave those who connect to the next worker; the asyncio engine goes on otherwise."""
        assert self._loop is not None
        for fd in self._listening:
            self._loop.remove_reader(fd)

    def _pass_on(self, number: int) -> None:
        with self._lock:
            # Not while it exits (see signals.take_back).
            if self._leaving:
                return
            self._leaving = True
        if self._loop is None:
            signals.pass_on(number)
        else:
            # Between two callbacks, where the process can be ended.
            self._loop.call_soon_threadsafe(self._engine_ends, number)

    def _engine_ends(self, number: int) -> None:
        self._exiting = True
        signals.pass_on(number)

    # The end.

    def begin(self, code: int) -> None:
        """Accept no more connections, and know with which code those that are here end."""
        with self._lock:
            if not self.code:
                self._began_at = time.monotonic()
                self.code = code

    def _let_end(self, number: int) -> None:
        """Have the thread for the end do its work, once, and then pass a signal on."""
        with self._lock:
            mine, self._ending = not self._ending, True
        if mine:
            self._signal = number
            self._ordered.release()

    def _wait_for_order(self) -> None:
        self._ordered.acquire()
        try:
            close_all(list(self._registries), self.code)
            for call in self._last_calls:
                call()
        except Exception:
            _log.exception("could not end all connections")
        finally:
            self._done = True
        if self._signal and not self._hurried:
            self._pass_on(self._signal)
        self._see_that_the_loop_turns()

    def _see_that_the_loop_turns(self) -> None:
        """End the process if a handler keeps its loop from coming back, since uWSGI can not then.

        Where no handler is left it is a view that does, for which uWSGI has its own patience.
        """
        while self._call_in_loop is not None and not self._exiting:
            turned = Lock()
            turned.acquire()
            self._call_in_loop(turned.release)
            if not turned.acquire(True, _TURN) and any(self._registries) and not self._exiting:
                self._end_process()
            pause(_MOMENT)

    def _end_process(self) -> None:
        _log.error(
            "a handler that computes without a pause keeps the event loop from ending; this "
            "worker ends without it: let such work run in a thread"
        )
        os._exit(_RELOADED if self.code == SERVICE_RESTART else _STOPPED)


def close_all(
    registries: list[Clients], code: int, wait: Callable[[float], object] = pause
) -> None:
    """Tell all clients, and wait for their handlers.

    :param registries: who they are.
    :param code: the close code.
    :param wait: lets some seconds pass.
    """
    start = time.monotonic()
    clients = [client for each in registries for client in each]
    window = max((each.close_window for each in registries), default=0.0)
    patience = max((each.close_timeout for each in registries), default=0.0)
    due = [(start + i * window / len(clients), client) for i, client in enumerate(clients)]
    while due:
        now = time.monotonic()
        left = []
        for when, client in due:
            # At once if its handler has nothing to answer, else a little later.
            if now >= when + _GRACE:
                client.begin_close(code, reason(code))
                continue
            if now >= when and client.idle:
                client.begin_close_if_idle(code, reason(code))
            if client.connected:
                left.append((when, client))
        due = left
        if due:
            wait(_MOMENT)
    deadline = start + window + patience
    while any(each or each.expected for each in registries) and time.monotonic() < deadline:
        wait(_MOMENT)
    # Those too that have come meanwhile, whose handshakes had been answered.
    for client in [client for each in registries for client in each]:
        if client.connected:
            # Its event loop is stuck.
            client.tell_at_last(code, reason(code))


def reason(code: int) -> str:
    """Give the reason that goes with a close code of ours."""
    return _REASONS[code]


def close_code(number: int) -> int:
    """Say which close code goes with a signal that ends the worker.

    :param number: the signal.
    :returns: 1012 where another worker follows this one, 1001 where none does.
    """
    # The master ends a worker with SIGHUP to reload it and SIGINT to stop it, and with SIGTERM,
    # where that is not a stop (--die-on-term), to reload it brutally.
    stops = number == signal.SIGINT or (
        number == signal.SIGTERM and "die-on-term" in uwsgi_options()
    )
    return GOING_AWAY if stops or not has_master() else SERVICE_RESTART


def _listening() -> Iterable[int]:
    """Find the sockets on which this process accepts connections."""
    for name in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=int(name))
        except OSError:
            continue
        try:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                yield int(name)
        finally:
            # Not ours to close.
            sock.detach()


def _start_thread(call: Callable[[], None]) -> None:
    unpatched(_thread, "start_new_thread")(call, ())


_ends: dict[int, WorkerEnd] = {}


def worker_end() -> WorkerEnd:
    """Give the one of this process."""
    pid = os.getpid()
    # Of several threads that are the first to ask, all get the same.
    return _ends.get(pid) or _ends.setdefault(pid, WorkerEnd())
