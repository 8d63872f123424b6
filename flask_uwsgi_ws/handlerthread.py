"""A thread that makes calls for another one, and a last one for itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

R = TypeVar("R")


class HandlerThread:
    """Runs what the app does before a handshake, and its handler after that.

    What these keep in variables of their thread, a database session for example, is the
    connection's then, and never seen by the next request of uWSGI's thread.

    :raises RuntimeError: if there is no thread to be had.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._ends = False
        threading.Thread(target=self._run, name="websocket handshake", daemon=True).start()

    def _run(self) -> None:
        while not self._ends:
            self._calls.get()()

    def call(self, function: Callable[..., R], *arguments: Any) -> R:
        """Make a call there and wait for it; gives and raises what it does."""
        done = threading.Lock()
        done.acquire()
        results: list[R] = []
        errors: list[BaseException] = []

        def call() -> None:
            try:
                results.append(function(*arguments))
            except BaseException as error:
                errors.append(error)
            finally:
                done.release()

        self._calls.put(call)
        done.acquire()
        if errors:
            raise errors.pop()
        return results.pop()

    def leave(self, last: Callable[[], object]) -> None:
        """Let the thread make a last call by itself, and end."""

        def call() -> None:
            self._ends = True
            last()

        self._calls.put(call)
