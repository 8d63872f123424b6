"""Clients that come back when they are closed, as the examples do, and lose no message."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

# Seconds between the messages of one client.
PAUSE = 0.25


class Returning:
    """One client of an echo.

    :param url: the echo's; its query names the client.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._sent = 0
        #: Numbers that were sent and not answered, in order.
        self.unanswered: list[int] = []
        #: The close codes so far, and answers, in all and on this connection.
        self.codes: list[int] = []
        self.answers = 0
        self.connections = 0
        self.echoing = False
        self.fault = ""

    async def live(self) -> None:
        attempt = 0
        while True:
            with contextlib.suppress(OSError, InvalidHandshake, EOFError):
                async with connect(
                    f"{self._url}-{self.connections}",
                    proxy=None,
                    compression=None,
                    ping_interval=None,
                    open_timeout=10,
                ) as ws:
                    self.connections += 1
                    attempt = 0
                    await self._talk(ws)
            self.echoing = False
            # That of examples/chat/static/chat.js.
            await asyncio.sleep(min(30, 2**attempt) * (0.5 + random.random() / 2))
            attempt += 1

    async def _talk(self, ws: ClientConnection) -> None:
        speaking = asyncio.create_task(self._speak(ws))
        try:
            while True:
                answer = int(await ws.recv())
                if not self.unanswered or answer != self.unanswered.pop(0):
                    self.fault = f"got {answer} before {self.unanswered}"
                self.answers += 1
                self.echoing = True
        except ConnectionClosed:
            self.codes.append(ws.close_code or 1006)
        finally:
            speaking.cancel()

    async def _speak(self, ws: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            # What the last connection did not answer was not taken by its handler.
            for number in list(self.unanswered):
                await ws.send(str(number))
            while True:
                self.unanswered.append(self._sent)
                self._sent += 1
                await ws.send(str(self._sent - 1))
                await asyncio.sleep(PAUSE * (0.5 + random.random()))


class Crowd:
    """Many such clients, to be used in an event loop."""

    def __init__(self, url: str, count: int) -> None:
        self.members = [Returning(f"{url}?{i}") for i in range(count)]

    async def __aenter__(self) -> Crowd:
        self._tasks = [asyncio.create_task(member.live()) for member in self.members]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def closed(self, times: int, seconds: float = 20) -> Counter[int]:
        """Wait until each has been closed so many times; gives the codes of the last time."""
        await self._wait(lambda member: len(member.codes) >= times, seconds)
        return Counter(m.codes[times - 1] for m in self.members if len(m.codes) >= times)

    async def back(self, connections: int, seconds: float = 20) -> float:
        """Wait until all echo on so many a connection; gives the seconds that took."""
        start = time.monotonic()
        await self._wait(lambda m: m.connections >= connections and m.echoing, seconds)
        return time.monotonic() - start

    async def _wait(self, done, seconds: float) -> None:  # type: ignore[no-untyped-def]
        end = time.monotonic() + seconds
        while not all(map(done, self.members)) and time.monotonic() < end:
            await asyncio.sleep(0.02)

    def faults(self) -> list[str]:
        return [member.fault for member in self.members if member.fault]
