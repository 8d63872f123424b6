"""What every backend's client does, on a real uWSGI: the client contract."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest
import websocket as websocket_client
from raw import RawClient, frame
from uwsgi_server import Server
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

import flask_uwsgi_ws.frames


def eventually(check: Callable[[], bool], seconds: float = 10) -> bool:
    """Wait until *check* holds; for what has no moment of its own to wait for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():
            return True
        time.sleep(0.02)
    return check()


def open_client(server: Server, path: str, **options: object) -> ClientConnection:
    return connect(server.ws + path, max_size=None, proxy=None, **options)  # type: ignore[arg-type]


def sends(client: RawClient, data: bytes) -> bool:
    try:
        client.send(data)
    except OSError:
        return False
    return True


def close_of(server: Server, path: str, *frames: bytes) -> tuple[int, str]:
    """Send frames and give the code and reason of the Close frame that answers."""
    with RawClient(server.port, path) as client:
        client.send(b"".join(frames))
        while True:
            first, payload = client.receive()
            if first == 0x88:
                client.send(frame(8, payload[:2]))
                assert client.rest() == b""
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()


# Messages, on every way to run uWSGI.


@pytest.mark.parametrize(
    "message",
    ["hi", "", "é€😀", b"", b"\x00\xff", "x" * 125, "y" * 126, b"z" * 65535, b"w" * 65536],
    ids=lambda message: f"{type(message).__name__}-{len(message)}",
)
def test_text_comes_back_as_text_and_binary_as_binary(server: Server, message: str | bytes) -> None:
    with open_client(server, "/echo") as ws:
        ws.send(message)
        assert ws.recv(timeout=10) == message


@pytest.mark.parametrize("size", [1, 2**10, 2**20, 2**24])
def test_binary_message_of_any_size_comes_back(server: Server, size: int) -> None:
    message = os.urandom(size)
    with open_client(server, "/echo") as ws:
        ws.send(message)
        assert ws.recv(timeout=30) == message


def test_message_in_a_hundred_fragments_with_pings_in_between(server: Server) -> None:
    parts = [f"part {i} é€😀 ".encode() for i in range(100)]
    with RawClient(server.port) as client:
        for i, part in enumerate(parts):
            client.send(frame(1 if i == 0 else 0, part, fin=i == 99))
            if i < 99:
                client.send(frame(9, b"%d" % i))
                assert client.receive() == (0x8A, b"%d" % i)
        assert client.receive() == (0x81, b"".join(parts))


def test_websocket_client_library_talks_to_the_echo(server: Server) -> None:
    ws = websocket_client.create_connection(server.ws + "/echo", timeout=10)
    ws.send("text")
    assert ws.recv() == "text"
    ws.send_binary(b"\0\xff")
    assert ws.recv() == b"\0\xff"
    ws.close()


def test_two_clients_that_send_fragments_in_turn_get_their_own_messages(server: Server) -> None:
    with RawClient(server.port) as a, RawClient(server.port) as b:
        for i in range(5):
            for client, name in ((a, b"a"), (b, b"b")):
                client.send(frame(1 if i == 0 else 0, name * 10, fin=i == 4))
        assert a.receive() == (0x81, b"a" * 50)
        assert b.receive() == (0x81, b"b" * 50)


def test_lone_continuation_frame_closes_that_connection_and_nothing_else(server: Server) -> None:
    worker = server.worker
    with open_client(server, "/echo") as other:
        assert close_of(server, "/echo", frame(0, b"x")) == (
            1002,
            "continuation frame without a message to continue",
        )
        other.send("still here")
        assert other.recv(timeout=10) == "still here"
    assert server.worker == worker


def test_200_clients_are_served_at_once_and_a_view_still_answers(server: Server) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(open_client(server, "/echo")) for _ in range(200)]
        for i, ws in enumerate(clients):
            ws.send(f"message {i}")
        assert server.get("/pid")[0] == 200
        for i, ws in enumerate(clients):
            assert ws.recv(timeout=20) == f"message {i}"


def test_url_for_gives_a_websocket_url(plain: Server) -> None:
    assert plain.get("/url") == (200, f"{plain.ws}/echo")


def test_socket_and_page_share_a_url(server: Server) -> None:
    assert server.get("/both") == (200, "page")
    with open_client(server, "/both") as ws:
        assert ws.recv(timeout=10) == "socket"


def test_subprotocol_is_the_servers_first_choice(server: Server) -> None:
    with open_client(server, "/about", subprotocols=["chat.v1", "chat.v2"]) as ws:
        assert ws.subprotocol == "chat.v2"
        assert json.loads(ws.recv(timeout=10))["subprotocol"] == "chat.v2"


def test_no_subprotocol_in_common_opens_without_one(server: Server) -> None:
    with RawClient(server.port, Sec_WebSocket_Protocol="other, more") as client:
        assert client.status == 101
        assert client.header("Sec-WebSocket-Protocol") == []
        client.send(frame(1, b"hi"))
        assert client.receive() == (0x81, b"hi")


def test_handshake_of_the_rfc_gets_the_accept_value_of_the_rfc(server: Server) -> None:
    with RawClient(server.port, Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==") as client:
        assert client.status == 101
        assert client.header("Sec-WebSocket-Accept") == ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]


def test_sharedarea_is_sent_as_text_and_as_binary(server: Server) -> None:
    with open_client(server, "/sharedarea/4000") as ws:
        assert ws.recv(timeout=10) == "\0" * 96
        assert ws.recv(timeout=10) == b"\0" * 96


# The client object.


def test_client_knows_its_connection(plain: Server) -> None:
    with open_client(plain, "/about?q=1", subprotocols=["chat.v1"]) as ws:
        about = json.loads(ws.recv(timeout=10))
    assert about.pop("id") not in {"", None}
    assert about.pop("fd") > 2
    assert about.pop("repr").startswith("<WebSocketClient ")
    assert about == {
        "connected": True,
        "closed": False,
        "close_code": None,
        "subprotocol": "chat.v1",
        "timeout": None,
        "path": "/about",
        "query": "q=1",
        "compiled": flask_uwsgi_ws.frames.COMPILED,
    }


def test_url_variables_and_defaults_are_arguments_of_the_handler(plain: Server) -> None:
    with open_client(plain, "/hello/ann/2") as ws:
        assert list(ws) == ["hello ann", "hello ann"]
    with open_client(plain, "/greeting") as ws:
        assert list(ws) == ["good day"]


def test_receive_waits_as_long_as_it_is_told(plain: Server) -> None:
    with open_client(plain, "/wait") as ws:
        assert [ws.recv(timeout=10) for _ in range(3)] == ["timeout", "own timeout", "nothing ''"]
        ws.send("one")
        assert ws.recv(timeout=10) == "then 'one'"
        ws.send(b"two")
        assert ws.recv(timeout=10) == "and b'two'"


def test_what_can_be_sent_and_the_errors_of_what_can_not(plain: Server) -> None:
    with open_client(plain, "/types") as ws:
        messages = list(ws)
    assert messages[:10] == [
        "text",
        b"bytes",
        b"bytearray",
        b"memoryview",
        b"as binary",
        "as text",
        b"binary",
        "",
        b"",
        '{"a": [1, null]}',
    ]
    kinds = [str(message).split(":")[0] for message in messages[10:]]
    assert kinds == ["TypeError"] * 3 + ["ValueError", "TypeError"] + ["ValueError"] * 6
    assert "send_json" in str(messages[10])


def test_json_goes_both_ways(plain: Server) -> None:
    with open_client(plain, "/json") as ws:
        ws.send('{"x": [1, 2]}')
        assert json.loads(ws.recv(timeout=10)) == {"x": [1, 2]}
        for wrong in ("{", "[" * 100_000):
            ws.send(wrong)
            assert str(ws.recv(timeout=10)).startswith("not JSON: ")
        assert ws.recv(timeout=10) == "no NaN"


def test_four_threads_and_a_view_send_to_one_client_without_mixing(plain: Server) -> None:
    with open_client(plain, "/register/busy") as ws:
        ws.send("ready")
        assert ws.recv(timeout=10) == "ready"
        view = threading.Thread(target=plain.get, args=("/send/busy/50",))
        view.start()
        seen: dict[str, list[int]] = {}
        for _ in range(200):
            mark, number, rest = str(ws.recv(timeout=10)).split(" ")
            assert rest == "x" * 2000
            seen.setdefault(mark, []).append(int(number))
        view.join()
    assert seen == {str(mark): list(range(50)) for mark in range(4)}


# Ending.


def test_handler_that_returns_closes_with_1000(plain: Server) -> None:
    with open_client(plain, "/greeting") as ws:
        ws.recv(timeout=10)
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert ws.close_code == 1000


@pytest.mark.parametrize("path", ["/fail", "/fail?exit"])
def test_handler_that_raises_closes_with_1011_and_is_logged(plain: Server, path: str) -> None:
    with open_client(plain, path) as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert (ws.close_code, ws.close_reason) == (1011, "internal error")
    assert f"{'SystemExit' if '?' in path else 'RuntimeError'}: on purpose" in plain.log


def test_close_sends_code_and_reason_once(plain: Server) -> None:
    with open_client(plain, "/close/4001/enough") as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert (ws.close_code, ws.close_reason) == (4001, "enough")
    assert eventually(lambda: "close 4001 enough" in plain.get("/ends")[1])


def test_end_is_none_once_and_connection_closed_from_then_on(plain: Server) -> None:
    with open_client(plain, "/end") as ws:
        ws.send("x")
        ws.close(4002, "bye")
    expected = "end none" + " 4002" * 5
    assert eventually(lambda: expected in plain.get("/ends")[1]), plain.get("/ends")


def test_loop_that_ignores_the_end_stops_without_a_traceback() -> None:
    with Server("behaviour", "--enable-threads") as server:
        with open_client(server, "/echo") as ws:
            ws.send("x")
            assert ws.recv(timeout=10) == "x"
        RawClient(server.port).socket.close()
        assert eventually(lambda: int(server.get("/threads")[1]) <= 2)
        assert "Traceback" not in server.log


def test_client_that_vanishes_ends_the_handler_with_1006(plain: Server) -> None:
    client = RawClient(plain.port, "/iterate")
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()
    assert eventually(lambda: "iterate 1006 " in plain.get("/ends")[1])


def test_close_from_a_view_ends_the_waiting_handler(plain: Server) -> None:
    with open_client(plain, "/register/closed") as ws:
        ws.send("ready")
        ws.recv(timeout=10)
        assert plain.get("/close-client/closed") == (200, "4000")
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert (ws.close_code, ws.close_reason) == (4000, "from a view")


def test_peer_that_does_not_answer_the_close_is_dropped_after_close_timeout(
    plain: Server,
) -> None:
    with RawClient(plain.port, "/close/1000/now") as client:
        assert client.receive() == (0x88, b"\x03\xe8now")
        assert client.rest() == b""


def test_nothing_is_left_of_ended_connections(plain: Server) -> None:
    def state() -> tuple[int, int]:
        return plain.descriptors(), int(plain.get("/threads")[1])

    with open_client(plain, "/echo") as ws:
        ws.send("the attendant runs from now on")
        ws.recv(timeout=10)
    assert eventually(lambda: state()[1] <= 2)
    before = state()
    for path in ("/echo", "/iterate", "/fail", "/greeting"):
        for _ in range(10):
            with suppress(ConnectionClosed), open_client(plain, path) as ws:
                ws.send("x")
    for _ in range(10):
        RawClient(plain.port).socket.close()
    assert eventually(lambda: state() == before), (before, state())


# A handler that does not receive.


def test_handler_that_only_sends_answers_pings(plain: Server) -> None:
    with RawClient(plain.port, "/push") as client:
        client.send(frame(9, b"are you there"))
        frames = [client.receive() for _ in range(40)]
        assert (0x8A, b"are you there") in frames


def test_handler_that_only_sends_notices_a_close(plain: Server) -> None:
    with RawClient(plain.port, "/push") as client:
        client.send(frame(8, b"\x03\xe8"))
        frames = []
        while not frames or frames[-1][0] != 0x88:
            frames.append(client.receive())
        # A tick is 0.05 s: twenty of them are a second.
        assert len(frames) <= 20
        assert client.rest() == b""


def test_handler_that_sleeps_answers_pings(plain: Server) -> None:
    with RawClient(plain.port, "/sleep?1.5") as client:
        for payload in (b"one", b"two"):
            client.send(frame(9, payload))
            assert client.receive() == (0x8A, payload)


def test_silent_peer_is_pinged_and_dropped_when_it_does_not_answer() -> None:
    env = {"PING_INTERVAL": "0.3", "PING_TIMEOUT": "0.6"}
    with Server("behaviour", "--enable-threads", env=env) as server:
        with open_client(server, "/iterate", ping_interval=None) as alive:
            with RawClient(server.port, "/iterate") as silent:
                assert silent.receive() == (0x89, b"")
                assert silent.receive() == (0x88, b"\x03\xf3keepalive ping timeout")
                assert silent.rest() == b""
            alive.send("still here")
            assert alive.recv(timeout=10) == "still here"
        assert eventually(lambda: "iterate 1011 keepalive" in server.get("/ends")[1])


def test_client_that_does_not_read_holds_up_its_sender_for_send_timeout_only() -> None:
    with (
        Server("behaviour", "--threads", "2", env={"SEND_TIMEOUT": "0.5"}) as server,
        RawClient(server.port, "/register/slow") as slow,
        open_client(server, "/echo") as other,
    ):
        slow.send(frame(1, b"ready"))
        slow.receive()
        status, told = server.get("/flood/slow")
        assert (status, "took no bytes" in told) == (200, True), told
        other.send("not touched")
        assert other.recv(timeout=10) == "not touched"


def test_peer_that_sends_pings_and_does_not_read_is_dropped_in_time() -> None:
    with (
        Server("behaviour", "--enable-threads", env={"SEND_TIMEOUT": "0.5"}) as server,
        RawClient(server.port, "/iterate") as client,
    ):
        pings = frame(9, b"x" * 125) * 1000
        assert not all(sends(client, pings) for _ in range(1000))
        assert eventually(lambda: "iterate 1006" in server.get("/ends")[1])


# What the peer must not do.


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(1, b"x", mask=None)], 1002),
        ([frame(1, b"x", rsv=0x40)], 1002),
        ([frame(3, b"x")], 1002),
        ([frame(9, b"x", fin=False)], 1002),
        ([frame(1, b"x", fin=False), frame(1, b"y")], 1002),
        ([frame(1, b"\xff")], 1007),
        ([frame(1, b"\xce", fin=False), frame(0, b"\xff", fin=False)], 1007),
        ([frame(8, b"\x03\xed")], 1002),
        ([struct.pack("!BBQ", 0x82, 0x80 | 127, 2**40) + b"\0\0\0\0"], 1009),
    ],
    ids=[
        "unmasked",
        "reserved-bit",
        "reserved-opcode",
        "fragmented-ping",
        "interleaved",
        "not-utf8",
        "not-utf8-yet",
        "close-code-1005",
        "too-big",
    ],
)
def test_protocol_error_closes_with_its_code(plain: Server, frames: list[bytes], code: int) -> None:
    worker = plain.worker
    assert close_of(plain, "/iterate", *frames)[0] == code
    assert plain.worker == worker


def test_max_size_holds_to_the_byte() -> None:
    with Server("behaviour", "--enable-threads", env={"MAX_SIZE": "1000"}) as server:
        with open_client(server, "/echo") as ws:
            ws.send("x" * 1000)
            assert ws.recv(timeout=10) == "x" * 1000
        assert close_of(server, "/echo", frame(1, b"x" * 1001)) == (
            1009,
            "message is larger than 1000 bytes",
        )
