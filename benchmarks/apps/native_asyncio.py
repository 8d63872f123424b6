"""Echo on uWSGI's own WebSocket functions, in its asyncio engine."""

from __future__ import annotations

import asyncio

import uwsgi
from native import app

try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop


def set_loop() -> None:
    asyncio.set_event_loop(new_event_loop())


# uWSGI's engine asks asyncio for the current loop, and none is made for it since Python 3.12.
uwsgi.post_fork_hook = set_loop

__all__ = ["app"]
