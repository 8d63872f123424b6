"""What a client sends, right at first, then damaged; all of it from one seed."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import wire

from flask_uwsgi_ws.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT

RSV1 = 0x40

# Those on both sides of where a length takes more bytes.
EDGES = (0, 1, 2, 124, 125, 126, 127, 128, 1000, 2043, 2044, 5000, 65535, 65536, 65537, 70_001)

GOOD_CODES = (*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999)
BAD_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)

# Whole characters, parts of some, and what no text may hold.
TEXTS = ("a", "é", "€", "\U0001f600", "\ud7ff", "\U0010ffff", '{"type": "tick", "n": 1}')
NOT_TEXTS = (
    b"\xff",
    b"\x80",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"\xf0\x9f\x98",
    b"\xf0",
)


class Agreement(NamedTuple):
    """What both sides have agreed on for the client's messages, :rfc:`7692` section 7.1."""

    #: ``client_no_context_takeover``.
    forgets: bool
    #: ``client_max_window_bits``.
    bits: int


class Session(NamedTuple):
    """The frames of a client that does right."""

    frames: list[bytes]
    agreement: Agreement | None
    messages: list[str | bytes]


def text(source: random.Random, size: int) -> str:
    return "".join(source.choices(TEXTS, k=size))


def session(source: random.Random, agreement: Agreement | None, most: int = 60) -> Session:
    """Make the frames of a few messages, with control frames around and inside of them."""
    frames: list[bytes] = []
    messages: list[str | bytes] = []
    compressor = None
    count = source.randint(1, most)
    while len(frames) < count:
        while source.random() < 0.3:
            frames.append(control(source))
        size = source.choice(EDGES[:8]) if source.random() < 0.2 else source.randint(0, 12)
        if source.random() < 0.004:
            size = source.choice(EDGES)
        message: str | bytes
        if source.random() < 0.5:
            message = text(source, min(size, 200))
            opcode, payload = TEXT, message.encode()
        else:
            message = payload = source.randbytes(size)
            opcode = BINARY
        messages.append(message)
        rsv = 0
        if agreement and source.random() < 0.8:
            rsv = RSV1
            if compressor is None or agreement.forgets:
                compressor = zlib.compressobj(source.choice((1, 6, 0)), wbits=-agreement.bits)
            # A stream may end with a message, and the next begins another.
            if source.random() < 0.03:
                payload = compressor.compress(payload) + compressor.flush() + b"\0"
                compressor = None
            else:
                payload = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
                payload = payload[:-4]
        ends = []
        if source.random() < 0.3:
            ends = sorted(source.randint(0, len(payload)) for _ in range(source.randint(1, 4)))
        for start, end in pairwise([0, *ends, len(payload)]):
            frames.append(
                frame(source, opcode, payload[start:end], fin=end == len(payload), rsv=rsv)
            )
            if end == len(payload):
                break
            while source.random() < 0.2:
                frames.append(control(source))
            opcode, rsv = CONTINUATION, 0
    if source.random() < 0.3:
        frames.append(closing(source))
    return Session(frames, agreement, messages)


def frame(source: random.Random, opcode: int, payload: bytes, **options: int) -> bytes:
    fin = bool(options.get("fin", True))
    mask = source.choice((bytes(4), source.randbytes(4)))
    return wire.frame(opcode, payload, fin=fin, rsv=options.get("rsv", 0), mask=mask)


def control(source: random.Random) -> bytes:
    size = source.choice((0, 1, 4, 4, 4, 124, 125))
    return frame(source, source.choice((PING, PING, PONG)), source.randbytes(size))


def closing(source: random.Random) -> bytes:
    if source.random() < 0.1:
        return frame(source, CLOSE, source.randbytes(source.choice((0, 0, 1, 3))))
    codes = GOOD_CODES if source.random() < 0.7 else BAD_CODES
    reason = text(source, source.randint(0, 5)).encode()
    if source.random() < 0.1:
        reason += source.choice(NOT_TEXTS)
    return frame(source, CLOSE, source.choice(codes).to_bytes(2, "big") + reason)


# Damage. To the frames of a session:


def flip_header(source: random.Random, frames: list[bytes]) -> None:
    place = source.randrange(len(frames))
    data = bytearray(frames[place])
    data[source.choice((0, 0, 1))] ^= 1 << source.randrange(8)
    frames[place] = bytes(data)


def change_opcode(source: random.Random, frames: list[bytes]) -> None:
    place = source.randrange(len(frames))
    data = bytearray(frames[place])
    data[0] = data[0] & 0xF0 | source.choice((0, 0, 1, 2, 8, 9, 10, source.randrange(16)))
    frames[place] = bytes(data)


def change_length(source: random.Random, frames: list[bytes]) -> None:
    """Say a length in more bytes than it takes, or another one."""
    place = source.randrange(len(frames))
    data = frames[place]
    short = data[1] & 0x7F
    if short < 126 and source.random() < 0.7:
        width = source.choice((2, 8))
        size = source.choice((short, short, 125, 126, 65535, 65536, 2**62, 2**63, 2**63 + short))
        size %= 1 << 8 * width
        data = (
            bytes((data[0], data[1] & 0x80 | (126 if width == 2 else 127)))
            + size.to_bytes(width, "big")
            + data[2:]
        )
    else:
        data = bytes((data[0], data[1] & 0x80 | source.randrange(128))) + data[2:]
    frames[place] = data


def drop(source: random.Random, frames: list[bytes]) -> None:
    if len(frames) > 1:
        del frames[source.randrange(len(frames))]


def repeat(source: random.Random, frames: list[bytes]) -> None:
    frames.insert(source.randrange(len(frames) + 1), source.choice(frames))


def swap(source: random.Random, frames: list[bytes]) -> None:
    one, other = source.randrange(len(frames)), source.randrange(len(frames))
    frames[one], frames[other] = frames[other], frames[one]


def insert(source: random.Random, frames: list[bytes]) -> None:
    opcode = source.choice((CONTINUATION, TEXT, BINARY, PING, CLOSE))
    payload = source.choice((b"", b"\x03\xe8", source.randbytes(5), *NOT_TEXTS))
    rsv = source.choice((0, 0, RSV1, 0x20))
    new = frame(source, opcode, payload, fin=source.random() < 0.6, rsv=rsv)
    frames.insert(source.randrange(len(frames) + 1), new)


# To the bytes that they make:


def flip_bit(source: random.Random, data: bytearray) -> None:
    data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def set_byte(source: random.Random, data: bytearray) -> None:
    data[source.randrange(len(data))] = source.choice((0, 0x7F, 0x80, 0xFF, source.randrange(256)))


def delete(source: random.Random, data: bytearray) -> None:
    place = source.randrange(len(data))
    del data[place : place + source.choice((1, 1, 2, 4, 16))]


def duplicate(source: random.Random, data: bytearray) -> None:
    place = source.randrange(len(data))
    part = data[place : place + source.choice((1, 1, 2, 4, 16))]
    data[place:place] = part


def truncate(source: random.Random, data: bytearray) -> None:
    del data[source.randrange(len(data)) :]


FrameDamage = Callable[[random.Random, list[bytes]], None]
ByteDamage = Callable[[random.Random, bytearray], None]

TO_FRAMES: tuple[FrameDamage, ...] = (
    flip_header,
    change_opcode,
    change_length,
    drop,
    repeat,
    swap,
    insert,
)
TO_BYTES: tuple[ByteDamage, ...] = (flip_bit, flip_bit, set_byte, delete, duplicate, truncate)


def damaged(source: random.Random, one: Session, other: Session) -> bytes:
    """Damage a session, sometimes with what another one has said."""
    dice = source.random()
    if dice < 0.03:
        return source.randbytes(source.randint(1, 60))
    frames = list(one.frames)
    if dice < 0.1:
        place = source.randrange(len(frames) + 1)
        frames[place:] = other.frames[source.randrange(len(other.frames)) :]
    for _ in range(source.choice((0, 1, 1, 2))):
        source.choice(TO_FRAMES)(source, frames)
    data = bytearray(b"".join(frames))
    for _ in range(source.choice((0, 1, 1, 2))):
        if data:
            source.choice(TO_BYTES)(source, data)
    return bytes(data)


def cut(source: random.Random, data: bytes) -> list[bytes]:
    """Cut bytes into reads: at every byte, anywhere, or nowhere."""
    dice = source.random()
    if dice < 0.1 and len(data) <= 2000:
        return [data[i : i + 1] for i in range(len(data))]
    if dice < 0.3:
        return [data]
    ends = sorted(source.randint(0, len(data)) for _ in range(source.randint(1, 8)))
    return [data[start:end] for start, end in pairwise([0, *ends, len(data)])]
