"""Measures one server under one workload."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .process import Failed, Process, cpu_seconds
from .servers import BUILD, Server
from .workloads import WARM_UP, Workload

# Beyond the connections, for those that a server has not noticed the end of.
SPARE = 120
# Memory is read when what the connections' opening left behind is collected.
SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Sample:
    """What one run gave; *figure* in the workload's unit."""

    figure: float
    cpu_us: float
    p50_us: float | None = None
    p99_us: float | None = None


class Load:
    """A ``wsload`` that waits for :meth:`go`, until the end of the ``with`` block."""

    def __init__(self, arguments: Sequence[str], port: int, seconds: float, cpus: set[int]) -> None:
        parts = [part.format(port=port, seconds=seconds) for part in arguments]
        self._process = subprocess.Popen(
            [str(BUILD / "wsload"), *parts],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_error: object) -> None:
        # It ends at once when its stdin does, unless it still opens connections.
        self._process.kill()
        self._process.communicate()

    def wait_until_ready(self) -> None:
        self._read()

    def cpu_seconds(self) -> float:
        """Give its user and system time, in seconds; also of one that has ended by itself."""
        return cpu_seconds(self._process.pid)

    def go(self) -> dict[str, Any]:
        """Let it work, and give what it printed. It ends by itself when the server stalls."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        result: dict[str, Any] = json.loads(self._read())
        return result

    def _read(self) -> str:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"the load stopped: {self._process.stderr.read().strip()}")
        return line


def measure(server: Server, workload: Workload, seconds: float) -> Sample:
    """Run a server on the first core and the load on the last.

    :raises Failed: if the server does not start, or answers wrongly or not at all.
    """
    first, last = cores()
    with Process(server.command, workload.connections + SPARE, {first}) as process:
        try:
            if workload.is_memory:
                return _memory(process, workload, {last})
            return _rate(process, workload, seconds, {last})
        except (Failed, OSError) as failure:
            raise Failed(f"{failure} (the server's last line: {process.last_line()})") from failure


def cores() -> tuple[int, int]:
    """Give the server's core and the load's; one and the same where there is but one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def _rate(process: Process, workload: Workload, seconds: float, cpus: set[int]) -> Sample:
    with Load(workload.load, process.port, seconds, cpus) as load:
        load.wait_until_ready()
        before = process.cpu_seconds()
        result = load.go()
        cpu = process.cpu_seconds() - before
    if not result["count"]:
        raise Failed(f"not one {workload.counted} in {seconds} seconds")
    rate = result["count"] / result["seconds"]
    return Sample(rate, cpu / result["count"] * 1e6, result["p50"], result["p99"])


def _memory(process: Process, workload: Workload, cpus: set[int]) -> Sample:
    with Load(WARM_UP, process.port, 0, cpus) as load:
        load.wait_until_ready()
        load.go()
    time.sleep(SETTLE_SECONDS)
    with Load(workload.load, process.port, 0, cpus) as load:
        load.wait_until_ready()
        cpu, memory = process.cpu_seconds(), process.memory()
        load.go()
        time.sleep(SETTLE_SECONDS)
        cpu, memory = process.cpu_seconds() - cpu, process.memory() - memory
    connections = workload.connections
    return Sample(memory / 1024 / connections, cpu / connections * 1e6)
