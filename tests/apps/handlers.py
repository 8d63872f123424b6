"""Handlers that are written once, as coroutines, and run on every backend."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import time
from collections.abc import Callable
from typing import Any

IS_ASYNCIO = os.environ.get("BACKEND") == "AsyncioWebSocket"


def as_handler(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Make a coroutine function a handler; where handlers block, by doing at once what it awaits.

    The client is its last argument but those of the URL.
    """
    if IS_ASYNCIO:
        return handler

    @functools.wraps(handler)
    def run(*arguments: Any, **variables: Any) -> None:
        *before, ws = arguments
        coroutine = handler(*before, Awaited(ws), **variables)
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise RuntimeError("waited for what it can not")

    # Not what it wraps, which the extension would take for a coroutine function.
    del run.__wrapped__
    return run


class Awaited:
    """A client with blocking calls, which can be awaited."""

    def __init__(self, ws: Any) -> None:
        self._ws = ws

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._ws, name)
        if not inspect.isroutine(attribute):
            return attribute

        async def call(*arguments: Any, **options: Any) -> Any:
            return attribute(*arguments, **options)

        return call


async def sleep(seconds: float) -> None:
    if IS_ASYNCIO:
        await asyncio.sleep(seconds)
    else:
        time.sleep(seconds)
