"""What clients of websockets and wsproto send us, and what they read of ours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import NamedTuple, TypeVar

import websockets.frames
import wsproto.events
from fuzz.readers import Form
from hypothesis import given, note, settings
from hypothesis import strategies as st
from websockets.protocol import CLIENT, Protocol
from wsproto.connection import Connection as WsprotoConnection
from wsproto.connection import ConnectionType

from flask_uwsgi_ws.connection import CLOSED, Connection
from flask_uwsgi_ws.frames import PONG

SETTINGS = settings(max_examples=400, database=None)

Message = str | bytes
Text = TypeVar("Text", str, bytes, str | bytes)


def cut(data: Text, places: Sequence[int]) -> list[Text]:
    """Cut *data* at *places*, each taken modulo its length."""
    ends: list[int] = sorted(place % (len(data) + 1) for place in places)
    return [data[start:end] for start, end in pairwise([0, *ends, len(data)])]


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
    outcome, _ = Form().read(cut(data, reads), None)
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
