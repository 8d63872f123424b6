"""frames.py against RFC 6455 section 5: what is parsed, refused and written."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES

import pytest
import wire

from flask_uwsgi_ws import frames
from flask_uwsgi_ws.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    FrameParser,
    ProtocolError,
    header,
    serialize,
)
from flask_uwsgi_ws.masking import Payload, unmask

# The server's header of a final binary frame, for sizes on both sides of each
# boundary between the forms of the length.
HEADERS = {
    0: b"\x82\x00",
    1: b"\x82\x01",
    2: b"\x82\x02",
    124: b"\x82\x7c",
    125: b"\x82\x7d",
    126: b"\x82\x7e\x00\x7e",
    127: b"\x82\x7e\x00\x7f",
    128: b"\x82\x7e\x00\x80",
    65534: b"\x82\x7e\xff\xfe",
    65535: b"\x82\x7e\xff\xff",
    65536: b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
    65537: b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x01",
}
SIZES = sorted(HEADERS)
SMALL = [size for size in SIZES if size < 1000]

CONTROL = [CLOSE, PING, PONG]
RESERVED_BITS = [0x40, 0x20, 0x10, 0x70]
RESERVED_OPCODES = [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF]


def content(size: int) -> bytes:
    # 251 is prime, so a piece taken from the wrong place never looks right.
    return bytes(i % 251 for i in range(size))


def parse(reads: Iterable[bytes], rsv: int = 0) -> list[Frame]:
    parser = FrameParser(rsv)
    found = []
    for data in reads:
        parser.feed(data)
        while (frame := parser.next_frame()) is not None:
            found.append(frame)
    return found


def parse_one(data: bytes, rsv: int = 0) -> Frame:
    [frame] = parse([data], rsv)
    return frame


def whole_payload(pieces: list[Frame]) -> bytes:
    """Join the pieces of one frame, and see that they say which they are."""
    assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    return b"".join(piece.payload for piece in pieces)


def refuses(data: bytes) -> bool:
    """Feed bytes one at a time; tell whether the last, and none before it, is refused."""
    parser = FrameParser()
    for i in range(len(data) - 1):
        parser.feed(data[i : i + 1])
        parser.next_frame()
    parser.feed(data[-1:])
    try:
        parser.next_frame()
    except ProtocolError as error:
        return error.code == 1002
    return False


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


# Lengths.


@pytest.mark.parametrize("size", SIZES)
def test_frame_of_any_size_is_parsed_from_one_read(size: int) -> None:
    frame = parse_one(wire.frame(BINARY, content(size)))
    assert frame.opcode == BINARY
    assert frame.fin is True
    assert frame.rsv == 0
    assert frame.length == size
    assert frame.payload == content(size)
    assert frame.first is True
    assert frame.last is True


@pytest.mark.parametrize("size", SMALL)
def test_frame_split_at_every_byte_is_the_same_frame(size: int) -> None:
    data = wire.frame(TEXT, content(size))
    for cut in range(len(data) + 1):
        pieces = parse([data[:cut], data[cut:]])
        assert whole_payload(pieces) == content(size)
        assert {(piece.opcode, piece.fin, piece.length) for piece in pieces} == {(TEXT, True, size)}


@pytest.mark.parametrize("size", [size for size in SIZES if size > 1000])
def test_large_frame_split_at_many_bytes_is_the_same_frame(size: int) -> None:
    data = wire.frame(BINARY, content(size))
    cuts = {*range(24), *range(24, len(data), 1009), *range(len(data) - 8, len(data) + 1)}
    for cut in cuts:
        assert whole_payload(parse([data[:cut], data[cut:]])) == content(size)


@pytest.mark.parametrize("size", SIZES)
def test_frame_that_arrives_byte_by_byte_is_the_same_frame(size: int) -> None:
    data = wire.frame(BINARY, content(size))
    assert whole_payload(parse(byte_by_byte(data))) == content(size)


@pytest.mark.parametrize("size", SMALL)
def test_two_frames_split_at_every_byte_stay_two_frames(size: int) -> None:
    data = wire.frame(PING, b"first") + wire.frame(BINARY, content(size), mask=b"\x01\x80\x00\xff")
    for cut in range(len(data) + 1):
        ping, *pieces = parse([data[:cut], data[cut:]])
        assert (ping.opcode, ping.payload) == (PING, b"first")
        assert whole_payload(pieces) == content(size)


def test_each_frame_in_a_read_is_unmasked_with_its_own_key() -> None:
    keys = [bytes((i, 255 - i, i * 7 % 256, 0)) for i in range(50)]
    data = b"".join(wire.frame(TEXT, content(size), mask=key) for size, key in enumerate(keys))
    assert [frame.payload for frame in parse([data])] == [content(size) for size in range(50)]


def test_longest_length_that_the_protocol_can_say_is_taken() -> None:
    frames = parse([wire.header(BINARY, 2**63 - 1) + wire.frame(TEXT, b"abc")[-3:]])
    assert [frame.length for frame in frames] == [2**63 - 1] * 2
    # The first piece of a large frame is its header.
    assert [frame.payload for frame in frames] == [b"", b"abc"]
    assert [frame.first for frame in frames] == [True, False]
    assert [frame.last for frame in frames] == [False, False]


@pytest.mark.parametrize("size", SIZES)
def test_serialize_writes_the_shortest_header(size: int) -> None:
    assert header(BINARY, size) == HEADERS[size]
    assert serialize(BINARY, content(size)) == HEADERS[size] + content(size)


@pytest.mark.parametrize("size", SIZES)
def test_serialize_writes_text_like_any_other_opcode(size: int) -> None:
    assert serialize(TEXT, content(size)) == b"\x81" + HEADERS[size][1:] + content(size)


def test_header_of_the_longest_frame() -> None:
    assert header(BINARY, 2**63 - 1) == b"\x82\x7f\x7f" + b"\xff" * 7


@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY])
@pytest.mark.parametrize("rsv", [0, *RESERVED_BITS])
@pytest.mark.parametrize("fin", [True, False])
def test_serialize_sets_the_bits_it_is_told(opcode: int, rsv: int, fin: bool) -> None:
    first = opcode | rsv | (0x80 if fin else 0)
    assert serialize(opcode, b"x", fin, rsv) == bytes((first, 1)) + b"x"
    assert serialize(opcode, content(126), fin, rsv)[:4] == bytes((first, 126, 0, 126))


@pytest.mark.parametrize("opcode", CONTROL)
def test_serialize_takes_125_bytes_in_a_control_frame(opcode: int) -> None:
    assert serialize(opcode, content(125)) == bytes((0x80 | opcode, 125)) + content(125)


@pytest.mark.parametrize("opcode", CONTROL)
@pytest.mark.parametrize("size", [126, 65536])
@pytest.mark.parametrize("fin", [True, False])
def test_serialize_refuses_a_longer_control_frame(opcode: int, size: int, fin: bool) -> None:
    with pytest.raises(ValueError, match="125"):
        serialize(opcode, bytes(size), fin)


@pytest.mark.parametrize("opcode", CONTROL)
@pytest.mark.parametrize("size", [0, 125])
def test_serialize_refuses_a_fragmented_control_frame(opcode: int, size: int) -> None:
    with pytest.raises(ValueError, match="fragmented"):
        serialize(opcode, bytes(size), False)


def test_header_refuses_what_its_bytes_can_not_hold() -> None:
    with pytest.raises(ValueError, match="range"):
        header(TEXT, -1)
    with pytest.raises(ValueError, match="range"):
        header(0x100, 0)
    with pytest.raises(OverflowError):
        header(TEXT, 2**64)


# Masking.


def mask_of(key: bytes) -> int:
    return int.from_bytes(key, "little")


def test_unmask_is_exclusive_or_with_the_key_from_every_offset() -> None:
    key = b"\x0f\xa5\x00\xff"
    source = content(64)
    for size in range(41):
        for start in range(5):
            for offset in range(9):
                expected = bytes(source[start + i] ^ key[(offset + i) % 4] for i in range(size))
                assert unmask(source, start, start + size, mask_of(key), offset) == expected


def test_unmask_leaves_its_source_alone() -> None:
    # The compiled form writes into its result; Python shares equal short strings.
    for size in range(5):
        source = bytes(size)
        assert (
            unmask(source, 0, size, mask_of(b"\x01\x02\x03\x04"), 0) == b"\x01\x02\x03\x04"[:size]
        )
        assert source == bytes(size)
    assert [bytes((i,))[0] for i in range(256)] == list(range(256))


def test_unmask_takes_an_offset_beyond_32_bits() -> None:
    assert unmask(b"\x00" * 5, 0, 5, mask_of(b"abcd"), 2**40 + 3) == b"dabcd"


def test_unmask_with_a_key_of_zeros_changes_nothing() -> None:
    assert unmask(content(300), 0, 300, 0, 1) == content(300)


# Large frames, handed on whole.


@pytest.mark.parametrize("size", [65536, 65537, 200_001])
@pytest.mark.parametrize("read", [1000, 65536, 65542, 199_999])
def test_large_frame_can_be_collected(size: int, read: int) -> None:
    data = wire.frame(PING, b"before") + wire.frame(BINARY, content(size)) + wire.frame(TEXT, b"x")
    parser = FrameParser()
    found = []
    for start in range(0, len(data), read):
        parser.feed(data[start : start + read])
        while (frame := parser.next_frame()) is not None:
            found.append(frame)
            if frame.opcode == BINARY and not frame.last:
                assert (frame.first, frame.payload) == (True, b"")
                parser.collect()
    payloads = [frame.payload for frame in found if frame.opcode == BINARY and frame.last]
    assert payloads == [content(size)]
    assert found[0].payload == b"before"
    assert found[-1].payload == b"x"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        wire.frame(BINARY, content(65536)),
        wire.frame(BINARY, content(65535))[:-1],
        wire.header(BINARY, 65535),
    ],
)
def test_what_is_no_beginning_of_a_large_frame_can_not_be_collected(data: bytes) -> None:
    parser = FrameParser()
    parser.feed(data)
    parser.next_frame()
    with pytest.raises(ValueError, match="not at the beginning"):
        parser.collect()


def test_frame_of_which_a_piece_was_given_can_not_be_collected() -> None:
    parser = FrameParser()
    parser.feed(wire.frame(BINARY, content(70_000))[:100])
    assert [parser.next_frame() is not None for _ in "123"] == [True, True, False]
    with pytest.raises(ValueError, match="not at the beginning"):
        parser.collect()


def test_payload_takes_what_there_is_room_for() -> None:
    payload = Payload(5)
    payload.add(b"..abc", 2, 5, 0)
    with pytest.raises(ValueError, match="not whole"):
        payload.take()
    for start, end in ((0, 3), (-1, 1), (0, 9), (2, 1)):
        with pytest.raises(ValueError, match=r"room|not in the data"):
            payload.add(b"defgh", start, end, 0)
    payload.add(b"de", 0, 2, 0)
    assert payload.take() == b"abcde"
    with pytest.raises(ValueError, match="not whole"):
        payload.take()


# What section 5 forbids.


@pytest.mark.parametrize("rsv", RESERVED_BITS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CONTINUATION, *CONTROL])
def test_reserved_bit_fails_with_1002_on_its_own_byte(rsv: int, opcode: int) -> None:
    assert refuses(bytes((0x80 | rsv | opcode,)))


@pytest.mark.parametrize("rsv", RESERVED_BITS)
def test_reserved_bit_fails_with_1002_in_a_whole_frame(rsv: int) -> None:
    with pytest.raises(ProtocolError, match="reserved bit") as info:
        parse_one(wire.frame(TEXT, b"hello", rsv=rsv))
    assert info.value.code == 1002


@pytest.mark.parametrize("opcode", RESERVED_OPCODES)
@pytest.mark.parametrize("fin", [0x80, 0])
def test_reserved_opcode_fails_with_1002_on_its_own_byte(opcode: int, fin: int) -> None:
    assert refuses(bytes((fin | opcode,)))


@pytest.mark.parametrize("opcode", RESERVED_OPCODES)
def test_reserved_opcode_fails_with_1002_in_a_whole_frame(opcode: int) -> None:
    with pytest.raises(ProtocolError, match=f"opcode {opcode}") as info:
        parse_one(wire.frame(opcode, b"hello"))
    assert info.value.code == 1002


@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, *CONTROL])
@pytest.mark.parametrize("short", [0, 125, 126, 127])
def test_unmasked_frame_fails_with_1002_on_its_second_byte(opcode: int, short: int) -> None:
    assert refuses(bytes((0x80 | opcode, short)))


def test_unmasked_frame_fails_with_1002_in_a_whole_frame() -> None:
    with pytest.raises(ProtocolError, match="masked") as info:
        parse_one(wire.frame(TEXT, b"hello", mask=None))
    assert info.value.code == 1002


@pytest.mark.parametrize("opcode", CONTROL)
@pytest.mark.parametrize("short", [126, 127])
def test_long_control_frame_fails_with_1002_on_its_second_byte(opcode: int, short: int) -> None:
    assert refuses(bytes((0x80 | opcode, 0x80 | short)))


@pytest.mark.parametrize("opcode", CONTROL)
def test_fragmented_control_frame_fails_with_1002(opcode: int) -> None:
    with pytest.raises(ProtocolError, match="fragmented") as info:
        parse_one(wire.frame(opcode, b"hello", fin=False))
    assert info.value.code == 1002


@pytest.mark.parametrize("opcode", CONTROL)
def test_fragmented_control_frame_fails_on_its_first_byte(opcode: int) -> None:
    assert refuses(bytes((opcode,)))


@pytest.mark.parametrize("size", [0, 1, 125])
def test_16_bit_length_that_fits_7_bits_fails_with_1002(size: int) -> None:
    with pytest.raises(ProtocolError, match="minimal") as info:
        parse([wire.frame(TEXT, bytes(size), width=2)])
    assert info.value.code == 1002


@pytest.mark.parametrize("size", [0, 1, 125])
def test_16_bit_length_that_fits_7_bits_fails_on_its_last_byte(size: int) -> None:
    assert refuses(wire.header(BINARY, size, width=2, mask=b""))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535])
def test_64_bit_length_that_fits_16_bits_fails_with_1002(size: int) -> None:
    with pytest.raises(ProtocolError, match="minimal") as info:
        parse([wire.frame(TEXT, bytes(size), width=8)])
    assert info.value.code == 1002


def test_64_bit_length_that_fits_16_bits_fails_on_the_last_byte_that_could_save_it() -> None:
    # Six bytes of zeros leave 16 bits, whatever they are.
    assert refuses(b"\x82\xff" + bytes(6))


@pytest.mark.parametrize("size", [2**63, 2**63 + 5, 2**64 - 1])
def test_64_bit_length_with_its_top_bit_set_fails_with_1002(size: int) -> None:
    with pytest.raises(ProtocolError, match="top bit") as info:
        parse([wire.header(BINARY, size)])
    assert info.value.code == 1002


def test_64_bit_length_with_its_top_bit_set_fails_on_that_byte() -> None:
    assert refuses(b"\x82\xff\x80")


def test_fault_after_good_frames_in_one_read_comes_after_them() -> None:
    parser = FrameParser()
    parser.feed(wire.frame(TEXT, b"good") + wire.frame(PING) + b"\xf1")
    for opcode in (TEXT, PING):
        frame = parser.next_frame()
        assert frame is not None
        assert frame.opcode == opcode
    with pytest.raises(ProtocolError):
        parser.next_frame()


def test_protocol_error_says_its_code_and_reason() -> None:
    error = ProtocolError(1002, "some fault")
    assert (error.code, error.reason) == (1002, "some fault")
    assert str(error) == "1002 some fault"


# Reserved bits that an extension has taken.


@pytest.mark.parametrize("rsv", [0x40, 0x20, 0x10])
def test_reserved_bit_that_an_extension_uses_is_handed_on(rsv: int) -> None:
    frame = parse_one(wire.frame(TEXT, b"hello", rsv=rsv), rsv=rsv)
    assert (frame.opcode, frame.rsv, frame.payload) == (TEXT, rsv, b"hello")


def test_frame_without_the_bit_is_taken_when_an_extension_uses_it() -> None:
    assert parse_one(wire.frame(TEXT, b"hello"), rsv=0x40).rsv == 0


@pytest.mark.parametrize("rsv", [0x60, 0x50, 0x20, 0x70])
def test_other_reserved_bits_fail_when_an_extension_uses_one(rsv: int) -> None:
    for data in (wire.frame(TEXT, rsv=rsv), bytes((0x81 | rsv,))):
        with pytest.raises(ProtocolError, match="reserved bit") as info:
            parse([data], rsv=0x40)
        assert info.value.code == 1002


def test_reserved_opcode_fails_when_an_extension_uses_a_bit() -> None:
    with pytest.raises(ProtocolError, match="opcode 3"):
        parse([wire.frame(0x3, rsv=0x40)], rsv=0x40)


# Pieces.


def test_header_alone_announces_the_frame() -> None:
    piece = parse_one(wire.header(BINARY, 5))
    assert (piece.length, piece.payload) == (5, b"")
    assert piece.first is True
    assert piece.last is False


def test_payload_is_handed_on_as_it_arrives() -> None:
    data = wire.frame(BINARY, b"0123456789", fin=False)
    pieces = parse([data[:9], data[9:10], data[10:]])
    assert [piece.payload for piece in pieces] == [b"012", b"3", b"456789"]
    assert [piece.first for piece in pieces] == [True, False, False]
    assert [piece.last for piece in pieces] == [False, False, True]
    assert [piece.length for piece in pieces] == [10, 10, 10]
    assert [piece.opcode for piece in pieces] == [BINARY, BINARY, BINARY]
    assert [piece.fin for piece in pieces] == [False, False, False]


def test_empty_read_gives_no_piece() -> None:
    data = wire.frame(BINARY, b"abcdef")
    assert [piece.payload for piece in parse([b"", data[:8], b"", data[8:], b""])] == [
        b"ab",
        b"cdef",
    ]


def test_no_byte_of_a_data_frame_is_kept_for_the_next_read() -> None:
    # The reason why small reads of a large frame have a linear cost.
    payload = content(100_000)
    data = wire.frame(BINARY, payload)
    start = len(data) - len(payload)
    parser = FrameParser()
    parser.feed(data[:start])
    assert parser.next_frame() is not None
    for pos in range(start, len(data), 1000):
        parser.feed(data[pos : pos + 1000])
        piece = parser.next_frame()
        assert piece is not None
        assert piece.payload == payload[pos - start : pos - start + 1000]
        assert parser.next_frame() is None


@pytest.mark.parametrize("opcode", CONTROL)
@pytest.mark.parametrize("size", [0, 1, 125])
def test_control_frame_is_handed_on_whole(opcode: int, size: int) -> None:
    data = wire.frame(opcode, content(size))
    for reads in ([data[:-1], data[-1:]], byte_by_byte(data)):
        [frame] = parse(reads)
        assert (frame.opcode, frame.fin, frame.length) == (opcode, True, size)
        assert frame.payload == content(size)
        assert frame.first is True
        assert frame.last is True


# The rest.


def test_repr_of_a_frame_tells_opcode_fin_and_size() -> None:
    assert repr(parse_one(wire.frame(TEXT, b"hello"))) == "<Frame opcode 1 fin 5/5 bytes>"
    fragment = parse_one(wire.frame(CONTINUATION, b"hello", fin=False))
    assert repr(fragment) == "<Frame opcode 0 5/5 bytes>"


def test_repr_of_a_piece_says_so() -> None:
    data = wire.frame(BINARY, b"hello")
    assert [repr(piece) for piece in parse([data[:8], data[8:]])] == [
        "<Frame opcode 2 fin 2/5 bytes (piece)>",
        "<Frame opcode 2 fin 3/5 bytes (piece)>",
    ]


def test_compiled_tells_which_form_is_loaded() -> None:
    assert frames.COMPILED is frames.__file__.endswith(tuple(EXTENSION_SUFFIXES))
