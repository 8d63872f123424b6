"""Redis Pub/Sub for the WebSockets of a worker, by one connection for all of them."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import os
import random
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import redis.asyncio as redis

from flask_uwsgi_ws import AsyncioWebSocketClient, ConnectionClosed

#: Before the name of each channel, so that pages reach no others of this Redis.
PREFIX = "pubsub:"
#: Seconds of silence after which Redis is asked whether it is there.
SILENCE = 10
#: Seconds between the attempts to reach it again, at most.
BACK_OFF_MOST = 30

log = logging.getLogger(__name__)


class Hub:
    """The WebSockets of this worker, and who of them listens to which channel.

    :param url: where Redis is.
    """

    def __init__(self, url: str) -> None:
        # Without the client's own retries: the pages are to know at once.
        self._redis = redis.Redis.from_url(url, retry=None)
        self._guests: set[AsyncioWebSocketClient] = set()
        self._listeners: dict[str, set[AsyncioWebSocketClient]] = {}
        self._task: asyncio.Task[None] | None = None
        # What is subscribed; None while there is no Redis. To change it takes the lock.
        self._pubsub: Any = None
        self._lock = asyncio.Lock()
        self._is_lost = False

    async def enter(self, ws: AsyncioWebSocketClient) -> None:
        self._guests.add(ws)
        if self._task is None:
            # In a context of its own, or it would end with the handler that is the first here.
            self._task = contextvars.Context().run(asyncio.create_task, self._run())
        await tell([ws], **self._state())

    async def leave(self, ws: AsyncioWebSocketClient) -> None:
        self._guests.discard(ws)
        for channel in [name for name, those in self._listeners.items() if ws in those]:
            await self.unsubscribe(ws, channel)

    async def subscribe(self, ws: AsyncioWebSocketClient, channel: str) -> None:
        self._listeners.setdefault(channel, set()).add(ws)
        await self._adjust(channel)

    async def unsubscribe(self, ws: AsyncioWebSocketClient, channel: str) -> None:
        self._listeners.get(channel, set()).discard(ws)
        await self._adjust(channel)

    async def publish(self, channel: str, text: str) -> None:
        """Tell all that listen to a channel, in any worker.

        :raises redis.RedisError: if Redis can not be reached.
        """
        await self._redis.publish(PREFIX + channel, text.encode(errors="replace"))

    async def check(self) -> None:
        """See whether Redis is there.

        :raises redis.RedisError: if not.
        """
        async with self._redis:
            await self._redis.ping()

    async def _adjust(self, channel: str) -> None:
        """Be subscribed to a channel if somebody here listens to it, and not otherwise."""
        async with self._lock:
            if not self._listeners.get(channel):
                self._listeners.pop(channel, None)
            if self._pubsub:
                # If that fails, in whatever way, the connection is lost, as _run will notice.
                with suppress(Exception):
                    if channel in self._listeners:
                        await self._pubsub.subscribe(PREFIX + channel)
                    else:
                        await self._pubsub.unsubscribe(PREFIX + channel)

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                await self._connect()
                attempt = 0
                await self._hand_on()
            except Exception as error:
                # Mostly a RedisError, but what writes and what reads may also find the
                # connection closed by the other, for which redis has no error of its own.
                await self._disconnect(error)
            # A random part, so that not all workers come back at the same moment.
            await asyncio.sleep(min(2**attempt, BACK_OFF_MOST) * random.uniform(0.5, 1))
            attempt += 1

    async def _connect(self) -> None:
        async with self._lock:
            self._pubsub = self._redis.pubsub()
            await self._pubsub.connect()
            if self._listeners:
                await self._pubsub.subscribe(*(PREFIX + channel for channel in self._listeners))
        if self._is_lost:
            self._is_lost = False
            log.warning("Redis is back")
            await tell(self._guests, **self._state())

    async def _disconnect(self, error: Exception) -> None:
        async with self._lock:
            await self._pubsub.aclose()
            self._pubsub = None
        if not self._is_lost:
            self._is_lost = True
            log.error("no Redis: %s; start redis-server, or set REDIS_URL", error)
            await tell(self._guests, **self._state())

    async def _hand_on(self) -> None:
        """Tell the listeners what Redis says, until it is lost."""
        is_asked = False
        while True:
            message = await self._pubsub.get_message(timeout=SILENCE)
            if message is None:
                if is_asked:
                    raise redis.TimeoutError(f"no answer within {SILENCE} seconds")
                await self._pubsub.ping()
            elif message["type"] == "message":
                channel = message["channel"].decode().removeprefix(PREFIX)
                text = message["data"].decode(errors="replace")
                listeners = self._listeners.get(channel, ())
                # As JavaScript counts the time, in milliseconds.
                now = time.time_ns() // 1_000_000
                await tell(listeners, type="message", channel=channel, text=text, time=now)
            is_asked = message is None

    def _state(self) -> dict[str, Any]:
        return {"type": "state", "worker": os.getpid(), "redis": not self._is_lost}


async def tell(those: Iterable[AsyncioWebSocketClient], **event: Any) -> None:
    """Send an event to many, waiting for none of them."""
    message = json.dumps(event)
    for ws in list(those):
        try:
            await ws.send_nb(message)
        except BlockingIOError:
            # It reads too slowly. Its page will connect again.
            ws.sync.close(1013, "too slow")
        except ConnectionClosed:
            pass
