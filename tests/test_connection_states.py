"""Any order of what a peer and an application can do, against RFC 6455 section 7."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any, NamedTuple

import pytest
import wire
from fuzz.readers import negotiated
from fuzz.referee import CODES, Outcome, judge
from fuzz.streams import BAD_CODES, GOOD_CODES, NOT_TEXTS, Agreement
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flask_uwsgi_ws.compression import Deflate
from flask_uwsgi_ws.connection import CLOSED, CLOSING, OPEN, Connection
from flask_uwsgi_ws.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

RSV1 = 0x40
LIMIT = 2000

texts = st.text(max_size=40)
payloads = st.binary(max_size=125)
messages = st.one_of(
    texts,
    st.binary(max_size=200),
    st.builds(lambda part, size: part * size, st.text(min_size=1, max_size=3), st.integers(0, 300)),
    st.sampled_from([b"\0" * (LIMIT - 1), b"\0" * LIMIT, "a" * LIMIT]),
)
reasons = st.text(max_size=30)

# Faults that are seen in whatever state the peer is, so long as the connection is not closed.
FAULTS = [
    (wire.frame(TEXT, b"a", mask=None), 1002),
    (wire.frame(PING, b"a", mask=None), 1002),
    (wire.frame(TEXT, b"a", rsv=0x20), 1002),
    (wire.frame(BINARY, b"", rsv=0x10), 1002),
    (wire.frame(PING, b"a", rsv=RSV1), 1002),
    (wire.frame(3, b"a"), 1002),
    (wire.frame(11), 1002),
    (wire.frame(PING, fin=False), 1002),
    (wire.frame(PONG, bytes(126)), 1002),
    (wire.frame(BINARY, b"a", width=2), 1002),
    (wire.frame(BINARY, b"a", width=8), 1002),
    (wire.header(BINARY, 2**63), 1002),
    (wire.frame(CONTINUATION, b"a"), 1002),
    (wire.frame(TEXT, b"a", fin=False) + wire.frame(TEXT, b"b"), 1002),
    (wire.frame(BINARY, fin=False) + wire.frame(CONTINUATION, rsv=RSV1), 1002),
    (wire.header(BINARY, LIMIT + 1), 1009),
    (wire.frame(CLOSE, b"\x03"), 1002),
    (wire.frame(CLOSE, b"\x03\xe8\xff"), 1007),
    *((wire.frame(CLOSE, code.to_bytes(2, "big")), 1002) for code in BAD_CODES),
]


class Fault(NamedTuple):
    code: int
    in_close: bool = False


class Event(NamedTuple):
    """What the peer has sent, and where in its bytes."""

    start: int
    end: int
    kind: str
    value: Any


class ConnectionStates(RuleBasedStateMachine):
    """The model is of a peer whose bytes arrive late and in pieces."""

    agreement: Agreement | None = None

    @initialize()
    def open(self) -> None:
        deflate = self.agreement and Deflate(negotiated(self.agreement))
        self.connection = Connection(LIMIT, deflate)
        self.state = OPEN
        self.failed = False
        self.code: int | None = None
        self.reason: str | None = ""
        self.sent = b""
        self.arrived = 0
        self.events: list[Event] = []
        self.last_pong: bytes | None = None
        #: What the peer has been sent, and what it should find there.
        self.received = b""
        self.expected: list[tuple[int, str | bytes]] = []
        #: What the application says between messages and the fault after them.
        self.answers: list[tuple[int, str | bytes]] = []
        self.messages: list[str | bytes] = []
        self.expected_messages: list[str | bytes] = []
        #: From here on the peer has sent anything; only the referee knows what it means.
        self.guessing = False
        #: The application has closed, or the network: the referee does not know that.
        self.ended = False
        if self.agreement:
            self.deflater = zlib.compressobj(wbits=-self.agreement.bits)

    # What the peer sends.

    def send(self, data: bytes, kind: str, value: Any = None) -> None:
        start = len(self.sent)
        self.sent += data
        self.events.append(Event(start, len(self.sent), kind, value))

    @rule(
        message=messages,
        ends=st.lists(st.integers(0, 2**16), max_size=3),
        pings=st.lists(payloads, max_size=2),
        plain=st.booleans(),
    )
    def peer_sends(
        self, message: str | bytes, ends: list[int], pings: list[bytes], plain: bool
    ) -> None:
        opcode = TEXT if isinstance(message, str) else BINARY
        data = message.encode() if isinstance(message, str) else message
        size = len(data)
        rsv = 0
        if self.agreement and not plain:
            rsv = RSV1
            if self.agreement.forgets:
                self.deflater = zlib.compressobj(wbits=-self.agreement.bits)
            data = self.deflater.compress(data) + self.deflater.flush(zlib.Z_SYNC_FLUSH)
            data = data[:-4]
        places = sorted(end % (len(data) + 1) for end in ends)
        start = len(self.sent)
        for i, (begin, end) in enumerate(zip([0, *places], [*places, len(data)], strict=True)):
            if i and pings:
                ping = pings.pop()
                self.send(wire.frame(PING, ping), "ping", ping)
            fin = i == len(places)
            frame = wire.frame(
                CONTINUATION if i else opcode, data[begin:end], fin=fin, rsv=0 if i else rsv
            )
            self.send(
                frame, "part" if not fin else "message" if size <= LIMIT else "wrong", message
            )
        if size > LIMIT:
            # It may be refused with any of its frames; only the referee knows with which.
            self.events = [event for event in self.events if event.end <= start]
            self.events.append(Event(start, len(self.sent), "unknown", None))

    @rule(payload=payloads)
    def peer_pings(self, payload: bytes) -> None:
        self.send(wire.frame(PING, payload), "ping", payload)

    @rule(payload=payloads)
    def peer_pongs(self, payload: bytes) -> None:
        self.send(wire.frame(PONG, payload), "pong", payload)

    @rule(code=st.sampled_from(GOOD_CODES), reason=reasons, in_message=st.booleans())
    def peer_closes(self, code: int, reason: str, in_message: bool) -> None:
        if in_message:
            self.send(wire.frame(TEXT, b"never ended", fin=False), "part")
        payload = code.to_bytes(2, "big") + reason.encode()
        self.send(wire.frame(CLOSE, payload), "close", (code, reason, payload[:2]))

    @rule()
    def peer_closes_without_code(self) -> None:
        self.send(wire.frame(CLOSE), "close", (1005, "", b""))

    @rule(fault=st.sampled_from(FAULTS))
    def peer_does_wrong(self, fault: tuple[bytes, int]) -> None:
        data, code = fault
        self.send(data, "fault", Fault(code, data[0] & 0x0F == CLOSE))

    @rule(data=st.sampled_from(NOT_TEXTS), cut=st.integers(0, 4))
    def peer_sends_what_is_no_text(self, data: bytes, cut: int) -> None:
        frames = wire.frame(TEXT, b"ab" + data[:cut], fin=False)
        self.send(frames + wire.frame(CONTINUATION, data[cut:]), "no text", Fault(1007))

    @rule(data=st.binary(min_size=1, max_size=60))
    def peer_sends_anything(self, data: bytes) -> None:
        self.send(data, "unknown")

    # How it arrives.

    @precondition(lambda self: self.arrived < len(self.sent))
    @rule(count=st.integers(1, 2**16))
    def some_arrives(self, count: int) -> None:
        self.arrive(1 + count % (len(self.sent) - self.arrived))

    @rule()
    def all_arrives(self) -> None:
        self.arrive(len(self.sent) - self.arrived)

    @rule()
    def all_arrives_byte_by_byte(self) -> None:
        for _ in range(min(len(self.sent) - self.arrived, 300)):
            self.arrive(1)

    @rule()
    def end_of_file(self) -> None:
        self.connection.receive_eof()
        if self.state == OPEN and not self.guessing:
            self.code = 1006
        elif self.state == OPEN:
            self.code = self.connection.close_code
            assert self.code is not None
        self.state = CLOSED
        self.ended = True

    def arrive(self, count: int) -> None:
        before = self.connection.state
        data = self.sent[self.arrived : self.arrived + count]
        self.arrived += len(data)
        new = self.connection.receive_data(data)
        self.received += self.connection.take_replies()
        self.answers = []
        if self.connection.faulty:
            # A fault after messages, which the application may answer before it closes.
            assert new
            assert self.connection.state == OPEN
            assert self.connection.receive_data(wire.frame(TEXT, b"later")) == []
            self.says(self.connection.send_text("answer"))
            self.says(self.connection.close(4999, "the fault goes first"))
            self.answers = [(TEXT, "answer")]
            assert not self.connection.faulty
        assert not self.connection.has_replies
        assert self.connection.state >= before
        assert before == OPEN or new == [], "messages after the closing handshake began"
        self.messages += new
        if not self.guessing:
            self.follow()
        if self.guessing:
            self.guess()

    def follow(self) -> None:
        """Let the model do what has arrived."""
        while self.events and self.state != CLOSED and not self.failed:
            event = self.events[0]
            if event.kind == "unknown" and event.start < self.arrived:
                self.guessing = True
                return
            if event.end > self.arrived:
                # What is wrong is seen at once where that is possible.
                early = event.start < self.arrived and event.kind in ("fault", "no text")
                if early and self.connection.state != self.state:
                    self.events.pop(0)
                    self.fail(event.value)
                return
            self.events.pop(0)
            if event.kind == "message" and self.state == OPEN:
                self.expected_messages.append(event.value)
            elif event.kind == "ping":
                self.expected.append((PONG, event.value))
            elif event.kind == "pong":
                self.last_pong = event.value
            elif event.kind == "close":
                code, reason, echo = event.value
                if self.state == OPEN:
                    self.code, self.reason = code, reason
                    self.expected.append((CLOSE, echo))
                self.state = CLOSED
            elif event.kind == "fault" or (event.kind == "no text" and self.state == OPEN):
                self.fail(event.value)

    def fail(self, fault: Fault) -> None:
        """RFC 6455 section 7.1.7."""
        code, in_close = fault
        if self.state == OPEN:
            # Nothing comes after a Close frame, even a wrong one.
            self.state = CLOSED if in_close else CLOSING
            self.failed = True
            self.code, self.reason = code, None
            self.expected += self.answers
            self.expected.append((CLOSE, code.to_bytes(2, "big")))
        else:
            self.state = CLOSED

    def guess(self) -> None:
        """Ask the referee, who knows nothing of the application."""
        self.state = self.connection.state
        if self.ended:
            return
        verdict = judge(self.sent[: self.arrived], self.agreement, LIMIT)
        connection = self.connection
        reason = connection.close_reason if verdict.reason is not None else None
        pings = [
            bytes(data)
            for opcode, data in self.replies()
            if opcode == PONG and isinstance(data, bytes)
        ]
        outcome = Outcome(self.messages, pings, connection.last_pong, connection.close_code, reason)
        assert verdict.allows(outcome), verdict

    # What the application does.

    def says(self, frame: bytes) -> None:
        self.received += self.connection.compress(frame)

    @precondition(lambda self: self.connection.state == OPEN)
    @rule(message=messages)
    def application_sends(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.says(self.connection.send_text(message))
            self.expected.append((TEXT, message))
        else:
            self.says(self.connection.send_binary(message))
            self.expected.append((BINARY, message))

    @precondition(lambda self: self.connection.state == OPEN)
    @rule(payload=payloads)
    def application_pings(self, payload: bytes) -> None:
        self.says(self.connection.ping(payload))
        self.expected.append((PING, payload))

    @rule(code=st.sampled_from(GOOD_CODES), reason=reasons)
    def application_closes(self, code: int, reason: str) -> None:
        was_open = self.connection.state == OPEN
        frame = self.connection.close(code, reason)
        self.says(frame) if frame else None
        assert (frame != b"") == was_open, "a second Close frame, or none"
        if was_open:
            self.ended = True
            self.state = CLOSING
            self.code, self.reason = code, reason
            self.expected.append((CLOSE, code.to_bytes(2, "big") + reason.encode()))

    # What holds at any time.

    def replies(self) -> list[tuple[int, str | bytes]]:
        """What the peer finds in the bytes that it was sent."""
        found: list[tuple[int, str | bytes]] = []
        inflater = zlib.decompressobj(-15)
        at = 0
        while at < len(self.received):
            first, size = self.received[at], self.received[at + 1]
            width = {126: 2, 127: 8}.get(size, 0)
            assert size < 128, "a server masks nothing"
            assert first & 0x80, "every message is one frame"
            if width:
                size = int.from_bytes(self.received[at + 2 : at + 2 + width], "big")
            end = at + 2 + width + size
            payload = self.received[at + 2 + width : end]
            assert len(payload) == size
            opcode = first & 0x0F
            if first & 0x70:
                assert self.agreement
                assert first & 0x70 == RSV1
                assert opcode < 8
                payload = inflater.decompress(payload + b"\0\0\xff\xff")
                inflater = zlib.decompressobj(-15)
            found.append((opcode, payload.decode() if opcode == TEXT else payload))
            at = end
        return found

    @invariant()
    def frames_are_right(self) -> None:
        found = self.replies()
        closes = [i for i, (opcode, _) in enumerate(found) if opcode == CLOSE]
        assert closes in ([], [len(found) - 1]) or all(
            opcode == PONG for opcode, _ in found[closes[0] + 1 :]
        ), "only Pongs may follow our Close frame"
        assert len(closes) <= 1, "two Close frames"
        connection = self.connection
        assert bool(closes) == (connection.close_code not in (None, 1006))
        if closes:
            payload = found[closes[0]][1]
            assert isinstance(payload, bytes)
            code = int.from_bytes(payload[:2], "big") if payload else 1005
            assert code == connection.close_code
            assert code in {*CODES, 1005}
        if not self.guessing:
            if self.reason is None:
                # The words of the failure are its own.
                opcode, payload = found.pop(closes[0])
                assert isinstance(payload, bytes)
                found.insert(closes[0], (opcode, payload[:2]))
            assert found == self.expected

    @invariant()
    def state_is_the_models(self) -> None:
        connection = self.connection
        if self.guessing:
            return
        assert connection.state == self.state
        assert connection.close_code == self.code
        assert connection.last_pong == self.last_pong
        if self.reason is not None:
            assert connection.close_reason == self.reason
        assert self.messages == self.expected_messages
        assert [*map(type, self.messages)] == [*map(type, self.expected_messages)]

    @precondition(lambda self: self.arrived == len(self.sent))
    @rule(opcode=st.sampled_from([TEXT, BINARY]), compressed=st.booleans())
    def message_without_end(self, opcode: int, compressed: bool) -> None:
        for frame in endless(opcode, compressed and self.agreement is not None):
            self.send(frame, "unknown")
            self.arrive(len(frame))
        assert self.connection.state != OPEN


def endless(opcode: int, compressed: bool) -> list[bytes]:
    """Fragments of a message that is five times too large and has no end."""
    part = b"a" * (LIMIT // 4)
    if compressed:
        deflater = zlib.compressobj(wbits=-9)
        part = deflater.compress(part * 1000) + deflater.flush(zlib.Z_SYNC_FLUSH)
    first = wire.frame(opcode, part, fin=False, rsv=RSV1 * compressed)
    return [first, *[wire.frame(CONTINUATION, part, fin=False)] * 20]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("compressed", [False, True])
def test_message_without_end_takes_no_more_than_the_limit(opcode: int, compressed: bool) -> None:
    frames = endless(opcode, compressed)

    def most() -> int:
        deflate = Deflate(negotiated(Agreement(False, 9))) if compressed else None
        connection = Connection(LIMIT, deflate)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for frame in frames:
            assert connection.receive_data(frame) == []
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        assert connection.close_code == 1009
        return peak

    # The second time nothing is made that stays, by Python or what looks on.
    most()
    # A buffer that grows by eighths, a frame's bytes and payload, and zlib's stream.
    assert most() < LIMIT * 9 // 8 + LIMIT + 3 * len(frames[0]) + 2048 + 12_000 * compressed


class DeflatedStates(ConnectionStates):
    agreement = Agreement(False, 15)


class ForgetfulStates(ConnectionStates):
    agreement = Agreement(True, 9)


for machine in (ConnectionStates, DeflatedStates, ForgetfulStates):
    machine.TestCase.settings = settings(database=None, stateful_step_count=40)

TestConnectionStates = ConnectionStates.TestCase
TestDeflatedStates = DeflatedStates.TestCase
TestForgetfulStates = ForgetfulStates.TestCase
