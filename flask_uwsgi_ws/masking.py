"""Masking of payloads, :rfc:`6455` section 5.3; ``masking.pyx`` takes this module's place where it
is compiled.
"""

from __future__ import annotations


def unmask(data: bytes, start: int, end: int, mask: int, offset: int) -> bytes:
    """Apply the masking key to a part of *data*.

    :param data: the bytes as they arrived.
    :param start: where the part begins.
    :param end: where it ends, exclusive.
    :param mask: the masking key, its first byte the least significant.
    :param offset: how many bytes of the frame's payload came before the part.
    :raises ValueError: if there is no such part.
    """
    size = end - start
    if start < 0 or size < 0 or end > len(data) or offset < 0:
        raise ValueError("that part is not in the data")
    # One exclusive-or of two large integers: the fastest way without C.
    shift = offset & 3
    key = mask.to_bytes(4, "little")
    whole = (key[shift:] + key[:shift]) * (size // 4 + 1)
    number = int.from_bytes(data[start:end], "little")
    number ^= int.from_bytes(whole[:size], "little")
    return number.to_bytes(size, "little")


class Payload:
    """The payload of a large frame, put together as it arrives.

    :param size: how many bytes it will have.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._parts = bytearray()

    def add(self, data: bytes, start: int, end: int, mask: int) -> None:
        """Unmask a part of *data* and put it behind the parts before; see :func:`unmask`.

        :raises ValueError: if there is no such part, or no room for it.
        """
        if end - start > self._size - len(self._parts):
            raise ValueError("the payload has no room for that")
        self._parts += unmask(data, start, end, mask, len(self._parts))

    def take(self) -> bytes:
        """Give the payload, once.

        :raises ValueError: if parts are missing.
        """
        if len(self._parts) < self._size:
            raise ValueError("the payload is not whole yet")
        whole = bytes(self._parts)
        self._parts = bytearray()
        return whole
