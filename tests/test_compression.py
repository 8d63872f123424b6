"""compression.py against RFC 7692, with the client's half of ``websockets`` and zlib."""

from __future__ import annotations

import concurrent.futures
import random
import tracemalloc
import zlib
from typing import Any

import pytest
import wire
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
)
from websockets.frames import Frame, Opcode

from flask_uwsgi_ws.compression import Deflate, deflate_factory
from flask_uwsgi_ws.connection import CLOSED, CLOSING, Connection
from flask_uwsgi_ws.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT
from flask_uwsgi_ws.handshake import Answer, negotiate
from flask_uwsgi_ws.settings import Settings

RSV1 = 0x40


def shrink(data: bytes, bits: int = 15) -> bytes:
    """Compress a message as a client without a memory does."""
    compressor = zlib.compressobj(wbits=-bits)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def agree(compression: object, **client: Any) -> tuple[Connection, PerMessageDeflate]:
    """Negotiate, and give the server's connection and the client's extension."""
    factory = ClientPerMessageDeflateFactory(**client)
    server = deflate_factory(compression)
    assert server is not None
    response, extension = server.process_request_params(list(factory.get_request_params()), [])
    return Connection(2**20, Deflate(extension)), factory.process_response_params(response, [])


def client_frame(client: PerMessageDeflate, message: bytes) -> bytes:
    sent = client.encode(Frame(Opcode.BINARY, message))
    return wire.frame(sent.opcode, bytes(sent.data), rsv=RSV1)


def read_by(client: PerMessageDeflate, frame: bytes) -> bytes:
    """What a client makes of a server's frame."""
    start = {126: 4, 127: 10}.get(frame[1], 2)
    got = Frame(Opcode(frame[0] & 0x0F), frame[start:], True, bool(frame[0] & RSV1))
    return bytes(client.decode(got).data)


def plain_connection(max_size: int = 2**20) -> Connection:
    """A connection whose peer forgets after each message."""
    factory = deflate_factory({"client_no_context_takeover": True})
    assert factory is not None
    return Connection(max_size, Deflate(factory.process_request_params([], [])[1]))


# Negotiation.


def opening(offer: str | None, **options: Any) -> Answer:
    environ = {
        "REQUEST_METHOD": "GET",
        "HTTP_HOST": "here",
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
    }
    if offer is not None:
        environ["HTTP_SEC_WEBSOCKET_EXTENSIONS"] = offer
    return negotiate(environ, Settings(**options))


def extensions(answer: Answer) -> str | None:
    assert answer.accepted
    return dict(answer.headers).get("Sec-WebSocket-Extensions")


def test_off_unless_asked_for() -> None:
    answer = opening("permessage-deflate")
    assert extensions(answer) is None
    assert answer.deflate is None


@pytest.mark.parametrize(
    ("offer", "compression", "agreed"),
    [
        (None, True, None),
        ("permessage-deflate", True, "server_max_window_bits=12"),
        (
            "permessage-deflate; client_max_window_bits",
            True,
            "server_max_window_bits=12; client_max_window_bits=12",
        ),
        (
            "permessage-deflate; client_max_window_bits=10; server_max_window_bits=9",
            True,
            "server_max_window_bits=9; client_max_window_bits=10",
        ),
        (
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            {"server_max_window_bits": None},
            "server_no_context_takeover; client_no_context_takeover",
        ),
        (
            "permessage-deflate",
            {"server_no_context_takeover": True, "server_max_window_bits": 15},
            "server_no_context_takeover; server_max_window_bits=15",
        ),
        # What can not be had is declined, and the next offer is taken.
        ("permessage-deflate; server_max_window_bits=8", True, None),
        (
            "permessage-deflate; server_max_window_bits=8, permessage-deflate",
            True,
            "server_max_window_bits=12",
        ),
        # RFC 7692 section 7.1: unknown, twice, or with a value that there is not.
        ("permessage-deflate; who_knows", True, None),
        ("permessage-deflate; server_max_window_bits=16", True, None),
        ("permessage-deflate; server_max_window_bits=09", True, None),
        ("permessage-deflate; server_no_context_takeover=1", True, None),
        (
            "permessage-deflate; client_max_window_bits=9; client_max_window_bits=9",
            True,
            None,
        ),
        ("x-webkit-deflate-frame, permessage-deflate", True, "server_max_window_bits=12"),
    ],
)
def test_negotiated_parameters(offer: str | None, compression: Any, agreed: str | None) -> None:
    answer = opening(offer, compression=compression)
    expected = None if agreed is None else f"permessage-deflate; {agreed}"
    assert extensions(answer) == expected
    assert (answer.deflate is not None) == (agreed is not None)


def test_offer_that_is_no_header_is_answered_400() -> None:
    assert opening("permessage-deflate; ;", compression=True).status == 400


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        1,
        "yes",
        ["level"],
        {"levle": 3},
        {"level": 10},
        {"level": None},
        {"mem_level": 0},
        {"server_max_window_bits": 8},
        {"server_max_window_bits": True},
        {"client_max_window_bits": 16},
        {"client_no_context_takeover": 1},
    ],
)
def test_wrong_option_is_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"UWSGI_WEBSOCKET_COMPRESSION \(compression\) is "):
        Settings(compression=wrong)


# Messages.

PARAMETERS = [
    pytest.param(True, {}, id="default"),
    pytest.param({"server_no_context_takeover": True}, {}, id="server forgets"),
    pytest.param({"client_no_context_takeover": True}, {}, id="client forgets"),
    pytest.param(True, {"server_no_context_takeover": True}, id="client asks server to forget"),
    pytest.param(
        {"server_max_window_bits": 9, "client_max_window_bits": 9, "mem_level": 1}, {}, id="least"
    ),
    pytest.param(
        {"server_max_window_bits": None, "client_max_window_bits": None, "mem_level": 9},
        {},
        id="most",
    ),
    pytest.param({"level": 0}, {}, id="stored"),
    pytest.param({"level": 9}, {"server_max_window_bits": 10}, id="client sets window"),
]

TEXTS = [b"", b"a", b"Hello", b"Hello", b'{"type": "tick", "n": 1}', b'{"type": "tick", "n": 2}']


def samples() -> list[bytes]:
    source = random.Random(7692)
    noise = source.randbytes(100_000)
    return [*TEXTS, noise, noise[:40_000], b"\0" * 300_000, b"", noise[:125], noise[:126]]


@pytest.mark.parametrize(("server", "client"), PARAMETERS)
def test_messages_go_both_ways(server: Any, client: Any) -> None:
    connection, peer = agree(server, **client)
    for message in samples():
        assert connection.receive_data(client_frame(peer, message)) == [message]
        assert read_by(peer, connection.compress(connection.send_binary(message))) == message


@pytest.mark.parametrize(("server", "client"), PARAMETERS)
def test_messages_cut_into_frames_and_reads(server: Any, client: Any) -> None:
    connection, peer = agree(server, **client)
    source = random.Random(1)
    for message in samples():
        payload = bytes(peer.encode(Frame(Opcode.BINARY, message)).data)
        cut = len(payload) // 3
        data = (
            wire.frame(BINARY, payload[:cut], fin=False, rsv=RSV1)
            + wire.frame(CONTINUATION, b"", fin=False)
            + wire.frame(PING, b"between")
            + wire.frame(CONTINUATION, payload[cut:])
        )
        got: list[str | bytes] = []
        while data:
            size = source.randint(1, 5000)
            got += connection.receive_data(data[:size])
            data = data[size:]
        assert got == [message]


@given(st.text(), st.integers(0, 200))
def test_text_cut_at_any_byte(text: str, cut: int) -> None:
    data = wire.frame(TEXT, shrink(text.encode()), rsv=RSV1)
    connection = plain_connection()
    assert connection.receive_data(data[:cut]) + connection.receive_data(data[cut:]) == [text]


def test_repetition_is_what_compression_is_for() -> None:
    connection, _ = agree(True)
    message = b'{"type": "position", "x": 10.5, "y": -3.25}'
    first, second = (len(connection.compress(connection.send_text(message.decode()))) for _ in "12")
    assert second < first / 3


def test_uncompressed_messages_are_taken_too() -> None:
    connection, peer = agree(True)
    data = client_frame(peer, b"small") + wire.frame(TEXT, b"as it is") + client_frame(peer, b"s")
    assert connection.receive_data(data) == [b"small", "as it is", b"s"]


def test_control_frames_are_not_compressed() -> None:
    connection, _ = agree(True)
    for frame in (connection.ping(b"p"), connection.close(1000, "over")):
        assert connection.compress(frame) == frame


def test_without_the_extension_nothing_is() -> None:
    connection = Connection()
    assert not connection.compresses
    assert connection.compress(b"\x81\x01a") == b"\x81\x01a"


# RFC 7692 section 7.2.3: its examples.

EXAMPLES = {
    "one block": "f248cdc9c90700",
    "no compression": "000500faff48656c6c6f00",
    "final block": "f348cdc9c9070000",
    "two blocks": "f24805000000ffffcac9c90700",
}


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_examples_of_the_rfc(example: str) -> None:
    connection = plain_connection()
    frame = wire.frame(TEXT, bytes.fromhex(example), rsv=RSV1)
    assert connection.receive_data(frame) == ["Hello"]


def test_reference_to_the_message_before() -> None:
    connection, _ = agree(True)
    messages = [bytes.fromhex(EXAMPLES["one block"]), bytes.fromhex("f200110000")]
    frames = [wire.frame(TEXT, message, rsv=RSV1) for message in messages]
    assert connection.receive_data(b"".join(frames)) == ["Hello", "Hello"]


@pytest.mark.parametrize("takeover", [True, False])
def test_stream_that_ends_is_followed_by_another(takeover: bool) -> None:
    connection, _ = agree({"client_no_context_takeover": not takeover})
    ended = wire.frame(TEXT, bytes.fromhex(EXAMPLES["final block"]), rsv=RSV1)
    begun = wire.frame(TEXT, bytes.fromhex(EXAMPLES["one block"]), rsv=RSV1)
    assert connection.receive_data(ended + ended + begun + ended) == ["Hello"] * 4


def test_stream_that_ends_in_the_middle_of_a_message() -> None:
    first = zlib.compressobj(wbits=-15)
    data = first.compress(b"one ") + first.flush() + shrink(b"two")
    for cut in range(len(data)):
        connection = plain_connection()
        frames = wire.frame(TEXT, data[:cut], fin=False, rsv=RSV1) + wire.frame(
            CONTINUATION, data[cut:]
        )
        assert connection.receive_data(frames) == ["one two"]


def test_stream_that_ends_again_and_again_is_refused() -> None:
    # Two bytes each, and a new stream for the server to make.
    connection = plain_connection()
    assert connection.receive_data(wire.frame(TEXT, b"\x03\x00" * 1000, rsv=RSV1)) == []
    assert connection.close_code == 1007


# Faults.


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([wire.frame(TEXT, b"\xff\xff\xff", rsv=RSV1)], 1007),
        # A distance that leads behind the beginning.
        ([wire.frame(TEXT, bytes.fromhex("f200110000"), rsv=RSV1)], 1007),
        ([wire.frame(TEXT, shrink(b"\xff"), rsv=RSV1)], 1007),
        ([wire.frame(TEXT, shrink("é".encode()[:1]), rsv=RSV1)], 1007),
        ([wire.frame(PING, b"", rsv=RSV1)], 1002),
        ([wire.frame(CLOSE, b"", rsv=RSV1)], 1002),
        ([wire.frame(TEXT, b"a", rsv=0x20)], 1002),
        ([wire.frame(TEXT, b"a", rsv=0x10)], 1002),
        ([wire.frame(TEXT, b"a", rsv=0x70)], 1002),
        (
            [
                wire.frame(TEXT, shrink(b"a"), fin=False, rsv=RSV1),
                wire.frame(CONTINUATION, b"", rsv=RSV1),
            ],
            1002,
        ),
        ([wire.frame(TEXT, b"a", fin=False), wire.frame(CONTINUATION, b"", rsv=RSV1)], 1002),
        ([wire.frame(CONTINUATION, b"", rsv=RSV1)], 1002),
    ],
)
def test_faults(frames: list[bytes], code: int) -> None:
    connection = plain_connection()
    assert connection.receive_data(b"".join(frames)) == []
    assert connection.close_code == code


def test_rsv1_without_the_extension_is_a_fault() -> None:
    connection = Connection()
    connection.receive_data(wire.frame(TEXT, shrink(b"a"), rsv=RSV1))
    assert connection.close_code == 1002


def test_what_comes_after_our_close_is_not_inflated() -> None:
    connection = plain_connection()
    connection.close(1000)
    assert connection.state == CLOSING
    data = wire.frame(TEXT, b"\xff\xff\xff", rsv=RSV1) + wire.frame(CLOSE, b"\x03\xe8")
    assert connection.receive_data(data) == []
    assert connection.state == CLOSED
    assert connection.close_code == 1000


# The limit is for what a message becomes.


@pytest.mark.parametrize("size", [1, 125, 1000, 2044, 70_000])
@pytest.mark.parametrize("content", [b"\0", None], ids=["zeros", "noise"])
def test_limit_holds_to_the_byte(size: int, content: bytes | None) -> None:
    data = random.Random(size).randbytes(size + 1) if content is None else content * (size + 1)
    for count, fits in ((size - 1, True), (size, True), (size + 1, False)):
        connection = plain_connection(size)
        frame = wire.frame(BINARY, shrink(data[:count]), rsv=RSV1)
        assert connection.receive_data(frame) == ([data[:count]] if fits else [])
        assert connection.close_code == (None if fits else 1009)


@pytest.mark.parametrize("size", [10, 3000])
def test_limit_holds_over_fragments(size: int) -> None:
    compressor = zlib.compressobj(wbits=-15)
    parts = [
        compressor.compress(b"x" * count) + compressor.flush(zlib.Z_SYNC_FLUSH)
        for count in (size, 1)
    ]
    first = wire.frame(BINARY, parts[0], fin=False, rsv=RSV1)
    for limit, messages in ((size + 1, [b"x" * (size + 1)]), (size, [])):
        connection = plain_connection(limit)
        got = connection.receive_data(first + wire.frame(CONTINUATION, parts[1][:-4]))
        assert got == messages
    # A last frame with nothing in it, when all the room is taken.
    connection = plain_connection(size)
    assert connection.receive_data(first + wire.frame(CONTINUATION, b"")) == [b"x" * size]


def test_no_limit_is_no_limit() -> None:
    connection = plain_connection(0)
    frame = wire.frame(BINARY, shrink(b"\0" * 5_000_000), rsv=RSV1)
    assert connection.receive_data(frame) == [b"\0" * 5_000_000]


def test_bomb_costs_no_more_than_the_limit() -> None:
    compressor = zlib.compressobj(9, wbits=-15)
    bomb = b"".join(compressor.compress(b"\0" * 2**20) for _ in range(1024))
    bomb = (bomb + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert 900_000 < len(bomb) < 1_200_000
    frame = wire.frame(BINARY, bomb, rsv=RSV1)
    connection = plain_connection(2**23)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for start in range(0, len(frame), 65536):
            assert connection.receive_data(frame[start : start + 65536]) == []
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert connection.close_code == 1009
    # The message as far as it came, in a buffer that grows by eighths; and a read and a part.
    assert most < 2**23 * 9 / 8 + 2**19


def test_threads_may_compress_at_the_same_time_where_no_message_depends_on_others() -> None:
    """A message to many is compressed by one client's, which may send another one meanwhile."""
    server, client = agree({"server_no_context_takeover": True})
    # Long ones, over which zlib lets other threads go on.
    payloads = [random.Random(i).randbytes(100_000) for i in range(2)]
    frames: list[tuple[bytes, bytes]] = []

    def compress(payload: bytes) -> None:
        for _ in range(100):
            frames.append((payload, server.compress(server.send_binary(payload))))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(compress, payloads))
    assert len(frames) == 200
    for payload, frame in frames:
        assert read_by(client, frame) == payload
