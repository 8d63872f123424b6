"""Judges what the testsuite found, and tells it as text."""

from __future__ import annotations

import platform
import textwrap
import time
import zlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import testsuite
from uwsgi_server import ROOT

#: By server and case: what the testsuite says of the behaviour, of the close, and in which file.
Results = Mapping[str, Mapping[str, Mapping[str, str]]]

BEHAVIOURS = ("OK", "INFORMATIONAL", "NON-STRICT", "FAILED", "UNIMPLEMENTED")
GOOD = ("OK", "INFORMATIONAL")

GROUPS = {
    "1": "framing",
    "2": "Pings and Pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "close",
    "9": "limits, performance",
    "10": "automatic fragmentation",
    "12": "compression, payloads",
    "13": "compression, parameters",
}

EXPLANATION = (
    f"Counts are those of {' / '.join(BEHAVIOURS)}, "
    'and after a "+" those of the closes that were not clean.'
)


def bad(results: Results) -> list[str]:
    """List the cases that are not as they have to be."""
    lines = []
    for server, cases in results.items():
        for case, result in cases.items():
            if result["behavior"] not in GOOD or result["behaviorClose"] not in GOOD:
                file = testsuite.reports_of(server) / result["reportfile"]
                lines.append(
                    f"{server} {case}: {result['behavior']}, close {result['behaviorClose']}: "
                    f"{file.relative_to(ROOT).with_suffix('.html')}"
                )
    return lines


def table(results: Results) -> list[str]:
    """Give a line for each group of cases, and one for all."""
    groups = sorted({_group(case) for cases in results.values() for case in cases}, key=int)
    width = max(len(server) for server in results)
    width = max(width, *(len(_counts(cases, None)) for cases in results.values()))
    head = [f"{server:>{width}}" for server in results]
    lines = ["  ".join([" " * 27, *head])]
    for group in [*groups, None]:
        name = "all" if group is None else f"{group:>2} {GROUPS.get(group, '')}"
        counts = [f"{_counts(cases, group):>{width}}" for cases in results.values()]
        lines.append("  ".join([f"{name:27}", *counts]))
    return lines


def summary(results: Results, seconds: float) -> str:
    """Give the text of docs/conformance.txt."""
    versions = f"Autobahn testsuite {testsuite.VERSION}; {', '.join(_versions())}"
    date = time.strftime("%Y-%m-%d", time.gmtime())
    run = f"{date}, make conformance, {seconds / 60:.0f} minutes"
    lines = [*textwrap.wrap(versions, 100), run, "", *textwrap.wrap(EXPLANATION, 100), ""]
    return "\n".join([*lines, *table(results), "", *(bad(results) or ["No case failed."])]) + "\n"


def _group(case: str) -> str:
    return case.partition(".")[0]


def _counts(cases: Mapping[str, Mapping[str, str]], group: str | None) -> str:
    chosen = [result for case, result in cases.items() if group in (None, _group(case))]
    found = [result["behavior"] for result in chosen]
    unclean = sum(result["behaviorClose"] not in GOOD for result in chosen)
    return f"{'/'.join(str(found.count(each)) for each in BEHAVIOURS)}+{unclean}"


def _versions() -> list[str]:
    names = ("Flask-uWSGI-WS", "uWSGI", "Flask", "websockets", "gevent", "greenlet", "uvloop")
    found = [f"Python {platform.python_version()}", f"zlib {zlib.ZLIB_RUNTIME_VERSION}"]
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return found
