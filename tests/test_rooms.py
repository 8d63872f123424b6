"""Rooms in one worker: who gets what, what is remembered, and what it costs."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from members import (
    Member,
    Refused,
    in_view,
    is_empty,
    one_in_each_worker,
    post,
    registry,
    serve,
    snapshot,
)
from modes import MODES, Mode
from peers import eventually, messages
from raw import RawClient
from uwsgi_server import APPS, Server

from flask_uwsgi_ws import WebSocketClient
from flask_uwsgi_ws.settings import Settings

# Strings that compress well.
WORDS = "so it goes on and on and on, "


@pytest.fixture(scope="module")
def site(mode: Mode) -> Iterator[Server]:
    with serve(mode) as server:
        yield server


@pytest.fixture(scope="module")
def remembering(mode: Mode) -> Iterator[Server]:
    with serve(mode, history=3) as server:
        yield server


# Who gets what.


def test_members_get_what_is_sent_to_their_room_and_others_do_not(site: Server) -> None:
    with Member(site, "here", "there") as one, Member(site, "here") as two, Member(site) as three:
        assert one.do("rooms") == ["here", "there"]
        assert three.do("rooms") == []
        for sent, options, expected in (
            ("text é€😀", {}, "text é€😀"),
            ([0, 255], {}, b"\x00\xff"),
            ("as bytes", {"binary": True}, b"as bytes"),
            ([104, 105], {"binary": False}, "hi"),
            ("", {}, ""),
            ("x" * 70_000, {}, "x" * 70_000),
        ):
            three.do("send_to", room="here", message=sent, **options)
            assert one.next() == two.next() == expected
        two.do("send_to", room="there", message="only one")
        one.do("leave", room="here")
        one.do("leave", room="here")
        assert one.do("rooms") == ["there"]
        one.do("send_to", room="here", message="only two")
        two.do("send_to", room="nobody's", message="nobody")
        assert one.all_so_far() == ["only one"]
        assert two.all_so_far() == ["only two"]
        assert three.all_so_far() == []
    assert is_empty(site)


def test_one_who_is_skipped_gets_nothing_and_all_others_do(site: Server) -> None:
    with Member(site, "a") as one, Member(site, "a") as two, Member(site) as three:
        one.do("send_to", room="a", message="not to me", skip_me=True)
        in_view(site, "send_to", room="a", message="not to two", skip=two.id)
        in_view(site, "send_to", room="a", message="to both", skip="somebody else's id")
        two.do("broadcast", message="to all but me", skip_me=True)
        in_view(site, "broadcast", message=[1, 2], skip=three.id)
        assert one.all_so_far() == ["not to two", "to both", "to all but me", b"\x01\x02"]
        assert two.all_so_far() == ["not to me", "to both", b"\x01\x02"]
        assert three.all_so_far() == ["to all but me"]


def test_message_to_a_client_reaches_only_that_one(site: Server) -> None:
    with Member(site, "a") as one, Member(site, "a") as two:
        assert two.do("send_to_client", id=one.id, message="hello one")
        assert in_view(site, "send_to_client", id=two.id, message="hello two", binary=True)
        id = one.id
        assert not in_view(site, "send_to_client", id="nobody's", message="?")
        assert one.all_so_far() == ["hello one"]
        assert two.all_so_far() == [b"hello two"]
    assert eventually(lambda: not in_view(site, "send_to_client", id=id, message="?"))


def test_client_whose_id_was_asked_for_in_its_making_is_found(site: Server) -> None:
    with Member(site, "a", path="/room?ask-early") as one:
        assert in_view(site, "send_to_client", id=one.id, message="hello")
        one.do("send_to", room="a", message="not to me", skip_me=True)
        assert one.all_so_far() == ["hello"]
    assert is_empty(site)


def test_client_has_one_id_whoever_asks_for_it_first() -> None:
    asking = threading.Barrier(2)

    def ask(client: WebSocketClient) -> str:
        asking.wait(10)
        return client.id

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for _ in range(500):
            ours, peer = socket.socketpair()
            with ours, peer:
                client = WebSocketClient({}, ours, Settings())
                assert len(set(pool.map(ask, (client, client)))) == 1


def test_presence_tells_who_is_there_and_what_they_told(site: Server) -> None:
    with Member(site) as one, Member(site, "a") as two:
        one.do("join", room="a", info={"name": "Ann", "tags": [1, None]})
        expected = {one.id: {"name": "Ann", "tags": [1, None]}, two.id: None}
        assert in_view(site, "presence", room="a") == two.do("presence", room="a") == expected
        one.do("join", room="a", info="Bea")
        assert two.do("presence", room="a") == {one.id: "Bea", two.id: None}
        one.do("leave", room="a")
        assert two.do("presence", room="a") == {two.id: None}
        assert in_view(site, "presence", room="b") == {}


def test_threads_and_plain_functions_send_as_well(site: Server) -> None:
    with Member(site, "a") as one, Member(site, path="/room-of-thread") as two:
        post(site, "/call-in-threads", call="send_to", room="a", message="from a thread")
        assert one.take(2) == ["from a thread"] * 2
        two.do("join", room="a")
        two.do("send_to", room="a", message="from a function")
        two.do("send_to", room="a", message="and this", skip_me=True)
        assert one.take(2) == ["from a function", "and this"]
        assert two.do("presence", room="a").keys() == {one.id, two.id}
        assert two.all_so_far() == ["from a function"]
        two.do("leave", room="a")
        assert two.do("rooms") == []


def test_members_get_each_senders_messages_in_their_order(site: Server) -> None:
    count = 200
    with Member(site, "a") as one, Member(site, "a") as two:
        views = [
            threading.Thread(
                target=in_view,
                args=(site, "send_many"),
                kwargs={"room": "a", "sender": f"view{i}", "first": 0, "last": count},
            )
            for i in range(2)
        ]
        for view in views:
            view.start()
        one.do("send_many", room="a", sender="handler", first=0, last=count)
        for view in views:
            view.join()
        expected = {
            sender: [f"{sender} {number}" for number in range(count)]
            for sender in ("view0", "view1", "handler")
        }
        for member in (one, two):
            found: dict[str, list[str]] = {}
            for message in member.take(3 * count):
                found.setdefault(str(message).split()[0], []).append(str(message))
            assert found == expected
            assert member.all_so_far() == []


# Ends.


def leaves_by_itself(member: Member) -> None:
    member.ws.close()


def is_reset(member: Member) -> None:
    option = struct.pack("ii", 1, 0)
    member.ws.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
    member.ws.socket.shutdown(socket.SHUT_RD)
    member.ws.socket.close()


def has_its_handler_fail(member: Member) -> None:
    member.begin({"call": "fail"})
    assert list(messages(member.ws)) == []
    assert member.ws.close_code == 1011


@pytest.mark.parametrize("end", [leaves_by_itself, is_reset, has_its_handler_fail])
def test_client_that_ends_has_left_its_rooms(site: Server, end: Callable[[Member], None]) -> None:
    with Member(site, "a") as other:
        one = Member(site, "a", "b")
        id = one.id
        assert registry(site)["rooms"] == ["a", "b"]
        assert in_view(site, "presence", room="b") == {id: None}
        end(one)
        assert eventually(lambda: registry(site)["clients"] == 1)
        assert registry(site)["rooms"] == ["a"]
        assert in_view(site, "presence", room="a") == {other.id: None}
        in_view(site, "send_to", room="a", message="to who is left")
        assert other.all_so_far() == ["to who is left"]
    assert is_empty(site)


def test_nothing_is_left_of_a_client_that_joins_after_its_end(site: Server) -> None:
    site.get("/forget-gone")
    Member(site).ws.close()
    assert eventually(lambda: snapshot(site)["open"] == 0)
    told = json.loads(site.get("/use-gone/a")[1])
    assert told == ["ConnectionClosed", "True"]
    assert registry(site) == {"rooms": [], "clients": 0, "ids": 0, "open": 0}
    site.get("/forget-gone")
    assert eventually(lambda: site.left()["clients"] == 0), site.left()


# Wrong use.


@pytest.mark.parametrize(
    ("call", "arguments", "error"),
    [
        ("join", {"room": 5}, "TypeError: the name of a room is a str, not int"),
        ("join", {"room": ""}, "ValueError: the name of a room is not empty"),
        ("join", {"room": "\ud800"}, "ValueError: the name of a room is UTF-8: surrogates"),
        ("join", {"room": "a", "last": -1, "since": "1-0"}, "ValueError: last is 0 or more"),
        ("join", {"room": "a", "last": "1"}, "TypeError: last is a number of messages, not '1'"),
        ("join", {"room": "a", "last": -1}, "ValueError: last is 0 or more"),
        ("join", {"room": "a", "since": "now"}, "ValueError: 'now' is not the id of a message"),
        ("join", {"room": "a", "since": "1-b"}, "ValueError: '1-b' is not the id of a message"),
        ("join", {"room": "a", "last": 1}, "ValueError: this room has no history: set UWSGI_WEBS"),
        ("join", {"room": "a", "since": "1-" + "9" * 20}, "ValueError: '1-9999"),
        ("join", {"room": "a", "since": "1-" + "9" * 21}, "ValueError: '1-9999"),
        ("leave", {"room": None}, "TypeError: the name of a room is a str"),
        ("send_to", {"room": "", "message": "x"}, "ValueError: the name of a room is not empty"),
        ("send_to", {"room": "a", "message": 5}, "TypeError: a message is str, bytes,"),
        ("send_to", {"room": "a", "message": "\ud800"}, "ValueError: text can not be sent as UTF"),
        ("send_to", {"room": "a", "message": [255], "binary": False}, "ValueError: text is not UT"),
        ("send_to", {"room": "a", "message": "x", "skip": 5}, "TypeError: a client or its id, not"),
        ("send_to", {"room": "a", "message": {"id": True}}, "TypeError: a message that is made of"),
        ("send_to_client", {"id": None, "message": "x"}, "TypeError: send_to_client takes the id"),
        ("presence", {"room": 5}, "TypeError: the name of a room is a str"),
    ],
)
def test_wrong_use_is_told(site: Server, call: str, arguments: dict[str, Any], error: str) -> None:
    with Member(site) as one:
        with pytest.raises(Refused) as refused:
            one.do(call, **arguments)
        assert str(refused.value).startswith(error)
        assert one.do("rooms") == []


@pytest.mark.parametrize("id", ["", "?", "\ud800", "é", "x" * 100_000, "a\nb"])
def test_what_is_nobodys_id_is_nobody(site: Server, id: str) -> None:
    with Member(site, "a") as one:
        assert one.do("send_to_client", id=id, message="lost") is False
        one.do("send_to", room="a", message="for all", skip=id)
        assert one.all_so_far() == ["for all"]


def test_process_that_a_worker_forked_is_told_that_it_has_no_clients(site: Server) -> None:
    with Member(site, "a") as one:
        for call in ({"call": "send_to", "room": "a"}, {"call": "broadcast"}):
            told = json.loads(post(site, "/call-in-child", message="from the child", **call))
            assert told["error"].startswith("QueueError: this process was forked from the one that")
        assert one.all_so_far() == []


def test_sending_where_there_are_other_processes_names_the_option(mode: Mode) -> None:
    with serve(mode, "--processes", "2") as server:
        one, other = one_in_each_worker(server, 2, "a")
        for call in ({"call": "send_to", "room": "a"}, {"call": "broadcast"}):
            with pytest.raises(
                Refused, match=r"^QueueError: there are 2 worker processes.*ESSAGE_"
            ):
                one.do(**call, message="?")
        with pytest.raises(Refused, match="UWSGI_WEBSOCKET_MESSAGE_QUEUE"):
            in_view(server, "presence", room="a")
        with pytest.raises(Refused, match="UWSGI_WEBSOCKET_MESSAGE_QUEUE"):
            in_view(server, "send_to_client", id="x", message="?")
        for member in (one, other):
            assert member.all_so_far() == []
            member.ws.close()


SEND = """
from rooms import answer_to
print("mule:", answer_to({"call": "send_to", "room": "a", "message": "from outside"}), flush=True)
"""


def test_mule_is_told_that_it_is_not_the_worker(tmp_path: Path) -> None:
    (tmp_path / "mule.py").write_text(SEND)
    with serve(MODES["threads"], "--mule=" + str(tmp_path / "mule.py")) as server:
        assert eventually(lambda: "mule: " in server.log)
        assert "QueueError: this process is not the worker that has the clients" in server.log
        assert "set UWSGI_WEBSOCKET_MESSAGE_QUEUE to the URL of the Redis" in server.log


def test_script_is_told_that_it_serves_no_clients() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SEND], cwd=APPS, capture_output=True, text=True, timeout=30
    )
    assert "QueueError: this process serves no clients; set UWSGI_WEBSOCKET_ME" in ended.stdout


# What is remembered.


def test_history_gives_the_last_messages_first(remembering: Server) -> None:
    for number in range(5):
        in_view(remembering, "send_to", room="last", message=f"{number}")
    with Member(remembering) as one, Member(remembering, "last") as two:
        assert one.do("join", room="last", last=2)
        in_view(remembering, "send_to", room="last", message="new")
        assert one.all_so_far() == ["3", "4", "new"]
        assert two.all_so_far() == ["new"]
        # Who is there already and asks has them again.
        assert two.do("join", room="last", last=10)
        assert two.all_so_far() == ["3", "4", "new"]
        assert two.do("join", room="last", last=0)
        assert two.all_so_far() == []


def test_history_since_a_message_tells_whether_any_is_missing(remembering: Server) -> None:
    made = {"id": True}
    ids = [in_view(remembering, "send_to", room="since", message=made) for _ in range(2)]
    with Member(remembering) as one, Member(remembering) as two, Member(remembering) as three:
        assert one.do("join", room="since", since=ids[0])
        assert one.all_so_far() == [f"message {ids[1]}"]
        assert two.do("join", room="since", since=ids[1])
        assert two.all_so_far() == []
        ids += [two.do("send_to", room="since", message=made) for _ in range(3)]
        assert ids == sorted(ids, key=lambda id: [int(part) for part in id.split("-")])
        assert len(set(ids)) == 5
        expected = [f"message {id}" for id in ids[2:]]
        assert one.all_so_far() == two.all_so_far() == expected
        # That message is not among the three any more.
        assert not three.do("join", room="since", since=ids[0])
        assert three.all_so_far() == expected
        # And of this room nothing is known.
        assert not three.do("join", room="since nothing", since=ids[0])
        # A client that has left is not sent what it has been sent, but what is new.
        three.do("leave", room="since")
        assert three.do("join", room="since", since=ids[3])
        assert three.all_so_far() == [f"message {ids[4]}"]


def test_history_since_what_was_never_there_is_not_complete_and_what_comes_is_sent(
    remembering: Server,
) -> None:
    never = "18446744073709551615-18446744073709551615"
    with Member(remembering) as one, Member(remembering) as two:
        assert not one.do("join", room="never", since=never)
        in_view(remembering, "send_to", room="never", message="first")
        assert not two.do("join", room="never", since=never)
        in_view(remembering, "send_to", room="never", message="second")
        assert one.all_so_far() == ["first", "second"]
        assert two.all_so_far() == ["second"]


def test_last_may_be_more_than_there_can_be(remembering: Server) -> None:
    in_view(remembering, "send_to", room="more", message="there")
    with Member(remembering) as one:
        assert one.do("join", room="more", last=10**30)
        assert one.all_so_far() == ["there"]


@pytest.mark.parametrize("none", ["", None])
def test_history_since_nothing_is_the_last_messages(remembering: Server, none: str | None) -> None:
    room = f"nothing {none}"
    for number in range(2):
        in_view(remembering, "send_to", room=room, message=f"{number}")
    id = in_view(remembering, "send_to", room=room, message={"id": True})
    with Member(remembering) as one, Member(remembering) as two, Member(remembering) as three:
        assert one.do("join", room=room, last=2, since=none)
        assert one.all_so_far() == ["1", f"message {id}"]
        assert two.do("join", room=room, last=2, since=id)
        assert two.all_so_far() == []
        assert three.do("join", room=room, since=none)
        assert three.all_so_far() == []


def test_history_is_forgotten_when_nothing_was_said_for_long() -> None:
    with serve(MODES["threads"], history=3, history_ttl=1) as server, Member(server) as one:
        id = in_view(server, "send_to", room="a", message={"id": True})
        time.sleep(0.6)
        in_view(server, "send_to", room="a", message="younger")
        time.sleep(0.6)
        # The last message counts.
        assert one.do("join", room="a", since=id)
        assert one.all_so_far() == ["younger"]
        time.sleep(1.1)
        assert not one.do("join", room="a", since=id)
        assert one.do("join", room="a", last=3)
        assert one.all_so_far() == []
        in_view(server, "send_to", room="a", message="new")
        assert one.do("join", room="a", last=3)
        assert one.all_so_far() == ["new", "new"]


def test_members_get_messages_in_the_order_of_the_history(remembering: Server) -> None:
    """What a thread has sent does not come behind what the event loop has sent after it."""
    send = {"call": "send_to", "room": "order", "message": {"id": True}}
    with Member(remembering, "order") as one, Member(remembering) as two:
        # Until it is done the loop, where there is one, can not be told of what the thread sends.
        block = {"call": "block", "seconds": 0.3}
        two.begin({"call": "thread", "command": send}, block, send, block, send)
        found = [str(message) for message in one.take(3)]
        places = [[int(part) for part in each.split()[1].split("-")] for each in found]
        assert places == sorted(places)


# What it costs.


def test_message_is_framed_once_for_all_members(site: Server) -> None:
    members = [Member(site, "a") for _ in range(5)]
    before = snapshot(site)
    for number in range(3):
        in_view(site, "send_to", room="a", message=f"{number}")
    in_view(site, "broadcast", message="all")
    # Received first: what a view has left for an event loop is counted there.
    for member in members:
        assert member.all_so_far() == ["0", "1", "2", "all"]
    after = snapshot(site)
    assert after["shared_frames"] - before["shared_frames"] == 4
    assert after["shared_messages"] - before["shared_messages"] == 20
    for member in members:
        member.ws.close()


def test_message_is_compressed_once_for_all_where_none_depends_on_others(mode: Mode) -> None:
    env = {"COMPRESSION": '{"server_no_context_takeover": true}'}
    with serve(mode, env=env, room_limit=2**30) as server:
        members = [
            Member(server, "a", compression="deflate" if number < 3 else None)
            for number in range(5)
        ]
        before = snapshot(server)
        sent = [f"{number} {WORDS * 20}" for number in range(4)]
        for message in sent:
            in_view(server, "send_to", room="a", message=message)
        for member in members:
            assert member.take(4) == sent
        after = snapshot(server)
        assert after["shared_frames"] - before["shared_frames"] == 8
        assert after["shared_messages"] - before["shared_messages"] == 20
        # The three have it compressed. What has left is counted right after that.
        whole = len(sent[0]) * 4
        assert eventually(lambda: 2 * whole < snapshot(server)["bytes_sent"] - before["bytes_sent"])
        assert snapshot(server)["bytes_sent"] - before["bytes_sent"] < 3 * whole
        talk_all_at_once(server, members)
        assert "Traceback" not in server.log


def test_members_with_context_takeover_inflate_what_they_get(mode: Mode) -> None:
    with serve(mode, env={"COMPRESSION": "true"}, room_limit=2**30) as server:
        members = [Member(server, "a", compression="deflate") for _ in range(3)]
        before = snapshot(server)
        sent = [f"{number} {WORDS * 20}" for number in range(4)]
        for message in sent:
            in_view(server, "send_to", room="a", message=message)
        for member in members:
            assert member.all_so_far() == sent
        assert snapshot(server)["shared_frames"] - before["shared_frames"] == 4
        talk_all_at_once(server, members)
        assert "Traceback" not in server.log


def talk_all_at_once(server: Server, members: list[Member]) -> None:
    """Have messages to the room and answers of the handlers go out at the same time."""
    count, answers = 60, 60
    views = [
        threading.Thread(
            target=in_view,
            args=(server, "send_many"),
            kwargs={"room": "a", "sender": f"{i}", "first": 0, "last": count, "padding": 1000},
        )
        for i in range(2)
    ]
    text = WORDS * 200
    for member in members:
        member.begin(*[{"call": "echo", "text": text}] * answers)
    for view in views:
        view.start()
    for member in members:
        assert [member.answer() for _ in range(answers)] == [text] * answers
        found: dict[str, list[int]] = {}
        for message in member.take(2 * count):
            sender, number, *rest = str(message).split()
            assert rest == ["and", "so", "on"] * 1000
            found.setdefault(sender, []).append(int(number.removesuffix("and")))
        assert found == {"0": list(range(count)), "1": list(range(count))}
        member.ws.close()
    for view in views:
        view.join()


def test_member_that_does_not_read_is_ended_and_the_others_get_all(mode: Mode) -> None:
    message = "x" * 200_000
    with serve(mode, room_limit=300_000, send_timeout=60) as server:
        others = [Member(server, "a") for _ in range(3)]
        with RawClient(server.port, "/room/a"):
            assert eventually(lambda: snapshot(server)["open"] == 4)
            assert eventually(lambda: len(in_view(server, "presence", room="a")) == 4)
            for _ in range(100):
                in_view(server, "send_to", room="a", message=message)
                for member in others:
                    assert member.next() == message
                if snapshot(server)["slow_clients"]:
                    break
            assert eventually(lambda: snapshot(server)["open"] == 3)
        now = snapshot(server)
        assert (now["slow_clients"], now["closed"]) == (1, {"1008": 1})
        assert len(in_view(server, "presence", room="a")) == 3
        in_view(server, "send_to", room="a", message="after that")
        for member in others:
            assert member.all_so_far() == ["after that"]
            member.ws.close()
