"""Rooms over several workers and instances of uWSGI, which a real Redis joins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from members import (
    Member,
    in_view,
    one_in_each_worker,
    outside,
    post,
    serve,
    up_to_end,
)
from modes import BACKENDS, MODES, Mode
from peers import eventually
from redis_server import Redis
from uwsgi_server import APPS, Server

from flask_uwsgi_ws import WebSocket

PREFIX = "tests"

# For what is about another process than the workers.
in_threads = pytest.mark.parametrize("mode", ["threads"], indirect=True)
# Where clients are served by the thread that tells of messages, and where they are not.
in_its_thread_and_others = pytest.mark.parametrize(
    "mode", ["threads", "asyncio-thread"], indirect=True
)


@dataclass
class Joined:
    """Two workers of one uWSGI and the worker of another, a Redis between them, and a script."""

    redis: Redis
    pair: Server
    other: Server
    outside: WebSocket

    def members(self, *rooms: str) -> list[Member]:
        """Open a client in each worker."""
        found = one_in_each_worker(self.pair, 2, *rooms)
        return [*found, Member(self.other, *rooms)]

    def rooms(self) -> set[str]:
        """Name those that Redis knows somebody to be in."""
        return self.redis.channels(f"{PREFIX}:room:")


def join(stack: ExitStack, mode: Mode, folder: Path, history: int = 0) -> Joined:
    redis = stack.enter_context(Redis(folder))
    options = {"message_queue": redis.url, "queue_prefix": PREFIX, "history": history}
    pair = stack.enter_context(serve(mode, "--processes", "2", **options))
    other = stack.enter_context(serve(mode, **options))
    # Both have begun: a uWSGI that is told to end before that does not hear of it.
    for member in one_in_each_worker(pair, 2):
        member.ws.close()
    return Joined(redis, pair, other, outside(redis.url, PREFIX, history=history))


@pytest.fixture(scope="module")
def joined(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    with ExitStack() as stack:
        yield join(stack, mode, tmp_path_factory.mktemp("redis"))


# Who gets what.


def test_all_members_get_each_message_once_wherever_it_comes_from(joined: Joined) -> None:
    members = joined.members("a")
    stranger = Member(joined.pair, "b")
    one, two, three = members
    for number, member in enumerate(members):
        member.do("send_to", room="a", message=f"from handler {number}")
    in_view(joined.pair, "send_to", room="a", message=[0, 255])
    in_view(joined.other, "send_to", room="a", message="as bytes", binary=True)
    joined.outside.send_to("a", "from a script")
    joined.outside.send_to("a", "x" * 2_000_000)
    in_view(joined.other, "broadcast", message="to all")
    expected = [f"from handler {number}" for number in range(3)]
    expected += [b"\x00\xff", b"as bytes", "from a script", "x" * 2_000_000, "to all"]
    *found, strange = up_to_end(joined.outside, *members, stranger)
    for messages in found:
        assert sorted(map(repr, messages)) == sorted(map(repr, expected))
    assert strange == ["to all"]

    one.do("send_to", room="a", message="not to me", skip_me=True)
    two.do("broadcast", message="not to three", skip=three.id)
    joined.outside.send_to("a", "not to two", skip=two.id)
    # Nothing is said of the order between senders.
    assert [sorted(map(str, each)) for each in up_to_end(joined.outside, *members, stranger)] == [
        ["not to three", "not to two"],
        ["not to me", "not to three"],
        ["not to me", "not to two"],
        ["not to three"],
    ]

    for sender in (one, two, three):
        assert sender.do("send_to_client", id=stranger.id, message=f"from {sender.pid}")
    assert joined.outside.send_to_client(stranger.id, b"\x01")
    assert not joined.outside.send_to_client("0" * 32, "nobody")
    found, nothing = up_to_end(joined.outside, stranger, one)
    assert sorted(map(str, found)) == sorted(
        [*(f"from {sender.pid}" for sender in members), str(b"\x01")]
    )
    assert nothing == []
    for member in (*members, stranger):
        member.ws.close()


def test_presence_is_that_of_all_workers(joined: Joined) -> None:
    one, two, three = members = joined.members()
    for number, member in enumerate(members):
        member.do("join", room="who", info={"number": number})
    expected = {member.id: {"number": number} for number, member in enumerate(members)}
    for member in members:
        assert member.do("presence", room="who") == expected
    assert (
        joined.outside.presence("who") == in_view(joined.pair, "presence", room="who") == expected
    )
    one.do("leave", room="who")
    two.ws.close()
    left = {three.id: {"number": 2}}
    assert eventually(lambda: joined.outside.presence("who") == left)
    assert eventually(lambda: one.do("presence", room="who") == left)
    three.ws.close()
    assert eventually(lambda: joined.outside.presence("who") == {})
    one.ws.close()


def test_each_senders_messages_come_in_order_from_several_at_once(joined: Joined) -> None:
    count = 100
    members = joined.members("a")
    for number, member in enumerate(members):
        command = {"call": "send_many", "room": "a", "sender": f"handler{number}"}
        member.begin({**command, "first": 0, "last": count})
    threads = [
        threading.Thread(
            target=in_view,
            args=(server, "send_many"),
            kwargs={"room": "a", "sender": f"view{number}", "first": 0, "last": count},
        )
        for number, server in enumerate((joined.pair, joined.other))
    ]
    for thread in threads:
        thread.start()
    for number in range(count):
        joined.outside.send_to("a", f"script {number}")
    for thread in threads:
        thread.join()
    for member in members:
        member.answer()
    senders = ["handler0", "handler1", "handler2", "view0", "view1", "script"]
    expected = {sender: [f"{sender} {number}" for number in range(count)] for sender in senders}
    for messages in up_to_end(joined.outside, *members):
        found: dict[str, list[str]] = {}
        for message in messages:
            found.setdefault(str(message).split()[0], []).append(str(message))
        assert found == expected
    for member in members:
        member.ws.close()


def test_only_rooms_with_members_are_subscribed_by_workers_that_have_them(joined: Joined) -> None:
    one, two, three = joined.members()

    def subscribers(room: str) -> int:
        return int(joined.redis.client.pubsub_numsub(f"{PREFIX}:room:{room}")[0][1])

    assert eventually(lambda: joined.rooms() == set()), joined.rooms()
    one.do("join", room="both")
    one.do("join", room="one's")
    three.do("join", room="both")
    assert joined.rooms() == {"both", "one's"}
    assert (subscribers("both"), subscribers("one's")) == (2, 1)
    one.do("leave", room="both")
    assert eventually(lambda: subscribers("both") == 1)
    # Back at once, and a message right after that is not missed.
    for _ in range(20):
        one.do("leave", room="one's")
        one.do("join", room="one's")
        two.do("send_to", room="one's", message="seen")
        assert one.next() == "seen"
    assert up_to_end(joined.outside, one, two) == [[], []]
    three.ws.close()
    assert eventually(lambda: joined.rooms() == {"one's"})
    one.ws.close()
    assert eventually(lambda: joined.rooms() == set())
    two.ws.close()


def test_worker_has_two_connections_whatever_it_does(joined: Joined) -> None:
    members = joined.members("a", "b")
    for member in members:
        member.do("send_to", room="a", message="hello")
        member.do("presence", room="a")
    joined.outside.broadcast("hello")
    for server in (joined.pair, joined.other):
        for _ in range(10):
            in_view(server, "broadcast", message="hello")
            post(server, "/call-in-threads", call="send_to", room="b", message="hello")
    assert eventually(lambda: len(json.loads(joined.other.get("/done")[1])) == 20)
    assert "error" not in joined.other.get("/done")[1] + joined.pair.get("/done")[1]
    own = joined.redis.client.client_id()
    clients = [each for each in joined.redis.client.client_list() if int(each["id"]) != own]
    listening = [each for each in clients if int(each["sub"])]
    # Of the three workers, and that of this process, which only sends.
    assert (len(listening), len(clients) - len(listening)) == (3, 3 + 1)
    for member in members:
        member.ws.close()


def test_process_that_a_worker_forked_sends_as_any_other_does(joined: Joined) -> None:
    one = Member(joined.other, "a")
    two = Member(joined.pair, "a")
    told = json.loads(
        post(joined.other, "/call-in-child", call="send_to", room="a", message="from the child")
    )
    assert told == {"result": None}
    told = json.loads(
        post(joined.other, "/call-in-child", call="send_to_client", id=one.id, message="to one")
    )
    assert told == {"result": True}
    expected = [["from the child", "to one"], ["from the child"]]
    assert up_to_end(joined.outside, one, two) == expected
    one.ws.close()
    two.ws.close()


@in_its_thread_and_others
def test_who_leaves_very_many_rooms_harms_nobody(joined: Joined) -> None:
    with Member(joined.other):
        post(joined.other, "/join-many/3000")
    with Member(joined.other, "a") as other:
        one = Member(joined.pair, "a")
        other.do("send_to", room="a", message="hello")
        assert joined.outside.presence("a").keys() == {one.id, other.id}
        assert up_to_end(joined.outside, one, other) == [["hello"]] * 2
        one.ws.close()
    assert eventually(lambda: not joined.redis.client.keys(f"{PREFIX}:presence:*"), 20)
    assert eventually(lambda: joined.rooms() == set(), 20)


GARBAGE = [
    b"",
    b"junk",
    b"\xff\xfe",
    b"\n",
    b"\n[]\nhello",
    b"\n{}\nhello",
    b"\n5\nhello",
    b"\nnull\nhello",
    b'\n["t"]\nhello',
    b'\n["t","s","t",1,"",""]\n\xff',
    b'\n["z","s","t",1,"",""]\n\xff',
    b'\n[["t"],"s","t",1,"",""]\nhello',
    b'\n["t","s","t",1,["x"],""]\nhello',
    b'\n["t","s","t",1,{},5]\nhello',
    b'\n["t","s","t","1","",""]\nhello',
    b'\n["t","s","t",1.5,"",""]\nhello',
    b'\n["t","s","t",-1,"",""]\nhello',
    b'\n["t","s","t",9223372036854775808,"",""]\nhello',
    b'\n["t","s","t",1,"",5]\nhello',
    b'\n["t","s","t",1,"","\\ud800"]\nhello',
    b'\n["t",["s"],["t"],1,"",""]\nhello',
    b"\n" + b"[" * 100_000 + b"\nhello",
    b'x\n["t","s","t",1,"",""]\nhello',
    b'-1\n["t","s","t",1,"",""]\nhello',
    b'1-x\n["t","s","t",1,"",""]\nhello',
    b'\xff\n["t","s","t",1,"",""]\nhello',
    b"1" * 100 + b'\n["t","s","t",1,"",""]\nhello',
]


def test_what_others_publish_to_our_channels_is_logged_and_ignored(joined: Joined) -> None:
    with Member(joined.other, "a") as one:
        lines = joined.other.log.count("ignored what somebody else published to 'tests:room:a'")
        for garbage in GARBAGE:
            joined.redis.client.publish(f"{PREFIX}:room:a", garbage)
            joined.redis.client.publish(f"{PREFIX}:all:", garbage)
        joined.redis.client.hset(f"{PREFIX}:presence:a", "someone", b"\xff junk")
        assert up_to_end(joined.outside, one) == [[]]
        log = joined.other.log
        assert log.count("published to 'tests:room:a'") - lines == len(GARBAGE)
        assert "Redis is lost" not in log
        assert "Traceback" not in log
        # Those of the test before may still be on their way out.
        assert eventually(lambda: joined.outside.presence("a") == {one.id: None})
        joined.redis.client.delete(f"{PREFIX}:presence:a")


# From outside of the workers.


@pytest.mark.parametrize("mode", ["threads", "gevent"], indirect=True)
def test_mule_spooler_and_timer_reach_the_members(
    mode: Mode, joined: Joined, tmp_path: Path
) -> None:
    (tmp_path / "mule.py").write_text("from outside import go_on\ngo_on()\n")
    (tmp_path / "spool").mkdir()
    options = ("--spooler", str(tmp_path / "spool"), "--mule=" + str(tmp_path / "mule.py"))
    env = {"OPTIONS": json.dumps({"message_queue": joined.redis.url, "queue_prefix": "outside"})}
    with mode.serve(*options, app="outside", env=env) as server, Member(server, "a") as one:
        server.get("/spool")
        wanted = {"from the mule", "from the spooler", "from the timer"}
        seen = set()
        while seen != wanted:
            seen.add(one.next())
            assert seen <= wanted
        assert "Traceback" not in server.log


@in_threads
@pytest.mark.parametrize("backend", [MODES[name].backend for name in BACKENDS[:3]])
def test_commands_and_scripts_reach_the_members(joined: Joined, backend: str) -> None:
    options = json.dumps({"message_queue": joined.redis.url, "queue_prefix": PREFIX})
    env = {**os.environ, "BACKEND": backend, "OPTIONS": options}

    def run(*command: str) -> str:
        ended = subprocess.run(
            [sys.executable, *command],
            cwd=APPS,
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    with Member(joined.other) as one, Member(joined.pair, "a") as two:
        one.do("join", room="a", info="Ann")
        run("-m", "flask", "--app", "rooms", "say", "a", "from a command")
        told = run(
            "-c",
            "import sys, json; from rooms import websocket; send = websocket.send_to\n"
            "send('a', 'from a script'); websocket.broadcast(b'to all', skip=sys.argv[1])\n"
            "print(websocket.send_to_client(sys.argv[1], 'to one'))\n"
            "print(json.dumps(websocket.presence('a')))",
            one.id,
        )
        assert told.splitlines()[0] == "True"
        assert json.loads(told.splitlines()[1]) == {one.id: "Ann", two.id: None}
        found = up_to_end(joined.outside, one, two)
        assert found[0] == ["from a command", "from a script", "to one"]
        assert found[1] == ["from a command", "from a script", b"to all"]


@in_threads
def test_script_with_an_event_loop_awaits(joined: Joined) -> None:
    options = json.dumps({"message_queue": joined.redis.url, "queue_prefix": PREFIX})
    env = {**os.environ, "BACKEND": "AsyncioWebSocket", "OPTIONS": options}
    program = """
import asyncio
from rooms import websocket
async def main():
    for number in range(100):
        await websocket.send_to("a", f"{number}")
    print(len(await websocket.presence("a")))
asyncio.run(main())
"""
    with Member(joined.pair, "a") as one:
        ended = subprocess.run(
            [sys.executable, "-c", program],
            cwd=APPS,
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (ended.stdout, ended.stderr) == ("1\n", "")
        assert up_to_end(joined.outside, one) == [[f"{number}" for number in range(100)]]


# History, for all workers.


@pytest.fixture(scope="module")
def remembering(mode: Mode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    with ExitStack() as stack:
        yield join(stack, mode, tmp_path_factory.mktemp("redis"), 20)


@in_its_thread_and_others
def test_history_is_that_of_all_senders_and_joins_miss_nothing(remembering: Joined) -> None:
    made = {"id": True}
    members = remembering.members("a")
    ids = [member.do("send_to", room="a", message=made) for member in members]
    ids += [in_view(remembering.pair, "send_to", room="a", message=made)]
    ids += [remembering.outside.send_to("a", lambda id: f"message {id}")]
    expected = [f"message {id}" for id in ids]
    assert up_to_end(remembering.outside, *members) == [expected] * 3
    for server in (remembering.pair, remembering.other):
        with Member(server) as late, Member(server) as later, Member(server) as latest:
            assert late.do("join", room="a", since=ids[1])
            assert later.do("join", room="a", last=1)
            assert not latest.do("join", room="a", since="5-0")
            assert up_to_end(remembering.outside, late, later, latest) == [
                expected[2:],
                expected[-1:],
                expected,
            ]
    for member in members:
        member.ws.close()


@in_its_thread_and_others
def test_join_in_the_middle_of_a_stream_gets_each_message_once(remembering: Joined) -> None:
    """What comes while the history is fetched is neither lost nor sent twice."""
    remembering.outside.send_to("busy", "begin")
    sending = threading.Event()
    stop = threading.Event()
    sent = []

    def send() -> None:
        while not stop.is_set() and len(sent) < 10_000:
            sent.append(f"{len(sent)}")
            remembering.outside.send_to("busy", sent[-1])
            sending.set()

    sender = threading.Thread(target=send)
    sender.start()
    assert sending.wait(10)
    joins = []
    try:
        for server in (remembering.other, remembering.pair) * 5:
            member = Member(server)
            member.do("join", room="busy", last=5)
            joins.append(member)
    finally:
        stop.set()
        sender.join()
    for messages in up_to_end(remembering.outside, *joins):
        first = sent.index(str(messages[0])) if messages[0] != "begin" else 0
        assert [each for each in messages if each != "begin"] == sent[first:]
    for member in joins:
        member.ws.close()
    assert eventually(lambda: remembering.rooms() == set())
