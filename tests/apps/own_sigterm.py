"""The app of the behavioural suite, with a signal handler of its own before that of the server."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from behaviour import app as app

before: Any = signal.getsignal(signal.SIGTERM)


def terminated(number: int, frame: FrameType | None) -> None:
    before(number, frame)


signal.signal(signal.SIGTERM, terminated)
