"""The threads backend at its edges: a client on one end of a socket pair, a test on the other."""

from __future__ import annotations

import logging
import select
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from peers import ended, eventually
from raw import RawClient, frame
from uwsgi_server import Server
from websockets.extensions.permessage_deflate import PerMessageDeflate

from flask_uwsgi_ws import ConnectionClosed, WebSocketClient
from flask_uwsgi_ws.backends import threads
from flask_uwsgi_ws.compression import Deflate
from flask_uwsgi_ws.settings import Settings

Pair = tuple[WebSocketClient, socket.socket]


def make_pair(client: type[WebSocketClient] = WebSocketClient, **options: float) -> Pair:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    settings = Settings(**{"close_timeout": 0.3, "send_timeout": 30, **options})  # type: ignore[arg-type]
    made = client({"PATH_INFO": "/"}, ours, settings)
    made.ours = ours  # type: ignore[attr-defined]
    return made, theirs


def fill(client: WebSocketClient) -> int:
    """Fill what the kernel keeps for the peer, to the last byte; says how many."""
    count = 0
    while True:
        try:
            count += client.ours.send(b"\0", socket.MSG_DONTWAIT)  # type: ignore[attr-defined]
        except BlockingIOError:
            return count


@pytest.fixture
def pair() -> Iterator[Pair]:
    client, peer = make_pair()
    yield client, peer
    peer.close()
    client._give_back()


def read_all(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = peer.recv(65536)
        assert more, f"the end after {len(data)} of {size} bytes"
        data += more
    return data


def exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += peer.recv(size - len(data))
    return data


class Outcome(threading.Thread):
    """Calls a function in a thread and keeps what it raised."""

    def __init__(self, function: object, *arguments: object) -> None:
        super().__init__(daemon=True)
        self.function, self.arguments = function, arguments
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.function(*self.arguments)  # type: ignore[operator]
        except Exception as error:
            self.error = error


def stuck(client: WebSocketClient) -> bool:
    """Whether a sender is in the middle of a message that the peer does not take."""
    return eventually(lambda: bool(client._sending_is_busy()))


def test_peer_that_leaves_in_the_middle_of_a_message_ends_its_sender(pair: Pair) -> None:
    client, peer = pair
    sender = Outcome(client.send, b"x" * 10**6)
    assert stuck(client)
    peer.close()
    sender.join(10)
    assert isinstance(sender.error, ConnectionClosed)
    assert (client.connected, client.close_code) == (False, 1006)
    with pytest.raises(ConnectionClosed):
        client.send("more")


def test_peer_that_has_left_ends_the_next_sender() -> None:
    client, peer = make_pair()
    peer.close()
    with pytest.raises(ConnectionClosed):
        client.send("x")
    client._give_back()


def test_close_does_not_wait_for_a_stuck_sender(pair: Pair) -> None:
    client, _ = pair
    sender = Outcome(client.send, b"x" * 10**6)
    assert stuck(client)
    client.close(1001, "going")
    sender.join(10)
    assert isinstance(sender.error, ConnectionClosed)
    assert client.close_code == 1001


def test_handler_that_returns_does_not_wait_for_a_stuck_sender() -> None:
    client, peer = make_pair()
    sender = Outcome(client.send, b"x" * 10**6)
    assert stuck(client)
    client._give_back()
    sender.join(10)
    assert isinstance(sender.error, ConnectionClosed)
    assert client.fd == -1
    peer.close()


def test_pong_waits_for_room_and_goes_out_before_the_next_message(pair: Pair) -> None:
    client, peer = pair
    junk = fill(client)
    peer.sendall(frame(9, b"there?"))
    assert client.recv_nb() == ""
    read_all(peer, junk)
    client.send("next")
    assert read_all(peer, 14) == b"\x8a\x06there?\x81\x04next"


def test_pong_that_waited_is_sent_by_the_attendant(pair: Pair) -> None:
    client, peer = pair
    junk = fill(client)
    peer.sendall(frame(9, b"there?"))
    assert client.recv_nb() == ""
    client.attend(time.monotonic())
    read_all(peer, junk)
    client.attend(time.monotonic())
    assert read_all(peer, 8) == b"\x8a\x06there?"


def test_reply_to_a_peer_that_has_left_ends_the_connection() -> None:
    client, peer = make_pair()
    peer.sendall(frame(9, b"x"))
    peer.close()
    assert client.receive() is None
    assert client.close_code == 1006
    client._give_back()


def test_reading_stops_at_max_queue_and_nothing_is_lost() -> None:
    client, peer = make_pair(max_queue=10)
    message = frame(1, b"x" * 1000)
    sent = 0
    peer.settimeout(0.2)
    try:
        while True:
            sent += peer.send(message[sent % len(message) :])
            client.attend(time.monotonic())
    except TimeoutError:
        pass
    whole = sent // len(message)
    # What the kernel keeps, one read, and the queue: far less than went on being offered.
    assert 10 < whole < 2000
    assert [client.receive() for _ in range(whole)] == ["x" * 1000] * whole
    peer.close()
    client._give_back()


def test_two_threads_that_receive_share_the_messages(pair: Pair) -> None:
    client, peer = pair
    got: list[object] = []
    readers = [Outcome(lambda: got.extend(client)) for _ in range(2)]
    peer.sendall(b"".join(frame(1, b"%d" % i) for i in range(100)) + frame(8, b"\x03\xe8"))
    for reader in readers:
        reader.join(10)
    assert sorted(map(str, got), key=int) == [str(i) for i in range(100)]
    assert [reader.error for reader in readers] == [None, None]


def test_receive_in_one_thread_does_not_block_the_others(pair: Pair) -> None:
    client, peer = pair
    reader = Outcome(client.receive)
    assert eventually(lambda: reader.is_alive())
    assert client.recv_nb() == ""
    with pytest.raises(TimeoutError):
        client.receive(timeout=0.05)
    peer.sendall(frame(1, b"x"))
    reader.join(10)
    assert reader.error is None


def test_trouble_with_one_connection_is_not_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Troubled(WebSocketClient):
        def attend(self, now: float) -> None:
            raise RuntimeError(f"trouble at {now}")

    troubled, its_peer = make_pair(Troubled)
    sound, peer = make_pair()
    attendant = threads._Attendant()
    with caplog.at_level(logging.ERROR):
        attendant.add(troubled)
        attendant.add(sound)
        peer.sendall(frame(9, b"x"))
        assert read_all(peer, 3) == b"\x8a\x01x"
        assert its_peer.recv(1) == b""
    assert "could not attend" in caplog.text
    attendant.remove(troubled)
    attendant.remove(sound)
    for client, end in ((troubled, its_peer), (sound, peer)):
        end.close()
        client._give_back()


def test_close_of_the_peer_is_answered_while_threads_send() -> None:
    for _ in range(10):
        client, peer = make_pair()
        # The answer may find the kernel full and nobody left who sends: then it is the attendant's.
        threads._attendant.add(client)
        senders = [
            Outcome(lambda c=client: [c.send("x" * 100) for _ in range(10**6)]) for _ in "ab"
        ]
        reader = Outcome(lambda c=client: list(c))
        peer.recv(1000)
        peer.sendall(frame(9, b"ping") + frame(8, b"\x03\xe8"))
        data = b""
        while not data.endswith(b"\x88\x02\x03\xe8"):
            more = peer.recv(65536)
            assert more, data[-20:]
            data += more
        assert b"\x8a\x04ping" in data
        for thread in (*senders, reader):
            thread.join(10)
        threads._attendant.remove(client)
        peer.close()
        client._give_back()


def test_answer_that_the_kernel_had_no_room_for_goes_out_when_it_has() -> None:
    client, peer = make_pair(close_timeout=30)
    filled = fill(client)
    peer.sendall(frame(8, b"\x03\xe8"))
    assert client.receive() is None
    threads._attendant.add(client)
    try:
        assert len(read_all(peer, filled)) == filled
        assert read_all(peer, 4) == b"\x88\x02\x03\xe8"
    finally:
        threads._attendant.remove(client)
        peer.close()
        client._give_back()


def test_flood_of_what_is_no_message_does_not_hold_a_timeout_up(pair: Pair) -> None:
    client, peer = pair
    # A process of its own: a thread would share this one's turns, and leave gaps.
    flood = "import os\nwhile True: os.write(1, bytes((0x8A, 0x80, 0, 0, 0, 0)) * 10000)"
    peer.setblocking(True)
    flooder = subprocess.Popen([sys.executable, "-c", flood], stdout=peer.fileno())
    try:
        assert eventually(lambda: bool(select.select([client.fd], [], [], 0)[0]))
        for _ in range(5):
            with pytest.raises(TimeoutError):
                client.receive(timeout=0.2)
        assert flooder.poll() is None
    finally:
        flooder.kill()
        flooder.wait()


def test_peer_that_pings_and_does_not_read_does_not_hold_a_timeout_up() -> None:
    client, peer = make_pair()
    flooder = Outcome(lambda: [peer.sendall(frame(9, b"x" * 125)) for _ in range(10**6)])
    for _ in range(20):
        with pytest.raises(TimeoutError):
            client.receive(timeout=0.05)
    assert client.connected
    # Closing alone would leave the flooder waiting for room.
    peer.shutdown(socket.SHUT_RDWR)
    flooder.join(10)
    peer.close()
    client._give_back()


def test_busy_handler_with_a_full_queue_does_not_lose_a_live_peer() -> None:
    client, peer = make_pair(max_queue=1, ping_interval=0.1, ping_timeout=0.1)
    peer.sendall(frame(1, b"a") + frame(1, b"b"))
    now = time.monotonic()
    for step in range(50):
        client.attend(now + step)
    assert client.connected
    assert [client.receive(), client.receive()] == ["a", "b"]
    peer.close()
    client._give_back()


def test_slow_reader_gets_what_was_sent_before_the_close() -> None:
    client, peer = make_pair(close_timeout=0.5)
    sender = Outcome(lambda: [client.send(b"x" * 1000) for _ in range(100)])
    data = read_all(peer, 100 * 1004 - 3000)
    sender.join(10)
    closer = Outcome(lambda: (client.close(), client._give_back()))
    closer.join(10)
    peer.settimeout(10)
    while more := peer.recv(500):
        data += more
    assert data == (b"\x82\x7e\x03\xe8" + b"x" * 1000) * 100 + b"\x88\x02\x03\xe8"


@pytest.mark.parametrize("timeout", [float("inf"), 3e6, 1e300])
def test_receive_takes_any_timeout(pair: Pair, timeout: float) -> None:
    client, peer = pair
    peer.sendall(frame(1, b"x"))
    assert client.receive(timeout) == "x"


def test_half_made_client_raises_and_does_not_end_the_process() -> None:
    client = WebSocketClient.__new__(WebSocketClient)
    for use in (repr, lambda c: c.connected, lambda c: c.send("x"), lambda c: c.receive()):
        with pytest.raises((AttributeError, TypeError)):
            use(client)


def test_sharedarea_outside_uwsgi_says_what_to_do(pair: Pair) -> None:
    with pytest.raises(RuntimeError, match="run the app in uWSGI"):
        pair[0].send_from_sharedarea(0)


def test_client_that_has_been_given_back_touches_no_descriptor() -> None:
    client, peer = make_pair()
    peer.close()
    client._give_back()
    client.attend(time.monotonic())
    client.close()
    with pytest.raises(ConnectionClosed):
        client.ping()
    assert client.receive() is None
    assert client.fd == -1


def test_handler_that_does_not_look_does_not_keep_an_ended_connection_open() -> None:
    with (
        Server("behaviour", "--enable-threads") as server,
        RawClient(server.port, "/sleep?30") as client,
    ):
        client.send(frame(0, b"x"))
        assert client.receive()[1][:2] == b"\x03\xea"
        assert client.rest() == b""


def test_no_thread_left_refuses_the_handshake_with_503() -> None:
    with Server("behaviour", "--enable-threads", "--limit-as", "700") as server:
        clients = []
        try:
            while len(clients) < 400:
                clients.append(RawClient(server.port))
                if clients[-1].status != 101:
                    break
                clients[-1].send(frame(1, b"hi"))
                assert clients[-1].receive() == (0x81, b"hi")
            assert clients[-1].status == 503
            assert "WebSocket handshake refused: can't start new thread" in server.log
            clients[0].send(frame(1, b"still here"))
            assert clients[0].receive() == (0x81, b"still here")
        finally:
            for client in clients:
                client.socket.close()


@pytest.mark.parametrize("held", [999, 1000, 1001])
def test_messages_are_kept_back_up_to_write_limit(
    held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would send them a moment later, whatever the limit.
    monkeypatch.setattr(threads, "_attendant", Mock(threads._attendant))
    client, peer = make_pair(write_limit=1000)
    peer.sendall(frame(1, b"1") + frame(1, b"2") + frame(1, b"3"))
    assert client.receive() == "1"
    client.send("x" * (held - 4))
    assert came(peer) == b""
    client.send("second")
    second = came(peer)
    assert len(second) == (held + 8 if held >= 1000 else 0)
    client.send("third")
    third = came(peer)
    # The limit is for what is held now: what has gone out does not count.
    assert len(third) == (0 if held >= 1000 else held + 8 + 7)
    assert [client.receive(), client.receive(), client.recv_nb()] == ["2", "3", ""]
    sent = second + third + came(peer)
    assert sent[4:] == b"x" * (held - 4) + b"\x81\x06second\x81\x05third"
    peer.close()
    client._give_back()


def came(peer: socket.socket) -> bytes:
    """What has been sent up to now."""
    return peer.recv(65536) if select.select([peer], [], [], 0)[0] else b""


def test_messages_kept_back_wait_for_a_client_that_does_not_read() -> None:
    # More messages wait than are answered, so that each answer may be kept back for the next.
    with (
        Server("behaviour", "--threads", "2", env={"SEND_TIMEOUT": "0.5"}) as server,
        RawClient(server.port, "/answer-at-length") as client,
    ):
        client.send(frame(1, b"x") * 500)
        assert ended(server, "/answer-at-length?").endswith("took no bytes for 0.5 seconds")


# Messages that do not wait.


@pytest.mark.parametrize("waiting", [999, 1000, 1001])
def test_send_nb_raises_above_write_limit(waiting: int) -> None:
    client, peer = make_pair(write_limit=1000)
    junk = fill(client)
    client.send_nb("x" * (waiting - 4))
    assert client.unsent == waiting
    sent = client.messages_sent
    if waiting > 1000:
        with pytest.raises(BlockingIOError, match="1001 bytes are waiting"):
            client.send_nb("more")
        assert client.messages_sent == sent
    else:
        client.send_nb("more")
    read_all(peer, junk)
    # The kernel has room, and is asked before anything is refused.
    client.send_nb("last")
    sent_out = read_all(peer, waiting + (6 if waiting > 1000 else 12))
    assert sent_out.endswith(b"x\x81\x04last" if waiting > 1000 else b"\x81\x04more\x81\x04last")
    assert client.unsent == 0
    peer.close()
    client._give_back()


def test_what_a_sender_waits_to_write_counts_as_unsent(pair: Pair) -> None:
    client, peer = pair
    sender = Outcome(client.send, b"x" * 10**6)
    assert stuck(client)
    assert eventually(lambda: client.unsent > 500_000)
    with pytest.raises(BlockingIOError):
        client.send_nb("more")
    read_all(peer, 10 + 10**6)
    sender.join(10)
    assert client.unsent == 0
    client.send_nb("more")
    assert read_all(peer, 6) == b"\x81\x04more"


def test_backlog_goes_out_as_fast_as_the_peer_reads() -> None:
    client, peer = make_pair(write_limit=1000)
    threads._attendant.add(client)

    def send_much() -> None:
        for _ in range(200):
            while True:
                try:
                    client.send_nb(b"x" * 9996)
                    break
                except BlockingIOError:
                    # Not a word to the kernel meanwhile: the attendant is to speak to it.
                    assert eventually(lambda: client.unsent <= 1000)

    sender = Outcome(send_much)
    # At the attendant's own pace these would take minutes.
    begun = time.monotonic()
    read_all(peer, 200 * 10_000)
    assert time.monotonic() - begun < 60
    sender.join(10)
    assert sender.error is None
    threads._attendant.remove(client)
    peer.close()
    client._give_back()


def test_room_in_the_kernel_that_is_told_of_at_once_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, peer = make_pair()
    attendant = threads._attendant
    attendant.add(client)
    poller = attendant._poller

    class SlowToReturn:
        """The poller, from which this thread comes back when the attendant has heard of it."""

        def register(self, fd: int, events: int) -> None:
            poller.register(fd, events)
            peer.recv(65536)
            time.sleep(0.2)

        def __getattr__(self, name: str) -> object:
            return getattr(poller, name)

    monkeypatch.setattr(attendant, "_poller", SlowToReturn())
    # So that nothing is sent by its rounds.
    monkeypatch.setattr(attendant, "_attend", lambda _: None)
    client.send_nb(b"x" * 500_000)
    read_all(peer, 400_000)
    attendant.remove(client)
    peer.close()
    client._give_back()


@pytest.mark.parametrize("compressed", [False, True])
def test_messages_of_many_threads_come_whole_and_in_order(compressed: bool) -> None:
    ours, peer = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    peer.settimeout(10)
    deflate = Deflate(PerMessageDeflate(False, False, 15, 15)) if compressed else None
    client = WebSocketClient({"PATH_INFO": "/"}, ours, Settings(write_limit=5000), None, deflate)
    threads._attendant.add(client)

    def send(mark: int) -> None:
        for number in range(300):
            message = f"{mark} {number} " + "x" * (number % 100)
            while True:
                try:
                    (client.send_nb if mark % 2 else client.send)(message)
                    break
                except BlockingIOError:
                    time.sleep(0.001)

    senders = [Outcome(send, mark) for mark in range(6)]
    inflater = zlib.decompressobj(-15)
    seen: list[list[int]] = [[] for _ in senders]
    for _ in range(300 * len(senders)):
        first, size = exactly(peer, 2)
        payload = exactly(peer, size)
        assert first == (0xC1 if compressed else 0x81)
        if compressed:
            payload = inflater.decompress(payload + b"\0\0\xff\xff")
        mark, number, rest = payload.split(b" ")
        assert rest == b"x" * (int(number) % 100)
        seen[int(mark)].append(int(number))
    assert seen == [list(range(300))] * len(senders)
    for sender in senders:
        sender.join(10)
        assert sender.error is None
    threads._attendant.remove(client)
    peer.close()
    client._give_back()


def test_slow_peer_that_takes_something_is_not_given_up() -> None:
    client, peer = make_pair(write_limit=1000, send_timeout=3)
    receiver = Outcome(client.receive)
    junk = fill(client)
    peer.sendall(frame(9, b"x" * 125) * 1000)
    # Longer than it would have if it took nothing.
    end = time.monotonic() + 5
    taken = 0
    while time.monotonic() < end:
        taken += len(peer.recv(5000))
        time.sleep(0.2)
    assert taken < junk + 127 * 1000
    assert client.connected
    assert eventually(lambda: not client.connected)
    assert client.close_code == 1008
    receiver.join(10)
    peer.close()
    client._give_back()
