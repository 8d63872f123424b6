"""Medians and ratios of the samples, as data and as text."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from .measure import Sample
from .servers import Server
from .workloads import Workload

#: By the names of server and workload: the samples of the rounds, or why there are none.
Results = Mapping[tuple[str, str], "list[Sample] | str"]

EXPLANATION = """
The server is pinned to one core and the load to another; every round measures every
server once, in a process of its own. Messages in flight are those of each connection.
/floor, /picows and /native are the ratios of medians to a C program that does no more
than it must, to picows, and to uWSGI's own WebSocket functions in the same mode
(threads, gevent, asyncio). CPU is the time, user and system, of all the server's
processes; it varies less than the rates. Busy is the part of its core that it used;
where that is far below 100 %, the load or the waking up of processes sets the pace, and
CPU says more than the rate. Memory is what is resident in all the server's processes (Rss,
which leaves out the kernel's socket buffers), with 3000 connections open after one echo on each,
less what was after 100 others had come and gone; what is made at the start for
connections to come, such as uWSGI's cores and stacks, is therefore not in it.
"""


def summarize(
    servers: Sequence[Server], workloads: Sequence[Workload], results: Results
) -> list[dict[str, Any]]:
    """Give a table for each workload, as plain data."""
    return [
        {
            "name": workload.name,
            "title": workload.title,
            "unit": workload.unit,
            "counted": workload.counted,
            "rows": [_row(server, workload, results) for server in servers],
        }
        for workload in workloads
    ]


def _row(server: Server, workload: Workload, results: Results) -> dict[str, Any]:
    samples = results.get((server.name, workload.name), "not measured")
    if isinstance(samples, str):
        return {"server": server.name, "reason": samples}
    figures = [sample.figure for sample in samples]
    median = statistics.median(figures)
    cpu_us = statistics.median(sample.cpu_us for sample in samples)
    return {
        "server": server.name,
        "figures": figures,
        "median": median,
        "lowest": min(figures),
        "highest": max(figures),
        "cpu_us": cpu_us,
        "busy": None if workload.is_memory else min(100.0, cpu_us * median / 10_000),
        "p50_us": _median_or_none([sample.p50_us for sample in samples]),
        "p99_us": _median_or_none([sample.p99_us for sample in samples]),
        "ratios": {
            "floor": _ratio(median, results.get(("floor", workload.name))),
            "picows": _ratio(median, results.get(("picows", workload.name))),
            "native": _ratio(median, results.get((server.native, workload.name))),
        },
    }


def _median_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _ratio(median: float, other: list[Sample] | str | None) -> float | None:
    if other is None or isinstance(other, str):
        return None
    return median / statistics.median(sample.figure for sample in other)


def to_text(head: Sequence[str], tables: Sequence[Mapping[str, Any]]) -> str:
    """Give the report."""
    wrapped = [textwrap.fill(line, 100, subsequent_indent="  ") for line in head]
    parts = ["\n".join(wrapped), textwrap.fill(EXPLANATION.strip(), 100)]
    return "\n\n".join([*parts, *map(_table, tables)]) + "\n"


def _table(table: Mapping[str, Any]) -> str:
    lines = [f"{table['name']}: {table['title']}", ""]
    lines.append(
        f"{table['unit']:20}{'median':>10}{'lowest':>10}{'highest':>10}"
        f"{'/floor':>8}{'/picows':>8}{'/native':>8}{'CPU µs':>10}{'busy %':>8}{'p99 µs':>9}"
    )
    reasons: list[str] = []
    for row in table["rows"]:
        if "reason" in row:
            if row["reason"] not in reasons:
                reasons.append(row["reason"])
            lines.append(f"{row['server']:20}{'n/a':>10} [{reasons.index(row['reason']) + 1}]")
            continue
        figures = "".join(_figure(row[key], 10) for key in ("median", "lowest", "highest"))
        ratios = "".join(_cell(row["ratios"][key], 8, 2) for key in ("floor", "picows", "native"))
        times = _cell(row["cpu_us"], 10, 2) + _cell(row["busy"], 8) + _cell(row["p99_us"], 9)
        lines.append(f"{row['server']:20}{figures}{ratios}{times}")
    for number, reason in enumerate(reasons, 1):
        lines.append(textwrap.fill(f"[{number}] {reason}", 100, subsequent_indent="    "))
    lines.append(f"(CPU µs per {table['counted']})")
    return "\n".join(lines)


def _figure(value: float, width: int) -> str:
    return _cell(value, width, 0 if value >= 1000 else 1)


def _cell(value: float | None, width: int, digits: int = 0) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"
