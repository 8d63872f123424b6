"""What all the workers of a server have counted, for uWSGI's metrics and for Prometheus.

Each worker writes its counts once a second into a row of its own, in memory that all workers
share since it was made before they were forked. Where each worker loads the app by itself
(``--lazy-apps``) there is no such memory, and each knows its own counts only.
"""

from __future__ import annotations

import _thread
import logging
import mmap
import os
from dataclasses import fields
from typing import Any

from .clients import Clients, Snapshot
from .ending import worker_end
from .library import add_to_metric
from .locks import Lock, pause
from .loops import after_fork
from .servers import uwsgi_module, uwsgi_options
from .unpatched import unpatched

_log = logging.getLogger(__name__)

#: Seconds between two writings.
PERIOD = 1.0

#: The close codes that are counted one by one; all others are counted as ``"other"``.
CODES = tuple(range(1000, 1016))

_NAMES = tuple(field.name for field in fields(Snapshot) if field.name != "closed")

#: The names of the counts in a row, as uWSGI's metrics have them after ``websocket.``.
COUNTS = (*_NAMES, *(f"closed.{code}" for code in CODES), "closed.other")

#: Those that go down too.
GAUGES = ("open", "unsent")

#: The options with which uWSGI (``--enable-metrics``) is told of the metrics.
METRIC_OPTIONS = tuple(
    f"name=websocket.{name},type={'gauge' if name in GAUGES else 'counter'}" for name in COUNTS
)

_LENGTH = len(COUNTS)


class Statistics:
    """The counts of one extension in all workers.

    To be made when the app is loaded.

    :param clients: those of this worker.
    """

    def __init__(self, clients: Clients) -> None:
        uwsgi: Any = uwsgi_module()
        workers = int(getattr(uwsgi, "numproc", 0) or 1)
        self._clients = clients
        # Anonymous and shared with the processes that are forked.
        self._rows = memoryview(mmap.mmap(-1, 8 * _LENGTH * (workers + 1))).cast("q")
        self._lock = Lock()
        self._pid = 0
        # What a worker before this one had counted, and what uWSGI's metrics have of all that.
        self._before = [0] * _LENGTH
        self._told = [0] * _LENGTH
        if uwsgi is not None and not uwsgi.worker_id():
            # So that a worker that follows one that died forgets the other's connections.
            after_fork(self.start)

    def start(self) -> None:
        """Begin to write this worker's counts, if that has not begun.

        :raises RuntimeError: if there is no thread for it.
        """
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return
            start = self._row()
            self._before = list(self._rows[start : start + _LENGTH])
            self._told = list(self._before)
            # The connections of a worker that died are gone.
            for name in GAUGES:
                self._before[COUNTS.index(name)] = 0
            unpatched(_thread, "start_new_thread")(self._run, ())
            worker_end().call_last(self.write)
            self._pid = os.getpid()

    def workers(self) -> dict[int, dict[str, int]]:
        """Give what each worker has counted, by its number, with :data:`COUNTS` as names."""
        self.start()
        self.write()
        rows = len(self._rows) // _LENGTH
        return {
            number: dict(
                zip(COUNTS, self._rows[number * _LENGTH : (number + 1) * _LENGTH], strict=True)
            )
            for number in range(rows)
            if number or rows == 1 or any(self._rows[:_LENGTH])
        }

    def write(self) -> None:
        """Write this worker's counts."""
        with self._lock:
            counts = [
                now + before
                for now, before in zip(_row(self._clients.snapshot()), self._before, strict=True)
            ]
            start = self._row()
            for i, count in enumerate(counts):
                self._rows[start + i] = count
            if "enable-metrics" in uwsgi_options():
                self._tell_uwsgi(counts)

    def _tell_uwsgi(self, counts: list[int]) -> None:
        for name, now, told in zip(COUNTS, counts, self._told, strict=True):
            # Metrics are all workers': each adds what is new.
            if now != told:
                add_to_metric(f"websocket.{name}", now - told)
        self._told = counts

    def _row(self) -> int:
        uwsgi: Any = uwsgi_module()
        number = uwsgi.worker_id() if uwsgi is not None else 0
        return number * _LENGTH if (number + 1) * _LENGTH <= len(self._rows) else 0

    def _run(self) -> None:
        while True:
            try:
                self.write()
            except Exception:
                _log.exception("could not write the statistics")
            pause(PERIOD)


def _row(snapshot: Snapshot) -> list[int]:
    counts: list[int] = [getattr(snapshot, name) for name in _NAMES]
    counts += [snapshot.closed.get(code, 0) for code in CODES]
    counts.append(sum(count for code, count in snapshot.closed.items() if code not in CODES))
    return counts
