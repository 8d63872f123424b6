"""What every backend's client does, on a real uWSGI: the client contract."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from contextlib import ExitStack, suppress

import pytest
import websocket as websocket_client
from modes import MODES
from peers import close_of, ended, eventually, leaves_nothing, open_client
from raw import RawClient, frame
from uwsgi_server import Server
from websockets.exceptions import ConnectionClosed

import flask_uwsgi_ws.frames

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
        for i, part in enumerate(parts[:-1]):
            client.send(frame(0 if i else 1, part, fin=False) + frame(9, b"%d" % i))
            assert client.receive() == (0x8A, b"%d" % i)
        client.send(frame(0, parts[-1]))
        assert client.receive() == (0x81, b"".join(parts))


def test_16_messages_in_one_packet_come_back_in_order(server: Server) -> None:
    messages = [f"message {i}".encode() for i in range(16)]
    with RawClient(server.port) as client:
        for _ in range(3):
            client.send(b"".join(frame(1, message) for message in messages))
            assert [client.receive() for _ in messages] == [(0x81, each) for each in messages]


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
    serve_at_once(server, 200)


def test_1000_clients_are_served_at_once_and_a_view_still_answers(plain: Server) -> None:
    serve_at_once(plain, 1000)


def serve_at_once(server: Server, count: int) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(server.port)) for _ in range(count)]
        for i, client in enumerate(clients):
            client.send(frame(1, b"message %d" % i))
        assert server.get("/pid")[0] == 200
        for i, client in enumerate(clients):
            assert client.receive() == (0x81, b"message %d" % i)


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


def test_sharedarea_is_sent_from_a_thread_of_the_applications(plain: Server) -> None:
    with open_client(plain, "/register/area") as ws:
        ws.send("registered?")
        assert ws.recv(timeout=10) == "registered?"
        for _ in range(3):
            assert plain.get("/sharedarea-in-thread/area")[0] == 200
            assert ws.recv(timeout=10) == "\0" * 96


# The client object.


@pytest.mark.smoke
def test_client_knows_its_connection(plain: Server) -> None:
    with open_client(plain, "/about?q=1", subprotocols=["chat.v1"]) as ws:
        about = json.loads(ws.recv(timeout=10))
    assert about.pop("id") not in {"", None}
    assert about.pop("fd") > 2
    assert about.pop("repr").startswith(f"<{plain.environment['BACKEND']}Client ")
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


@pytest.mark.smoke
def test_receive_waits_as_long_as_it_is_told(plain: Server) -> None:
    with open_client(plain, "/wait") as ws:
        assert [ws.recv(timeout=10) for _ in range(3)] == ["timeout", "own timeout", "nothing ''"]
        ws.send("one")
        assert ws.recv(timeout=10) == "then 'one'"
        ws.send(b"two")
        assert ws.recv(timeout=10) == "and b'two'"


@pytest.mark.smoke
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


@pytest.mark.smoke
def test_json_goes_both_ways(plain: Server) -> None:
    with open_client(plain, "/json") as ws:
        ws.send('{"x": [1, 2]}')
        assert json.loads(ws.recv(timeout=10)) == {"x": [1, 2]}
        for wrong in ("{", "[" * 100_000):
            ws.send(wrong)
            assert str(ws.recv(timeout=10)).startswith("not JSON: ")
        assert ws.recv(timeout=10) == "no NaN"


@pytest.mark.smoke
def test_view_threads_and_handlers_send_to_one_client_without_mixing(plain: Server) -> None:
    with open_client(plain, "/register/busy") as ws:
        ws.send("ready")
        assert ws.recv(timeout=10) == "ready"
        # Marks 0 to 4 are the view and threads, 5 and 6 other handlers.
        view = threading.Thread(target=plain.get, args=("/send/busy/50",))
        view.start()
        with open_client(plain, "/send-to/busy/5/50"), open_client(plain, "/send-to/busy/6/50"):
            seen: dict[str, list[int]] = {}
            for _ in range(7 * 50):
                mark, number, rest = str(ws.recv(timeout=10)).split(" ")
                assert rest == "x" * 2000
                seen.setdefault(mark, []).append(int(number))
        view.join()
    assert seen == {str(mark): list(range(50)) for mark in range(7)}


def test_answer_leaves_before_the_handler_rests_though_more_is_waiting(plain: Server) -> None:
    with RawClient(plain.port, "/answer-when-told/leaves") as client:
        client.send(frame(1, b"one") + frame(1, b"two") + frame(1, b"three"))
        for message in ("one", "two", "three"):
            assert client.receive() == (0x81, message.encode())
            assert plain.get(f"/release/leaves-{message}")[0] == 200


# Ending.


@pytest.mark.smoke
def test_handler_that_returns_closes_with_1000(plain: Server) -> None:
    with open_client(plain, "/greeting") as ws:
        ws.recv(timeout=10)
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert ws.close_code == 1000


@pytest.mark.smoke
@pytest.mark.parametrize("path", ["/fail", "/fail?exit"])
def test_handler_that_raises_closes_with_1011_and_is_logged(plain: Server, path: str) -> None:
    with open_client(plain, path) as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert (ws.close_code, ws.close_reason) == (1011, "internal error")
    assert f"{'SystemExit' if '?' in path else 'RuntimeError'}: on purpose" in plain.log


def test_client_class_that_can_not_be_made_leaves_the_next_connection_alone(
    plain: Server,
) -> None:
    def fail() -> None:
        for _ in range(3):
            with RawClient(plain.port, "/echo?fail-to-make") as client:
                assert client.rest() == b""
            with open_client(plain, "/echo") as ws:
                ws.send("not touched")
                assert ws.recv(timeout=10) == "not touched"

    leaves_nothing(plain, fail)
    assert "no such client" in plain.log


@pytest.mark.parametrize("backend", ["threads", "gevent"])
def test_async_handler_of_a_blocking_backend_is_told_which_to_use(backend: str) -> None:
    with MODES[backend].serve() as server:
        with open_client(server, "/coroutine") as ws:
            with pytest.raises(ConnectionClosed):
                ws.recv(timeout=10)
            assert ws.close_code == 1011
        assert "use AsyncioWebSocket for it" in server.log
        assert "never awaited" not in server.log


def test_close_sends_code_and_reason_once(plain: Server) -> None:
    with open_client(plain, "/close/4001/enough") as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert (ws.close_code, ws.close_reason) == (4001, "enough")
    assert ended(plain, "/close/4001/enough?") == "4001 enough"


@pytest.mark.smoke
def test_end_is_none_once_and_connection_closed_from_then_on(plain: Server) -> None:
    with open_client(plain, "/end?told") as ws:
        ws.send("x")
        ws.close(4002, "bye")
    assert ended(plain, "/end?told") == "none" + " 4002" * 5


def test_loop_that_ignores_the_end_stops_without_a_traceback(plain: Server) -> None:
    log = len(plain.log)
    before = clients_left(plain)
    with open_client(plain, "/echo") as ws:
        ws.send("x")
        assert ws.recv(timeout=10) == "x"
    RawClient(plain.port).socket.close()
    assert eventually(lambda: clients_left(plain) <= before)
    assert "Traceback" not in plain.log[log:]


def clients_left(server: Server) -> int:
    count: int = server.left()["clients"]
    return count


def test_client_that_vanishes_ends_the_handler_with_1006(plain: Server) -> None:
    client = RawClient(plain.port, "/iterate?vanishes")
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()
    assert ended(plain, "/iterate?vanishes") == "1006"


def test_client_that_ends_its_half_ends_the_handler_after_its_messages(plain: Server) -> None:
    with RawClient(plain.port, "/begin/after-the-half") as client:
        client.send(frame(1, b"last words"))
        client.socket.shutdown(socket.SHUT_WR)
        plain.get("/release/after-the-half")
        assert client.rest() in {b"", frame(1, b"last words", mask=None)}
    with RawClient(plain.port, "/iterate?half") as client:
        client.send(frame(1, b"x"))
        client.receive()
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
        assert ended(plain, "/iterate?half") == "1006"


@pytest.mark.parametrize("cut", [1, 4, -1], ids=["in-header", "in-mask", "in-payload"])
def test_end_of_file_in_the_middle_of_a_frame_ends_with_1006(plain: Server, cut: int) -> None:
    log = len(plain.log)
    with RawClient(plain.port, f"/iterate?cut{cut}") as client:
        client.send(frame(1, b"whole") + frame(1, b"never whole")[:cut])
        assert client.receive() == (0x81, b"whole")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
    assert ended(plain, f"/iterate?cut{cut}") == "1006"
    assert "Traceback" not in plain.log[log:]


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("close", "code", "reason"),
    [
        ("/close-client", 4000, "from a view"),
        ("/close-client-in-thread", 4001, "from a thread"),
        ("/close-other", 4002, "from another handler"),
    ],
)
def test_close_from_elsewhere_ends_the_waiting_handler(
    plain: Server, close: str, code: int, reason: str
) -> None:
    with open_client(plain, f"/register/closed{code}") as ws:
        ws.send("ready")
        ws.recv(timeout=10)
        if close == "/close-other":
            with open_client(plain, f"{close}/closed{code}"):
                pass
        else:
            assert plain.get(f"{close}/closed{code}") in {(200, f"{code}"), (200, "closing")}
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert (ws.close_code, ws.close_reason) == (code, reason)


def test_peer_that_does_not_answer_the_close_is_dropped_after_close_timeout(
    plain: Server,
) -> None:
    with RawClient(plain.port, "/close/1000/now") as client:
        assert client.receive() == (0x88, b"\x03\xe8now")
        assert client.rest() == b""


@pytest.mark.smoke
def test_nothing_is_left_of_ended_connections(plain: Server) -> None:
    def use_all() -> None:
        for path in ("/echo", "/iterate", "/fail", "/greeting", "/push", "/sleep?0.1"):
            for _ in range(5):
                with suppress(ConnectionClosed), open_client(plain, path) as ws:
                    ws.send("x")
        for path in ("/echo", "/push"):
            for _ in range(5):
                RawClient(plain.port, path).socket.close()

    leaves_nothing(plain, use_all)


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
