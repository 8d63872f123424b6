"""Many members in many rooms, on two uWSGIs of two workers each, and what harm can be done to them.

python tests/rooms [--modes threads,gevent] [--clients 400] [--rooms 20] [--rate 200]
                   [--seconds 60] [--history no|yes|both]
python tests/rooms --churn --minutes 10

Views, handlers and a script send to the rooms all the time. Each member has to get each message of
its room once and in its sender's order, and no other. Redis is killed and started again, then a
worker is killed, then another reloaded; each time everybody has to be served again within 5 s.
With a history nobody may miss anything; without one what a worker has missed has to be what it
says that it has. With --churn members come, join, leave and go all the time, and the memory of the
workers at the end may be 5 % more than after a sixth of the time. Exits with 1 where anything is
wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memory import MOST_GROWTH, trimmed
from modes import BACKENDS, MODES
from people import FAILED, MAYBE, OK, Handler, Line, Member, Script, Speaker, View
from redis_server import Redis
from uwsgi_server import Server

PREFIX = "crowd"
# Seconds that all may take to be served again, and over which the messages of one are looked for.
WITHIN, LATELY = 5.0, 1.0
HISTORY = 5000
# Of glibc's pools of memory, in which it keeps for later what was freed.
ARENAS = 2


@dataclass
class Site:
    """The servers, and who takes part."""

    redis: Redis
    servers: list[Server]
    members: list[Member] = field(default_factory=list)
    speakers: list[Speaker] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def snapshots(self) -> dict[int, dict[str, Any]]:
        """Give what each worker has counted."""
        found: dict[int, dict[str, Any]] = {}
        for server in self.servers:
            pids = set(server.workers())
            end = time.monotonic() + 20
            while not pids <= found.keys() and time.monotonic() < end:
                counted = json.loads(server.get("/snapshot")[1])
                found[counted["pid"]] = counted
        return found

    async def pause(self) -> None:
        """Have all speakers wait, and let what they have said arrive."""
        for speaker in self.speakers:
            speaker.paused = True
        end = time.monotonic() + 20
        while any(speaker.waiting for speaker in self.speakers) and time.monotonic() < end:
            await asyncio.sleep(0.1)
        quiet_at = time.monotonic() + LATELY
        while time.monotonic() < min(quiet_at, end):
            await asyncio.sleep(0.1)
            last = max(member.heard_at for member in self.members)
            quiet_at = max(quiet_at, last + LATELY)

    def go_on(self) -> None:
        for speaker in self.speakers:
            speaker.paused = False

    async def served_again(self, what: str, within: float) -> None:
        """See that everybody hears of others when so many seconds have passed."""
        start = time.monotonic()
        while time.monotonic() < start + within:
            await asyncio.sleep(0.1)
            if time.monotonic() > start + LATELY and not self.silent(start):
                break
        silent = self.silent(start)
        if silent:
            self.wrong.append(
                f"{within:g} s after {what} {len(silent)} of {len(self.members)} members hear "
                f"nothing, the first in {silent[0].room}"
            )
        print(f"  {what}: all are served after {time.monotonic() - start:.1f} s", flush=True)

    def silent(self, since: float) -> list[Member]:
        lately = max(time.monotonic() - LATELY, since + LATELY / 2)
        return [member for member in self.members if member.heard_at < lately]

    # Accounts.

    def sent(self) -> dict[str, dict[tuple[str, int], tuple[str, int]]]:
        """Give, by room, the messages: sender and number, outcome and process."""
        found: dict[str, dict[tuple[str, int], tuple[str, int]]] = defaultdict(dict)
        for speaker in self.speakers:
            for (room, number), outcome in speaker.outcomes.items():
                found[room][speaker.name, number] = outcome
        return found

    def check(self, what: str, complete: bool) -> None:
        """See that nobody got anything wrong, or, where all are to be *complete*, too little."""
        sent = self.sent()
        for member in self.members:
            got = {(sender, n) for sender, numbers in member.heard.items() for n in numbers}
            for fault in [*member.faults, *out_of_order(member, sent[member.room])][:3]:
                self.wrong.append(f"{what}: a member of {member.room} {fault}")
            unknown = got - sent[member.room].keys()
            refused = {
                each
                for each in got & sent[member.room].keys()
                if sent[member.room][each][0] == FAILED
            }
            if unknown or refused:
                self.wrong.append(f"{what}: got what was not sent: {sorted(unknown | refused)[:3]}")
            missing = [
                each
                for each, (outcome, _) in sent[member.room].items()
                if outcome == OK and each not in got
            ]
            if complete and missing:
                self.wrong.append(
                    f"{what}: a member of {member.room} (connected {member.times} times) lacks "
                    f"{len(missing)} messages: {sorted(missing)[:3]}"
                )

    def check_losses(self, what: str) -> int:
        """See that each worker has missed what it says; gives how many that are in all."""
        sent = self.sent()
        counted = {pid: each["queue_lost"] for pid, each in self.snapshots().items()}
        missed: Counter[int] = Counter()
        # Those that are followed by one of the same sender and process, so that it is noticed.
        known: Counter[int] = Counter()
        seen: dict[tuple[int, str], set[tuple[str, int]]] = {}
        for member in self.members:
            got = {(sender, n) for sender, numbers in member.heard.items() for n in numbers}
            before = seen.setdefault((member.pid, member.room), got)
            if before != got:
                self.wrong.append(
                    f"{what}: members of {member.room} in one worker got different messages: "
                    f"{sorted(before ^ got)[:3]}"
                )
        for (pid, room), got in seen.items():
            last: Counter[tuple[str, int]] = Counter()
            for each in got & sent[room].keys():
                source = each[0], sent[room][each][1]
                last[source] = max(last[source], each[1])
            for each, (outcome, process) in sent[room].items():
                if outcome in (OK, MAYBE) and process != pid and each not in got:
                    missed[pid] += 1
                    known[pid] += bool(process) and each[1] < last[each[0], process]
        for pid, count in counted.items():
            if not known[pid] <= count <= missed[pid]:
                self.wrong.append(
                    f"{what}: worker {pid} counts {count} lost messages, and its members lack "
                    f"{missed[pid]}, of which it can know {known[pid]}"
                )
        return sum(missed.values())

    def check_logs(self) -> None:
        for server in self.servers:
            if "Traceback" in server.log:
                self.wrong.append(f"errors in the log:\n{server.log[-4000:]}")


def out_of_order(member: Member, sent: dict[tuple[str, int], tuple[str, int]]) -> Iterator[str]:
    """Find what came twice, or in an order that is not that of the process which sent it.

    A view is served now by this worker and now by that one, and each may keep what it can not send.
    """
    for sender, numbers in member.heard.items():
        last: dict[int, int] = {}
        for number in numbers:
            outcome, process = sent.get((sender, number), (MAYBE, 0))
            before = last.get(process, 0)
            if outcome == OK and number <= before:
                yield f"got {number} of {sender} after {before}"
            last[process] = max(before, number)
        if len(set(numbers)) < len(numbers):
            twice = [number for number, count in Counter(numbers).items() if count > 1]
            yield f"got {twice[:3]} of {sender} twice"


def speakers(site: Site, rooms: list[str], rate: float, history: int) -> list[Speaker]:
    """Make those who speak, so many messages a second in all: half of them through handlers."""
    found: list[Speaker] = []
    handlers, views = 8, 4
    for number in range(handlers):
        port = site.servers[number % 2].port
        turned = rooms[number:] + rooms[:number]
        found.append(Handler(f"handler{number}", turned, handlers / (rate / 2), port))
    for number in range(views):
        port = site.servers[number % 2].port
        turned = rooms[number:] + rooms[:number]
        found.append(View(f"view{number}", turned, views / (rate / 4), port))
    found.append(Script("script", rooms, 1 / (rate / 4), site.redis.url, PREFIX, history))
    return found


def start(stack: ExitStack, mode: str, history: int, arenas: int | None = None) -> Site:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    keep = ("--appendonly", "yes", "--appendfsync", "always")
    redis = stack.enter_context(Redis(folder, *keep))
    options: dict[str, Any] = {"message_queue": redis.url, "queue_prefix": PREFIX}
    if history:
        options |= {"history": history, "queue_kept": 10_000}
    env = {"OPTIONS": json.dumps(options), "PING_INTERVAL": "60"}
    if arenas:
        env["MALLOC_ARENA_MAX"] = f"{arenas}"
    uwsgi = ("--processes", "2", "--listen", "100", "--forkbomb-delay", "0")
    servers = [
        stack.enter_context(MODES[mode].serve(*uwsgi, app="crowded", env=env)) for _ in range(2)
    ]
    return Site(redis, servers)


@contextlib.asynccontextmanager
async def living(people: list[Any]) -> Any:
    tasks = [asyncio.create_task(each.live()) for each in people]
    try:
        yield
    finally:
        left = set(tasks)
        while left:
            # Again: wait_for of Python 3.11 and older may take a cancellation for itself.
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=1)
        for task in tasks:
            if not task.cancelled():
                task.result()


async def have_run(site: Site, arguments: argparse.Namespace, history: int) -> None:
    rooms = [f"room{number}" for number in range(arguments.rooms)]
    for number in range(arguments.clients):
        port = site.servers[number % 2].port
        site.members.append(Member(port, rooms[number // 2 % len(rooms)], bool(history)))
    site.speakers = speakers(site, rooms, arguments.rate, history)
    part = arguments.seconds / 4
    async with living(site.members):
        end = time.monotonic() + 30
        while not all(member.times for member in site.members):
            if time.monotonic() > end:
                raise SystemExit("not all members could join")
            await asyncio.sleep(0.1)
        workers = Counter(member.pid for member in site.members)
        print(f"  members of each worker: {sorted(workers.values())}", flush=True)
        async with living(site.speakers):
            await asyncio.sleep(part)
            await site.pause()
            site.check("in peace", complete=True)
            lost = site.check_losses("in peace")
            if lost:
                site.wrong.append(f"{lost} messages were lost in peace")
            site.go_on()

            await asyncio.sleep(0.5)
            site.redis.kill()
            await asyncio.sleep(1.5)
            await asyncio.to_thread(site.redis.start)
            await site.served_again("Redis is killed and started", arguments.within)
            await asyncio.sleep(part)
            await site.pause()
            site.check("after Redis", complete=bool(history))
            lost = 0 if history else site.check_losses("after Redis")
            site.go_on()

            victim = max(workers, key=lambda pid: (pid in site.servers[0].workers(), pid))
            os.kill(victim, signal.SIGKILL)
            await site.served_again("a worker is killed", arguments.within)
            await asyncio.sleep(part)

            victim = site.servers[1].workers()[0]
            os.kill(victim, signal.SIGHUP)
            await site.served_again("a worker is reloaded", arguments.within)
            await asyncio.sleep(part)
            await site.pause()
    site.check("at the end", complete=bool(history))
    site.check_logs()
    outcomes = Counter(
        outcome for speaker in site.speakers for outcome, _ in speaker.outcomes.values()
    )
    heard = sum(len(numbers) for member in site.members for numbers in member.heard.values())
    print(
        f"  {sum(outcomes.values())} messages, {dict(outcomes)}; heard {heard} times, "
        f"{sum(member.times - 1 for member in site.members)} times somebody came back, "
        f"{lost} lost in the outage of Redis",
        flush=True,
    )


# Comings and goings.


class Restless:
    """A member that joins and leaves, comes and goes, as dice decide."""

    def __init__(self, port: int, rooms: list[str], dice: random.Random, wrong: list[str]) -> None:
        self._port, self._rooms, self._dice, self._wrong = port, rooms, dice, wrong
        # By room and sender, the last number since it has joined that room.
        self._last: dict[str, dict[str, int]] = {}
        self.heard = self.visits = self.joins = 0

    async def live(self) -> None:
        while True:
            self._last.clear()
            try:
                line = await Line.open(self._port, self._hear)
            except (OSError, TimeoutError) as error:
                self._wrong.append(f"could not connect: {error}")
                await asyncio.sleep(1)
                continue
            try:
                await self._visit(line)
            finally:
                (line.reset if self._dice.random() < 0.5 else line.close)()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(line.ended), 10)
            self.visits += 1

    async def _visit(self, line: Line) -> None:
        while self._dice.random() < 0.9 and not line.ended.done():
            room = self._dice.choice(self._rooms)
            if room in self._last:
                line.say(f"leave {room}")
            else:
                line.say(f"join {room}")
                self.joins += 1
            await asyncio.sleep(self._dice.random() * 2)
        if line.ended.done():
            self._wrong.append("a connection was ended")

    def _hear(self, text: str) -> None:
        words = text.split()
        if words[0] == "!":
            if words[1] == "joined":
                self._last[words[2]] = {}
            else:
                self._last.pop(words[2], None)
            return
        _, room, sender, number = words
        self.heard += 1
        # What comes right before the answer to the join has no number before it.
        last = self._last.get(room, {})
        if sender in last and int(number) != last[sender] + 1:
            self._wrong.append(f"got {number} of {sender} in {room} after {last[sender]}")
        if room in self._last:
            last[sender] = int(number)


async def churn(site: Site, arguments: argparse.Namespace) -> None:
    rooms = [f"room{number}" for number in range(arguments.rooms)]
    memory: list[dict[int, int]] = []
    seconds = arguments.minutes * 60
    # Until all that is made once has been made.
    early = seconds * max(1 / 4, min(1 / 2, 150 / seconds))
    for length in (early, *[(seconds - early) / 3] * 3):
        site.speakers = speakers(site, rooms, arguments.rate, 0)
        restless = [
            Restless(
                site.servers[number % 2].port,
                rooms,
                random.Random(f"{arguments.seed} {number}"),
                site.wrong,
            )
            for number in range(arguments.clients)
        ]
        async with living(restless), living(site.speakers):
            await asyncio.sleep(length)
        heard = sum(each.heard for each in restless)
        print(
            f"  {sum(each.visits for each in restless)} visits, "
            f"{sum(each.joins for each in restless)} joins, heard {heard} messages",
            flush=True,
        )
        if not heard:
            site.wrong.append("nobody heard anything")
        await at_rest(site)
        now: dict[int, int] = {}
        for server in site.servers:
            now |= await asyncio.to_thread(trimmed, server, 2)
        memory.append(now)
        print(f"  MiB: {', '.join(f'{rss / 2**20:.1f}' for rss in now.values())}", flush=True)
    for pid, after in memory[-1].items():
        growth = after / memory[0].get(pid, 1) - 1
        if growth > MOST_GROWTH:
            site.wrong.append(f"the memory of worker {pid} grew by {growth:.1%}")
    site.check_logs()
    for snapshot in site.snapshots().values():
        if snapshot["queue_lost"] or snapshot["handler_errors"] or snapshot["slow_clients"]:
            site.wrong.append(f"not all went well: {snapshot}")


async def at_rest(site: Site) -> None:
    """See that nothing is left of those who have gone."""
    end = time.monotonic() + 20
    left: dict[str, Any] = {"not": "looked"}
    while left and time.monotonic() < end:
        await asyncio.sleep(0.5)
        left = {}
        for server in site.servers:
            for _ in range(6):
                found = json.loads(server.get("/rooms")[1])
                if found != {"rooms": [], "clients": 0, "ids": 0, "open": 0}:
                    left["in a worker"] = found
        channels = site.redis.channels(f"{PREFIX}:room:")
        present = [
            key
            for key in site.redis.client.keys(f"{PREFIX}:presence:*")
            if site.redis.client.hlen(key)
        ]
        if channels or present:
            left["in Redis"] = channels, present
    if left:
        site.wrong.append(f"left behind: {left}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/rooms")
    parser.add_argument("--modes", default=",".join(BACKENDS))
    parser.add_argument("--clients", type=int, default=400)
    parser.add_argument("--rooms", type=int, default=20)
    parser.add_argument("--rate", type=float, default=200, help="messages a second")
    parser.add_argument("--seconds", type=float, default=60, help="of each run")
    parser.add_argument("--within", type=float, default=WITHIN, help="seconds to be served again")
    parser.add_argument("--history", choices=("no", "yes", "both"), default="both")
    parser.add_argument("--churn", action="store_true")
    parser.add_argument("--minutes", type=float, default=10, help="with --churn, of each mode")
    parser.add_argument("--seed", default=f"{random.SystemRandom().randrange(10**6)}")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    wrong = []
    histories = {"no": [0], "yes": [HISTORY], "both": [0, HISTORY]}[arguments.history]
    for mode in arguments.modes.split(","):
        for history in [0] if arguments.churn else histories:
            name = f"{mode}, {'churn' if arguments.churn else 'history' if history else 'plain'}"
            print(f"{name}: {arguments.clients} clients, --seed {arguments.seed}", flush=True)
            with ExitStack() as stack:
                # As docs/deploying.rst says: else what glibc keeps for each thread hides a leak.
                site = start(stack, mode, history, ARENAS if arguments.churn else None)
                if arguments.churn:
                    asyncio.run(churn(site, arguments))
                else:
                    asyncio.run(have_run(site, arguments, history))
            for each in site.wrong[:5]:
                print(f"  WRONG: {each}", flush=True)
            wrong += [f"{name}: {each}" for each in site.wrong[:20]]
    Server.wait_for_the_stopped()
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
