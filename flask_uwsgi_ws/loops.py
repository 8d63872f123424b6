"""The event loops of the asyncio backend: which kind, whose tasks, and when uWSGI gets its own."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import os
import selectors
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from .servers import loop_engine, uwsgi_module
from .unpatched import threads_are_patched

#: Environment variable that forbids uvloop with ``0``.
UVLOOP = "FLASK_UWSGI_WS_UVLOOP"

# Descriptors of a loop of uvloop's, and some more: without them it ends the process.
_UVLOOPS = 10

#: The client whose handler this is, or that started this task; it is told of the tasks
#: that are started from here. A task that is to outlive its handler is started in a context
#: without it: ``contextvars.Context().run(asyncio.create_task, coroutine)``.
task_owner: contextvars.ContextVar[Any] = contextvars.ContextVar("task_owner")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop, uvloop's where it is installed, that knows its handlers' tasks."""
    loop = _make_loop()
    loop.set_task_factory(_make_task)
    return loop


def _make_loop() -> asyncio.AbstractEventLoop:
    if threads_are_patched() and loop_engine() != "asyncio":
        return _GreenEventLoop()
    if os.environ.get(UVLOOP) != "0":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            need_descriptors(_UVLOOPS)
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


class _GreenEventLoop(asyncio.SelectorEventLoop):
    """A loop in a greenlet, that lets the others of its thread go on while it waits.

    For a server whose threads gevent or eventlet has made greenlets, as everything that the
    standard library waits with.
    """

    def __init__(self) -> None:
        self._waiting = _GreenSelector(self, _green_selector())
        super().__init__(self._waiting)

    def run_forever(self) -> None:
        self._waiting.keep_other()
        asyncio._set_running_loop(None)
        super().run_forever()


class _GreenSelector(selectors.BaseSelector):
    """Waits as gevent or eventlet does; for who asks in its thread its loop does not run meanwhile.

    Another one may, that of a view which is a coroutine.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, selector: selectors.BaseSelector) -> None:
        self._loop, self._selector = loop, selector
        self._other: asyncio.AbstractEventLoop | None = None

    def keep_other(self) -> None:
        """Take note of the loop that runs, and waits, in another greenlet."""
        self._other = asyncio._get_running_loop()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        asyncio._set_running_loop(self._other)
        try:
            if timeout == 0:
                # A loop that is never idle must not keep the others from running.
                time.sleep(0)
            return self._selector.select(timeout)
        finally:
            self.keep_other()
            asyncio._set_running_loop(self._loop)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._selector.get_map()

    def close(self) -> None:
        self._selector.close()


def _green_selector() -> selectors.BaseSelector:
    patcher = sys.modules.get("eventlet.patcher")
    # Who has patched, and not who is merely here.
    if patcher is not None and patcher.already_patched:
        name, kind = "eventlet.green.selectors", "DefaultSelector"
    else:
        name, kind = "gevent.selectors", "GeventSelector"
    selector: selectors.BaseSelector = getattr(importlib.import_module(name), kind)()
    return selector


def need_descriptors(count: int) -> None:
    """See that so many descriptors are left.

    :raises OSError: if not.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coro, loop=loop, **options)
    context = options.get("context")
    owner = task_owner.get(None) if context is None else context.get(task_owner)
    if owner is not None:
        owner.own(task)
    return task


def prepare_engine() -> None:
    """Give uWSGI's asyncio engine a loop of ours, in each worker.

    Since Python 3.12 there is none unless it is set, and one that was made
    before the fork would be shared by the workers.
    """
    uwsgi = uwsgi_module()
    if uwsgi is None or loop_engine() != "asyncio":
        return
    if uwsgi.worker_id():
        # Loaded in the worker (--lazy-apps).
        _set_loop()
    else:
        after_fork(_set_loop)


def _set_loop() -> None:
    asyncio.set_event_loop(new_event_loop())


def after_fork(call: Callable[[], None]) -> None:
    """Have *call* made in each worker when it starts (``uwsgi.post_fork_hook``)."""
    uwsgi: Any = uwsgi_module()
    before = getattr(uwsgi, "post_fork_hook", None)

    def hook() -> None:
        if before is not None:
            before()
        call()

    uwsgi.post_fork_hook = hook
