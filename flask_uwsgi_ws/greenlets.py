"""Switching to greenlets; ``greenlets.pyx`` takes this module's place where it is compiled."""

from __future__ import annotations

from typing import Any

from greenlet import getcurrent as current


def switch(waiting: Any) -> None:
    """Let another greenlet go on, and come back when somebody switches to this one."""
    waiting.switch()


__all__ = ["current", "switch"]
