"""How many messages a second an echo carries, ours beside uWSGI's own.

    python benchmarks/echo.py [--rounds 5] [--seconds 4]

The server runs on one core and the load (wsload.c) on another. Each round runs
every server once, so that what else the machine does falls on all of them; what
counts is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
WSLOAD = HERE.parent / "build" / "wsload"
UWSGI = Path(sys.executable).parent / "uwsgi"
CONNECTIONS, SIZE = 50, 32

SERVERS: dict[str, Sequence[str]] = {
    "uWSGI's own, --threads 60": ["--threads", "60", "--module", "native:app"],
    "ours, --threads 2": ["--threads", "2", "--module", "ours:app"],
    "bare C epoll, the floor": [],
}


def pin(core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(options: Sequence[str], port: int) -> subprocess.Popen[bytes]:
    command = [str(WSLOAD), "serve", str(port)]
    if options:
        command = [str(UWSGI), "--http-socket", f"127.0.0.1:{port}", "--master"]
        command += ["--disable-logging", "--single-interpreter", "--virtualenv", sys.prefix]
        command += ["--pythonpath", str(HERE / "apps"), *options]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=lambda: pin(0)
    )
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    raise SystemExit(f"this server did not start: {' '.join(command)}")


def stop(process: subprocess.Popen[bytes]) -> None:
    # Native handlers sit in their requests and would hold the server up for a minute.
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGINT)
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        for pid in [process.pid, *map(int, children)]:
            os.kill(pid, signal.SIGKILL)
        process.wait()


def measure(options: Sequence[str], depth: int, seconds: float) -> float:
    port = free_port()
    process = start(options, port)
    try:
        load = [WSLOAD, "127.0.0.1", port, "/echo", CONNECTIONS, SIZE, depth, seconds]
        result = subprocess.run(
            [str(part) for part in load],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            preexec_fn=lambda: pin(1),
            check=False,
        )
    finally:
        stop(process)
    match = re.search(r"msgs/s (\d+) .* bad 0 ", result.stdout)
    if match is None:
        raise SystemExit(f"the load failed: {result.stdout}{result.stderr}")
    return float(match[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    arguments = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        print("One core only: server and load share it, and the figures say little.")
    for depth in (1, 16):
        rates: dict[str, list[float]] = {name: [] for name in SERVERS}
        for number in range(arguments.rounds):
            for name, options in SERVERS.items():
                print(f"\rround {number + 1} of {arguments.rounds}: {name:30}", end="", flush=True)
                rates[name].append(measure(options, depth, arguments.seconds))
        medians = {name: statistics.median(values) for name, values in rates.items()}
        native = next(iter(medians.values()))
        title = f"{CONNECTIONS} connections, {SIZE} bytes, {depth} in flight, --http-socket"
        print(f"\r{title:60}\n")
        print(f"{'':28}{'median/s':>10}{'lowest':>10}{'highest':>10}{'ratio':>8}")
        for name, median in medians.items():
            low, high = min(rates[name]), max(rates[name])
            print(f"{name:28}{median:10.0f}{low:10.0f}{high:10.0f}{median / native:8.2f}")
        print()


if __name__ == "__main__":
    main()
