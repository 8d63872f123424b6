"""Clients that come, talk and vanish at random, on every backend, and what is left of them.

python tests/soak [--minutes 3] [--clients 250] [--seed N] [--modes threads,gevent]

Serves all the modes at the same time and drives them from one event loop. After a sixth of the
time (90 s if that is longer), and at the end, all clients leave; then the memory may be 5 %
more than the first time, without what the C library keeps for later, and descriptors, threads,
greenlets, tasks and clients are exactly what they were before the first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guest import Guest, Lost
from memory import MOST_GROWTH, rss_of
from modes import BACKENDS, MODES
from uwsgi_server import Server

ENV = {"PING_INTERVAL": "3", "PING_TIMEOUT": "20", "SEND_TIMEOUT": "2", "CLOSE_TIMEOUT": "1"}
# Bytes that uWSGI itself loses with each request, of a bare WSGI app as well: its greenlet plugin
# never releases the integer that it hangs on the greenlet of a request.
UWSGIS_LOSS = {"asyncio-engine": 32}
# Seconds after which the memory has what it keeps for later; half of a shorter time.
LEAST_EARLY = 90
# Seconds between two samples, and that the last clients may take to leave.
PERIOD, PATIENCE = 2.0, 60.0


@dataclass
class Site:
    """A server, its clients, and what was seen of them.

    :param name: of the mode.
    """

    name: str
    server: Server
    worker: int = 0
    before: dict[str, int] = field(default_factory=dict)
    early: int = 0
    late: int = 0
    kept: int = 0
    early_requests: int = 0
    late_requests: int = 0
    after: dict[str, int] = field(default_factory=dict)
    most: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def rss(self) -> int:
        """Bytes of the worker's memory that are resident."""
        return rss_of(self.worker)

    def loss(self) -> int:
        """Bytes that uWSGI itself lost between the two looks at the memory."""
        return UWSGIS_LOSS.get(self.name, 0) * (self.late_requests - self.early_requests)

    def growth(self) -> float:
        """The part by which the memory grew, uWSGI's own loss left out."""
        return (self.late - self.loss()) / self.early - 1

    def snapshot(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.server.get("/snapshot")[1])
        return found

    def sample(self) -> None:
        now = {
            "rss": self.rss(),
            "descriptors": len(list(Path(f"/proc/{self.worker}/fd").iterdir())),
            "threads": len(list(Path(f"/proc/{self.worker}/task").iterdir())),
        }
        for name, value in now.items():
            self.most[name] = max(self.most[name], value)

    def at_rest(self) -> dict[str, int]:
        """What is held when it is what it was before, or when patience is over."""
        end = time.monotonic() + PATIENCE
        left = self.server.left()
        while time.monotonic() < end and left != self.before:
            time.sleep(0.2)
            left = self.server.left()
        return left

    def first_rest(self) -> dict[str, int]:
        """The least of several looks: uWSGI is late to close the descriptor of a request."""
        looks = []
        for _ in range(15):
            time.sleep(0.2)
            looks.append(self.server.left())
        return {name: min(each[name] for each in looks) for name in looks[-1]}


async def come_and_go(site: Site, dice: random.Random, end: float) -> None:
    """Be one client after another until *end*, of ``time.monotonic()``."""
    # Not all at once.
    await asyncio.sleep(dice.random() * 3)
    while time.monotonic() < end:
        guest = Guest(site.server.port, dice)
        try:
            site.ends[await guest.visit(end)] += 1
        except Lost as error:
            site.faults.append(str(error))
        finally:
            guest.leave()
        await asyncio.sleep(dice.random())


# Seconds by which this program was late, at most: then it is too busy to answer Pings in time.
lateness = 0.0


async def watch(sites: list[Site]) -> None:
    global lateness
    while True:
        due = time.monotonic() + PERIOD
        for site in sites:
            # A worker that is gone is told of at the end.
            with contextlib.suppress(OSError):
                site.sample()
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        lateness = max(lateness, time.monotonic() - due)


async def drive(sites: list[Site], clients: int, seed: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    watching = asyncio.create_task(watch(sites))
    await asyncio.gather(
        *(
            come_and_go(site, random.Random(f"{seed} {site.name} {number}"), end)
            for site in sites
            for number in range(clients)
        )
    )
    watching.cancel()


def verdict(site: Site) -> list[str]:
    """Say what is wrong."""
    found = [f"{count} times: {fault}" for fault, count in Counter(site.faults).most_common(5)]
    if site.server.worker != site.worker:
        found.append("the worker died")
    if site.growth() > MOST_GROWTH:
        found.append(f"memory grew by {site.growth():.1%}")
    if site.after != site.before:
        found.append(f"left behind: {site.after} instead of {site.before}")
    snapshot = site.snapshot()
    if snapshot["handler_errors"] or "Traceback" in site.server.log:
        found.append(f"errors in the log:\n{site.server.log[-4000:]}")
    if snapshot["opened"] != sum(snapshot["closed"].values()):
        found.append(f"not all that were opened are closed: {snapshot}")
    return found


def table(sites: list[Site]) -> None:
    print(f"\n{'':16}" + "".join(f"{site.name:>16}" for site in sites))
    snapshots = [site.snapshot() for site in sites]
    rows: list[tuple[str, list[object]]] = [
        ("MiB early", [f"{site.early / 2**20:.1f}" for site in sites]),
        ("MiB late", [f"{site.late / 2**20:.1f}" for site in sites]),
        ("MiB kept for later", [f"{site.kept / 2**20:.1f}" for site in sites]),
        ("lost by uWSGI", [f"{site.loss() / 2**20:.1f}" for site in sites]),
        ("growth but that", [f"{site.growth():+.1%}" for site in sites]),
        ("MiB at most", [f"{site.most['rss'] / 2**20:.1f}" for site in sites]),
        ("descriptors", [f"{s.after['descriptors']} of {s.most['descriptors']}" for s in sites]),
        ("threads", [f"{s.after['threads']} of {s.most['threads']}" for s in sites]),
        ("registry", [site.after["registry"] for site in sites]),
    ]
    for name in ("opened", "messages_received", "messages_sent", "slow_clients", "ping_timeouts"):
        rows.append((name.replace("_", " "), [each[name] for each in snapshots]))
    for name, cells in rows:
        print(f"{name:18}" + "".join(f"{cell!s:>16}" for cell in cells)[2:])
    for site, snapshot in zip(sites, snapshots, strict=True):
        print(f"{site.name}: ended {dict(site.ends)}, closed {snapshot['closed']}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/soak")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--clients", type=int, default=250, help="of each mode")
    parser.add_argument("--seed", default=f"{random.SystemRandom().randrange(10**6)}")
    parser.add_argument("--modes", default=",".join(BACKENDS))
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    print(
        f"{arguments.clients} clients for each of {arguments.modes}, "
        f"{arguments.minutes:g} minutes, --seed {arguments.seed}",
        flush=True,
    )
    with contextlib.ExitStack() as stack:
        sites = []
        for name in arguments.modes.split(","):
            serving = MODES[name].serve("--listen", "1024", env=ENV)
            sites.append(Site(name, stack.enter_context(serving)))
        for site in sites:
            site.worker = site.server.worker
            # What is made once, for all connections, is there after the first.
            asyncio.run(drive([site], 2, "first", 3))
            site.before = site.first_rest()
            site.ends.clear()
        early = seconds * max(1 / 6, min(1 / 2, LEAST_EARLY / seconds))
        for part, length in (("early", early), ("late", seconds - early)):
            asyncio.run(drive(sites, arguments.clients, f"{arguments.seed} {part}", length))
            for site in sites:
                site.after = site.at_rest()
                kept = site.rss()
                # How much the C library keeps for later is a matter of chance.
                site.server.get("/trim")
                setattr(site, part, site.rss())
                site.kept = max(site.kept, kept - site.rss())
                setattr(site, f"{part}_requests", site.snapshot()["opened"])
            print(
                f"{part}: "
                + ", ".join(f"{s.name} {s.rss() / 2**20:.1f} MiB {s.after}" for s in sites),
                flush=True,
            )
        table(sites)
        print(f"the clients were late by {lateness:.1f} s at most")
        wrong = [f"{site.name}: {each}" for site in sites for each in verdict(site)]
    Server.wait_for_the_stopped()
    if wrong:
        sys.exit("\n".join(wrong))


main()
