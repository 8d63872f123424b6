"""permessage-deflate, :rfc:`7692`: the option, and the two streams of a connection.

What is agreed on in the handshake is for the ``websockets`` package to say.
The streams are ``zlib``'s own, made when the first compressed message passes,
so that a connection without one costs nothing more. With the default
parameters they take 12 KiB to receive and 38 KiB to send.

A sender may end its stream with a message (section 7.2.3.4) and begin another
with the next; that is why inflating is done here and not by ``websockets``,
which loses all that comes after such an end.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Final

from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)

from .frames import ProtocolError, header

# What ends every message, and so is not sent: section 7.2.1.
_TAIL: Final = b"\x00\x00\xff\xff"

# Bytes inflated at a time.
_AT_ONCE: Final = 65536

# Streams that may end within one message. One is what senders do.
_MOST_ENDS: Final = 100

#: The parameters and their defaults: those of :rfc:`7692` section 7.1, and two of ``zlib``.
PARAMETERS: Final[Mapping[str, Any]] = {
    "server_no_context_takeover": False,
    "client_no_context_takeover": False,
    "server_max_window_bits": 12,
    "client_max_window_bits": 12,
    "level": zlib.Z_DEFAULT_COMPRESSION,
    "mem_level": 5,
}


def deflate_factory(compression: object) -> ServerPerMessageDeflateFactory | None:
    """Make what negotiates the extension.

    :param compression: ``True``, ``False``, or a mapping of some :data:`PARAMETERS`.
    :returns: ``None`` for ``False``.
    :raises ValueError: for what is not such a value.
    """
    if compression is False:
        return None
    given = {} if compression is True else compression
    if not isinstance(given, Mapping):
        raise ValueError("give it True, False, or a dict of parameters")
    for name in given:
        if name not in PARAMETERS:
            raise ValueError(f"there is no parameter {name!r}; there are {', '.join(PARAMETERS)}")
    values = {**PARAMETERS, **given}
    for name, least, most in (
        ("server_max_window_bits", 9, 15),
        ("client_max_window_bits", 8, 15),
        ("level", -1, 9),
        ("mem_level", 1, 9),
    ):
        value = values[name]
        if value is None and name.endswith("bits"):
            continue
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name} is a number from {least} to {most}, not {value!r}")
    for name in ("server_no_context_takeover", "client_no_context_takeover"):
        if type(values[name]) is not bool:
            raise ValueError(f"{name} is True or False, not {values[name]!r}")
    return ServerPerMessageDeflateFactory(
        values["server_no_context_takeover"],
        values["client_no_context_takeover"],
        values["server_max_window_bits"],
        values["client_max_window_bits"],
        {"level": values["level"], "memLevel": values["mem_level"]},
    )


class Deflate:
    """The compression of one connection.

    :param agreed: what the handshake has negotiated.
    """

    __slots__ = (
        "_deflater",
        "_deflater_bits",
        "_ends",
        "_inflater",
        "_inflater_bits",
        "_keeps_deflater",
        "_keeps_inflater",
        "_settings",
        "shared",
    )

    def __init__(self, agreed: PerMessageDeflate) -> None:
        # Not kept itself: it has made two streams of its own.
        self._keeps_inflater = not agreed.remote_no_context_takeover
        self._keeps_deflater = not agreed.local_no_context_takeover
        # A zlib that is told 8 compresses with 9 all the same.
        self._inflater_bits = max(agreed.remote_max_window_bits, 9)
        self._deflater_bits = agreed.local_max_window_bits
        self._settings = agreed.compress_settings or {}
        #: What a compressed message depends on besides itself; ``None`` with context takeover,
        #: where it depends on the messages before it.
        self.shared: tuple[Any, ...] | None = None
        if not self._keeps_deflater:
            self.shared = (self._deflater_bits, *sorted(self._settings.items()))
        self._inflater: Any = None
        self._deflater: Any = None
        self._ends = 0

    def inflate(self, data: bytes, last: bool, message: bytearray, max_size: int) -> None:
        """Inflate a piece of a message.

        :param data: the piece, as it came.
        :param last: whether the message ends with it.
        :param message: where to; left with more than *max_size* bytes if there are more.
        :param max_size: bytes of the largest message; 0 for no limit.
        :raises ProtocolError: with 1007, for what is not compressed data.
        """
        if last:
            data += _TAIL
        while True:
            if self._inflater is None:
                self._inflater = zlib.decompressobj(-self._inflater_bits)
            inflater = self._inflater
            # One more than there is room for: with none left zlib would not take the rest of
            # the input, even if that holds nothing more.
            room = min(_AT_ONCE, max_size - len(message) + 1) if max_size else _AT_ONCE
            try:
                part = inflater.decompress(data, room)
            except zlib.error:
                raise ProtocolError(1007, "compressed message can not be inflated") from None
            message += part
            if max_size and len(message) > max_size:
                return
            if inflater.eof:
                self._ends += 1
                if self._ends > _MOST_ENDS:
                    raise ProtocolError(1007, "compressed message ends its stream too often")
                data = inflater.unused_data
                self._inflater = None
                if not data:
                    break
            else:
                data = inflater.unconsumed_tail
                # A full part may not be all that zlib has made of the input.
                if not data and len(part) < room:
                    break
        if last:
            self._ends = 0
            if not self._keeps_inflater:
                self._inflater = None

    def deflate(self, frame: bytes) -> bytes:
        """Compress a message; without context takeover in several threads at once, if need be.

        :param frame: its one frame, uncompressed.
        :returns: its one frame, compressed: with RSV1 set.
        """
        size = frame[1]
        if size == 0:
            # Nothing becomes no smaller; uncompressed it is one byte shorter.
            return frame
        payload = memoryview(frame)[2 if size < 126 else 4 if size == 126 else 10 :]
        deflater = self._deflater
        if deflater is None:
            deflater = zlib.compressobj(wbits=-self._deflater_bits, **self._settings)
            if self._keeps_deflater:
                self._deflater = deflater
        pieces = [b"", deflater.compress(payload), deflater.flush(zlib.Z_SYNC_FLUSH)]
        pieces[-1] = pieces[-1][: -len(_TAIL)]
        pieces[0] = header(frame[0] & 0x0F, sum(map(len, pieces)), rsv=0x40)
        return b"".join(pieces)
