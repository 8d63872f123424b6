"""Measure this package beside other WebSocket servers.

python -m benchmarks [--quick] [--servers ours-gevent,floor] [--workloads 50x32]

Prints a table for each workload, and saves them as text, data and a picture.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import install, machine
from .measure import Sample, cores, measure
from .process import Failed, allow_descriptors, end_servers_on_signals
from .report import summarize, to_text
from .servers import HERE, PEERS, SERVERS, Server
from .workloads import WORKLOADS, Workload

RESULTS = HERE.parent / "build" / "bench-results"
QUICK = ("50x32", "50x32x16", "connect")


def _chosen(names: str | None, all_names: Sequence[str]) -> list[str]:
    chosen = names.split(",") if names else list(all_names)
    for name in chosen:
        if name not in all_names:
            raise SystemExit(f"there is no {name!r}; there are {', '.join(all_names)}")
    return [name for name in all_names if name in chosen]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--servers", help="names, with commas")
    parser.add_argument("--workloads", help="names, with commas")
    parser.add_argument(
        "--rounds", type=int, default=5, help="default 5; each takes about 10 minutes"
    )
    parser.add_argument("--seconds", type=float, default=3, help="of a measurement (default 3)")
    parser.add_argument(
        "--quick", action="store_true", help="one round of three workloads, about 90 seconds"
    )
    parser.add_argument("--save", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 1.0
        arguments.workloads = arguments.workloads or ",".join(QUICK)
    return arguments


class Run:
    """The measurements of one start of this program."""

    def __init__(self, servers: list[Server], workloads: list[Workload], seconds: float) -> None:
        self.servers = servers
        self.workloads = workloads
        self.seconds = seconds
        self.results: dict[tuple[str, str], list[Sample] | str] = {}
        self.failures: list[str] = []
        self._descriptors = allow_descriptors()
        self._started = time.monotonic()

    def round(self, title: str) -> None:
        """Measure every server once under every workload."""
        for workload in self.workloads:
            for server in self.servers:
                minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
                line = f"{minutes}:{seconds:02} {title}: {workload.name}, {server.name}"
                print(f"\r{line:70}", end="", file=sys.stderr, flush=True)
                self._measure(server, workload)

    def _measure(self, server: Server, workload: Workload) -> None:
        key = server.name, workload.name
        earlier = self.results.setdefault(key, self._obstacle(server, workload) or [])
        if isinstance(earlier, str):
            return
        try:
            earlier.append(measure(server, workload, self.seconds))
        except Failed as failure:
            # One failure makes a server's median worth nothing.
            self.results[key] = f"failed: {failure}"
            self.failures.append(f"{server.name}, {workload.name}: {failure}")

    def _obstacle(self, server: Server, workload: Workload) -> str | None:
        if workload.connections + 200 > self._descriptors:
            return f"only {self._descriptors} descriptors are allowed (ulimit -n)"
        return server.cannot.get(workload.name)

    def save(self, head: list[str], folder: Path) -> str:
        """Write what there is so far as data and text, and give the text."""
        tables = summarize(self.servers, self.workloads, self.results)
        text = to_text(head, tables)
        folder.mkdir(parents=True, exist_ok=True)
        data = {"head": head, "tables": tables}
        (folder / "benchmarks.json").write_text(json.dumps(data, indent=1) + "\n")
        (folder / "benchmarks.txt").write_text(text)
        return text


def _draw(folder: Path) -> None:
    files = [str(folder / "benchmarks.json"), str(folder / "benchmarks.png")]
    subprocess.run([str(PEERS / "python"), str(HERE / "plot.py"), *files], check=True)


def main() -> None:
    arguments = _arguments()
    names = _chosen(arguments.servers, [server.name for server in SERVERS])
    servers = [server for server in SERVERS if server.name in names]
    names = _chosen(arguments.workloads, [workload.name for workload in WORKLOADS])
    workloads = [workload for workload in WORKLOADS if workload.name in names]
    end_servers_on_signals()
    install.build_programs()
    install.install_peers()
    if len(set(cores())) == 1:
        print("One core only: server and load share it, and the figures say little.")
    head = machine.describe()
    head.append(f"rounds: {arguments.rounds}, each measurement {arguments.seconds:g} s")
    run = Run(servers, workloads, arguments.seconds)
    text = ""
    for number in range(arguments.rounds):
        run.round(f"round {number + 1} of {arguments.rounds}")
        text = run.save(head, arguments.save)
    _draw(arguments.save)
    print(f"\r{'':70}\r{text}\nsaved as {arguments.save}/benchmarks.txt, .png and .json")
    if run.failures:
        raise SystemExit("\n".join(run.failures))


if __name__ == "__main__":
    main()
