"""Measure what a message to a room of a thousand clients costs, here and elsewhere.

python -m benchmarks.rooms [--quick] [--servers ours-gevent,websockets] [--save docs]

A client publishes numbered messages, each of which the server sends to all members of a room:
``websocket.send_to`` here, ``socketio.emit(…, to=room)`` with Flask-SocketIO, ``broadcast`` of
websockets. In one worker, and in two that Redis joins.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import install, machine
from .measure import SPARE, Load, cores
from .process import Failed, Process, allow_descriptors, end_servers_on_signals
from .servers import APPS, BUILD, HERE, PEERS, gunicorn, uwsgi

RESULTS = HERE.parent / "build" / "bench-results"
IN_FLIGHT = (1, 32)
# Seconds that a server may take to count what its clients have already got.
PATIENCE = 3.0

EXPLANATION = """
One client publishes numbered messages of {size} bytes, and {clients} others get them: with so
many in flight it publishes the next when all of them have one. Driven so, no server gets more than
it can pass on, and none has to drop anything. With 1 in flight each delivery is a system call, and
the floor, a C program that does little else, is the limit for all. With more of them a server may
send what waits for a client together, as this package does, and Flask-SocketIO wakes what serves a
client once for several. Each client checks that it gets each message, once, in order and to the
byte; one that gets anything else, or is cut off, makes the run a failed one, and no figures come
from such. The time is from the first message to the arrival of the last one at the last client.

Flask-SocketIO serves clients of its own protocol over the WebSocket transport: the same text, in an
event. It runs in gevent in three ways that its documentation has: gunicorn with simple-websocket,
gunicorn with gevent-websocket, and uWSGI; with async_handlers=False, without which the messages of
one client overtake each other. /socketio is the ratio of medians to the fastest of them,
/websockets to websockets' own broadcast(), on an asyncio server in uvloop as ours, /floor to the C
program. CPU is the time, user and system, of all the servers' processes for a delivery. Busy is the
part of its core that the server used, and load the part that the clients used of theirs. p50 is the
time from a message's publication to its arrival at the last client.

With one worker the server is pinned to one core and the clients to the other. Two workers are two
servers of one process each, on two ports, with half of the clients each, joined by a Redis of their
own; the publisher is at the first. They, the clients and Redis share all cores, and busy is then
the part of one core that both servers used together, and load that of the clients. Every round
measures every server once, in processes of its own.
"""

COUNTS = """
What the workers of this package have counted (websocket.clients.snapshot()), of one of the runs,
with the message that goes before each measurement: a message is framed once in each worker that
has members, whatever their number.
"""


@dataclass(frozen=True)
class Contender:
    """A server with a room.

    :param command: in which ``{port}`` and ``{cores}`` are replaced, as in
        :class:`~benchmarks.servers.Server`.
    :param client: what its clients speak, in the words of ``wsload``.
    """

    name: str
    command: Sequence[str]
    client: str = "text"

    @property
    def counts(self) -> bool:
        """Whether it has ``/counted``."""
        return self.name.startswith("ours")

    @property
    def joins(self) -> bool:
        """Whether a queue can join several of it."""
        return self.counts or self.client == "socketio"


@dataclass(frozen=True)
class Sample:
    """What one run gave; *rate* in deliveries a second, *busy* and *load* in parts of a core."""

    rate: float
    cpu_us: float
    busy: float
    load: float
    p50_us: float
    messages: int
    counts: Mapping[str, int] | None


def _ours(name: str, factory: str, *options: str) -> Contender:
    return Contender(f"ours-{name}", uwsgi(f"rooms_ours:{factory}()", *options))


def _socketio(name: str, command: Sequence[str]) -> Contender:
    return Contender(f"socketio-{name}", command, "socketio")


THEIRS = (
    *("Flask-SocketIO", "python-socketio", "python-engineio", "simple-websocket", "gunicorn"),
    *("gevent", "gevent-websocket", "redis", "websockets", "uvloop"),
)

_GEVENT_WEBSOCKET = "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"

CONTENDERS = [
    Contender("floor", [str(BUILD / "floor"), "{port}"]),
    _ours("threads", "threads", "--threads", "2"),
    _ours("gevent", "gevent", "--gevent", "100"),
    _ours("asyncio", "asyncio", "--asyncio", "100", "--greenlet"),
    _ours("asyncio-thread", "asyncio", "--threads", "2"),
    Contender("websockets", [str(PEERS / "python"), f"{APPS}/rooms_websockets.py", "{port}"]),
    _socketio("simple-websocket", gunicorn("gevent", "rooms_socketio:simple_websocket()")),
    _socketio("gevent-websocket", gunicorn(_GEVENT_WEBSOCKET, "rooms_socketio:gevent_websocket()")),
    _socketio(
        "uwsgi",
        uwsgi(
            "rooms_socketio:uwsgi()",
            *("--gevent", "{cores}", "--gevent-monkey-patch"),
            prefix=str(PEERS.parent),
        ),
    ),
]


@dataclass(frozen=True)
class Setting:
    """What the servers are measured in."""

    workers: int
    in_flight: int
    clients: int
    size: int

    @property
    def title(self) -> str:
        workers = "one worker" if self.workers == 1 else f"{self.workers} workers and Redis"
        return f"{workers}, {self.clients} clients, {self.size} bytes, {self.in_flight} in flight"


def measure(contender: Contender, setting: Setting, seconds: float) -> Sample:
    """Run the workers and the clients.

    :raises Failed: if one does not start, or a client does not get exactly what it has to.
    """
    everywhere = os.sched_getaffinity(0)
    first, last = cores()
    with contextlib.ExitStack() as stack:
        command, server_cpus, load_cpus = contender.command, {first}, {last}
        if setting.workers > 1:
            server_cpus = load_cpus = everywhere
            redis = ["redis-server", "--port", "{port}", "--save", "", "--bind", "127.0.0.1"]
            port = stack.enter_context(Process(redis, 0, everywhere)).port
            command = ["env", f"QUEUE=redis://127.0.0.1:{port}", *command]
        workers = [
            stack.enter_context(Process(command, setting.clients + SPARE, server_cpus))
            for _ in range(setting.workers)
        ]
        try:
            return _measure(contender, setting, seconds, workers, load_cpus)
        except (Failed, OSError) as failure:
            lines = "; ".join(worker.last_line() for worker in workers)
            raise Failed(f"{failure} (the servers' last lines: {lines})") from failure


def _measure(
    contender: Contender,
    setting: Setting,
    seconds: float,
    workers: Sequence[Process],
    cpus: set[int],
) -> Sample:
    ports = ",".join(str(worker.port) for worker in workers)
    numbers = [str(number) for number in (setting.clients, setting.size, setting.in_flight)]
    arguments = ["fanout", ports, *numbers, "{seconds}", contender.client]
    with Load(arguments, 0, seconds, cpus) as load:
        load.wait_until_ready()
        cpu, load_cpu = sum(worker.cpu_seconds() for worker in workers), load.cpu_seconds()
        result = load.go()
        cpu = sum(worker.cpu_seconds() for worker in workers) - cpu
        load_cpu = load.cpu_seconds() - load_cpu
        deliveries = result["count"]
        messages, rest = divmod(deliveries, setting.clients)
        if rest or not messages:
            raise Failed(f"{deliveries} deliveries to {setting.clients} clients")
        counts = None
        if contender.counts:
            counts = _counts([worker.port for worker in workers], messages + 1, setting)
    return Sample(
        rate=deliveries / result["seconds"],
        cpu_us=cpu / deliveries * 1e6,
        busy=cpu / result["seconds"],
        load=load_cpu / result["seconds"],
        p50_us=result["p50"],
        messages=messages,
        counts=counts,
    )


def _counts(ports: Sequence[int], messages: int, setting: Setting) -> dict[str, int]:
    """Give the sums of what the workers have counted.

    :raises Failed: if they are not what they have to be after so many messages.
    """
    expected = {
        "shared_frames": messages * setting.workers,
        "shared_messages": messages * setting.clients,
        "open": setting.clients + 1,
        "slow_clients": 0,
        "queue_lost": 0,
    }
    end = time.monotonic() + PATIENCE
    while True:
        all_counts = [_counted(port) for port in ports]
        found = {name: sum(counts[name] for counts in all_counts) for name in expected}
        if found == expected:
            return {"messages": messages, **found}
        if time.monotonic() > end:
            raise Failed(f"the workers have counted {found}, and not {expected}")
        time.sleep(0.05)


def _counted(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/counted", timeout=PATIENCE) as answer:
        counts: dict[str, Any] = json.load(answer)
    return counts


def _summarize(setting: Setting, samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Give a table as plain data."""
    rates = {name: statistics.median(s.rate for s in each) for name, each in samples.items()}
    fastest = max((rate for name, rate in rates.items() if name.startswith("socketio")), default=0)
    others = {
        "floor": rates.get("floor"),
        "websockets": rates.get("websockets"),
        "socketio": fastest or None,
    }
    rows = []
    for name, each in samples.items():
        figures = [sample.rate for sample in each]
        rows.append(
            {
                "server": name,
                "figures": figures,
                "median": rates[name],
                "lowest": min(figures),
                "highest": max(figures),
                "ratios": {key: rate and rates[name] / rate for key, rate in others.items()},
                "cpu_us": statistics.median(sample.cpu_us for sample in each),
                "busy": statistics.median(sample.busy for sample in each),
                "load": statistics.median(sample.load for sample in each),
                "p50_us": statistics.median(sample.p50_us for sample in each),
                "counts": each[-1].counts,
            }
        )
    return {"title": setting.title, "setting": asdict(setting), "rows": rows}


def _to_text(head: Sequence[str], explanation: str, tables: Sequence[Mapping[str, Any]]) -> str:
    parts = ["\n".join(textwrap.fill(line, 100, subsequent_indent="  ") for line in head)]
    parts += [textwrap.fill(part, 100) for part in explanation.strip().split("\n\n")]
    parts += [_table(table) for table in tables]
    counted = [
        _count(table["setting"], row) for table in tables for row in table["rows"] if row["counts"]
    ]
    if counted:
        title = f"{'':20}{'workers':>9}{'in flight':>11}{'messages':>10}"
        title += f"{'shared_frames':>15}{'shared_messages':>17}"
        parts += [textwrap.fill(COUNTS.strip(), 100), "\n".join([title, *counted])]
    return "\n\n".join(parts) + "\n"


def _table(table: Mapping[str, Any]) -> str:
    others = (
        ["socketio", "websockets", "floor"] if table["setting"]["workers"] == 1 else ["socketio"]
    )
    heads = "".join(f"{'/' + other:>{len(other) + 2}}" for other in others)
    lines = [
        table["title"],
        "",
        f"{'deliveries/s':26}{'median':>9}{'lowest':>9}{'highest':>9}{heads}"
        f"{'CPU µs':>8}{'busy %':>8}{'load %':>8}{'p50 ms':>8}",
    ]
    for row in table["rows"]:
        figures = "".join(f"{row[key]:9.0f}" for key in ("median", "lowest", "highest"))
        ratios = "".join(_cell(row["ratios"][other], len(other) + 2) for other in others)
        lines.append(
            f"{row['server']:26}{figures}{ratios}{row['cpu_us']:8.2f}{row['busy'] * 100:8.0f}"
            f"{row['load'] * 100:8.0f}{row['p50_us'] / 1000:8.1f}"
        )
    return "\n".join(lines)


def _cell(value: float | None, width: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.2f}"


def _count(setting: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    counts = row["counts"]
    workers, in_flight = setting["workers"], setting["in_flight"]
    where = f"{row['server']:20}{workers:9}{in_flight:11}{counts['messages']:10}"
    return f"{where}{counts['shared_frames']:15}{counts['shared_messages']:17}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rooms", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--servers", help="names, with commas")
    parser.add_argument("--workers", type=int, choices=(1, 2), help="only with so many")
    parser.add_argument("--in-flight", type=int, help="only with so many messages")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--size", type=int, default=32, help="bytes of a message (default 32)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="default 5; each takes about 3 minutes"
    )
    parser.add_argument("--seconds", type=float, default=3, help="of a measurement (default 3)")
    parser.add_argument(
        "--quick", action="store_true", help="one round with 32 in flight, about a minute"
    )
    parser.add_argument("--save", type=Path, default=RESULTS, metavar="DIR")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 0.5
        arguments.in_flight = arguments.in_flight or IN_FLIGHT[-1]
    return arguments


def _chosen(names: str | None) -> list[Contender]:
    known = [contender.name for contender in CONTENDERS]
    for name in names.split(",") if names else []:
        if name not in known:
            raise SystemExit(f"there is no {name!r}; there are {', '.join(known)}")
    return [each for each in CONTENDERS if not names or each.name in names.split(",")]


def _redis_version() -> str:
    if not shutil.which("redis-server"):
        raise SystemExit("redis-server is not here: install it, or leave it out with --workers 1")
    answer = subprocess.run(["redis-server", "--version"], capture_output=True, text=True)
    return answer.stdout.split(" sha=")[0].strip()


class Run:
    """The measurements of one start of this program."""

    def __init__(self, settings: Sequence[Setting], contenders: Sequence[Contender]) -> None:
        self._samples: dict[Setting, dict[str, list[Sample]]] = {each: {} for each in settings}
        self._contenders = contenders
        self.failures: dict[str, str] = {}
        self._started = time.monotonic()

    def round(self, title: str, seconds: float) -> None:
        """Measure every server once in every setting."""
        for setting in self._samples:
            for contender in self._contenders:
                if setting.workers == 1 or contender.joins:
                    minutes, rest = divmod(int(time.monotonic() - self._started), 60)
                    line = f"{minutes}:{rest:02} {title}: {contender.name}, {setting.title}"
                    print(f"\r{line:100}", end="", file=sys.stderr, flush=True)
                    self._measure(contender, setting, seconds)

    def _measure(self, contender: Contender, setting: Setting, seconds: float) -> None:
        key = f"{contender.name}, {setting.title}"
        if key in self.failures:
            return
        samples = self._samples[setting]
        try:
            sample = measure(contender, setting, seconds)
        except (Failed, OSError) as failure:
            # One failure makes a server's median worth nothing.
            self.failures[key] = f"{failure}"
            samples.pop(contender.name, None)
        else:
            samples.setdefault(contender.name, []).append(sample)

    def save(self, head: Sequence[str], explanation: str, folder: Path) -> str:
        """Write what there is so far as data and text, and give the text."""
        tables = [_summarize(setting, samples) for setting, samples in self._samples.items()]
        text = _to_text(head, explanation, tables)
        folder.mkdir(parents=True, exist_ok=True)
        data = json.dumps({"head": head, "tables": tables}, indent=1)
        (folder / "rooms-benchmark.json").write_text(data + "\n")
        (folder / "rooms-benchmark.txt").write_text(text)
        return text


def main() -> None:
    arguments = _arguments()
    contenders = _chosen(arguments.servers)
    end_servers_on_signals()
    install.build_programs()
    install.install_peers()
    allow_descriptors()
    head = machine.describe((*machine.OURS, "redis"), THEIRS)
    if arguments.workers != 1:
        head.append(_redis_version())
    head.append(f"rounds: {arguments.rounds}, each measurement {arguments.seconds:g} s")
    explanation = EXPLANATION.format(clients=arguments.clients, size=arguments.size)
    settings = [
        Setting(workers, in_flight, arguments.clients, arguments.size)
        for workers in ([arguments.workers] if arguments.workers else (1, 2))
        for in_flight in ([arguments.in_flight] if arguments.in_flight else IN_FLIGHT)
    ]
    run = Run(settings, contenders)
    text = ""
    for number in range(arguments.rounds):
        run.round(f"round {number + 1} of {arguments.rounds}", arguments.seconds)
        text = run.save(head, explanation, arguments.save)
    print(f"\r{'':100}\r{text}\nsaved as {arguments.save}/rooms-benchmark.txt and .json")
    if run.failures:
        raise SystemExit("\n".join(f"{key}: {why}" for key, why in run.failures.items()))


if __name__ == "__main__":
    main()
