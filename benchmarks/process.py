"""Starts a server, says what its processes use, and ends them."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

START_SECONDS, STOP_SECONDS = 20, 3
TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A server or the load did not do what was asked of it."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def allow_descriptors() -> int:
    """Raise the limit of open descriptors, for servers and load alike, and give it."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    return limit


def end_servers_on_signals() -> None:
    """Leave every ``with`` block when this program is told to end, by SIGTERM or Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit("ended"))


class Process:
    """A server and its children, until the end of the ``with`` block.

    :param command: in which ``{port}`` and ``{cores}`` are replaced.
    :param cores: see :class:`~benchmarks.servers.Server`.
    :param cpus: those that the server may run on.
    """

    def __init__(self, command: Sequence[str], cores: int, cpus: set[int]) -> None:
        self.port = free_port()
        self._command = [part.format(port=self.port, cores=cores) for part in command]
        self._cpus = cpus

    def __enter__(self) -> Process:
        self._log = tempfile.TemporaryFile()
        # A process group of its own, so that stop() reaches the workers too.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, self._cpus),
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._log.close()

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise Failed(f"it did not start: {self.last_line()}")

    def last_line(self) -> str:
        """Give the last thing that it logged, or the last error if there was one."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        errors = [line for line in lines if "Error" in line]
        return (errors or lines or ["it logged nothing"])[-1]

    def children(self) -> list[int]:
        return _children(self._process.pid)

    def cpu_seconds(self) -> float:
        """Give user and system time of all its processes, in seconds."""
        return sum(cpu_seconds(pid) for pid in self._pids())

    def memory(self) -> int:
        """Give the memory in bytes of all its processes, as resident in each (Rss)."""
        return sum(_rss(pid) for pid in self._pids())

    def _pids(self) -> list[int]:
        pids = [self._process.pid]
        for pid in pids:
            pids += _children(pid)
        return pids


def cpu_seconds(pid: int) -> float:
    """Give user and system time of one process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _children(pid: int) -> list[int]:
    # Of every thread: gunicorn and uWSGI fork in the main one, others need not.
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        # One that has ended meanwhile has left its children to another.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _rss(pid: int) -> int:
    # Not the proportional part (Pss): that grows by megabytes, whatever the connections, when a
    # worker writes to pages that it shared with its parent, as a garbage collection does.
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise Failed("this kernel does not say what memory a process has")
