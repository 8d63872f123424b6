"""Messages as they are in Redis: a line of JSON about each, and its payload."""

from __future__ import annotations

import json
from dataclasses import dataclass

from .base import Outgoing

# Above all numbers of messages, and such that counts of what is missing can be added up.
_MOST = 1 << 48


@dataclass
class Letter:
    """What is published, or to be."""

    channel: str
    message: Outgoing
    skip: str | None
    room: str = ""
    # The publisher's tag for the channel and the number there, once it has one.
    tag: str = ""
    number: int = 0
    # Whether it may have been published already.
    tried: bool = False
    # Whether the members in this worker have it already.
    delivered: bool = False


def encode(letter: Letter, sender: str) -> bytes:
    """Say a letter in bytes.

    :param sender: names the process that publishes it.
    """
    message = letter.message
    head = [
        "b" if message.binary else "t",
        sender,
        letter.tag,
        letter.number,
        letter.skip or "",
        message.placeholder.decode(),
    ]
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + message.payload


def decode(data: bytes) -> tuple[Letter, str] | None:
    """Read what :func:`encode` has said.

    :returns: the letter and its sender; ``None`` for anything else.
    """
    head, _, payload = data.partition(b"\n")
    try:
        kind, sender, tag, number, skip, placeholder = json.loads(head)
        message = Outgoing(kind == "b", payload, placeholder.encode())
        if kind == "t":
            payload.decode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    if kind not in ("b", "t") or type(number) is not int or not 0 <= number < _MOST:
        return None
    if not all(map(_is_text, (sender, tag, skip))):
        return None
    return Letter("", message, skip or None, tag=tag, number=number), sender


def _is_text(value: object) -> bool:
    return isinstance(value, str)
