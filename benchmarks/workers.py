"""Measure two worker processes against one.

python -m benchmarks.workers [--seconds 3] [--rounds 3]

Here servers and load may run on all cores. On a machine of two cores the load takes
a part of what a second worker would need, so twice the rate is not to be had.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from dataclasses import dataclass

from . import install
from .measure import SPARE, Load
from .process import Failed, Process, cpu_seconds, end_servers_on_signals
from .servers import SERVERS, Server
from .workloads import WORKLOADS, Workload

NAMES = ("ours-threads", "ours-gevent", "ours-asyncio", "ours-asyncio-thread", "native-gevent")
WORKLOAD = next(workload for workload in WORKLOADS if workload.name == "50x32")


@dataclass(frozen=True)
class Sample:
    """*share*: the part of all the workers' CPU time that the busiest used."""

    rate: float
    share: float


def measure(server: Server, workload: Workload, workers: int, seconds: float) -> Sample:
    """Run a server with so many workers, each core open to all.

    :raises Failed: if it does not start, or answers wrongly or not at all.
    """
    cpus = os.sched_getaffinity(0)
    command = [*server.command, "--processes", str(workers)]
    with (
        Process(command, workload.connections + SPARE, cpus) as process,
        Load(workload.load, process.port, seconds, cpus) as load,
    ):
        load.wait_until_ready()
        before = {pid: cpu_seconds(pid) for pid in process.children()}
        result = load.go()
        used = [cpu_seconds(pid) - earlier for pid, earlier in before.items()]
    return Sample(result["count"] / result["seconds"], max(used) / (sum(used) or 1))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    end_servers_on_signals()
    install.build_programs()
    servers = [server for server in SERVERS if server.name in NAMES]
    samples: dict[tuple[str, int], list[Sample]] = {}
    failures = []
    for number in range(arguments.rounds):
        for server in servers:
            for workers in (1, 2):
                line = f"round {number + 1} of {arguments.rounds}: {server.name}, {workers}"
                print(f"\r{line:60}", end="", file=sys.stderr, flush=True)
                try:
                    sample = measure(server, WORKLOAD, workers, arguments.seconds)
                except (Failed, OSError) as failure:
                    failures.append(f"{server.name}, {workers} workers: {failure}")
                else:
                    samples.setdefault((server.name, workers), []).append(sample)
    print(f"\r{WORKLOAD.title}, all on {len(os.sched_getaffinity(0))} cores\n")
    print(f"{WORKLOAD.unit:20}{'1 worker':>10}{'2 workers':>10}{'ratio':>8}{'busier one':>12}")
    for server in servers:
        one, two = samples.get((server.name, 1)), samples.get((server.name, 2))
        if one is None or two is None:
            print(f"{server.name:20}{'n/a':>10}")
            continue
        alone = statistics.median(sample.rate for sample in one)
        both = statistics.median(sample.rate for sample in two)
        share = statistics.median(sample.share for sample in two)
        print(f"{server.name:20}{alone:10.0f}{both:10.0f}{both / alone:8.2f}{share:12.0%}")
    if failures:
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
