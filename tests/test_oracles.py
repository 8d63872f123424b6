"""frames.py and connection.py beside websockets and wsproto, on the same bytes."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import NamedTuple, TypeVar

import websockets.frames
import wire
import wsproto.events
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from websockets.protocol import CLIENT, SERVER, Protocol
from wsproto.connection import Connection as WsprotoConnection
from wsproto.connection import ConnectionType

from flask_uwsgi_ws.connection import CLOSED, OPEN, Connection
from flask_uwsgi_ws.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

# No example may fail for being slow: that would say more of the machine.
SETTINGS = settings(
    max_examples=400, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)

Message = str | bytes
Text = TypeVar("Text", str, bytes, str | bytes)


def cut(data: Text, places: Sequence[int]) -> list[Text]:
    """Cut *data* at *places*, each taken modulo its length."""
    ends: list[int] = sorted(place % (len(data) + 1) for place in places)
    return [data[start:end] for start, end in pairwise([0, *ends, len(data)])]


class Outcome(NamedTuple):
    """What a server made of some bytes."""

    messages: list[Message]
    pings: list[bytes]
    #: Of the Close frame that it answers, or fails the connection with.
    code: int | None


def ours(reads: list[bytes]) -> Outcome:
    connection = Connection(0)
    messages: list[Message] = []
    replies = b""
    for data in reads:
        messages += connection.receive_data(data)
        replies += connection.take_replies()
    pings = []
    code = None
    while replies:
        # A server's control frame: two bytes, the second of which is the length.
        first, size = replies[0], replies[1]
        payload, replies = replies[2 : 2 + size], replies[2 + size :]
        if first == 0x80 | PONG:
            pings.append(payload)
        else:
            assert first == 0x80 | CLOSE
            assert replies == b"", "something follows a Close frame"
            code = int.from_bytes(payload[:2], "big") if payload else 1005
    assert code == connection.close_code
    assert (code is None) is (connection.state == OPEN)
    return Outcome(messages, pings, code)


def by_wsproto(reads: list[bytes]) -> Outcome:
    connection = WsprotoConnection(ConnectionType.SERVER)
    messages: list[Message] = []
    pings = []
    parts: list[Message] = []
    for data in reads:
        connection.receive_data(data)
        for event in connection.events():
            if isinstance(event, wsproto.events.Message):
                parts.append(event.data)
                if event.message_finished:
                    empty: Message = "" if isinstance(event.data, str) else b""
                    messages.append(empty.join(parts))  # type: ignore[arg-type]
                    parts = []
            elif isinstance(event, wsproto.events.Ping):
                pings.append(bytes(event.payload))
            elif isinstance(event, wsproto.events.CloseConnection):
                return Outcome(messages, pings, int(event.code))
    return Outcome(messages, pings, None)


def by_websockets(reads: list[bytes]) -> Outcome:
    protocol = Protocol(SERVER, max_size=None)
    messages: list[Message] = []
    pings = []
    parts: list[str] | list[bytes] = []
    decode = None
    for data in reads:
        protocol.receive_data(data)
        for frame in protocol.events_received():
            assert isinstance(frame, websockets.frames.Frame)
            payload = bytes(frame.data)
            if frame.opcode == PING:
                pings.append(payload)
            elif frame.opcode == CLOSE:
                assert protocol.close_rcvd is not None
                return Outcome(messages, pings, protocol.close_rcvd.code)
            elif frame.opcode != PONG:
                if frame.opcode != CONTINUATION:
                    parts = []
                    decode = (
                        codecs.getincrementaldecoder("utf-8")().decode
                        if frame.opcode == TEXT
                        else None
                    )
                # This core of websockets leaves text to the shells around it.
                try:
                    parts.append(decode(payload, frame.fin) if decode else payload)  # type: ignore[arg-type]
                except UnicodeDecodeError:
                    return Outcome(messages, pings, 1007)
                if frame.fin:
                    messages.append("".join(parts) if decode else b"".join(parts))  # type: ignore[arg-type]
        if protocol.parser_exc is not None:
            if str(protocol.parser_exc) == "incomplete fragmented message":
                # RFC 6455 section 5.4 lets control frames stand between the
                # fragments of a message, and does not except Close.
                assert protocol.close_rcvd is not None
                return Outcome(messages, pings, protocol.close_rcvd.code)
            assert protocol.close_sent is not None
            return Outcome(messages, pings, protocol.close_sent.code)
    return Outcome(messages, pings, None)


# Some thousand bytes come from a few: Hypothesis is slow at making many.
sizes = st.sampled_from([125, 126, 127, 1000, 65535, 65536])
texts = st.one_of(
    st.text(max_size=60),
    st.builds(lambda part, size: (part * size)[:size], st.text(min_size=1, max_size=9), sizes),
)
binaries = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda part, size: (part * size)[:size], st.binary(min_size=1, max_size=9), sizes),
)
places = st.lists(st.integers(0, 2**17), max_size=6)
control_payloads = st.binary(max_size=125)


class Sending(NamedTuple):
    """A message, where its fragments end, and the Pings before each of them."""

    message: Message
    ends: list[int]
    pings: list[bytes]


sendings = st.lists(
    st.builds(
        Sending,
        st.one_of(texts, binaries),
        st.one_of(st.just([]), places),
        st.lists(control_payloads, max_size=3),
    ),
    max_size=5,
)


def sent_by_websockets(sending: Sending) -> bytes:
    client = Protocol(CLIENT)
    message = sending.message
    data = message.encode() if isinstance(message, str) else message
    parts = cut(data, sending.ends)
    for i, (part, ping) in enumerate(zip_longest(parts, sending.pings[: len(parts)])):
        if ping is not None:
            client.send_ping(ping)
        fin = i == len(parts) - 1
        if i:
            client.send_continuation(part, fin)
        elif isinstance(message, str):
            client.send_text(part, fin)
        else:
            client.send_binary(part, fin)
    return b"".join(client.data_to_send())


def sent_by_wsproto(sending: Sending) -> bytes:
    client = WsprotoConnection(ConnectionType.CLIENT)
    message = sending.message
    parts = cut(message, sending.ends)
    data = b""
    for i, (part, ping) in enumerate(zip_longest(parts, sending.pings[: len(parts)])):
        if ping is not None:
            data += client.send(wsproto.events.Ping(ping))
        fin = i == len(parts) - 1
        if isinstance(part, str):
            data += client.send(wsproto.events.TextMessage(part, message_finished=fin))
        else:
            data += client.send(wsproto.events.BytesMessage(part, message_finished=fin))
    return data


def assert_understood(data: bytes, reads: list[int], sent: list[Sending]) -> None:
    # The clients choose their masking keys, so an example is told by its bytes.
    note(data.hex())
    outcome = ours(cut(data, reads))
    assert outcome.messages == [sending.message for sending in sent]
    assert [type(message) for message in outcome.messages] == [
        type(sending.message) for sending in sent
    ]
    assert outcome.pings == [
        ping for sending in sent for ping in sending.pings[: len(sending.ends) + 1]
    ]
    assert outcome.code is None


@SETTINGS
@given(sendings, places)
def test_what_a_client_of_websockets_sends_is_understood(
    sent: list[Sending], reads: list[int]
) -> None:
    assert_understood(b"".join(map(sent_by_websockets, sent)), reads, sent)


@SETTINGS
@given(sendings, places)
def test_what_a_client_of_wsproto_sends_is_understood(
    sent: list[Sending], reads: list[int]
) -> None:
    assert_understood(b"".join(map(sent_by_wsproto, sent)), reads, sent)


# Frames of ours, read by the others.


class Farewell(NamedTuple):
    code: int
    reason: str


replies = st.lists(
    st.one_of(st.tuples(st.just("message"), st.one_of(texts, binaries)))
    | st.tuples(st.just("ping"), control_payloads),
    max_size=5,
)
# wsproto knows the codes of RFC 6455 and two more; 1014 came later.
farewells = st.builds(
    Farewell,
    st.sampled_from([*range(1000, 1004), *range(1007, 1014), 3000, 4999]),
    st.text(max_size=30),
)


def sent_by_us(sent: list[tuple[str, Message]], farewell: Farewell) -> bytes:
    connection = Connection()
    data = b""
    for kind, content in sent:
        if isinstance(content, str):
            data += connection.send_text(content)
        elif kind == "ping":
            data += connection.ping(content)
        else:
            data += connection.send_binary(content)
    return data + connection.close(*farewell)


@SETTINGS
@given(replies, farewells, places)
def test_what_we_send_is_understood_by_websockets(
    sent: list[tuple[str, Message]], farewell: Farewell, reads: list[int]
) -> None:
    client = Protocol(CLIENT, max_size=None)
    frames = []
    for data in cut(sent_by_us(sent, farewell), reads):
        client.receive_data(data)
        frames += client.events_received()
    expected = [
        websockets.frames.Frame(websockets.frames.Opcode.TEXT, content.encode())
        if isinstance(content, str)
        else websockets.frames.Frame(
            websockets.frames.Opcode.PING if kind == "ping" else websockets.frames.Opcode.BINARY,
            content,
        )
        for kind, content in sent
    ]
    assert frames[:-1] == expected
    assert client.close_rcvd == websockets.frames.Close(*farewell)
    assert client.parser_exc is None


@SETTINGS
@given(replies, farewells, places)
def test_what_we_send_is_understood_by_wsproto(
    sent: list[tuple[str, Message]], farewell: Farewell, reads: list[int]
) -> None:
    client = WsprotoConnection(ConnectionType.CLIENT)
    received: list[tuple[str, Message]] = []
    parts: list[Message] = []
    closed = None
    for data in cut(sent_by_us(sent, farewell), reads):
        client.receive_data(data)
        for event in client.events():
            if isinstance(event, wsproto.events.Message):
                parts.append(event.data)
                if event.message_finished:
                    empty: Message = "" if isinstance(event.data, str) else b""
                    received.append(("message", empty.join(parts)))  # type: ignore[arg-type]
                    parts = []
            elif isinstance(event, wsproto.events.Ping):
                received.append(("ping", bytes(event.payload)))
            elif isinstance(event, wsproto.events.CloseConnection):
                closed = (int(event.code), event.reason)
    assert received == sent
    assert closed == farewell


@SETTINGS
@given(st.lists(control_payloads, max_size=5), farewells)
def test_closing_handshake_with_a_client_of_websockets_is_completed(
    pings: list[bytes], farewell: Farewell
) -> None:
    client = Protocol(CLIENT)
    for payload in pings:
        client.send_ping(payload)
    client.send_close(*farewell)
    server = Connection()
    assert server.receive_data(b"".join(client.data_to_send())) == []
    assert server.state == CLOSED
    assert (server.close_code, server.close_reason) == farewell
    client.receive_data(server.take_replies())
    pongs = []
    for frame in client.events_received():
        assert isinstance(frame, websockets.frames.Frame)
        if frame.opcode == PONG:
            pongs.append(bytes(frame.data))
    assert pongs == pings
    client.receive_eof()
    assert client.close_code == farewell.code


@SETTINGS
@given(farewells)
def test_closing_handshake_that_we_begin_is_completed_by_websockets(farewell: Farewell) -> None:
    client = Protocol(CLIENT)
    server = Connection()
    client.receive_data(server.close(*farewell))
    assert server.receive_data(b"".join(client.data_to_send())) == []
    assert server.state == CLOSED
    assert not server.has_replies
    assert (client.close_code, client.close_reason) == (None, None)
    client.receive_eof()
    assert (client.close_code, client.close_reason) == farewell


# Bytes that may be wrong.


def rarely(wrong: st.SearchStrategy[int], right: int) -> st.SearchStrategy[int]:
    return st.integers(0, 19).flatmap(lambda dice: st.just(right) if dice else wrong)


utf8_and_not = st.one_of(
    st.text(max_size=20).map(str.encode),
    st.binary(max_size=20),
    # Cut inside of a character, so that the next fragment may complete it.
    st.builds(lambda text, end: (text * 3).encode()[end:], st.text(max_size=9), st.integers(0, 3)),
    st.builds(lambda text, end: (text * 3).encode()[:-end], st.text(max_size=9), st.integers(1, 3)),
)
# Not both a bad code and a bad reason: RFC 6455 does not say which comes first.
close_payloads = st.one_of(
    st.just(b""),
    st.binary(min_size=1, max_size=1),
    st.builds(
        lambda code, reason: code.to_bytes(2, "big") + reason.encode(),
        st.one_of(st.sampled_from([999, 1004, 1005, 1006, 1015, 2999]), st.integers(0, 65535)),
        st.text(max_size=20),
    ),
    st.binary(max_size=20).map(lambda reason: b"\x03\xe8" + reason),
)


@st.composite
def fuzzy_frames(draw: st.DrawFn, widths: tuple[int | None, ...] = (None,)) -> bytes:
    """Draw a whole frame that a client sends; some of them break a rule."""
    opcode = draw(st.sampled_from([CONTINUATION] * 4 + [TEXT] * 4 + [BINARY, PING, PONG] * 2))
    opcode = draw(rarely(st.integers(0, 15), opcode))
    control = opcode & 0x08
    if draw(st.integers(0, 9)) == 0:
        opcode, control, payload = CLOSE, 0x08, draw(close_payloads)
    elif opcode == CLOSE:
        payload = draw(close_payloads)
    else:
        payload = draw(utf8_and_not)
    if draw(st.integers(0, 19)) == 0:
        payload = payload.ljust(draw(sizes), b"a")
    fin = draw(st.booleans())
    if control:
        fin = bool(draw(rarely(st.just(0), 1)))
    width = draw(st.sampled_from(widths))
    if width is not None and len(payload) >= 1 << 8 * max(width, 1) - (width == 0):
        width = None
    return wire.frame(
        opcode,
        payload,
        fin=fin,
        rsv=draw(rarely(st.sampled_from([0x40, 0x20, 0x10]), 0)),
        mask=draw(st.binary(min_size=4, max_size=4)) if draw(rarely(st.just(0), 1)) else None,
        width=width,
    )


def as_wsproto_says(outcome: Outcome) -> Outcome:
    # IANA registered 1014 in the registry that RFC 6455 section 11.7 set up;
    # wsproto does not know it.
    return outcome._replace(code=1002) if outcome.code == 1014 else outcome


@SETTINGS
@given(st.lists(fuzzy_frames(), max_size=8), places)
def test_whole_frames_right_or_wrong_end_as_with_both_others(
    frames: list[bytes], reads: list[int]
) -> None:
    data = cut(b"".join(frames), reads)
    outcome = ours(data)
    assert outcome == by_websockets(data)
    assert as_wsproto_says(outcome) == by_wsproto(data)


@SETTINGS
@given(
    st.lists(fuzzy_frames(widths=(None, None, None, 0, 2, 8)), max_size=6),
    st.lists(st.tuples(st.integers(0, 2**17), st.integers(1, 255)), max_size=3),
    st.none() | st.integers(0, 2**17),
    places,
)
def test_damaged_bytes_end_as_with_both_others(
    frames: list[bytes], damage: list[tuple[int, int]], end: int | None, reads: list[int]
) -> None:
    stream = bytearray(b"".join(frames))
    for place, bits in damage:
        if stream:
            stream[place % len(stream)] ^= bits
    if end is not None:
        del stream[end % (len(stream) + 1) :]
    assert_ends_as_with_both_others(bytes(stream), reads)


@SETTINGS
@given(st.binary(max_size=100), places)
def test_random_bytes_end_as_with_both_others(data: bytes, reads: list[int]) -> None:
    assert_ends_as_with_both_others(data, reads)


def assert_ends_as_with_both_others(stream: bytes, places: list[int]) -> None:
    # The zeros complete a header that the stream leaves unfinished, as we may
    # refuse it sooner than others do; one more begins a frame without a mask.
    reads = cut(stream + bytes(14), places)
    outcome = ours(reads)
    assert as_wsproto_says(outcome) == by_wsproto(reads)
    theirs = by_websockets(reads)
    if outcome.code is None:
        assert theirs == outcome
    else:
        # websockets waits for the whole frame before it looks at reserved bits
        # and text, and takes lengths that section 5.2 forbids for not being
        # minimal. So it may go on, but what came before is the same.
        assert theirs.messages[: len(outcome.messages)] == outcome.messages
        assert theirs.pings[: len(outcome.pings)] == outcome.pings
