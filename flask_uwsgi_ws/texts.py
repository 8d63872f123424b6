"""Frames of text; ``texts.pyx`` takes this module's place where it is compiled."""

from __future__ import annotations

from .frames import TEXT, serialize


def text_frame(message: str) -> bytes:
    """Make the frame of a text message, as :func:`.frames.serialize` of its UTF-8.

    :raises UnicodeEncodeError: for a lone surrogate, which UTF-8 can not say.
    """
    return serialize(TEXT, str.encode(message))
