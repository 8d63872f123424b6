"""Busy handlers, and peers that are slow, silent or greedy: who waits for whom, and how long."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from peers import close_of, ended, eventually, frames, open_client, sends
from raw import RawClient, frame
from uwsgi_server import Server

# A handler that does not receive.


def test_handler_that_only_sends_answers_pings(plain: Server) -> None:
    with RawClient(plain.port, "/push") as client:
        client.send(frame(9, b"are you there"))
        assert (0x8A, b"are you there") in frames(client)


def test_handler_that_only_sends_notices_a_close(plain: Server) -> None:
    with RawClient(plain.port, "/push") as client:
        opened = time.monotonic()
        client.send(frame(8, b"\x03\xe8"))
        closing = time.monotonic()
        ticks = 0
        while client.receive()[0] != 0x88:
            ticks += 1
        # A tick is 0.05 s: twenty of them are a second, besides those before the Close.
        assert ticks <= 20 + (closing - opened) / 0.05
        assert client.rest() == b""


def test_handler_that_sleeps_answers_pings(plain: Server) -> None:
    with RawClient(plain.port, "/stay/answers-pings") as client:
        assert client.receive() == (0x81, b"here")
        for payload in (b"one", b"two"):
            client.send(frame(9, payload))
            assert client.receive() == (0x8A, payload)
        plain.get("/release/answers-pings")


def test_handler_that_sends_without_rest_answers_pings_and_notices_a_close(plain: Server) -> None:
    with RawClient(plain.port, "/stream?closed") as client:
        for i in range(5):
            client.send(frame(9, b"%d" % i))
            assert (0x8A, b"%d" % i) in frames(client)
        client.send(frame(8, b"\x0f\xa0"))
        assert (0x88, b"\x0f\xa0") in frames(client)
        assert client.rest() == b""
    assert "4000" in ended(plain, "/stream?closed")


def test_close_is_answered_though_the_peer_reads_late(patient: Server) -> None:
    with RawClient(patient.port, "/stream") as client:
        # By then the kernel takes no more.
        time.sleep(0.3)
        client.send(frame(8, b"\x0f\xa0"))
        time.sleep(0.5)
        assert (0x88, b"\x0f\xa0") in frames(client)
        assert client.rest() == b""


def test_handler_that_sends_without_rest_leaves_turns_to_the_others(plain: Server) -> None:
    done = threading.Event()

    def read() -> None:
        with RawClient(plain.port, "/stream") as client:
            while not done.is_set():
                client.receive()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        with open_client(plain, "/echo") as other:
            for i in range(5):
                other.send(f"{i}")
                assert other.recv(timeout=10) == f"{i}"
                assert plain.get("/pid")[0] == 200
    finally:
        done.set()
        for reader in readers:
            reader.join()


# Keepalive.


def test_silent_peer_is_pinged_and_dropped_whatever_its_handler_does(pinging: Server) -> None:
    paths = ("/iterate?silent", "/sleep?10", "/push?silent", "/toil?silent")
    with open_client(pinging, "/iterate", ping_interval=None) as alive:
        silent = [RawClient(pinging.port, path) for path in paths]
        for client in silent:
            with client:
                coming = frames_up_to_close(client)
                ping, close = (each for each in coming if each != (0x81, b"tick"))
                assert ping[0] == 0x89
                assert close == (0x88, b"\x03\xf3keepalive ping timeout")
                assert client.rest() == b""
        alive.send("still here")
        assert alive.recv(timeout=10) == "still here"
    for start in ("/iterate?silent", "/push?silent", "/toil?silent"):
        assert ended(pinging, start) == "1011 keepalive ping timeout"


def frames_up_to_close(client: RawClient) -> list[tuple[int, bytes]]:
    coming = []
    for each in frames(client):
        coming.append(each)
        if each[0] == 0x88:
            break
    return coming


def test_peer_that_answers_pings_stays_whatever_its_handler_does(pinging: Server) -> None:
    paths = ("/iterate", "/sleep?10", "/push", "/toil")
    clients = [RawClient(pinging.port, path) for path in paths]
    pings = dict.fromkeys(clients, 0)

    def answer(client: RawClient) -> None:
        for first, payload in frames(client):
            assert first != 0x88, payload
            if first == 0x89:
                client.send(frame(10, payload))
                pings[client] += 1
            if pings[client] == 3:
                return

    threads = [threading.Thread(target=answer, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    for client in clients:
        client.socket.close()
    assert list(pings.values()) == [3, 3, 3, 3]


def test_answer_that_came_while_the_worker_was_held_up_counts(pinging: Server) -> None:
    worker = pinging.worker
    for path in ("/iterate", "/sleep?10"):
        with RawClient(pinging.port, path) as client:
            first, payload = client.receive()
            assert first == 0x89
            os.kill(worker, signal.SIGSTOP)
            try:
                client.send(frame(10, payload))
                # More than the patience of PING_TIMEOUT.
                time.sleep(2.5)
            finally:
                os.kill(worker, signal.SIGCONT)
            # It asks once more, as it does of who is there.
            assert client.receive()[0] == 0x89


# Peers that do not read.


def test_client_that_does_not_read_holds_up_its_sender_for_send_timeout_only(
    limited: Server,
) -> None:
    with (
        RawClient(limited.port, "/stream?unread"),
        RawClient(limited.port, "/register/slow") as slow,
        open_client(limited, "/echo") as other,
    ):
        slow.send(frame(1, b"ready"))
        slow.receive()
        begun = time.monotonic()
        assert limited.get("/flood/slow")[0] == 200
        # The others are served all the time.
        while time.monotonic() - begun < 0.5:
            other.send("not touched")
            assert other.recv(timeout=10) == "not touched"
        for start in ("flood of slow:", "/stream?unread"):
            assert "took no bytes for 0.5 seconds" in ended(limited, start)


def test_peer_that_sends_pings_and_does_not_read_is_dropped_and_costs_little_memory(
    limited: Server,
) -> None:
    before = limited.memory()
    with RawClient(limited.port, "/iterate?deaf") as client:
        pings = frame(9, b"x" * 125) * 1000
        assert not all(sends(client, pings) for _ in range(1000))
    reason = "the client took no bytes for 0.5 seconds"
    assert ended(limited, "/iterate?deaf") == f"1008 {reason}"
    assert limited.memory() - before < 2**24


# Peers that send much.


def test_handler_that_is_late_gets_every_message_and_the_peer_has_to_wait(limited: Server) -> None:
    with RawClient(limited.port, "/begin/late") as client:
        sent, rest = send_all_that_is_taken(client)
        # The kernel's buffers on both sides, one read and MAX_QUEUE messages; not all of it.
        assert 16 < sent < 1000
        limited.get("/release/late")
        # The last one has to become whole, or the answers to come would end before it.
        client.send(rest)
        assert [client.receive() for _ in range(sent)] == [
            (0x81, b"%010d" % i) for i in range(sent)
        ]


def test_reading_stops_at_max_queue_and_not_before(limited: Server) -> None:
    with RawClient(limited.port, "/begin/one-too-many") as client:
        before = received(limited)
        for i in range(15):
            client.send(frame(1, b"%010d" % i))
        client.send(frame(9, b"one has room"))
        assert client.receive() == (0x8A, b"one has room")
        client.send(frame(1, b"%010d" % 15))
        assert eventually(lambda: received(limited) >= before + 16)
        client.send(frame(9, b"none has room") + frame(1, b"%010d" % 16))
        client.socket.settimeout(0.6)
        with pytest.raises(TimeoutError):
            client.receive()
        client.socket.settimeout(10)
        limited.get("/release/one-too-many")
        coming = [client.receive() for _ in range(18)]
        assert (0x8A, b"none has room") in coming
        assert [payload for first, payload in coming if first == 0x81] == [
            b"%010d" % i for i in range(17)
        ]


def received(server: Server) -> int:
    """How many messages the server has had of all its clients."""
    return int(json.loads(server.get("/snapshot")[1])["messages_received"])


def send_all_that_is_taken(client: RawClient) -> tuple[int, memoryview]:
    """Send messages of 90 kB until the server has taken nothing for a while.

    Gives their number and what is left of the last one.
    """
    client.socket.settimeout(0.3)
    for i in range(1000):
        data = memoryview(frame(1, b"%010d" % i + b"x" * 90_000))
        try:
            while data:
                data = data[client.socket.send(data) :]
        except TimeoutError:
            break
    client.socket.settimeout(20)
    return i + 1, data


def test_max_size_holds_to_the_byte(limited: Server) -> None:
    with open_client(limited, "/echo") as ws:
        ws.send("x" * 100_000)
        assert ws.recv(timeout=10) == "x" * 100_000
    halves = frame(1, b"x" * 50_000, fin=False) + frame(0, b"x" * 50_001)
    for too_big in (frame(1, b"x" * 100_001), halves):
        assert close_of(limited, "/echo", too_big) == (
            1009,
            "message is larger than 100000 bytes",
        )
