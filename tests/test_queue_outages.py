"""What fails around the message queue: Redis that is held up, killed or moved, and workers."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis as redis_package
from certificates import make_certificate
from members import (
    Member,
    Refused,
    in_view,
    one_in_each_worker,
    outside,
    serve,
    snapshot,
    up_to_end,
)
from modes import BACKENDS, MODES, Mode
from peers import eventually
from redis_server import Cluster, Redis
from uwsgi_server import Server, free_port

from flask_uwsgi_ws import QueueError
from flask_uwsgi_ws.queues.base import Outgoing
from flask_uwsgi_ws.queues.letters import Letter, encode

PREFIX = "tests"
THREADS = MODES["threads"]

# What is the same in all threads, those of gevent's kind apart.
in_threads_and_greenlets = pytest.mark.parametrize("mode", ["threads", "gevent"], indirect=True)
in_threads = pytest.mark.parametrize("mode", ["threads"], indirect=True)
in_greenlets = pytest.mark.parametrize("mode", ["gevent"], indirect=True)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with Redis(tmp_path) as server:
        yield server


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster


def serve_joined(mode: Mode, url: str, *options: str, **settings: Any) -> Server:
    return serve(mode, *options, message_queue=url, queue_prefix=PREFIX, **settings)


def subscribers(redis: Redis, room: str) -> int:
    try:
        return int(redis.client.pubsub_numsub(f"{PREFIX}:room:{room}")[0][1])
    except redis_package.RedisError:
        return 0


def is_lost(server: Server, workers: int) -> bool:
    return eventually(lambda: server.log.count("Redis is lost") == workers, 20)


def know_that_it_is_back(server: Server) -> bool:
    log = server.log
    return log.count("Redis is back") == log.count("Redis is lost")


def is_back(server: Server, redis: Redis, workers: int, *rooms: str) -> bool:
    """Wait until all workers listen again, and those with members to their rooms."""

    def listen() -> bool:
        try:
            told = dict(redis.client.pubsub_numsub(f"{PREFIX}:all:"))
        except redis_package.RedisError:
            return False
        rooms_told = all(subscribers(redis, room) == workers for room in rooms)
        # Redis knows that a worker listens before the worker has its answer.
        return list(told.values()) == [workers] and rooms_told and know_that_it_is_back(server)

    return eventually(listen, 20)


# Redis comes back.


def test_redis_that_is_killed_and_started_again(mode: Mode, redis: Redis) -> None:
    with serve_joined(mode, redis.url, "--processes", "2") as server:
        one, two = members = one_in_each_worker(server, 2, "a")
        one.do("send_to", room="a", message="before")
        assert [member.next() for member in members] == ["before"] * 2
        redis.kill()
        assert is_lost(server, 2)
        for member in members:
            for call in ("send_to", "presence"):
                message = {"message": "lost"} if call == "send_to" else {}
                with pytest.raises(Refused, match=r"^QueueError: .*Redis does not answer"):
                    member.do(call, room="a", **message)
            # In a room without Redis nobody is, but when it is back.
            member.do("join", room="b")
        with pytest.raises(Refused, match="send it again later, or set UWSGI_WEBSOCKET_QUEUE_KEPT"):
            in_view(server, "broadcast", message="lost")
        assert one.do("send_to_client", id=one.id, message="to myself")
        assert one.all_so_far() == ["to myself"]
        redis.start()
        assert is_back(server, redis, 2, "a", "b")
        sender = outside(redis.url, PREFIX)
        one.do("send_to", room="b", message="one")
        two.do("send_to", room="a", message="two")
        sender.send_to("a", "three")
        for messages in up_to_end(sender, *members):
            assert sorted(map(str, messages)) == ["one", "three", "two"]
        there = {member.id for member in members}
        assert eventually(lambda: sender.presence("a").keys() == there)
        assert (server.log.count("Redis is lost"), server.log.count("Redis is back")) == (2, 2)
        assert "Traceback" not in server.log
        # And another time.
        redis.kill()
        assert eventually(lambda: server.log.count("Redis is lost") == 4, 20)
        redis.start()
        assert eventually(lambda: server.log.count("Redis is back") == 4, 20)
        assert is_back(server, redis, 2, "a", "b")
        one.do("send_to", room="a", message="four")
        assert up_to_end(sender, *members) == [["four"]] * 2
        for member in members:
            member.ws.close()


@in_greenlets
def test_redis_that_is_not_there_at_the_start(mode: Mode, redis: Redis) -> None:
    redis.kill()
    with serve_joined(mode, redis.url) as server:
        one = Member(server, "a")
        with pytest.raises(Refused, match="Redis does not answer"):
            one.do("send_to", room="a", message="lost")
        redis.start()
        assert is_back(server, redis, 1, "a")
        one.do("send_to", room="a", message="found")
        sender = outside(redis.url, PREFIX)
        assert up_to_end(sender, one) == [["found"]]
        assert eventually(lambda: sender.presence("a") == {one.id: None})
        one.ws.close()


def test_nobody_waits_for_a_redis_that_is_held_up_but_who_asks_it(mode: Mode, redis: Redis) -> None:
    with serve_joined(mode, redis.url) as server:
        asking, other = Member(server, "a"), Member(server, "a")
        asking.do("send_to", room="a", message="before")
        told = []

        def ask() -> None:
            try:
                in_view(server, "send_to", room="a", message="?")
            except Refused as error:
                told.append(str(error))

        view = threading.Thread(target=ask)
        try:
            redis.stop()
            asking.begin({"call": "send_to", "room": "a", "message": "?"})
            view.start()
            served = 0
            while not (told and asking.has_answered()):
                other.do("pid")
                assert server.get("/clock")[0] == 200
                served += 1
            # All others would have been served once or twice, if they had waited for it too.
            assert served > 10
            with pytest.raises(Refused, match="Redis does not answer"):
                asking.answer()
            assert "Redis does not answer" in told[0]
        finally:
            redis.go_on()
            view.join()
        assert eventually(lambda: sends(asking))
        for member in (asking, other):
            assert member.next() == "before"
            member.ws.close()


@pytest.mark.parametrize("kept", [0, 1])
@in_threads
def test_redis_that_refuses(mode: Mode, redis: Redis, kept: int) -> None:
    with serve_joined(mode, redis.url, history=10, queue_kept=kept) as server:
        one = Member(server, "a")
        redis.client.config_set("maxmemory", 1)
        if kept:
            one.do("send_to", room="a", message="kept")
        # Not that it may have been sent: it is known that it was not.
        with pytest.raises(Refused, match=r"^QueueError: not sent: Redis refuses it \(.*maxmemory"):
            one.do("send_to", room="a", message="refused")
        late = Member(server, "a")
        redis.client.config_set("maxmemory", 0)
        sender = outside(redis.url, PREFIX, history=10)
        assert eventually(lambda: sender.presence("a").keys() == {one.id, late.id}, 10)
        assert eventually(lambda: sends(one))
        expected = ["kept", "?"] if kept else ["?"]
        assert up_to_end(sender, one, late) == [expected] * 2
        # It was there all the time.
        assert "Redis is lost" not in server.log
        assert "Traceback" not in server.log
        one.ws.close()
        late.ws.close()


@in_threads
def test_room_whose_history_redis_refuses_harms_no_other(mode: Mode, redis: Redis) -> None:
    redis.client.set(f"{PREFIX}:history:spoilt", "somebody else's")
    with serve_joined(mode, redis.url, "--processes", "2", history=10) as server:
        members = one_in_each_worker(server, 2, "a")
        one = members[0]
        one.do("join", room="spoilt")
        for number in range(3):
            with pytest.raises(Refused, match=r"^QueueError: not sent: Redis refuses it"):
                one.do("send_to", room="spoilt", message="lost")
            one.do("send_to", room="a", message=f"{number}")
        assert up_to_end(outside(redis.url, PREFIX, history=10), *members) == [["0", "1", "2"]] * 2
        assert "the history of room 'spoilt' can not be read" in server.log
        assert "Redis is lost" not in server.log
        assert "Traceback" not in server.log
        for member in members:
            member.ws.close()


@in_threads
def test_kept_message_that_redis_never_takes_does_not_hold_the_others(
    mode: Mode, redis: Redis
) -> None:
    redis.client.set(f"{PREFIX}:history:spoilt", "somebody else's")
    with serve_joined(mode, redis.url, history=10, queue_kept=8) as server:
        one = Member(server, "a")
        with pytest.raises(Refused, match=r"not sent: Redis refuses it.*; delete what others have"):
            one.do("send_to", room="spoilt", message="lost")
        redis.stop()
        try:
            one.do("send_to", room="spoilt", message="lost")
            one.do("send_to", room="a", message="kept")
        finally:
            redis.go_on()
        assert one.next() == "kept"
        assert eventually(lambda: snapshot(server)["queue_lost"] == 1)
        assert f"a message to '{PREFIX}:room:spoilt' that was kept is lost: Redis ref" in server.log
        one.ws.close()


@in_threads
def test_who_comes_again_after_an_outage_is_not_told_of_what_it_was_not_there_for(
    mode: Mode, redis: Redis
) -> None:
    with serve_joined(mode, redis.url) as server:
        sender, one = outside(redis.url, PREFIX), Member(server, "a")
        sender.send_to("a", "before")
        assert one.next() == "before"
        redis.kill()
        assert is_lost(server, 1)
        one.do("leave", room="a")
        redis.start()
        assert eventually(lambda: "Redis is back" in server.log)
        for _ in range(5):
            with contextlib.suppress(QueueError):
                sender.send_to("a", "nobody is there")
        one.do("join", room="a")
        sender.send_to("a", "after")
        assert one.next() == "after"
        assert snapshot(server)["queue_lost"] == 0
        one.ws.close()


@in_threads
def test_who_comes_again_while_much_is_on_its_way_has_lost_nothing(
    mode: Mode, redis: Redis
) -> None:
    with serve_joined(mode, redis.url, room_limit=100_000_000) as server:
        one = Member(server, "flood")
        worker = server.worker
        os.kill(worker, signal.SIGSTOP)
        try:
            flood(redis, range(20_000))
            one.begin({"call": "leave", "room": "flood"})
        finally:
            os.kill(worker, signal.SIGCONT)
        one.answer()
        assert eventually(lambda: subscribers(redis, "flood") == 0)
        flood(redis, range(20_000, 21_000))
        one.do("join", room="flood")
        flood(redis, range(21_000, 21_001))
        assert eventually(lambda: one.all_so_far()[-1:] == ["21000"])
        assert snapshot(server)["queue_lost"] == 0
        one.ws.close()


def flood(redis: Redis, numbers: range) -> None:
    """Publish numbered messages to a room, all at once."""
    with redis.client.pipeline(transaction=False) as pipe:
        for number in numbers:
            message = Letter("", Outgoing(False, b"%d" % number), None, tag="t", number=number)
            pipe.publish(f"{PREFIX}:room:flood", b"\n" + encode(message, "sender"))
        pipe.execute()


@in_threads
def test_history_with_the_greatest_of_ids_harms_no_other(mode: Mode, redis: Redis) -> None:
    greatest = f"{2**64 - 1}-{2**64 - 1}"
    redis.client.xadd(f"{PREFIX}:history:full", {"m": "x"}, id=greatest)
    with serve_joined(mode, redis.url, history=10) as server:
        one = Member(server, "a", "full")
        with pytest.raises(Refused, match=r"^QueueError: not sent: Redis refuses it"):
            one.do("send_to", room="full", message="lost")
        one.do("send_to", room="a", message="sent")
        assert one.do("join", room="full", last=5)
        assert up_to_end(outside(redis.url, PREFIX, history=10), one) == [["sent"]]
        assert "Redis is lost" not in server.log
        one.ws.close()


@pytest.mark.parametrize("mode", ["asyncio-thread"], indirect=True)
def test_message_does_not_wait_for_another_one_that_redis_does_not_answer(
    mode: Mode, redis: Redis
) -> None:
    with serve_joined(mode, redis.url) as server:
        one, two = Member(server, "a"), Member(server, "a")
        id = two.id
        redis.stop()
        try:
            one.begin({"call": "send_to", "room": "a", "message": "held up"})
            in_view(server, "send_to_client", id=id, message="not held up")
            assert two.next() == "not held up"
            assert not one.has_answered()
        finally:
            redis.go_on()
        one.answer()
        assert one.next() == two.next() == "held up"
        one.ws.close()
        two.ws.close()


@in_threads
def test_room_is_subscribed_while_another_is_flooded(mode: Mode, redis: Redis) -> None:
    many = 20_000
    with serve_joined(mode, redis.url, "--threads", "6", room_limit=100_000_000) as server:
        flooded, late = Member(server, "flood"), Member(server)
        worker = server.worker
        os.kill(worker, signal.SIGSTOP)
        try:
            flood(redis, range(many))
        finally:
            os.kill(worker, signal.SIGCONT)
        late.begin({"call": "join", "room": "quiet"})
        assert eventually(lambda: subscribers(redis, "quiet") == 1)
        assert snapshot(server)["shared_messages"] < many
        # And who waited for that has nothing missed.
        outside(redis.url, PREFIX).send_to("quiet", "seen")
        assert late.next() == "seen"
        assert eventually(lambda: snapshot(server)["shared_messages"] == many + 1)
        assert snapshot(server)["queue_lost"] == 0
        late.ws.close()
        flooded.ws.close()


@in_threads
def test_kept_message_goes_out_though_redis_refuses_to_know_who_is_here(
    mode: Mode, redis: Redis
) -> None:
    redis.client.set(f"{PREFIX}:presence:spoilt", "somebody else's")
    with serve_joined(mode, redis.url, queue_kept=8) as server:
        one = Member(server, "a", "spoilt")
        redis.stop()
        one.do("send_to", room="a", message="kept")
        redis.go_on()
        assert one.next() == "kept"
        assert eventually(lambda: sends(one))
        one.ws.close()


@in_threads
def test_those_who_join_wait_for_a_redis_that_is_held_up_once_and_not_one_after_the_other(
    mode: Mode, redis: Redis
) -> None:
    with serve_joined(mode, redis.url) as server:
        members = [Member(server, "a") for _ in range(20)]
        redis.stop()
        try:
            start = time.monotonic()
            for member in members:
                member.begin({"call": "join", "room": "b"})
            for member in members:
                member.answer()
            # Three seconds some times, and not twenty times.
            assert time.monotonic() - start < 45
        finally:
            redis.go_on()
        for member in members:
            member.ws.close()


@pytest.mark.parametrize("mode", ["threads", "asyncio-thread"], indirect=True)
def test_who_ends_while_it_joins_is_not_there(mode: Mode, redis: Redis) -> None:
    with serve_joined(mode, redis.url) as server:
        one, other = Member(server), Member(server)
        redis.stop()
        try:
            one.do("join in a thread", room="a")
            one.ws.close()
            assert eventually(lambda: snapshot(server)["open"] == 1)
        finally:
            redis.go_on()
        # Not before what was asked of Redis meanwhile.
        other.do("join", room="b")
        other.do("join", room="a")
        there = f"{PREFIX}:presence:a"
        assert eventually(lambda: redis.client.hkeys(there) == [other.id.encode()], 10)
        other.ws.close()
        assert eventually(lambda: not redis.client.hlen(there))


def sends(member: Member) -> bool:
    try:
        member.do("send_to", room="a", message="?")
    except Refused:
        return False
    return True


# Messages that are kept.


def up_to(last: str, member: Member) -> list[str | bytes]:
    messages = [member.next()]
    while messages[-1] != last:
        messages.append(member.next())
    return messages


@pytest.mark.parametrize(
    ("mode", "stops", "history"),
    [
        *[(mode, False, 0) for mode in BACKENDS],
        ("threads", False, 30),
        ("threads", True, 0),
        ("gevent", True, 30),
    ],
    indirect=["mode"],
)
def test_kept_messages_arrive_once_and_in_order(
    mode: Mode, redis: Redis, stops: bool, history: int
) -> None:
    settings = {"queue_kept": 8, "history": history}
    with serve_joined(mode, redis.url, "--processes", "2", **settings) as server:
        one, two = members = one_in_each_worker(server, 2, "a")
        one.do("send_to", room="a", message="first")
        assert [member.next() for member in members] == ["first"] * 2
        if stops:
            redis.stop()
        else:
            redis.kill()
            assert is_lost(server, 2)
        # The first of them waits for Redis where that is held up.
        for number in range(8):
            assert one.do("send_to", room="a", message=f"kept {number}") is None
        with pytest.raises(Refused, match=r"QUEUE_KEPT \(it is 8\)"):
            one.do("send_to", room="a", message="one too many")
        if stops:
            redis.go_on()
        else:
            redis.start()
            assert is_back(server, redis, 2, "a")
        assert eventually(lambda: sends(one))
        expected = [*(f"kept {number}" for number in range(8)), "?"]
        sender = outside(redis.url, PREFIX, history=history)
        # What somebody else sends may be there before what is kept.
        assert [up_to("?", member) for member in members] == [expected] * 2
        assert up_to_end(sender, one, two) == [[], []]
        if history:
            # A Redis that was killed has forgotten those before.
            remembered = ["first", *expected] if stops else expected
            late = Member(server)
            late.do("join", room="a", last=30)
            assert up_to_end(sender, late) == [remembered]
            late.ws.close()
            # Also the one whose answer was lost.
            assert redis.client.xlen(f"{PREFIX}:history:a") == len(remembered)
        assert "Traceback" not in server.log
        for member in members:
            member.ws.close()


@pytest.mark.parametrize(("stops", "history"), [(False, 0), (True, 30)])
def test_members_in_the_worker_get_kept_messages_at_once_if_they_are_to(
    redis: Redis, stops: bool, history: int
) -> None:
    settings = {"queue_kept": 8, "queue_local": True, "history": history}
    with serve_joined(THREADS, redis.url, "--processes", "2", **settings) as server:
        one, two = members = one_in_each_worker(server, 2, "a")
        near = Member(server)
        while near.pid != one.pid:
            near.ws.close()
            near = Member(server)
        near.do("join", room="a")
        one.do("send_to", room="a", message="first")
        for member in (one, two, near):
            assert member.next() == "first"
        if stops:
            redis.stop()
        else:
            redis.kill()
            assert is_lost(server, 2)
        kept = [f"kept {number}" for number in range(8)]
        for message in kept:
            one.do("send_to", room="a", message=message)
        with pytest.raises(Refused, match="only members in this worker got it"):
            one.do("send_to", room="a", message="one too many")
        expected = [*kept, "one too many"]
        assert one.all_so_far() == near.all_so_far() == expected
        assert two.all_so_far() == []
        if stops:
            redis.go_on()
        else:
            redis.start()
            assert is_back(server, redis, 2, "a")
        assert eventually(lambda: sends(one))
        sender = outside(redis.url, PREFIX, history=history)
        assert up_to("?", two) == [*kept, "?"]
        found = up_to_end(sender, one, near, two)
        # sends() has tried once or more, and those here have had that all the same.
        assert set(found[0]) == set(found[1]) == {"?"}
        assert found[0] == found[1]
        assert found[2] == []
        for member in (*members, near):
            member.ws.close()


# Messages that are missed.


def miss(redis: Redis, server: Server, history: int) -> tuple[list[list[str]], int]:
    """Have both workers' subscriptions cut while a script sends; gives what members got."""
    members = one_in_each_worker(server, 2, "a")
    sender = outside(redis.url, PREFIX, history=history)
    sender.send_to("a", "0")
    assert [member.next() for member in members] == ["0"] * 2
    redis.client.client_kill_filter(_type="pubsub")
    for number in range(1, 10):
        sender.send_to("a", f"{number}")
    assert is_back(server, redis, 2, "a")
    sender.send_to("a", "10")
    found = up_to_end(sender, *members)
    lost = sum(snapshot_of(server, member.pid)["queue_lost"] for member in members)
    for member in members:
        member.ws.close()
    return [[str(message) for message in each] for each in found], lost


def snapshot_of(server: Server, pid: int) -> dict[str, Any]:
    found: dict[int, Any] = {}

    def is_there() -> bool:
        now = snapshot(server)
        found[now["pid"]] = now
        return pid in found

    assert eventually(is_there)
    return dict(found[pid])


@in_threads
def test_messages_that_a_worker_missed_are_counted_and_logged(mode: Mode, redis: Redis) -> None:
    with serve_joined(mode, redis.url, "--processes", "2") as server:
        found, lost = miss(redis, server, 0)
        numbers = [f"{number}" for number in range(1, 11)]
        for messages in found:
            assert messages == [number for number in numbers if number in messages]
            assert messages[-1] == "10"
        missed = sum(10 - len(messages) for messages in found)
        assert missed == lost > 0
        assert f"to '{PREFIX}:room:a' did not arrive in this worker" in server.log


@in_greenlets
def test_messages_that_a_worker_missed_come_from_the_history(mode: Mode, redis: Redis) -> None:
    with serve_joined(mode, redis.url, "--processes", "2", history=20) as server:
        found, lost = miss(redis, server, 20)
        assert found == [[f"{number}" for number in range(1, 11)]] * 2
        assert lost == 0
        assert "did not arrive" not in server.log


@in_threads
def test_client_that_comes_back_misses_nothing_of_an_outage(mode: Mode, redis: Redis) -> None:
    settings = {"history": 20, "queue_kept": 20}
    with serve_joined(mode, redis.url, "--processes", "2", **settings) as server:
        one, two = one_in_each_worker(server, 2, "a")
        id = one.do("send_to", room="a", message="before")
        two.ws.close()
        redis.client.config_set("appendonly", "yes")
        assert eventually(lambda: not redis.client.info()["aof_rewrite_in_progress"])
        redis.kill()
        assert is_lost(server, 2)
        one.do("send_to", room="a", message="kept")
        back = Member(server)
        with pytest.raises(Refused, match="QueueError: the history of the room can not be had"):
            back.do("join", room="a", since=id)
        back.ws.close()
        redis.keep()
        redis.start()
        assert is_back(server, redis, 2)
        one.do("send_to", room="a", message="after")
        back = Member(server)
        assert back.do("join", room="a", since=id)
        sender = outside(redis.url, PREFIX, history=20)
        assert up_to("after", back) == ["kept", "after"]
        assert up_to_end(sender, back) == [[]]
        back.ws.close()
        one.ws.close()


@in_threads_and_greenlets
def test_client_that_joins_before_its_worker_has_redis_again_misses_nothing(
    mode: Mode, redis: Redis
) -> None:
    with serve_joined(mode, redis.url, history=50) as server, Member(server) as one:
        sender = outside(redis.url, PREFIX, history=50)
        id = sender.send_to("a", "0")
        for turn in range(5):
            redis.client.client_kill_filter(_type="pubsub")
            # The connection that asks is there, and that which listens is not.
            one.do("join", room="a", since=id)
            expected = [f"{turn} {number}" for number in range(3)]
            for message in expected:
                sender.send_to("a", message)
            assert is_back(server, redis, 1, "a")
            id = sender.send_to("a", "last")
            assert up_to_end(sender, one)[0] == [*expected, "last"]
            one.do("leave", room="a")
            assert eventually(lambda: subscribers(redis, "a") == 0)


# Workers.


def test_members_of_a_killed_worker_are_gone_soon(redis: Redis) -> None:
    with serve_joined(MODES["gevent"], redis.url, "--processes", "2") as server:
        one, two = one_in_each_worker(server, 2, "a")
        sender = outside(redis.url, PREFIX)
        assert sender.presence("a").keys() == {one.id, two.id}
        left = {two.id: None}
        os.kill(one.pid, signal.SIGKILL)
        assert eventually(lambda: sender.presence("a") == left, 20)
        assert two.do("presence", room="a") == left
        two.ws.close()


@in_greenlets
def test_members_of_a_reloaded_worker_are_gone_at_once(mode: Mode, redis: Redis) -> None:
    with serve_joined(mode, redis.url) as server:
        one = Member(server, "a")
        sender = outside(redis.url, PREFIX)
        os.kill(one.pid, signal.SIGHUP)
        assert eventually(lambda: sender.presence("a") == {}, 5)
        # The next worker has its own connections.
        assert eventually(lambda: server.workers() not in ([], [one.pid]), 20)
        with Member(server, "a") as two:
            assert two.pid != one.pid
            sender.send_to("a", "hello")
            assert two.next() == "hello"
            assert sender.presence("a") == {two.id: None}


def test_members_of_a_worker_that_was_held_up_are_there_again(redis: Redis) -> None:
    with serve_joined(THREADS, redis.url, "--processes", "2") as server:
        one, two = one_in_each_worker(server, 2, "a")
        sender = outside(redis.url, PREFIX)
        both = {one.id: None, two.id: None}
        os.kill(one.pid, signal.SIGSTOP)
        try:
            assert eventually(lambda: sender.presence("a") == {two.id: None}, 20)
        finally:
            os.kill(one.pid, signal.SIGCONT)
        assert eventually(lambda: sender.presence("a") == both, 10)
        one.ws.close()
        two.ws.close()


# Other ways to reach Redis.


@in_threads_and_greenlets
def test_redis_behind_tls(mode: Mode, tmp_path: Path) -> None:
    make_certificate(tmp_path)
    port = free_port()
    files = ["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem"]
    options = ["--tls-port", f"{port}", *files, "--tls-auth-clients", "no"]
    with Redis(tmp_path, *options):
        url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={tmp_path}/cert.pem"
        with serve_joined(mode, url, "--processes", "2") as server:
            members = one_in_each_worker(server, 2, "a")
            check_all_ways(members, url)
            # Over several records of TLS, and several messages in one.
            members[0].do("send_to", room="a", message="x" * 300_000)
            members[0].do("send_many", room="a", sender="many", first=0, last=50)
            for found in up_to_end(outside(url, PREFIX), *members):
                assert found == ["x" * 300_000, *(f"many {number}" for number in range(50))]
            # A certificate that nobody has vouched for is refused.
            with pytest.raises(redis_package.ConnectionError, match="certificate verify failed"):
                redis_package.Redis.from_url(f"rediss://127.0.0.1:{port}").ping()
            for member in members:
                member.ws.close()


def check_all_ways(members: list[Member], url: str) -> None:
    """See that what a queue does is done: messages each way, presence, and history if there is."""
    one, two = members
    sender = outside(url, PREFIX)
    one.do("send_to", room="a", message="to the room")
    assert one.do("send_to_client", id=two.id, message="to two")
    one.do("broadcast", message="to all")
    assert up_to_end(sender, two) == [["to the room", "to two", "to all"]]
    assert sender.presence("a").keys() == one.do("presence", room="a").keys() == {one.id, two.id}
    one.messages.clear()
    assert up_to_end(sender, one)[0] == []


def test_sentinel_that_moves_the_master(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "sentinel")]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as stack:
        master = stack.enter_context(Redis(folders[0], "--repl-diskless-sync-delay", "0"))
        replica = Redis(folders[1], "--replicaof", "127.0.0.1", f"{master.port}")
        stack.enter_context(replica)
        port = free_port()
        (folders[2] / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
        )
        sentinel = Redis(folders[2], "sentinel.conf", sentinel=True, port=port)
        stack.enter_context(sentinel)
        assert eventually(lambda: replica.client.info()["master_link_status"] == "up", 20)
        assert eventually(lambda: sentinel.client.sentinel_slaves("main"), 20)
        url = f"redis+sentinel://127.0.0.1:{port}/main/0"
        server = stack.enter_context(serve_joined(THREADS, url, "--processes", "2", history=10))
        members = one_in_each_worker(server, 2, "a")
        one, two = members
        sender = outside(url, PREFIX, history=10)
        id = one.do("send_to", room="a", message="before")
        assert up_to_end(sender, *members) == [["before"]] * 2
        master.kill()
        assert eventually(lambda: replica.client.info()["role"] == "master", 30)
        assert eventually(lambda: subscribers(replica, "a") == 2, 30)
        assert eventually(lambda: sends(one), 20)
        assert eventually(lambda: know_that_it_is_back(server), 20)
        two.do("send_to", room="a", message="after")
        assert up_to_end(sender, *members) == [["?", "after"]] * 2
        # The replica has had the history.
        with Member(server) as late:
            assert late.do("join", room="a", since=id)
            assert up_to_end(sender, late) == [["?", "after"]]
        there = {member.id for member in members}
        assert eventually(lambda: sender.presence("a").keys() == there)
        for member in members:
            member.ws.close()


def test_cluster(cluster: Cluster) -> None:
    with serve_joined(THREADS, cluster.url, "--processes", "2", history=10) as server:
        members = one_in_each_worker(server, 2, "a")
        one, two = members
        sender = outside(cluster.url, PREFIX, history=10)
        # Their keys are on several nodes, from each of which messages take their own time.
        for room in ("a", "b", "c", "d", "e"):
            two.do("join", room=room)
            id = one.do("send_to", room=room, message=f"first to {room}")
            sender.send_to(room, f"second to {room}")
            expected = [f"first to {room}", f"second to {room}"]
            assert two.take(2) == expected
            with Member(server) as late:
                assert late.do("join", room=room, since=id)
                assert late.next() == expected[1]
            assert two.id in sender.presence(room)
        assert one.do("send_to_client", id=two.id, message="to two")
        assert two.next() == "to two"
        one.do("broadcast", message="to all")
        assert two.next() == "to all"
        one.do("send_many", room="b", sender="many", first=0, last=200)
        assert two.take(200) == [f"many {number}" for number in range(200)]
    with serve_joined(THREADS, cluster.url, "--processes", "2") as server:
        members = one_in_each_worker(server, 2, "a")
        one, two = members
        one.do("send_many", room="a", sender="many", first=0, last=200)
        assert two.take(200) == [f"many {number}" for number in range(200)]
        assert snapshot_of(server, two.pid)["queue_lost"] == 0
        assert "Traceback" not in server.log
        for member in members:
            member.ws.close()


def test_cluster_that_is_away(cluster: Cluster) -> None:
    with serve_joined(THREADS, cluster.url, "--processes", "2", queue_local=True) as server:
        one, two = one_in_each_worker(server, 2, "a")
        for node in cluster.nodes:
            node.kill()
        assert is_lost(server, 2)
        for call, where in ("send_to", {"room": "a"}), ("broadcast", {}):
            with pytest.raises(Refused, match="only members in this worker got it"):
                one.do(call, message=call, **where)
            assert one.next() == call
        with pytest.raises(Refused, match="who is there can not be told"):
            one.do("presence", room="a")
        with serve_joined(THREADS, cluster.url) as begun, Member(begun, "a"):
            assert is_lost(begun, 1)
            assert "Traceback" not in begun.log
        # Who joins meanwhile is a member when it is back.
        assert one.do("join", room="b")
        assert two.do("join", room="c")
        for node in cluster.nodes:
            node.start()
        assert cluster.is_in_state("ok")
        assert eventually(lambda: know_that_it_is_back(server), 20)
        assert eventually(lambda: reaches(two, "b"), 20)
        assert one.next() == "is back"
        assert eventually(lambda: reaches(one, "c"), 20)
        assert two.next() == "is back"
        there = {one.id, two.id}
        assert eventually(lambda: one.do("presence", room="a").keys() == there, 20)
        assert "Traceback" not in server.log
        for member in (one, two):
            member.ws.close()


def test_cluster_that_lacks_a_master(cluster: Cluster) -> None:
    with serve_joined(THREADS, cluster.url, "--processes", "2", history=10) as server:
        members = one_in_each_worker(server, 2, "a")
        one, two = members
        id = one.do("send_to", room="a", message="first")
        cluster.nodes[2].kill()
        assert cluster.is_in_state("fail")
        # Redis says CLUSTERDOWN, which is no more lasting than that it does not answer.
        for room in ("a", "b", "c", "d"):
            with pytest.raises(Refused, match="not sent"):
                one.do("send_to", room=room, message="lost")
            with pytest.raises(Refused, match="history of the room can not be had"):
                two.do("join", room=room, last=5)
        # That it lets everybody subscribe does not make it one that is back.
        time.sleep(3)
        assert "Redis is back" not in server.log
        assert server.log.count("Redis is lost") <= 2
        cluster.nodes[2].start()
        assert cluster.is_in_state("ok")
        assert eventually(lambda: reaches(one, "a"), 20)
        assert eventually(lambda: reaches(one, "d"), 20)
        with Member(server) as late:
            # What the master that was killed had in its memory is gone. Another worker may learn
            # later than this one that the cluster is whole.
            assert eventually(lambda: joins_again(late, "a", id), 20)
        assert "Traceback" not in server.log
        for member in members:
            member.ws.close()


def joins_again(member: Member, room: str, since: str) -> bool:
    try:
        member.do("join", room=room, since=since)
    except Refused:
        return False
    return True


def reaches(sender: Member, room: str) -> bool:
    try:
        sender.do("send_to", room=room, message="is back")
    except Refused:
        return False
    return True
