"""Client frames as bytes, right or wrong, made without the package under test."""

from __future__ import annotations

MASK = b"\x37\xfa\x21\x3d"

_TABLES = [bytes(byte ^ key for byte in range(256)) for key in range(256)]


def header(
    opcode: int,
    size: int,
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    width: int | None = None,
) -> bytes:
    """Make the header of a frame, :rfc:`6455` section 5.2.

    :param mask: the masking key; ``None`` leaves the frame unmasked.
    :param width: bytes of extended payload length: 0, 2 or 8; ``None`` for the
        least that will do.
    """
    if width is None:
        width = 0 if size < 126 else 2 if size < 65536 else 8
    short = {0: size, 2: 126, 8: 127}[width]
    first = opcode | rsv | (0x80 if fin else 0)
    second = short | (0 if mask is None else 0x80)
    extended = size.to_bytes(width, "big") if width else b""
    return bytes((first, second)) + extended + (mask or b"")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    width: int | None = None,
) -> bytes:
    """Make a whole frame; the parameters are those of :func:`header`."""
    head = header(opcode, len(payload), fin=fin, rsv=rsv, mask=mask, width=width)
    body = bytearray(payload)
    for i, key in enumerate(mask or b""):
        body[i::4] = body[i::4].translate(_TABLES[key])
    return head + body
