"""What RFC 6455 and RFC 7692 say of a client's bytes, read as one, plainly and slowly.

It shares no code with the package but one number: how often a compressed message may end its
stream, which is the package's own rule. A fault is found at the byte that the package promises
to find it at: in a header and in text at once, in a control frame when that is whole.

Other servers differ, each in ways that are named in ``DIFFERENCES``. Told to make those
differences, the referee has to end as that server does, exactly.
"""

from __future__ import annotations

import itertools
import operator
import zlib
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from flask_uwsgi_ws.compression import _MOST_ENDS

from .streams import Agreement

Message = str | bytes

# RFC 6455 section 7.4 and the IANA registry that its section 11.7 set up.
CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}

TAIL = b"\0\0\xff\xff"


class Difference(Enum):
    """What another server does, and what decides between it and the package."""

    ANY_LENGTH = (
        "takes a payload length in more bytes than it needs, or with its top bit set",
        "RFC 6455 section 5.2: the least number of bytes MUST be used, the top bit MUST be 0",
    )
    WAITS_FOR_FRAME = (
        "refuses a frame when it is whole",
        "RFC 6455 sections 5.2 to 5.5 and 8.1 name the faults; 7.1.7 leaves the moment open",
    )
    WAITS_FOR_HEADER = (
        "refuses a frame when its header and the first byte of its payload are here",
        "RFC 6455 sections 5.2 to 5.5 name the faults, 7.1.7 leaves the moment open",
    )
    HALF_SURROGATE = (
        "waits for the third byte of a surrogate, which no byte can make right",
        "RFC 6455 section 8.1 and RFC 3629 section 3; the moment is open",
    )
    EARLY_RSV1 = (
        "refuses RSV1 at the header, in control frames and continuations",
        "RFC 7692 section 6.1 names the fault; the moment is open",
    )
    CLOSE_IN_MESSAGE = (
        "fails a Close frame between the fragments of a message, with 1002",
        "RFC 6455 section 5.4: control frames MAY be injected in the middle of a message",
    )
    REASON_FIRST = (
        "says 1007 of a Close frame with a wrong code and a reason that is not UTF-8",
        "RFC 6455 sections 7.4 and 8.1 name both faults and no order",
    )
    NO_1014 = (
        "does not know the close code 1014",
        "RFC 6455 section 11.7: IANA's registry has it",
    )
    DEFLATE_1002 = (
        "says 1002 of what can not be inflated",
        "RFC 6455 section 7.4.1: 1007 is for data not consistent with its type; RFC 7692 has none",
    )
    INFLATES_FIRST = (
        "says 1007 of a message begun in another that can not be inflated either",
        "RFC 6455 sections 5.4 and 7.4.1 name both faults and no order",
    )
    TAIL_1011 = (
        "fails with 1011 where the four bytes that end a message become data, from 2044 bytes on",
        "RFC 7692 section 7.2.2: what they become is a part of the message",
    )
    STREAM_END = (
        "reads nothing after a block with BFINAL, in this message and all that follow",
        "RFC 7692 section 7.2.3.4: after such a block another may follow",
    )
    FLUSHES = (
        "fails compressed messages with 1007 after one that had a block with BFINAL",
        "RFC 7692 section 7.2.3.4: after such a block another may follow",
    )
    CONTROL_ENDS = (
        "takes the rest of a compressed message for uncompressed after a control frame",
        "RFC 7692 section 6.1 with RFC 6455 section 5.4: fragments and control frames may mix",
    )

    def __init__(self, does: str, decided: str) -> None:
        self.does = does
        self.decided = decided


DIFFERENCES = {
    "websockets": frozenset(
        (
            Difference.ANY_LENGTH,
            Difference.WAITS_FOR_FRAME,
            Difference.HALF_SURROGATE,
            Difference.CLOSE_IN_MESSAGE,
            Difference.REASON_FIRST,
            Difference.DEFLATE_1002,
            Difference.TAIL_1011,
            Difference.STREAM_END,
        )
    ),
    "wsproto": frozenset(
        (
            Difference.WAITS_FOR_HEADER,
            Difference.HALF_SURROGATE,
            Difference.EARLY_RSV1,
            Difference.NO_1014,
            Difference.INFLATES_FIRST,
            Difference.STREAM_END,
            Difference.FLUSHES,
            Difference.CONTROL_ENDS,
        )
    ),
}


class Outcome(NamedTuple):
    """What a server made of some bytes."""

    messages: list[Message]
    pings: list[bytes]
    pong: bytes | None
    #: Of the Close frame that it answers, or fails the connection with.
    code: int | None
    #: In the client's Close frame.
    reason: str | None


@dataclass
class Verdict:
    """What a server has to make of some bytes."""

    messages: list[Message] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    pong: bytes | None = None
    code: int | None = None
    reason: str | None = None
    #: The rule that was broken.
    fault: str = ""
    #: The code of another fault in the same frame, which some ways to cut it show first.
    other: int | None = None
    #: The differences that came into play.
    made: set[Difference] = field(default_factory=set)
    #: Where a distance leads out of the window that was agreed on (:rfc:`7692` section 7.1.2).
    #: zlib looks no further back than that only in what earlier calls have given, so that the
    #: reads say whether it is noticed.
    ends_at_window: list[Outcome] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.messages, self.pings, self.pong, self.code, self.reason)

    def allows(self, outcome: Outcome) -> bool:
        allowed = [self.outcome, *self.ends_at_window]
        if self.other is not None:
            allowed.append(self.outcome._replace(code=self.other))
        return any(
            outcome == each and [*map(type, outcome.messages)] == [*map(type, each.messages)]
            for each in allowed
        )


class Fault(Exception):
    def __init__(self, code: int, rule: str) -> None:
        super().__init__(rule)
        self.code = code
        self.rule = rule


def judge(
    stream: bytes,
    agreement: Agreement | None = None,
    limit: int = 0,
    differences: frozenset[Difference] = frozenset(),
    windows: bool = False,
) -> Verdict:
    """Say what a server has to make of *stream*.

    :param limit: the largest message.
    :param differences: what it is to do otherwise.
    :param windows: whether to follow distances that lead out of the window, and say where.
    """
    reading = _Reading(agreement, limit, differences, windows)
    verdict = reading.verdict
    try:
        reading.read(stream)
    except Fault as fault:
        verdict.code, verdict.fault = fault.code, fault.rule
    return verdict


class _Reading:
    def __init__(
        self,
        agreement: Agreement | None,
        limit: int,
        differences: frozenset[Difference],
        windows: bool,
    ) -> None:
        self.verdict = Verdict()
        self.agreement = agreement
        self.limit = limit
        self.differences = differences
        self.opcode = 0
        self.compressed = False
        self.message = b""
        self.windows = windows
        self.inflater = None if agreement is None else self.new_inflater()
        self.ends = 0
        #: Where control frames end compression: one has been there in this message.
        self.forgotten = False
        #: Where streams end for good: this one was flushed.
        self.flushed = False

    def new_inflater(self) -> zlib._Decompress:
        assert self.agreement is not None
        # Gives a byte at a time, and so knows of no more than the window. None: it has failed.
        self.strict = zlib.decompressobj(-self.agreement.bits) if self.windows else None
        return zlib.decompressobj(-15 if self.windows else -self.agreement.bits)

    def in_window(self, data: bytes) -> bool:
        try:
            while self.strict is not None:
                part = self.strict.decompress(data, 1)
                data = self.strict.unconsumed_tail
                if self.strict.eof or not (part or data):
                    return True
        except zlib.error:
            self.strict = None
        return False

    def makes(self, difference: Difference) -> bool:
        """To be asked last, where it matters."""
        if difference in self.differences:
            self.verdict.made.add(difference)
            return True
        return False

    def read(self, stream: bytes) -> None:
        """RFC 6455 section 5.2."""
        at = 0
        while at < len(stream):
            first = stream[at]
            opcode, rsv, fin = first & 15, first & 0x70, first >= 0x80
            size = width = 0
            extended = b""
            rules = []
            if opcode not in (0, 1, 2, 8, 9, 10):
                rules.append("reserved opcode")
            if opcode >= 8 and not fin:
                rules.append("control frame in fragments")
            if rsv & (0x30 if self.agreement else 0x70):
                rules.append("reserved bit")
            if at + 1 < len(stream):
                size = stream[at + 1] & 0x7F
                if stream[at + 1] < 0x80:
                    rules.append("no mask")
                if opcode >= 8 and size > 125:
                    rules.append("long control frame")
                width = {126: 2, 127: 8}.get(size, 0)
                extended = stream[at + 2 : at + 2 + width]
            if width:
                # The greatest that it can become.
                most = int.from_bytes(extended.ljust(width, b"\xff"), "big")
                here = len(extended) == width
                if opcode >= 8 and here and most <= 125 and self.makes(Difference.ANY_LENGTH):
                    rules.remove("long control frame")
                if most < (126 if width == 2 else 65536) or (width == 8 and most >= 2**63):
                    wrong = extended != b""
                    if wrong and opcode < 8 and not self.makes(Difference.ANY_LENGTH):
                        rules.append("length")
                size = int.from_bytes(extended, "big")
            start = at + 2 + width + 4
            header = start <= len(stream)
            mask = stream[start - 4 : start]
            payload = stream[start : start + size]
            whole = header and len(payload) == size
            if rules:
                self.refuse(rules, stream[at:start], width, whole)
                return
            here = len(stream) >= at + 2 + width
            if rsv and opcode not in (1, 2) and here and self.makes(Difference.EARLY_RSV1):
                raise Fault(1002, "RSV1")
            if not header:
                return
            if not whole and self.makes(Difference.WAITS_FOR_FRAME):
                return
            if size and not payload and self.makes(Difference.WAITS_FOR_HEADER):
                return
            payload = bytes(map(operator.xor, payload, itertools.cycle(mask)))
            if opcode < 8:
                self.data(opcode, rsv, fin and whole, size, payload)
            elif not whole or self.control(opcode, rsv, payload):
                return
            at = start + size

    def refuse(self, rules: list[str], header: bytes, width: int, whole: bool) -> None:
        """Fail the connection for what a header says, now or with more of the frame."""
        fault = Fault(1002, rules[0])
        here = len(header) - 2
        if Difference.WAITS_FOR_FRAME in self.differences:
            at_once = {"reserved opcode", "no mask"}.intersection(rules)
            if not (here >= 0 if at_once else whole):
                self.makes(Difference.WAITS_FOR_FRAME)
                return
        if Difference.WAITS_FOR_HEADER in self.differences:
            at_once = {"reserved opcode", "control frame in fragments", "long control frame"}
            if here < (0 if at_once.intersection(rules) else width):
                self.makes(Difference.WAITS_FOR_HEADER)
                return
        raise fault

    def control(self, opcode: int, rsv: int, payload: bytes) -> bool:
        """RFC 6455 section 5.5."""
        verdict = self.verdict
        if rsv:
            raise Fault(1002, "RSV1")
        if self.opcode and self.agreement and Difference.CONTROL_ENDS in self.differences:
            self.forgotten = True
            if self.compressed and self.makes(Difference.CONTROL_ENDS):
                self.compressed = False
        if opcode == 9:
            verdict.pings.append(payload)
        elif opcode == 10:
            verdict.pong = payload
        else:
            if len(payload) == 1:
                raise Fault(1002, "half a close code")
            code = int.from_bytes(payload[:2], "big") if payload else 1005
            known = not payload or (code in CODES)
            if code == 1014 and self.makes(Difference.NO_1014):
                known = False
            try:
                reason = payload[2:].decode()
            except UnicodeDecodeError:
                if known or self.makes(Difference.REASON_FIRST):
                    raise Fault(1007, "close reason") from None
            if not known:
                raise Fault(1002, "close code")
            if self.opcode and self.makes(Difference.CLOSE_IN_MESSAGE):
                raise Fault(1002, "Close in message")
            verdict.code, verdict.reason = code, reason
            return True
        return False

    def data(self, opcode: int, rsv: int, ends: bool, size: int, payload: bytes) -> None:
        """RFC 6455 section 5.4."""
        if opcode == 0:
            if not self.opcode:
                raise Fault(1002, "nothing to continue")
            if rsv:
                raise Fault(1002, "RSV1")
        else:
            if self.opcode:
                inflated = rsv if self.forgotten else self.compressed
                if inflated and self.makes(Difference.INFLATES_FIRST):
                    self.verdict.other = 1002
                    self.inflate(payload, ends)
                raise Fault(1002, "message in message")
            self.opcode, self.compressed, self.message = opcode, rsv != 0, b""
        self.forgotten = False
        if self.compressed:
            self.inflate(payload, ends)
        else:
            if self.limit and len(self.message) + size > self.limit:
                raise Fault(1009, "too large")
            self.message += payload
        if self.opcode == 1 and not is_text(self.message, ends):
            end = self.message[-2:]
            half = end[:1] == b"\xed" and b"\xa0" <= end[1:] <= b"\xbf"
            if (
                ends
                or not half
                or not is_text(self.message[:-2], True)
                or not self.makes(Difference.HALF_SURROGATE)
            ):
                raise Fault(1007, "not UTF-8")
        if ends:
            text = self.message.decode() if self.opcode == 1 else self.message
            self.verdict.messages.append(text)
            self.opcode = 0

    def inflate(self, data: bytes, ends: bool) -> None:
        """RFC 7692 section 7.2.2; where a stream ends another may begin, 7.2.3.4."""
        assert self.agreement is not None
        assert self.inflater is not None
        if ends and len(data) >= 2044 and not self.inflater.eof:
            after = self.inflater.copy()
            try:
                after.decompress(data)
                if after.decompress(TAIL, 1) and self.makes(Difference.TAIL_1011):
                    raise Fault(1011, "tail")
            except zlib.error:
                pass
        if self.flushed and self.makes(Difference.FLUSHES):
            raise Fault(1007, "flushed")
        data += TAIL if ends else b""
        while not self.inflater.eof:
            before = self.inflater.copy() if self.limit else None
            if self.windows and not self.in_window(data):
                seen = self.verdict
                code = 1002 if Difference.DEFLATE_1002 in self.differences else 1007
                seen.ends_at_window.append(
                    Outcome(seen.messages.copy(), seen.pings.copy(), seen.pong, code, None)
                )
            try:
                self.message += self.inflater.decompress(data)
            except zlib.error:
                if before is not None:
                    self.message += until_error(before, data)
                if not self.limit or len(self.message) <= self.limit:
                    if self.limit and self.limit == len(self.message):
                        # A byte that zlib makes in the call that fails is lost.
                        self.verdict.other = 1009
                    code = 1002 if self.makes(Difference.DEFLATE_1002) else 1007
                    raise Fault(code, "not deflated") from None
            if self.limit and len(self.message) > self.limit:
                if self.opcode == 1 and not is_text(self.message):
                    self.verdict.other = 1007
                raise Fault(1009, "too large when inflated")
            if not self.inflater.eof or self.makes(Difference.STREAM_END):
                break
            self.ends += 1
            if self.ends > _MOST_ENDS:
                raise Fault(1007, "too many ends")
            data = self.inflater.unused_data
            self.inflater = self.new_inflater()
            if not data:
                break
        if ends:
            self.ends = 0
            self.flushed = self.inflater.eof and not self.agreement.forgets
            if self.agreement.forgets:
                self.inflater = self.new_inflater()


def until_error(inflater: zlib._Decompress, data: bytes) -> bytes:
    """What can be inflated of *data*, in which there is a fault."""
    out = b""
    try:
        while part := inflater.decompress(data, 1):
            out += part
            data = inflater.unconsumed_tail
    except zlib.error:
        pass
    return out


def is_text(data: bytes, whole: bool = False) -> bool:
    """Whether *data* is UTF-8 (:rfc:`3629`), or, where it goes on, may become so."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if whole or error.start < len(data) - 3:
            return False
    else:
        return True
    # No character needs other bytes after its first than the least or the greatest.
    for byte in (b"\x80", b"\xbf"):
        for count in (1, 2, 3):
            try:
                (data + byte * count).decode()
            except UnicodeDecodeError:
                continue
            return True
    return False
