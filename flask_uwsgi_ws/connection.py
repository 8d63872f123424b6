"""The state of one WebSocket connection, server side: frames to messages and back.

No socket, no clock, no lock: bytes from the peer go in through
:meth:`Connection.receive_data`, bytes for the peer come out as return values
(what the application sends) and through :meth:`Connection.take_replies` (what
the protocol answers by itself). A backend may read in one thread and send from
others, provided that reads do not overlap each other and sends do not either:
the two halves share nothing but the state of the closing handshake.

The closing handshake, :rfc:`6455` section 7:

    ========  ==========================  =============================
    state     what brings it about        what is still allowed
    ========  ==========================  =============================
    OPEN      the opening handshake       everything
    CLOSING   ``close()``, or a fault of  waiting for the peer's Close and
              the peer's (we failed the   answering Pings; messages are
              connection)                 thrown away, and after a fault
                                          all bytes are
    CLOSED    Close frames went both      nothing
              ways, or end of file
    ========  ==========================  =============================

Like ``frames.py`` this is plain Python, compiled with ``connection.pxd``.
"""

from __future__ import annotations

import codecs
from typing import Final

from .compression import Deflate
from .frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    LARGE,
    PING,
    PONG,
    TEXT,
    Frame,
    FrameParser,
    ProtocolError,
    header,
    serialize,
)
from .texts import text_frame

OPEN: Final = 1
CLOSING: Final = 2
CLOSED: Final = 3

_TEXT = TEXT
_BINARY = BINARY
_CONTINUATION = CONTINUATION
_LARGE = LARGE
# Bytes that are allocated because a header announces them.
_LARGEST = 2**24
_OPEN = OPEN
_CLOSED = CLOSED

# Where no message is arriving in fragments, which most connections never see.
_NOTHING = bytearray()

# RFC 6455 section 7.4.1 and the IANA registry that section 11.7 set up:
# codes that may stand in a Close frame.
_REGISTERED: Final = frozenset((*range(1000, 1004), *range(1007, 1015)))


def valid_close_code(code: int) -> bool:
    """Tell whether *code* may be sent in a Close frame, :rfc:`6455` section 7.4."""
    return code in _REGISTERED or 3000 <= code <= 4999


def close_payload(code: int, reason: str) -> bytes:
    """Make the payload of a Close frame, :rfc:`6455` section 5.5.1.

    :param code: a close code that may be sent.
    :param reason: at most 123 bytes of UTF-8.
    :raises ValueError: for a code or a reason that no Close frame can hold.
    :raises TypeError: for a reason that is not ``str``.
    """
    if not isinstance(code, int) or not valid_close_code(code):
        raise ValueError(
            f"{code!r} is not a close code that can be sent: "
            "use 1000 to 1003, 1007 to 1014, or 3000 to 4999"
        )
    if not isinstance(reason, str):
        raise TypeError(f"the close reason is a str, not {type(reason).__name__}")
    try:
        encoded = str.encode(reason)
    except UnicodeEncodeError as error:
        raise ValueError(f"the close reason can not be UTF-8: {error.reason}") from None
    if len(encoded) > 123:
        raise ValueError(
            f"the close reason is {len(encoded)} bytes of UTF-8: a Close frame holds 123 at most"
        )
    return code.to_bytes(2, "big") + encoded


class Connection:
    """One connection after its opening handshake.

    :param max_size: largest message taken from the peer, in bytes of payload
        over all its fragments; 0 for no limit. A larger one fails the
        connection with 1009 as soon as a header announces it; a compressed
        one, as soon as so much has been inflated.
    :param deflate: what compresses messages, where that was agreed on
        (:rfc:`7692`).
    """

    def __init__(self, max_size: int = 2**20, deflate: Deflate | None = None) -> None:
        #: ``OPEN``, ``CLOSING`` or ``CLOSED``.
        self.state = OPEN
        #: The code that ended the connection: of the first Close frame, sent
        #: or received, or 1006 if it was lost without one (:rfc:`6455`
        #: section 7.1.5). ``None`` while open.
        self.close_code: int | None = None
        #: The reason in that frame (:rfc:`6455` section 7.1.6).
        self.close_reason = ""
        #: Payload of the last Pong received; ``None`` before the first.
        self.last_pong: bytes | None = None
        #: Messages each way.
        self.messages_received = 0
        self.messages_sent = 0
        #: Whether :meth:`take_replies` has something to give.
        self.has_replies = False
        #: Whether the peer broke the protocol right after messages: it hears of that from
        #: :meth:`close`, so that these can be answered first.
        self.faulty = False
        #: Whether messages that are sent have to pass :meth:`compress`.
        self.compresses = deflate is not None
        #: What a compressed message depends on besides itself; ``None`` if on those before it.
        self.shared_compression = None if deflate is None else deflate.shared
        self._deflate = deflate
        self._parser = FrameParser(0 if deflate is None else 0x40)
        self._max_size = max_size
        # Made when there is one. Joined at the end: a read may hold thousands of Pings.
        self._replies: list[bytes] | None = None
        self._failed = False
        self._fault: ProtocolError | None = None
        # The message whose fragments are arriving: 0 for none.
        self._opcode = 0
        self._compressed = False
        # Whether the parser collects it.
        self._collecting = False
        self._message = _NOTHING
        self._checked = 0

    # What the peer sends.

    def receive_data(self, data: bytes) -> list[str | bytes]:
        """Take bytes from the peer.

        A fault in them fails the connection (:rfc:`6455` section 7.1.7): the
        Close frame is among the replies and the state says so. After messages
        that are still to be taken, :attr:`faulty` says so instead.

        :param data: bytes as they were read.
        :returns: the messages that these bytes complete, ``str`` for text and
            ``bytes`` for binary.
        """
        messages: list[str | bytes] = []
        self.receive_into(data, messages)
        return messages

    def receive_into(self, data: bytes, messages: list[str | bytes]) -> None:
        """Do as :meth:`receive_data`, and add the messages to those that are there.

        :param data: bytes as they were read.
        :param messages: where to.
        """
        if self.state == _CLOSED or self._failed:
            return
        parser = self._parser
        try:
            parser.feed(data)
            while True:
                frame = parser.next_frame()
                if frame is None:
                    break
                if frame.opcode & 0x08:
                    self._control(frame)
                    if self.state == _CLOSED:
                        break
                elif self._is_whole(frame):
                    if self._max_size and frame.length > self._max_size:
                        raise self._too_big()
                    if self.state == _OPEN:
                        self.messages_received += 1
                        if frame.opcode == _TEXT:
                            messages.append(frame.payload.decode())
                        else:
                            messages.append(frame.payload)
                else:
                    self._part(frame, messages)
        except ProtocolError as error:
            self._fail(error, messages)
        except UnicodeDecodeError as error:
            self._fail(ProtocolError(1007, f"text is not UTF-8: {error.reason}"), messages)

    def receive_eof(self) -> None:
        """Take note that the peer, or the network, ended the connection."""
        if self.state == OPEN:
            self.close_code = 1006
        self.state = CLOSED
        self.faulty = False

    def _is_whole(self, frame: Frame) -> bool:
        """The common case: a message in one frame in one read."""
        return (
            frame.first
            and frame.last
            and frame.fin
            and frame.opcode != _CONTINUATION
            and not self._opcode
            and not frame.rsv
        )

    def _part(self, frame: Frame, messages: list[str | bytes]) -> None:
        if frame.first:
            if frame.opcode == _CONTINUATION:
                if not self._opcode:
                    raise ProtocolError(1002, "continuation frame without a message to continue")
                if frame.rsv:
                    raise ProtocolError(1002, "RSV1 is set in a continuation frame")
            elif self._opcode:
                raise ProtocolError(1002, "new message before the end of the previous one")
            else:
                self._opcode = frame.opcode
                self._compressed = frame.rsv != 0
                self._message = bytearray()
                self._checked = 0
            if (
                self._max_size
                and not self._compressed
                and frame.length > self._max_size - len(self._message)
            ):
                raise self._too_big()
            if self._can_be_collected(frame):
                self._parser.collect()
                self._collecting = True
                return
        ended = frame.fin and frame.last
        if self._collecting:
            self._collecting = False
            if self.state == _OPEN:
                self.messages_received += 1
                messages.append(frame.payload)
        elif self.state == _OPEN:
            if self._deflate is not None and self._compressed:
                self._deflate.inflate(frame.payload, ended, self._message, self._max_size)
                if self._max_size and len(self._message) > self._max_size:
                    raise self._too_big()
            else:
                self._message += frame.payload
            if self._opcode == _TEXT:
                self._check_text(ended)
            if ended:
                message = self._message
                self.messages_received += 1
                messages.append(message.decode() if self._opcode == _TEXT else bytes(message))
        if ended:
            self._opcode = 0
            self._message = _NOTHING

    def _can_be_collected(self, frame: Frame) -> bool:
        """Whether a large message can be put together where it stays, without copying it."""
        return (
            _LARGE <= frame.length <= _LARGEST
            and not frame.last
            and frame.opcode == _BINARY
            and frame.fin
            and not self._compressed
            and self.state == _OPEN
        )

    def _check_text(self, ended: bool) -> None:
        """Look at the text since its last whole character, section 8.1."""
        with memoryview(self._message) as view:
            self._checked += codecs.utf_8_decode(view[self._checked :], "strict", ended)[1]
        # The decoder keeps half a surrogate back; no third byte makes it right (RFC 3629
        # section 3).
        rest = self._message[self._checked :]
        if len(rest) > 1 and rest[0] == 0xED and rest[1] >= 0xA0:
            raise ProtocolError(1007, "text is not UTF-8: surrogate")

    def _control(self, frame: Frame) -> None:
        if frame.rsv:
            # RFC 7692 section 6.1.
            in_close = frame.opcode == CLOSE
            raise ProtocolError(1002, "RSV1 is set in a control frame", in_close)
        if frame.opcode == PING:
            # After our own Close frame too: only messages end with it (section 5.5.2).
            if self.state != CLOSED:
                self._reply(serialize(PONG, frame.payload))
        elif frame.opcode == PONG:
            self.last_pong = frame.payload
        else:
            self._close_frame(frame.payload)

    def _close_frame(self, payload: bytes) -> None:
        code, reason = 1005, ""
        if len(payload) == 1:
            raise ProtocolError(1002, "Close frame with half a close code", True)
        if payload:
            code = int.from_bytes(payload[:2], "big")
            if not valid_close_code(code):
                fault = f"close code {code} is not allowed in a Close frame"
                raise ProtocolError(1002, fault, True)
            try:
                reason = payload[2:].decode()
            except UnicodeDecodeError as error:
                fault = f"close reason is not UTF-8: {error.reason}"
                raise ProtocolError(1007, fault, True) from None
        if self.state == OPEN:
            self.close_code = code
            self.close_reason = reason
            # Section 5.5.1: the answer echoes the code.
            self._reply(serialize(CLOSE, payload[:2]))
        self.state = CLOSED

    def _too_big(self) -> ProtocolError:
        return ProtocolError(1009, f"message is larger than {self._max_size} bytes")

    def _fail(self, fault: ProtocolError, messages: list[str | bytes]) -> None:
        self._failed = True
        self._message = _NOTHING
        if self.state != OPEN:
            # Our Close frame has gone out; there is nothing more to say.
            self.state = CLOSED
            return
        self._fault = fault
        self.faulty = True
        if not messages:
            self._reply(self.close())

    def _reply(self, frame: bytes) -> None:
        if self._replies is None:
            self._replies = []
        self._replies.append(frame)
        self.has_replies = True

    # What is sent to the peer.

    def take_replies(self) -> bytes:
        """Give what the protocol has to answer: Pongs, and a Close frame at the end."""
        self.has_replies = False
        replies, self._replies = self._replies, None
        return b"".join(replies or ())

    def send_text(self, message: str) -> bytes:
        """Frame a text message. The state must be ``OPEN``.

        :raises UnicodeEncodeError: for a lone surrogate, which UTF-8 can not say.
        """
        frame = text_frame(message)
        self.messages_sent += 1
        return frame

    def send_utf8(self, message: bytes) -> bytes:
        """Frame a text message that is UTF-8 already. The state must be ``OPEN``.

        :raises UnicodeDecodeError: if it is not.
        """
        message.decode()
        self.messages_sent += 1
        return serialize(_TEXT, message)

    def send_binary(self, message: bytes) -> bytes:
        """Frame a binary message. The state must be ``OPEN``."""
        self.messages_sent += 1
        return serialize(_BINARY, message)

    def send_buffer(self, message: bytearray | memoryview) -> bytes:
        """Do as :meth:`send_binary`, and copy what may change only once."""
        self.messages_sent += 1
        view = memoryview(message)
        if not view.c_contiguous:
            view = memoryview(view.tobytes())
        return b"".join((header(_BINARY, view.nbytes), view))

    def compress(self, frame: bytes) -> bytes:
        """Compress what is about to be sent, :rfc:`7692` section 7.2.1.

        To be called for each message in the order in which they go out: what
        it makes refers to what went before.

        :param frame: of a message; control frames are given back as they are.
        """
        if self._deflate is None or frame[0] & 0x08:
            return frame
        return self._deflate.deflate(frame)

    def ping(self, payload: bytes = b"") -> bytes:
        """Frame a Ping, :rfc:`6455` section 5.5.2.

        :param payload: at most 125 bytes, which the peer's Pong repeats.
        :raises ValueError: if it is longer.
        """
        return serialize(PING, payload)

    def close(self, code: int = 1000, reason: str = "") -> bytes:
        """Begin the closing handshake, :rfc:`6455` section 7.1.2.

        :param code: why, section 7.4.
        :param reason: the same for people, at most 123 bytes of UTF-8.
        :returns: the Close frame; nothing if the connection is ending already. Where
            the peer broke the protocol it says that.
        :raises ValueError: for a code or a reason that no Close frame can hold.
        """
        payload = close_payload(code, reason)
        if self.state != OPEN:
            return b""
        fault = self._fault
        if fault is not None:
            self.faulty = False
            payload = close_payload(fault.code, fault.reason)
        # A broken Close frame is the peer's last as well, and not to be waited for.
        self.state = CLOSED if fault is not None and fault.in_close else CLOSING
        self.close_code = int.from_bytes(payload[:2], "big")
        self.close_reason = payload[2:].decode()
        return serialize(CLOSE, payload)
