"""Measure two worker processes against one.

python -m benchmarks.workers [--seconds 3] [--rounds 3]

Here servers and load may run on all cores. On a machine of two cores a plain echo leaves a second
worker nothing: the load needs as much of a core as the server. Handlers that work with what they
get leave the load idle, and show what a second worker carries.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from dataclasses import dataclass, replace

from . import install
from .measure import SPARE, Load
from .process import Failed, Process, cpu_seconds, end_servers_on_signals
from .servers import SERVERS, Server
from .workloads import WORKLOADS, Workload

OURS = ("ours-threads", "ours-gevent", "ours-asyncio", "ours-asyncio-thread")
WORKLOAD = next(workload for workload in WORKLOADS if workload.name == "50x32")
ECHO = [server for server in SERVERS if server.name in (*OURS, "native-gevent")]
WORKING = [
    replace(
        server,
        name=server.name.replace("ours", "working"),
        command=[part.replace("ours:", "working:") for part in server.command],
    )
    for server in SERVERS
    if server.name in OURS
]


@dataclass(frozen=True)
class Sample:
    """What one run gave.

    *share*: the part of all the workers' processor time that the busiest used; *load*: the part of
    a core's that the load used.
    """

    rate: float
    share: float
    load: float


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
        load_before = load.cpu_seconds()
        result = load.go()
        load_used = load.cpu_seconds() - load_before
        used = [cpu_seconds(pid) - earlier for pid, earlier in before.items()]
    return Sample(
        rate=result["count"] / result["seconds"],
        share=max(used) / (sum(used) or 1),
        load=load_used / result["seconds"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    end_servers_on_signals()
    install.build_programs()
    samples: dict[tuple[str, int], list[Sample]] = {}
    failures = []
    for number in range(arguments.rounds):
        for server in (*ECHO, *WORKING):
            for workers in (1, 2):
                line = f"round {number + 1} of {arguments.rounds}: {server.name}, {workers}"
                print(f"\r{line:60}", end="", file=sys.stderr, flush=True)
                try:
                    sample = measure(server, WORKLOAD, workers, arguments.seconds)
                except (Failed, OSError) as failure:
                    failures.append(f"{server.name}, {workers} workers: {failure}")
                else:
                    samples.setdefault((server.name, workers), []).append(sample)
    print(f"\r{WORKLOAD.title}, all on {len(os.sched_getaffinity(0))} cores")
    for title, servers in (("echo", ECHO), ("200 µs of work, then echo", WORKING)):
        print(f"\n{title}\n\n{HEAD}")
        for server in servers:
            print(_line(server.name, samples.get((server.name, 1)), samples.get((server.name, 2))))
    print("\n(load: of one core; busier one: of both workers' time)")
    if failures:
        raise SystemExit("\n".join(failures))


HEAD = (
    f"{WORKLOAD.unit:22}{'1 worker':>10}{'load':>6}{'2 workers':>11}{'load':>6}"
    f"{'ratio':>7}{'busier one':>12}"
)


def _line(name: str, one: list[Sample] | None, two: list[Sample] | None) -> str:
    if one is None or two is None:
        return f"{name:22}{'n/a':>10}"
    alone, both = (statistics.median(sample.rate for sample in each) for each in (one, two))
    loads = [statistics.median(sample.load for sample in each) for each in (one, two)]
    share = statistics.median(sample.share for sample in two)
    return (
        f"{name:22}{alone:10.0f}{loads[0]:6.0%}{both:11.0f}{loads[1]:6.0%}"
        f"{both / alone:7.2f}{share:12.0%}"
    )


if __name__ == "__main__":
    main()
