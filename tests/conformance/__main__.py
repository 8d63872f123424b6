"""Run the Autobahn testsuite against the echo of every backend, and on servers that are not uWSGI.

python tests/conformance [--quick] [--servers threads,gevent] [--cases '1.*,2.*']

Succeeds when every case is OK or INFORMATIONAL, and every close too.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

import report
from elsewhere import CELLS, Elsewhere
from modes import BACKENDS, MODES
from testsuite import Failed, Run, install
from uwsgi_server import ROOT, Server

SAVED = ROOT / "docs" / "conformance.txt"
# By name, a server that is not uWSGI and a backend.
ELSEWHERE = {
    name if backend == "WebSocket" else f"{name}-{backend}": (name, backend)
    for name, backend in CELLS
}
SERVERS = [*BACKENDS, *(name for name, (_, backend) in ELSEWHERE.items() if backend == "WebSocket")]
QUICK = ",".join(f"{group}.*" for group in (1, 2, 3, 4, 5, 6, 7, 10))


def _arguments() -> argparse.Namespace:
    description, usage, _ = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(usage=usage, description=description)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK}, about a minute")
    parser.add_argument(
        "--servers", help=f"default: {','.join(BACKENDS)}; with --quick {','.join(SERVERS)}"
    )
    parser.add_argument("--cases", help="patterns; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="servers at a time (default 2)")
    arguments = parser.parse_args()
    default = SERVERS if arguments.quick else list(BACKENDS)
    arguments.servers = arguments.servers.split(",") if arguments.servers else default
    for name in arguments.servers:
        if name not in (*BACKENDS, *ELSEWHERE):
            parser.error(f"there is no {name!r}; there are {', '.join((*BACKENDS, *ELSEWHERE))}")
    arguments.whole = arguments.servers == list(BACKENDS) and not (
        arguments.quick or arguments.cases
    )
    arguments.cases = (arguments.cases or (QUICK if arguments.quick else "*")).split(",")
    return arguments


def _run(servers: Sequence[str], cases: Sequence[str], jobs: int) -> report.Results:
    """Run the cases on the servers, as many of these at a time as there are jobs."""
    waiting = list(servers)
    results: dict[str, dict[str, dict[str, str]]] = {name: {} for name in servers}
    running: dict[Run, contextlib.ExitStack] = {}
    with contextlib.ExitStack() as everything:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                parts = everything.enter_context(contextlib.ExitStack())
                server = parts.enter_context(_server(name))
                running[parts.enter_context(Run(name, server.ws, cases))] = parts
            _wait(list(running))
            for run in [run for run in running if run.over()]:
                results[run.name] = run.results()
                running.pop(run).close()
    return results


def _server(name: str) -> Server:
    if name in BACKENDS:
        return MODES[name].serve(app="conformance")
    return Elsewhere(*ELSEWHERE[name], app="conformance")


def _wait(running: Sequence[Run]) -> None:
    """Wait a while and tell how far they are; in a terminal, in one line."""
    terminal = sys.stdout.isatty()
    end = time.monotonic() + (1 if terminal else 30)
    while time.monotonic() < end and not any(run.over() for run in running):
        time.sleep(0.2)
    line = ", ".join("{} {}/{}".format(run.name, *run.progress()) for run in running)
    print(f"\r{line:79}" if terminal else line, end="" if terminal else "\n", flush=True)


def main() -> int:
    arguments = _arguments()
    # Leaves every "with" block, which ends the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    # Ignored where this runs in the background of a shell; the servers would ignore it too.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = time.monotonic()
    try:
        install()
        results = _run(arguments.servers, arguments.cases, arguments.jobs)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        Server.wait_for_the_stopped()
    bad = report.bad(results)
    print("", report.EXPLANATION, "", *report.table(results), "", *bad, sep="\n")
    if arguments.whole:
        SAVED.write_text(report.summary(results, time.monotonic() - begun))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
