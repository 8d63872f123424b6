"""The signals with which uWSGI ends a worker, told before uWSGI acts on them.

uWSGI's own handlers are C's: they end the worker from within the signal, or leave its main
thread waiting, so that no Python runs in time. Here Python's handler, which writes to a pipe,
takes their place, until :func:`pass_on` gives the signal to uWSGI after all.

``signal.signal`` works in the main thread only, where none of our code runs once uWSGI serves;
so :func:`prepare` has Python make its handler when the app is loaded, and :func:`catch` puts it
in place from any thread. The signals of a process that the app forks are not the worker's.
"""

from __future__ import annotations

import _thread
import ctypes
import logging
import os
import signal
from collections.abc import Callable
from typing import Any

from .locks import thread_ident
from .loops import after_fork
from .unpatched import unpatched

_log = logging.getLogger(__name__)

#: What uWSGI ends a worker with: a graceful reload, a stop, and a brutal reload or a stop.
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)

# More than the struct sigaction of any libc.
_SIZE = 1024
# Of the handler, which comes first.
_POINTER = ctypes.sizeof(ctypes.c_void_p)

_sigaction = ctypes.CDLL(None, use_errno=True).sigaction

#: Python's own handlers, and the descriptor they write to; none where they could not be had.
_pythons: dict[int, Any] = {}
_wakeup = -1
#: What Python would do, before :func:`catch`: KeyboardInterrupt while the app is loaded.
_before: dict[int, Any] = {}
_caught = False
_main = 0
#: uWSGI's, of which ours have taken the place.
_uwsgis: dict[int, Any] = {}


def _action(number: int, new: Any = None) -> Any:
    """Give what the process does on a signal, and have it do *new*."""
    old = ctypes.create_string_buffer(_SIZE)
    if _sigaction(int(number), new, old):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return old


def prepare() -> None:
    """Have Python make its handlers; in the main thread, when the app is loaded."""
    global _wakeup
    if _wakeup >= 0:
        return
    _wakeup = _sink()
    _make_handlers()
    # The app may have set others since, of signals that are uWSGI's in a worker.
    after_fork(_make_handlers)
    os.register_at_fork(after_in_child=_leave)


def _sink() -> int:
    """Open what takes the signals that are not ours to tell of."""
    return os.open(os.devnull, os.O_WRONLY | os.O_NONBLOCK)


def _make_handlers() -> None:
    global _main
    _pythons.clear()
    try:
        taken = signal.set_wakeup_fd(_wakeup, warn_on_full_buffer=False)
    except ValueError:
        # Not the main thread, or not of the main interpreter.
        return
    if taken not in (-1, _wakeup):
        _log.warning(
            "signal.set_wakeup_fd() is in use: when uWSGI stops this worker, "
            "its WebSocket clients will not be told"
        )
        signal.set_wakeup_fd(taken)
        return
    _main = thread_ident()
    for number in SIGNALS:
        uwsgis = _action(number)
        before = signal.signal(number, _late)
        if before is not _late:
            _before[number] = before
        _pythons[number] = _action(number)
        _action(number, uwsgis)


def catch(told: Callable[[int], None]) -> bool:
    """Take the signals from uWSGI, in this process; from any thread.

    :param told: called with the number of a signal, in a thread of its own.
    :returns: whether that could be done.
    :raises OSError: if there is no descriptor for it.
    :raises RuntimeError: if there is no thread for it.
    """
    global _caught
    if not _pythons:
        return False
    read, write = os.pipe()
    try:
        os.set_blocking(write, False)
        unpatched(_thread, "start_new_thread")(_tell, (read, told))
        os.dup2(write, _wakeup, inheritable=False)
    except RuntimeError:
        os.close(read)
        raise
    finally:
        os.close(write)
    _caught = True
    for number in SIGNALS:
        action = _action(number)
        # The app took it from uWSGI with signal.signal: then it does not end the worker.
        if action.raw[:_POINTER] != _pythons[number].raw[:_POINTER]:
            _uwsgis[number] = action
            _action(number, _pythons[number])
    return True


def pass_on(number: int) -> None:
    """Let uWSGI act on a signal, as if it came now."""
    if number in _uwsgis:
        _action(number, _uwsgis[number])
    # uWSGI ends the process in the thread that gets it, which has to be its own.
    signal.pthread_kill(_main, number)


def take_back() -> None:
    """Have those that were passed on told again; in the main thread, where uWSGI is exiting.

    uWSGI exits in its handler: called while it exits it would end the process at once, or meet a
    lock of the C library that the very thread it has stopped holds, and wait for ever.
    """
    for number in _uwsgis:
        _action(number, _pythons[number])
    # The one whose handler is exiting.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _uwsgis)


def _tell(read: int, told: Callable[[int], None]) -> None:
    while numbers := os.read(read, 16):
        for number in numbers:
            if number not in _uwsgis:
                continue
            try:
                told(number)
            except Exception:
                _log.exception("could not end all connections")
                pass_on(number)


def _late(number: int, frame: object) -> None:
    """Python's part of a signal, in the main thread, whenever that runs Python again."""
    if not _caught:
        before = _before.get(number)
        if callable(before):
            before(number, frame)
        return
    taken = signal.set_wakeup_fd(_wakeup, warn_on_full_buffer=False)
    if taken != _wakeup:
        # Somebody has our descriptor's place, an event loop for example, or had it.
        os.write(_wakeup, bytes([number]))
        if taken >= 0:
            signal.set_wakeup_fd(taken, warn_on_full_buffer=False)


def _leave() -> None:
    """Have signals end a process that the app has forked, and nothing else."""
    for number in _uwsgis:
        # SIG_DFL: uWSGI's handler would end the worker, by the memory that they share.
        _action(number, ctypes.create_string_buffer(_SIZE))
    _uwsgis.clear()
    # The pipe is the parent's.
    sink = _sink()
    os.dup2(sink, _wakeup, inheritable=False)
    os.close(sink)
