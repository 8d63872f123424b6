"""connection.py against RFC 6455 sections 5.4 to 8.1: messages, closing, limits."""

from __future__ import annotations

import tracemalloc
from array import array
from typing import Any

import pytest
import wire
from markupsafe import Markup

from flask_uwsgi_ws.connection import (
    CLOSED,
    CLOSING,
    OPEN,
    Connection,
    close_payload,
    valid_close_code,
)
from flask_uwsgi_ws.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, serialize

CONTROL = [CLOSE, PING, PONG]

# RFC 6455 section 7.4 and the IANA registry of close codes.
BAD_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535]
GOOD_CODES = [*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)]

# One character of each length, and those at the edges of what UTF-8 may say.
CHARACTERS = "a\x7f\x80é\u07ff\u0800€\ud7ff\ue000\uffff\U00010000\U0001f600\U0010ffff"

# Bytes, and the index of the first that leaves no way to go on: RFC 3629 section 4.
NOT_UTF8 = [
    pytest.param(b"\x80", 0, id="continuation byte first"),
    pytest.param(b"ab\xbf", 2, id="continuation byte after ASCII"),
    pytest.param(b"\xc0\xaf", 0, id="overlong 2 bytes C0"),
    pytest.param(b"\xc1\xbf", 0, id="overlong 2 bytes C1"),
    pytest.param(b"\xe0\x80\xaf", 1, id="overlong 3 bytes"),
    pytest.param(b"\xe0\x9f\xbf", 1, id="longest overlong 3 bytes"),
    pytest.param(b"\xf0\x80\x80\xaf", 1, id="overlong 4 bytes"),
    pytest.param(b"\xf0\x8f\xbf\xbf", 1, id="longest overlong 4 bytes"),
    pytest.param(b"\xed\xa0\x80", 1, id="first surrogate"),
    pytest.param(b"\xed\xbf\xbf", 1, id="last surrogate"),
    pytest.param(b"\xf4\x90\x80\x80", 1, id="past U+10FFFF"),
    pytest.param(b"\xf5\x80\x80\x80", 0, id="F5"),
    pytest.param(b"\xff", 0, id="FF"),
    pytest.param(b"\xc3(", 1, id="2 bytes cut by ASCII"),
    pytest.param(b"\xe2\x82A", 2, id="3 bytes cut by ASCII"),
    pytest.param(b"\xf0\x9f\x98A", 3, id="4 bytes cut by ASCII"),
    pytest.param(b"\xf0\x9f\xc3\xa9", 2, id="4 bytes cut by another character"),
    pytest.param("schön, 5 €".encode() + b"\xf4\x90\x80\x80", 14, id="after good text"),
]

TRUNCATED = [b"\xc3", b"\xe2", b"\xe2\x82", b"\xf0", b"\xf0\x9f", b"\xf0\x9f\x98", b"ab\xf4\x8f"]


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return wire.frame(CLOSE, code.to_bytes(2, "big") + reason)


def reply(opcode: int, payload: bytes = b"") -> bytes:
    """What a server sends, for payloads of one-byte lengths."""
    return bytes((0x80 | opcode, len(payload))) + payload


def receive_byte_by_byte(connection: Connection, data: bytes) -> list[str | bytes]:
    messages = []
    for i in range(len(data)):
        messages += connection.receive_data(data[i : i + 1])
    return messages


def assert_failed(
    connection: Connection, code: int, after: bytes = b"", state: int = CLOSING
) -> None:
    """The connection is failed (section 7.1.7), and the Close frame says what the state says."""
    assert connection.state == state
    assert not connection.faulty
    assert connection.close_code == code
    assert connection.close_reason
    reason = connection.close_reason.encode()
    assert connection.has_replies
    assert connection.take_replies() == after + reply(CLOSE, code.to_bytes(2, "big") + reason)


def assert_fails(data: bytes, code: int, max_size: int = 2**20, state: int = CLOSING) -> None:
    for byte_wise in (False, True):
        connection = Connection(max_size)
        receive = receive_byte_by_byte if byte_wise else Connection.receive_data
        assert receive(connection, data) == []
        assert_failed(connection, code, state=state)


def assert_open(connection: Connection) -> None:
    assert connection.state == OPEN
    assert connection.close_code is None
    assert connection.close_reason == ""
    assert not connection.has_replies


# Messages.


@pytest.mark.parametrize("message", ["", "a", "hello", CHARACTERS, "é" * 40_000])
def test_text_frame_is_a_str(message: str) -> None:
    connection = Connection()
    assert connection.receive_data(wire.frame(TEXT, message.encode())) == [message]
    assert_open(connection)


@pytest.mark.parametrize("message", [b"", b"a", b"\x00\xff\x80", bytes(70_000)])
def test_binary_frame_is_bytes(message: bytes) -> None:
    connection = Connection()
    [received] = connection.receive_data(wire.frame(BINARY, message))
    assert type(received) is bytes
    assert received == message
    assert_open(connection)


@pytest.mark.parametrize("message", ["", "hello", b"", b"\x00\xff\x80"])
def test_message_byte_by_byte_is_complete_on_its_last_byte(message: str | bytes) -> None:
    data = (
        wire.frame(TEXT, message.encode())
        if isinstance(message, str)
        else wire.frame(BINARY, message)
    )
    connection = Connection()
    assert receive_byte_by_byte(connection, data[:-1]) == []
    assert connection.receive_data(data[-1:]) == [message]


def test_binary_message_of_several_frames_is_bytes() -> None:
    connection = Connection()
    data = wire.frame(BINARY, b"ab", fin=False) + wire.frame(CONTINUATION, b"c")
    [received] = connection.receive_data(data)
    assert type(received) is bytes
    assert received == b"abc"


def test_messages_in_one_read_come_in_order() -> None:
    connection = Connection()
    data = (
        wire.frame(TEXT, b"one")
        + wire.frame(BINARY, b"two", fin=False)
        + wire.frame(CONTINUATION, b"", fin=False)
        + wire.frame(CONTINUATION, b" and a half")
        + wire.frame(TEXT)
        + wire.frame(TEXT, b"three")
    )
    expected = ["one", b"two and a half", "", "three"]
    assert connection.receive_data(data) == expected
    assert receive_byte_by_byte(Connection(), data) == expected


@pytest.mark.parametrize("read", [1000, 65536, 100_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_large_messages_in_many_reads(opcode: int, read: int) -> None:
    payloads = [bytes(range(1, 127)) * (size // 126) for size in (70_000, 65_600, 300_000)]
    data = wire.frame(PING).join(wire.frame(opcode, payload) for payload in payloads)
    data += wire.frame(opcode, payloads[0], fin=False) + wire.frame(CONTINUATION, payloads[1])
    connection = Connection()
    messages = []
    for start in range(0, len(data), read):
        messages += connection.receive_data(data[start : start + read])
    expected = [*payloads, payloads[0] + payloads[1]]
    assert messages == ([each.decode() for each in expected] if opcode == TEXT else expected)
    assert connection.take_replies() == reply(PONG) * 2


def test_large_message_that_is_on_its_way_when_we_close_is_dropped() -> None:
    data = wire.frame(BINARY, bytes(100_000))
    connection = Connection()
    assert connection.receive_data(data[:50_000]) == []
    connection.close()
    assert connection.receive_data(data[50_000:] + close_frame(1000)) == []
    assert connection.state == CLOSED
    assert connection.close_code == 1000


@pytest.mark.parametrize("size", [2**24 + 1, 2**62])
def test_length_that_is_announced_is_not_allocated_without_a_limit(size: int) -> None:
    connection = Connection(0)
    tracemalloc.start()
    try:
        assert connection.receive_data(wire.header(BINARY, size)) == []
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert_open(connection)


def test_fragments_that_are_all_empty_make_an_empty_message() -> None:
    data = (
        wire.frame(TEXT, fin=False) + wire.frame(CONTINUATION, fin=False) + wire.frame(CONTINUATION)
    )
    assert Connection().receive_data(data) == [""]


def test_fragment_split_over_reads_does_not_end_the_message() -> None:
    connection = Connection()
    first = wire.frame(TEXT, b"hello", fin=False)
    assert connection.receive_data(first[:8]) == []
    assert connection.receive_data(first[8:]) == []
    assert connection.receive_data(wire.frame(CONTINUATION, b"!")) == ["hello!"]


@pytest.mark.parametrize(
    ("fault", "code", "state"),
    [
        (wire.frame(TEXT, b"bad", rsv=0x40), 1002, CLOSING),
        (wire.frame(TEXT, b"\xff"), 1007, CLOSING),
        (wire.frame(CLOSE, b"\x03"), 1002, CLOSED),
    ],
)
def test_message_before_a_fault_can_be_answered(fault: bytes, code: int, state: int) -> None:
    connection = Connection()
    assert connection.receive_data(wire.frame(TEXT, b"good") + fault) == ["good"]
    assert_open(connection)
    assert connection.faulty
    assert connection.receive_data(wire.frame(TEXT, b"late") + wire.frame(PING)) == []
    assert_open(connection)
    reason = connection.close(1000, "done")[4:]
    assert not connection.faulty
    assert (connection.state, connection.close_code) == (state, code)
    assert connection.close_reason.encode() == reason
    assert connection.close() == b""


def test_end_of_file_before_a_fault_is_told_of_leaves_nothing_to_tell() -> None:
    connection = Connection()
    connection.receive_data(wire.frame(TEXT, b"good") + wire.frame(0x3))
    connection.receive_eof()
    assert not connection.faulty
    assert (connection.state, connection.close_code) == (CLOSED, 1006)
    assert connection.close() == b""


def test_empty_read_changes_nothing() -> None:
    connection = Connection()
    assert connection.receive_data(b"") == []
    assert_open(connection)


# Fragments, section 5.4.


def test_control_frames_between_fragments_are_dealt_with_at_once() -> None:
    connection = Connection()
    assert connection.receive_data(wire.frame(TEXT, b"frag", fin=False)) == []
    assert connection.receive_data(wire.frame(PING, b"now")) == []
    assert connection.take_replies() == reply(PONG, b"now")
    assert connection.receive_data(wire.frame(PONG, b"then")) == []
    assert connection.last_pong == b"then"
    assert connection.receive_data(wire.frame(CONTINUATION, b"ment")) == ["fragment"]


def test_close_between_fragments_drops_the_message() -> None:
    connection = Connection()
    data = wire.frame(TEXT, b"frag", fin=False) + close_frame(1001)
    assert connection.receive_data(data + wire.frame(CONTINUATION, b"ment")) == []
    assert connection.state == CLOSED
    assert connection.close_code == 1001


def test_lone_continuation_frame_fails_with_1002() -> None:
    assert_fails(wire.frame(CONTINUATION, b"hello"), 1002)
    assert_fails(wire.frame(CONTINUATION, b"hello", fin=False), 1002)
    assert_fails(wire.frame(CONTINUATION), 1002)


def test_lone_continuation_frame_fails_before_its_payload() -> None:
    assert_fails(wire.header(CONTINUATION, 100), 1002)


@pytest.mark.parametrize("first", [wire.frame(TEXT, b"x"), wire.frame(BINARY, b"x", fin=False)])
def test_continuation_frame_after_a_finished_message_fails_with_1002(first: bytes) -> None:
    connection = Connection()
    if not first[0] & 0x80:
        first += wire.frame(CONTINUATION, b"x")
    assert len(connection.receive_data(first)) == 1
    connection.receive_data(wire.frame(CONTINUATION, b"more"))
    assert_failed(connection, 1002)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fin", [True, False])
def test_new_message_between_fragments_fails_with_1002(opcode: int, fin: bool) -> None:
    first = wire.frame(TEXT, b"frag", fin=False)
    assert_fails(first + wire.frame(opcode, b"new", fin=fin), 1002)
    assert_fails(first + wire.frame(opcode, b"", fin=fin), 1002)
    assert_fails(first + wire.header(opcode, 100, fin=fin), 1002)


def test_fault_in_a_frame_fails_the_connection() -> None:
    assert_fails(b"\xc1", 1002)
    assert_fails(wire.frame(0x3), 1002)
    assert_fails(wire.frame(TEXT, b"x", mask=None), 1002)
    assert_fails(wire.frame(TEXT, b"x", width=2), 1002)
    assert_fails(wire.frame(PING, b"x", fin=False), 1002)
    assert_fails(wire.header(PING, 126), 1002)


# Pings and Pongs, sections 5.5.2 and 5.5.3.


@pytest.mark.parametrize("payload", [b"", b"hello", b"\xff\x00", bytes(125)])
def test_ping_is_answered_with_its_payload(payload: bytes) -> None:
    connection = Connection()
    assert not connection.has_replies
    assert connection.receive_data(wire.frame(PING, payload)) == []
    assert connection.has_replies
    assert connection.take_replies() == reply(PONG, payload)
    assert not connection.has_replies
    assert connection.take_replies() == b""
    assert_open(connection)


def test_pings_and_close_are_answered_in_order() -> None:
    connection = Connection()
    connection.receive_data(wire.frame(PING, b"1") + wire.frame(PING, b"2"))
    connection.receive_data(wire.frame(PING, b"3") + close_frame(1000))
    answers = [reply(PONG, b"1"), reply(PONG, b"2"), reply(PONG, b"3"), reply(CLOSE, b"\x03\xe8")]
    assert connection.take_replies() == b"".join(answers)


def test_pings_before_a_fault_are_answered_before_the_close() -> None:
    connection = Connection()
    connection.receive_data(wire.frame(PING, b"1") + wire.frame(0x3))
    assert_failed(connection, 1002, after=reply(PONG, b"1"))


def test_pong_is_remembered_and_not_answered() -> None:
    connection = Connection()
    assert connection.last_pong is None
    for payload in (b"first", b"second", b""):
        assert connection.receive_data(wire.frame(PONG, payload)) == []
        assert connection.last_pong == payload
    assert_open(connection)


def test_our_pings_carry_at_most_125_bytes() -> None:
    connection = Connection()
    assert connection.ping() == reply(PING)
    assert connection.ping(b"hello") == reply(PING, b"hello")
    assert connection.ping(bytes(125)) == reply(PING, bytes(125))
    with pytest.raises(ValueError, match="125"):
        connection.ping(bytes(126))


# The peer's Close frame, section 5.5.1.


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
@pytest.mark.parametrize("reason", ["", "bye", "schön, daß …", "x" * 123])
def test_close_is_answered_with_its_code(code: int, reason: str) -> None:
    data = close_frame(code, reason.encode())
    for byte_wise in (False, True):
        connection = Connection()
        receive = receive_byte_by_byte if byte_wise else Connection.receive_data
        assert receive(connection, data) == []
        assert connection.state == CLOSED
        assert (connection.close_code, connection.close_reason) == (code, reason)
        assert connection.take_replies() == reply(CLOSE, code.to_bytes(2, "big"))


def test_close_without_a_code_is_1005_and_answered_without_one() -> None:
    connection = Connection()
    connection.receive_data(wire.frame(CLOSE))
    assert connection.state == CLOSED
    assert (connection.close_code, connection.close_reason) == (1005, "")
    assert connection.take_replies() == reply(CLOSE)


def test_close_with_half_a_code_fails_with_1002() -> None:
    assert_fails(wire.frame(CLOSE, b"\x03"), 1002, state=CLOSED)


@pytest.mark.parametrize("code", BAD_CODES)
def test_close_with_a_code_that_may_not_be_sent_fails_with_1002(code: int) -> None:
    assert_fails(close_frame(code), 1002, state=CLOSED)
    assert_fails(close_frame(code, b"reason"), 1002, state=CLOSED)


@pytest.mark.parametrize(
    "data",
    [
        wire.frame(CLOSE, fin=False),
        wire.header(CLOSE, 126),
        wire.header(CLOSE, 2**20),
    ],
    ids=["fragmented", "126 bytes", "1 MiB"],
)
def test_close_frame_that_none_may_be_is_the_peers_last(data: bytes) -> None:
    assert_fails(data, 1002, state=CLOSED)


def test_every_other_close_code_fails_with_1002_and_every_allowed_one_is_echoed() -> None:
    allowed = set(GOOD_CODES)
    for code in range(65536):
        assert valid_close_code(code) is (code in allowed)
        connection = Connection()
        connection.receive_data(close_frame(code))
        echoed = code in allowed
        assert connection.close_code == (code if echoed else 1002)
        assert connection.state == CLOSED
        answer = connection.take_replies()[2:4]
        assert int.from_bytes(answer, "big") == connection.close_code


@pytest.mark.parametrize("reason", [b"\xff", b"caf\xe9", b"\xed\xa0\x80", b"x" * 121 + b"\xe2\x82"])
def test_close_reason_that_is_not_utf8_fails_with_1007(reason: bytes) -> None:
    assert_fails(close_frame(1000, reason), 1007, state=CLOSED)


def test_everything_after_the_peers_close_is_ignored() -> None:
    connection = Connection()
    after = b"".join(wire.frame(opcode, b"late") for opcode in (TEXT, BINARY, PONG, PING))
    after += close_frame(1002) + b"\xff"
    last = wire.frame(TEXT, b"last") + close_frame(1001)
    assert connection.receive_data(last + after) == ["last"]
    assert connection.take_replies() == reply(CLOSE, b"\x03\xe9")
    assert connection.receive_data(after) == []
    assert connection.state == CLOSED
    assert connection.close_code == 1001
    assert connection.last_pong is None
    assert not connection.has_replies
    assert connection.take_replies() == b""


def test_everything_after_a_fault_is_ignored() -> None:
    connection = Connection()
    after = wire.frame(TEXT, b"late") + wire.frame(PING, b"late") + wire.frame(PONG, b"late")
    assert connection.receive_data(wire.frame(0x3) + after) == []
    assert_failed(connection, 1002)
    reason = connection.close_reason
    assert connection.receive_data(after + close_frame(1000, b"bye") + b"\xff") == []
    assert receive_byte_by_byte(connection, after) == []
    assert connection.state == CLOSING
    assert (connection.close_code, connection.close_reason) == (1002, reason)
    assert connection.last_pong is None
    assert not connection.has_replies
    connection.receive_eof()
    assert connection.state == CLOSED
    assert (connection.close_code, connection.close_reason) == (1002, reason)


# Text, section 8.1.


@pytest.mark.parametrize(("data", "bad"), NOT_UTF8)
def test_text_in_one_read_that_is_not_utf8_fails_with_1007(data: bytes, bad: int) -> None:
    assert bad < len(data)
    assert_fails(wire.frame(TEXT, data), 1007)


@pytest.mark.parametrize(("data", "bad"), NOT_UTF8)
def test_frame_byte_by_byte_fails_with_1007_on_the_first_bad_byte(data: bytes, bad: int) -> None:
    # The frame says that it is longer, so only that byte can tell.
    sent = wire.frame(TEXT, data + b"and more")
    start = len(sent) - len(data) - 8
    connection = Connection()
    assert receive_byte_by_byte(connection, sent[: start + bad]) == []
    assert_open(connection)
    assert connection.receive_data(sent[start + bad : start + bad + 1]) == []
    assert_failed(connection, 1007)


@pytest.mark.parametrize(("data", "bad"), NOT_UTF8)
@pytest.mark.parametrize("fin", [True, False])
def test_fragments_fail_with_1007_on_the_first_bad_byte(data: bytes, bad: int, fin: bool) -> None:
    connection = Connection()
    connection.receive_data(wire.frame(TEXT, fin=False))
    for i in range(bad):
        connection.receive_data(wire.frame(CONTINUATION, data[i : i + 1], fin=False))
        connection.receive_data(wire.frame(PONG))
        assert_open(connection)
    assert connection.receive_data(wire.frame(CONTINUATION, data[bad : bad + 1], fin=fin)) == []
    assert_failed(connection, 1007)


@pytest.mark.parametrize("before", [b"good", "schön".encode() * 10])
def test_bad_byte_is_found_as_early_in_a_later_message(before: bytes) -> None:
    connection = Connection()
    halves = wire.frame(TEXT, before, fin=False) + wire.frame(CONTINUATION, before)
    assert connection.receive_data(halves) == [(before + before).decode()]
    connection.receive_data(wire.frame(TEXT, b"a", fin=False))
    assert_open(connection)
    connection.receive_data(wire.frame(CONTINUATION, b"\xff", fin=False))
    assert_failed(connection, 1007)


@pytest.mark.parametrize(("data", "bad"), NOT_UTF8)
def test_bad_byte_is_found_wherever_the_reads_split(data: bytes, bad: int) -> None:
    sent = wire.frame(TEXT, data)
    start = len(sent) - len(data)
    for cut in range(len(sent) + 1):
        connection = Connection()
        assert connection.receive_data(sent[:cut]) == []
        assert (connection.state == OPEN) is (cut <= start + bad)
        assert connection.receive_data(sent[cut:]) == []
        assert_failed(connection, 1007)


def test_every_pair_of_bytes_fails_just_where_rfc_3629_says() -> None:
    seconds = dict.fromkeys(range(0xC2, 0xF5), range(0x80, 0xC0))
    seconds |= {0xE0: range(0xA0, 0xC0), 0xED: range(0x80, 0xA0)}
    seconds |= {0xF0: range(0x90, 0xC0), 0xF4: range(0x80, 0x90)}
    head = wire.header(TEXT, 100, mask=bytes(4))
    for lead in range(0x80, 0x100):
        for second in range(0x100):
            connection = Connection()
            connection.receive_data(head + bytes((lead,)))
            assert (connection.state == OPEN) is (lead in seconds)
            if lead not in seconds:
                break
            connection.receive_data(bytes((second,)))
            assert (connection.state == OPEN) is (second in seconds[lead])


@pytest.mark.parametrize("data", TRUNCATED)
def test_text_that_ends_inside_a_character_fails_with_1007_at_its_end(data: bytes) -> None:
    sent = wire.frame(TEXT, data)
    assert_fails(sent, 1007)
    connection = Connection()
    receive_byte_by_byte(connection, sent[:-1])
    assert_open(connection)
    connection.receive_data(sent[-1:])
    assert_failed(connection, 1007)


@pytest.mark.parametrize("data", TRUNCATED)
def test_fragments_that_end_inside_a_character_fail_with_1007_at_the_end(data: bytes) -> None:
    connection = Connection()
    connection.receive_data(wire.frame(TEXT, data, fin=False))
    connection.receive_data(wire.frame(CONTINUATION, fin=False))
    assert_open(connection)
    connection.receive_data(wire.frame(CONTINUATION))
    assert_failed(connection, 1007)


def test_characters_may_be_split_at_every_byte_by_reads() -> None:
    sent = wire.frame(TEXT, CHARACTERS.encode())
    for cut in range(len(sent) + 1):
        connection = Connection()
        messages = connection.receive_data(sent[:cut]) + connection.receive_data(sent[cut:])
        assert messages == [CHARACTERS]
    assert receive_byte_by_byte(Connection(), sent) == [CHARACTERS]


def test_characters_may_be_split_at_every_two_bytes_by_fragments() -> None:
    data = CHARACTERS.encode()
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            connection = Connection()
            sent = (
                wire.frame(TEXT, data[:first], fin=False)
                + wire.frame(PING)
                + wire.frame(CONTINUATION, data[first:second], fin=False)
                + wire.frame(CONTINUATION, data[second:])
            )
            assert connection.receive_data(sent) == [CHARACTERS]
            assert connection.state == OPEN


def test_binary_messages_need_not_be_utf8() -> None:
    data = b"\xff\xed\xa0\x80\xf5"
    assert Connection().receive_data(wire.frame(BINARY, data)) == [data]
    fragments = wire.frame(BINARY, data, fin=False) + wire.frame(CONTINUATION, data)
    assert receive_byte_by_byte(Connection(), fragments) == [data + data]


# The largest message.


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("limit", [1, 125, 126, 65535, 65536])
def test_message_up_to_max_size_is_taken(opcode: int, limit: int) -> None:
    for size in (limit - 1, limit):
        [message] = Connection(limit).receive_data(wire.frame(opcode, b"x" * size))
        assert len(message) == size


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("limit", [1, 125, 126, 65535, 65536])
def test_larger_message_fails_with_1009_before_its_payload(opcode: int, limit: int) -> None:
    assert_fails(wire.header(opcode, limit + 1), 1009, limit)
    assert_fails(wire.header(opcode, limit + 1, fin=False), 1009, limit)
    connection = Connection(limit)
    assert connection.receive_data(wire.frame(opcode, b"x" * (limit + 1))) == []
    assert_failed(connection, 1009)


def test_longest_length_that_the_protocol_can_say_fails_with_1009() -> None:
    assert_fails(wire.header(BINARY, 2**63 - 1), 1009)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_max_size_counts_all_fragments(opcode: int) -> None:
    start = wire.frame(opcode, b"abc", fin=False) + wire.frame(CONTINUATION, b"def", fin=False)
    for rest in (b"", b"ghi", b"ghij"):
        [message] = Connection(10).receive_data(start + wire.frame(CONTINUATION, rest))
        assert len(message) == 6 + len(rest)
    assert_fails(start + wire.header(CONTINUATION, 5), 1009, 10)
    assert_fails(start + wire.header(CONTINUATION, 5, fin=False), 1009, 10)
    assert_fails(start + wire.header(CONTINUATION, 2**63 - 1), 1009, 10)


def test_message_at_max_size_may_end_with_empty_fragments() -> None:
    data = wire.frame(TEXT, b"x" * 10, fin=False) + wire.frame(CONTINUATION, fin=False)
    assert Connection(10).receive_data(data + wire.frame(CONTINUATION)) == ["x" * 10]


def test_max_size_counts_bytes_and_not_characters() -> None:
    assert Connection(6).receive_data(wire.frame(TEXT, "€€".encode())) == ["€€"]
    assert_fails(wire.header(TEXT, 6), 1009, 5)


def test_max_size_counts_each_message_anew() -> None:
    whole = wire.frame(BINARY, bytes(10))
    fragments = wire.frame(BINARY, bytes(4), fin=False) + wire.frame(CONTINUATION, bytes(6))
    connection = Connection(10)
    assert connection.receive_data((whole + fragments) * 3) == [bytes(10)] * 6
    assert_open(connection)


def test_max_size_does_not_count_control_frames() -> None:
    connection = Connection(4)
    assert connection.receive_data(wire.frame(PING, bytes(100))) == []
    connection.receive_data(wire.frame(TEXT, b"ab", fin=False))
    connection.receive_data(wire.frame(PING, bytes(100)))
    assert connection.receive_data(wire.frame(CONTINUATION, b"cd")) == ["abcd"]


def test_max_size_is_1_mib_when_not_told() -> None:
    assert Connection().receive_data(wire.frame(BINARY, bytes(2**20))) == [bytes(2**20)]
    connection = Connection()
    connection.receive_data(wire.header(BINARY, 2**20 + 1))
    assert_failed(connection, 1009)


def test_max_size_0_is_no_limit() -> None:
    size = 3 * 2**20
    connection = Connection(0)
    assert connection.receive_data(wire.frame(BINARY, bytes(size))) == [bytes(size)]
    fragments = wire.frame(BINARY, bytes(size), fin=False) + wire.frame(CONTINUATION, bytes(size))
    assert connection.receive_data(fragments) == [bytes(2 * size)]
    assert connection.receive_data(wire.header(BINARY, 2**63 - 1)) == []
    assert_open(connection)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_16_mib_in_reads_of_64_bytes_cost_no_more_than_their_bytes(opcode: int) -> None:
    """A read looks at what is new, not at all that came before.

    There are 262144 reads. Were each to copy or check the 8 MiB on average
    that precede it, that would be 2 TiB: minutes, which pytest's timeout ends.
    """
    payload = b"0123456789abcdef" * 2**20
    sent = wire.frame(opcode, payload)
    connection = Connection(0)
    messages = []
    for i in range(0, len(sent), 64):
        messages += connection.receive_data(sent[i : i + 64])
    assert messages == [payload.decode() if opcode == TEXT else payload]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_16_mib_in_fragments_of_64_bytes_cost_no_more_than_their_bytes(opcode: int) -> None:
    """The same for the 262144 fragments of one message, all in one read."""
    payload = b"0123456789abcdef" * 2**20
    middle = wire.frame(CONTINUATION, payload[:64], fin=False) * (2**18 - 1)
    sent = wire.frame(opcode, payload[:64], fin=False) + middle + wire.frame(CONTINUATION)
    messages = Connection(0).receive_data(sent)
    assert messages == [payload.decode() if opcode == TEXT else payload]


# What we send.


def test_messages_are_framed() -> None:
    connection = Connection()
    assert connection.send_text("") == b"\x81\x00"
    assert connection.send_text("é") == b"\x81\x02\xc3\xa9"
    assert connection.send_text("€" * 50) == b"\x81\x7e\x00\x96" + "€".encode() * 50
    assert connection.send_binary(b"") == b"\x82\x00"
    assert connection.send_binary(b"\xff") == b"\x82\x01\xff"
    assert connection.send_binary(bytes(65536))[:10] == b"\x82\x7f\0\0\0\0\0\x01\0\0"
    assert_open(connection)


@pytest.mark.parametrize(
    "buffer",
    [
        bytearray(),
        bytearray(b"abc"),
        memoryview(b""),
        memoryview(b"abcdef")[::2],
        memoryview(b"abcdef")[::-1],
        memoryview(array("I", [1, 2**31])),
        memoryview(bytes(range(12))).cast("B", (3, 4)),
        memoryview(bytes(70_000))[1:],
    ],
)
def test_buffer_goes_as_the_bytes_that_it_holds(buffer: bytearray | memoryview) -> None:
    assert Connection().send_buffer(buffer) == serialize(BINARY, bytes(buffer))


def test_bytes_go_as_text_if_they_are_utf8() -> None:
    assert Connection().send_utf8("é".encode()) == reply(TEXT, "é".encode())
    with pytest.raises(UnicodeDecodeError):
        Connection().send_utf8(b"\xff")


@pytest.mark.parametrize("message", ["\ud800", "ok\udfff"])
def test_text_with_a_lone_surrogate_can_not_be_sent(message: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        Connection().send_text(message)


def test_text_of_a_subclass_of_str_is_sent() -> None:
    assert Connection().send_text(Markup("<b>")) == b"\x81\x03<b>"


# Closing, section 7.


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999])
@pytest.mark.parametrize("reason", ["", "bye", "schön", "x" * 123, "€" * 41])
def test_close_begins_the_closing_handshake(code: int, reason: str) -> None:
    connection = Connection()
    payload = code.to_bytes(2, "big") + reason.encode()
    assert connection.close(code, reason) == reply(CLOSE, payload)
    assert connection.state == CLOSING
    assert (connection.close_code, connection.close_reason) == (code, reason)
    assert not connection.has_replies


def test_close_says_1000_when_not_told() -> None:
    connection = Connection()
    assert connection.close() == reply(CLOSE, b"\x03\xe8")
    assert (connection.close_code, connection.close_reason) == (1000, "")


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x0f\xa0their reason"])
def test_peers_answer_to_our_close_ends_the_connection(payload: bytes) -> None:
    connection = Connection()
    connection.close(1001, "our reason")
    assert connection.receive_data(wire.frame(CLOSE, payload) + wire.frame(TEXT, b"late")) == []
    assert connection.state == CLOSED
    assert (connection.close_code, connection.close_reason) == (1001, "our reason")
    assert not connection.has_replies
    assert connection.take_replies() == b""


def test_second_close_says_nothing_and_changes_nothing() -> None:
    connection = Connection()
    connection.close(1001, "first")
    assert connection.close(1011, "second") == b""
    assert connection.state == CLOSING
    connection.receive_data(close_frame(1001))
    assert connection.close(1011, "third") == b""
    assert connection.state == CLOSED
    assert (connection.close_code, connection.close_reason) == (1001, "first")


def test_close_after_the_peers_close_says_nothing() -> None:
    connection = Connection()
    connection.receive_data(close_frame(4000, b"theirs"))
    assert connection.close(1000, "ours") == b""
    assert (connection.state, connection.close_code) == (CLOSED, 4000)
    assert connection.close_reason == "theirs"


def test_close_after_a_fault_says_nothing() -> None:
    connection = Connection()
    connection.receive_data(wire.frame(0x3))
    assert connection.close(1000) == b""
    assert_failed(connection, 1002)


def test_close_after_the_end_of_file_says_nothing() -> None:
    connection = Connection()
    connection.receive_eof()
    assert connection.close(1000) == b""
    assert (connection.state, connection.close_code) == (CLOSED, 1006)


@pytest.mark.parametrize(
    "code", [*BAD_CODES, -1, 2**70, True, False, None, "1000", 1000.0, b"\x03\xe8"]
)
def test_close_code_that_can_not_be_sent_is_a_value_error(code: Any) -> None:
    connection = Connection()
    with pytest.raises(ValueError, match="close code"):
        connection.close(code)
    with pytest.raises(ValueError, match="close code"):
        close_payload(code, "")
    assert_open(connection)


@pytest.mark.parametrize("reason", ["x" * 124, "€" * 42, "x" * 122 + "é", "x" * 10_000])
def test_close_reason_over_123_bytes_is_a_value_error(reason: str) -> None:
    connection = Connection()
    with pytest.raises(ValueError, match=f"{len(reason.encode())} bytes"):
        connection.close(1000, reason)
    assert_open(connection)


def test_close_reason_with_a_lone_surrogate_is_a_value_error() -> None:
    connection = Connection()
    with pytest.raises(ValueError, match="UTF-8") as info:
        connection.close(1000, "\ud800")
    assert not isinstance(info.value, UnicodeError)
    assert_open(connection)


@pytest.mark.parametrize("reason", [None, b"bye", 5])
def test_close_reason_that_is_not_str_is_refused_as_one(reason: Any) -> None:
    connection = Connection()
    with pytest.raises((TypeError, ValueError), match="reason"):
        connection.close(1000, reason)
    assert_open(connection)


def test_close_reason_of_a_subclass_of_str_is_sent() -> None:
    connection = Connection()
    assert connection.close(1000, Markup("bye")) == reply(CLOSE, b"\x03\xe8bye")
    assert (connection.state, connection.close_code) == (CLOSING, 1000)
    assert connection.close_reason == "bye"


def test_close_with_a_bad_argument_is_a_value_error_in_every_state() -> None:
    connection = Connection()
    connection.close()
    for state in (CLOSING, CLOSED):
        assert connection.state == state
        with pytest.raises(ValueError, match="close code"):
            connection.close(1005)
        with pytest.raises(ValueError, match="124 bytes"):
            connection.close(1000, "x" * 124)
        connection.receive_eof()


def test_messages_after_our_close_are_thrown_away() -> None:
    connection = Connection()
    connection.close()
    data = (
        wire.frame(TEXT, b"late")
        + wire.frame(BINARY, b"late", fin=False)
        + wire.frame(CONTINUATION, b"late")
        + wire.frame(TEXT, "é".encode()[:1], fin=False)
        + wire.frame(CONTINUATION, "é".encode()[1:])
    )
    assert connection.receive_data(data) == []
    assert receive_byte_by_byte(connection, data) == []
    assert connection.state == CLOSING
    assert not connection.has_replies
    connection.receive_data(close_frame(1000))
    assert connection.state == CLOSED


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_message_that_our_close_cut_in_two_is_thrown_away(opcode: int) -> None:
    connection = Connection()
    # The first half ends inside a character, which the second completes.
    first = wire.frame(opcode, "schö".encode()[:-1], fin=False)
    second = wire.frame(CONTINUATION, "ön".encode()[1:])
    assert connection.receive_data(first) == []
    connection.close()
    assert connection.receive_data(second) == []
    assert connection.receive_data(wire.frame(opcode, b"another")) == []
    assert connection.state == CLOSING
    connection.receive_data(close_frame(1000))
    assert connection.state == CLOSED


def test_frame_that_our_close_cut_in_two_is_thrown_away() -> None:
    connection = Connection()
    data = wire.frame(TEXT, b"hello") + close_frame(1000)
    assert connection.receive_data(data[:8]) == []
    connection.close()
    assert connection.receive_data(data[8:]) == []
    assert connection.state == CLOSED


def test_pong_after_our_close_is_remembered() -> None:
    connection = Connection()
    connection.close()
    connection.receive_data(wire.frame(PONG, b"late"))
    assert connection.last_pong == b"late"


@pytest.mark.parametrize(
    "fault",
    [
        wire.frame(0x3),
        wire.frame(CONTINUATION, b"lone"),
        wire.frame(CLOSE, b"\x03"),
        close_frame(1005),
        close_frame(1000, b"\xff"),
        wire.header(TEXT, 2**20 + 1),
    ],
)
def test_fault_after_our_close_ends_the_connection_without_a_word(fault: bytes) -> None:
    connection = Connection()
    connection.close(1001, "ours")
    assert connection.receive_data(fault + wire.frame(TEXT, b"late")) == []
    assert connection.state == CLOSED
    assert (connection.close_code, connection.close_reason) == (1001, "ours")
    assert connection.take_replies() == b""


# End of file, section 7.1.5.


def test_end_of_file_while_open_is_1006() -> None:
    connection = Connection()
    connection.receive_data(wire.frame(TEXT, b"unfinished", fin=False))
    connection.receive_eof()
    assert connection.state == CLOSED
    assert (connection.close_code, connection.close_reason) == (1006, "")
    assert connection.take_replies() == b""


def test_end_of_file_after_our_close_keeps_its_code() -> None:
    connection = Connection()
    connection.close(4000, "ours")
    connection.receive_eof()
    assert connection.state == CLOSED
    assert (connection.close_code, connection.close_reason) == (4000, "ours")


@pytest.mark.parametrize(("payload", "code"), [(b"", 1005), (b"\x03\xe9", 1001)])
def test_end_of_file_after_the_peers_close_keeps_its_code(payload: bytes, code: int) -> None:
    connection = Connection()
    connection.receive_data(wire.frame(CLOSE, payload))
    connection.receive_eof()
    assert (connection.state, connection.close_code) == (CLOSED, code)
    assert connection.take_replies() == reply(CLOSE, payload)


def test_end_of_file_twice_is_as_once() -> None:
    connection = Connection()
    connection.receive_eof()
    connection.receive_eof()
    assert (connection.state, connection.close_code) == (CLOSED, 1006)


def test_bytes_after_the_end_of_file_are_ignored() -> None:
    connection = Connection()
    connection.receive_eof()
    late = b"".join(wire.frame(opcode, b"late") for opcode in (TEXT, PONG, PING))
    assert connection.receive_data(late) == []
    assert (connection.state, connection.close_code) == (CLOSED, 1006)
    assert connection.last_pong is None
    assert not connection.has_replies


def test_ping_after_our_close_is_answered() -> None:
    connection = Connection()
    connection.close()
    connection.receive_data(wire.frame(PING, b"x"))
    assert connection.take_replies() == reply(PONG, b"x")
