"""Measure flask-sock's echo on its own servers, and this package's stand-in there and on uWSGI.

python -m benchmarks.elsewhere [--rounds 3] [--seconds 2] [--save docs]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import install, machine
from .measure import Sample, measure
from .process import Failed, allow_descriptors, end_servers_on_signals
from .rooms import RESULTS
from .servers import APPS, BACKLOG, HERE, PEERS, Server, uwsgi
from .workloads import WORKLOADS

NAME = "elsewhere-benchmark.txt"

EXPLANATION = """
The same echo of 32 bytes over 50 connections, one message in flight on each. theirs is flask-sock
with simple-websocket, ours the same file with flask_uwsgi_ws.compat.flask_sock imported instead.
The server is pinned to one core and the load to the other; every round measures each server once,
theirs and ours one right after the other, and the figures are medians. ours/theirs is on the same
server, /gevent the ratio to flask-sock on gunicorn's gevent worker. uWSGI has no flask-sock beside
it, which does not run there. gunicorn's eventlet worker is that of the last gunicorn that has one.
"""

_OLD_GUNICORN = HERE.parent / "build" / "gunicorn-eventlet"
_THEIRS, _OURS = str(PEERS / "python"), sys.executable
_MODULES = {_THEIRS: "flask_sock_app", _OURS: "compat_sock_app"}

#: By server: the arguments of Python.
SERVERS: Mapping[str, Sequence[str]] = {
    "werkzeug": ("-m", "flask", "--app", "{module}", "run", "--port", "{{port}}"),
    "gunicorn-gthread": ("-m", "gunicorn", "--threads", "{{cores}}"),
    "gunicorn-gevent": ("-m", "gunicorn", "-k", "gevent"),
    "gunicorn-eventlet": ("-m", "gunicorn", "-k", "eventlet"),
    "pywsgi": ("serve.py", "pywsgi", "{module}", "{{port}}"),
    "eventlet": ("serve.py", "eventlet", "{module}", "{{port}}"),
}
_GUNICORN = (
    *("--bind", "127.0.0.1:{{port}}", "--backlog", BACKLOG),
    *("--worker-connections", "{{cores}}", "{module}:app"),
)


def _server(name: str, python: str) -> Server:
    arguments = [*SERVERS[name], *(_GUNICORN if name.startswith("gunicorn") else ())]
    paths = [str(HERE.parent), *([str(_OLD_GUNICORN)] if name == "gunicorn-eventlet" else [])]
    whose = "theirs" if python == _THEIRS else "ours"
    command = ["env", "-C", APPS, f"PYTHONPATH={':'.join(paths)}", python]
    command += [each.format(module=_MODULES[python]) for each in arguments]
    return Server(f"{name}-{whose}", "", command)


UWSGI = {
    "uwsgi-threads": uwsgi("compat_sock_app:app", "--threads", "2"),
    "uwsgi-gevent": uwsgi("compat_sock_app:app", "--gevent", "100"),
}


def _servers() -> list[Server]:
    pairs = [_server(name, python) for name in SERVERS for python in (_THEIRS, _OURS)]
    return [*pairs, *(Server(f"{name}-ours", "", command) for name, command in UWSGI.items())]


def _table(samples: Mapping[str, Sequence[Sample]]) -> str:
    rates = {name: statistics.median(s.figure for s in each) for name, each in samples.items()}
    cpu = {name: statistics.median(s.cpu_us for s in each) for name, each in samples.items()}
    gevent = rates.get("gunicorn-gevent-theirs")
    title = f"{'messages/s':20}{'theirs':>9}{'ours':>9}{'ours/theirs':>13}{'/gevent':>9}"
    lines = [f"{title}{'CPU µs, theirs':>16}{'ours':>7}"]
    for name in (*SERVERS, *UWSGI):
        theirs, ours = rates.get(f"{name}-theirs"), rates.get(f"{name}-ours")
        line = f"{name:20}{_cell(theirs, 9, 0)}{_cell(ours, 9, 0)}"
        line += _cell(theirs and ours and ours / theirs, 13, 2)
        line += _cell(gevent and ours and ours / gevent, 9, 2)
        line += _cell(cpu.get(f"{name}-theirs"), 16, 1) + _cell(cpu.get(f"{name}-ours"), 7, 1)
        lines.append(line)
    return "\n".join(lines)


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.elsewhere", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3, help="default 3; each takes a minute")
    parser.add_argument("--seconds", type=float, default=2, help="of a measurement (default 2)")
    parser.add_argument("--save", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args()
    end_servers_on_signals()
    install.build_programs()
    install.install_peers()
    allow_descriptors()
    workload = next(each for each in WORKLOADS if each.name == "50x32")
    samples: dict[str, list[Sample]] = {}
    failures: dict[str, str] = {}
    for number in range(arguments.rounds):
        for server in _servers():
            if server.name in failures:
                continue
            print(f"\rround {number + 1}: {server.name:30}", end="", file=sys.stderr, flush=True)
            try:
                sample = measure(server, workload, arguments.seconds)
            except (Failed, OSError) as failure:
                # One failure makes a server's median worth nothing.
                failures[server.name] = f"{failure}"
                samples.pop(server.name, None)
            else:
                samples.setdefault(server.name, []).append(sample)
    theirs = ("flask-sock", "simple-websocket", "gunicorn", "gevent", "eventlet", "Werkzeug")
    head = machine.describe(machine.OURS, theirs)
    head.append(f"rounds: {arguments.rounds}, each measurement {arguments.seconds:g} s")
    parts = ["\n".join(textwrap.fill(line, 100, subsequent_indent="  ") for line in head)]
    parts += [textwrap.fill(EXPLANATION.strip(), 100), _table(samples)]
    text = "\n\n".join(parts) + "\n"
    arguments.save.mkdir(parents=True, exist_ok=True)
    (arguments.save / NAME).write_text(text)
    print(f"\r{'':60}\r{text}\nsaved as {arguments.save / NAME}")
    if failures:
        raise SystemExit("\n".join(f"{name}: {why}" for name, why in failures.items()))


if __name__ == "__main__":
    main()
