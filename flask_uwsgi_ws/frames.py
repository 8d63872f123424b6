"""RFC 6455 section 5: bytes to frames, and frames to bytes.

No socket, no clock, no lock. Goals, in this order:

* strict: what section 5 forbids raises :exc:`ProtocolError` as soon as the
  byte that breaks the rule is here;
* linear: a byte that has arrived is looked at once, however small the reads
  are, so a partial data frame is handed on in chunks rather than kept and
  parsed again;
* fast: this file is plain Python that Cython compiles with the C types of
  ``frames.pxd``. Nothing here imports Cython's names, so the same lines run
  uncompiled, and :data:`COMPILED` says which of the two is loaded.
"""

from __future__ import annotations

from typing import Any, Final

from .masking import Payload, unmask

#: Whether this module was compiled by Cython (and so the fast one).
COMPILED: Final = not __file__.endswith((".py", ".pyc"))

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

#: Bytes of payload from which on a frame that is not all here begins with a piece of no bytes,
#: and can be collected.
LARGE: Final = 65536
_LARGE = LARGE

# One bit for each opcode that section 5.2 defines.
_OPCODES = 0b0000_0111_0000_0111


class ProtocolError(Exception):
    """The peer broke the protocol; the connection is to be failed with *code*.

    :param code: the close code to send, :rfc:`6455` section 7.4.1.
    :param reason: what was wrong, at most 123 bytes.
    :param in_close: whether it was a Close frame, after which the peer says nothing more.
    """

    def __init__(self, code: int, reason: str, in_close: bool = False) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason
        self.in_close = in_close


class Frame:
    """A control frame, or a data frame, or the next piece of one.

    A data frame that arrives in several reads is handed on in several pieces.
    """

    #: :rfc:`6455` section 5.2.
    opcode: int
    #: The last frame of its message.
    fin: bool
    #: The reserved bits, as they stand in the first byte (0x70).
    rsv: int
    #: Bytes of payload of the whole frame, as its header says.
    length: int
    #: The unmasked payload of this piece.
    payload: bytes
    #: The piece with which the frame begins.
    first: bool
    #: The piece with which the frame ends.
    last: bool

    def __repr__(self) -> str:
        end = " fin" if self.fin else ""
        part = "" if self.first and self.last else " (piece)"
        size = f"{len(self.payload)}/{self.length}"
        return f"<Frame opcode {self.opcode}{end} {size} bytes{part}>"


class FrameParser:
    """Turns the bytes that a client sends into frames.

    :param rsv: reserved bits that an extension has given a meaning (0x70).
    """

    def __init__(self, rsv: int = 0) -> None:
        self._reserved = 0x70 & ~rsv
        self._data = b""
        self._pos = 0
        self._remaining = 0
        self._received = 0
        self._first_byte = 0
        self._length = 0
        self._mask = 0
        # The frame's, when it is to be handed on whole.
        self._payload: Payload | None = None

    def collect(self) -> None:
        """Hand on whole the large frame whose first piece, without payload, was given just now.

        :raises ValueError: if it was no such piece.
        """
        if self._received or self._remaining < _LARGE:
            raise ValueError("this frame is not at the beginning of a large payload")
        self._payload = Payload(self._remaining)

    def feed(self, data: bytes) -> None:
        """Take bytes in; :meth:`next_frame` gives the frames that they make.

        :param data: new bytes.
        """
        # What is left over is less than a header or a control frame, so this
        # copies the new bytes once and the old ones not at all.
        if self._pos < len(self._data):
            data = self._data[self._pos :] + data
        self._data = data
        self._pos = 0

    def next_frame(self) -> Frame | None:
        """Give the next frame or piece of one.

        :returns: ``None`` when more bytes are needed.
        :raises ProtocolError: with 1002, for what :rfc:`6455` section 5 forbids.
        """
        pos = self._pos
        size = len(self._data)
        if self._remaining:
            if pos == size:
                return None
            if self._payload is not None:
                return self._collected(pos, size)
            return self._piece(pos, size, False)
        available = size - pos
        if available == 0:
            return None
        data: Any = self._data
        first_byte = data[pos]
        if first_byte & self._reserved or not _OPCODES >> (first_byte & 0x0F) & 1:
            raise ProtocolError(1002, _wrong_first_byte(first_byte, self._reserved))
        if first_byte & 0x88 == 0x08:
            in_close = first_byte & 0x0F == CLOSE
            raise ProtocolError(1002, "control frame is fragmented", in_close)
        if available == 1:
            return None
        if not data[pos + 1] & 0x80:
            raise ProtocolError(1002, "client frame is not masked")
        length = data[pos + 1] & 0x7F
        header = 6
        if first_byte & 0x08:
            if length > 125:
                in_close = first_byte & 0x0F == CLOSE
                raise ProtocolError(1002, "control frame is longer than 125 bytes", in_close)
            # These are handed on whole.
            if available < 6 + length:
                return None
        elif length >= 126:
            # Each byte of the length may be the one that breaks a rule, so it is read as far
            # as it is here.
            header = 8 if length == 126 else 14
            count = min(available, header - 4) - 2
            if header == 14 and count > 0 and data[pos + 2] & 0x80:
                raise ProtocolError(1002, "payload length has its top bit set")
            length = 0
            for i in range(pos + 2, pos + 2 + count):
                length = length << 8 | data[i]
            minimum = 126 if header == 8 else 65536
            if count > 0 and length < minimum >> 8 * (header - 6 - count):
                raise ProtocolError(1002, "payload length is not minimal")
        if available < header:
            return None
        self._mask = (
            data[pos + header - 4]
            | data[pos + header - 3] << 8
            | data[pos + header - 2] << 16
            | data[pos + header - 1] << 24
        )
        self._first_byte = first_byte
        self._length = length
        self._remaining = length
        self._received = 0
        pos += header
        if length >= _LARGE and size - pos < length:
            # The header alone, for whoever wants to collect the rest.
            size = pos
        return self._piece(pos, size, True)

    def _piece(self, pos: int, size: int, first: bool) -> Frame:
        count = min(size - pos, self._remaining)
        payload = unmask(self._data, pos, pos + count, self._mask, self._received)
        return self._frame(pos + count, count, payload, first)

    def _collected(self, pos: int, size: int) -> Frame | None:
        payload = self._payload
        if payload is None:
            return None
        count = min(size - pos, self._remaining)
        payload.add(self._data, pos, pos + count, self._mask)
        if count < self._remaining:
            self._taken(pos + count, count)
            return None
        self._payload = None
        return self._frame(pos + count, count, payload.take(), False)

    def _taken(self, end: int, count: int) -> None:
        self._received += count
        self._remaining -= count
        self._pos = end
        if end == len(self._data):
            self._data = b""
            self._pos = 0

    def _frame(self, end: int, count: int, payload: bytes, first: bool) -> Frame:
        # Without a call of the class: an argument tuple would cost more than
        # all the rest.
        frame = Frame.__new__(Frame)
        frame.opcode = self._first_byte & 0x0F
        frame.fin = self._first_byte & 0x80 != 0
        frame.rsv = self._first_byte & 0x70
        frame.length = self._length
        frame.payload = payload
        self._taken(end, count)
        frame.first = first
        frame.last = self._remaining == 0
        return frame


def _wrong_first_byte(first_byte: int, reserved: int) -> str:
    if first_byte & reserved:
        return "reserved bit is set"
    return f"opcode {first_byte & 0x0F} is reserved"


def serialize(opcode: int, payload: bytes, fin: bool = True, rsv: int = 0) -> bytes:
    """Make a server's frame, which is never masked (:rfc:`6455` section 5.1).

    :param opcode: one of this module's.
    :param payload: at most 125 bytes in a control frame.
    :param fin: the last frame of its message.
    :param rsv: reserved bits to set (0x70).
    :raises ValueError: for a control frame that section 5.5 does not allow.
    """
    size = len(payload)
    first_byte = opcode | rsv | (0x80 if fin else 0)
    if size < 126:
        if opcode & 0x08 and not fin:
            raise ValueError("a control frame can not be fragmented")
        if first_byte == 0x81:
            return _SHORT_TEXT[size] + payload
        return header(opcode, size, fin, rsv) + payload
    if opcode & 0x08:
        raise ValueError("a control frame holds at most 125 bytes")
    return header(opcode, size, fin, rsv) + payload


def header(opcode: int, size: int, fin: bool = True, rsv: int = 0) -> bytes:
    """Make the header of a server's frame.

    :param opcode: one of this module's.
    :param size: bytes of payload.
    :param fin: the last frame of its message.
    :param rsv: reserved bits to set (0x70).
    """
    first_byte = opcode | rsv | (0x80 if fin else 0)
    if size < 126:
        return bytes((first_byte, size))
    if size < 65536:
        return bytes((first_byte, 126)) + size.to_bytes(2, "big")
    return bytes((first_byte, 127)) + size.to_bytes(8, "big")


# Made once: most frames are short messages of text.
_SHORT_TEXT = [header(TEXT, size) for size in range(126)]
