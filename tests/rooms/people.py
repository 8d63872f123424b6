"""Who takes part in the big run: members that listen and come back, and those who speak."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from wire import frame

#: Of a message: it was sent; it was not; or that is not known.
OK, FAILED, MAYBE = "ok", "failed", "maybe"


class Line(asyncio.Protocol):
    """A connection to the app: texts each way.

    :param heard: called with each text.
    """

    def __init__(self, port: int, heard: Callable[[str], None]) -> None:
        self._port, self._heard = port, heard
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._data = bytearray()
        self._has_head = False

    @classmethod
    async def open(cls, port: int, heard: Callable[[str], None]) -> Line:
        """Connect; raises OSError if that does not work."""
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(lambda: cls(port, heard), "127.0.0.1", port)
        try:
            await asyncio.wait_for(line.opened, 20)
        except BaseException:
            line.reset()
            raise
        return line

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, port: int, heard: Callable[[str], None]) -> AsyncIterator[Line]:
        """The same, to be reset after its use."""
        line = await cls.open(port, heard)
        try:
            yield line
        finally:
            line.reset()

    def say(self, text: str) -> None:
        self.transport.write(frame(1, text.encode()))

    def close(self) -> None:
        self.transport.write(frame(8, b"\x03\xe8"))

    def reset(self) -> None:
        self.transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /crowd HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(f"ended in the handshake: {error}"))
            # Read here: nobody may be waiting for it any more.
            self.opened.exception()
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._has_head:
            head, separator, rest = self._data.partition(b"\r\n\r\n")
            if not separator:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.transport.abort()
                return
            self._has_head, self._data = True, rest
            if not self.opened.done():
                self.opened.set_result(None)
        at = 0
        while len(self._data) - at >= 2:
            # Whatever comes is short.
            first, size = self._data[at], self._data[at + 1]
            if len(self._data) - at < 2 + size:
                break
            payload = bytes(self._data[at + 2 : at + 2 + size])
            at += 2 + size
            if first == 0x81:
                self._heard(payload.decode())
            elif first == 0x89:
                self.transport.write(frame(10, payload))
            elif first == 0x88:
                self.transport.write(frame(8, payload[:2]))
                self.transport.close()
        del self._data[:at]


class Member:
    """Listens to a room, and comes back when its connection ends.

    :param history: whether it asks for what it has missed then.
    """

    def __init__(self, port: int, room: str, history: bool) -> None:
        self.room = room
        self._port, self._history = port, history
        #: By sender, the numbers that came, in their order.
        self.heard: defaultdict[str, list[int]] = defaultdict(list)
        self.faults: list[str] = []
        #: Times that it has come, when it last heard anything, and the worker it is at.
        self.times = 0
        self.heard_at = 0.0
        self.pid = 0
        self._last_id = ""
        self._place = (0, 0)
        self._joined = asyncio.Event()

    async def live(self) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                async with Line.to(self._port, self._hear) as line:
                    await self._listen(line)
            await asyncio.sleep(0.05 + random.random() / 2)

    async def _listen(self, line: Line) -> None:
        self._joined.clear()
        since = f" {self._last_id or '0-0'}" if self.times and self._history else ""
        line.say(f"join {self.room}{since}")
        joined = asyncio.ensure_future(self._joined.wait())
        await asyncio.wait([joined, line.ended], return_when=asyncio.FIRST_COMPLETED)
        joined.cancel()
        if self._joined.is_set():
            self.times += 1
        await line.ended

    def _hear(self, text: str) -> None:
        if text.startswith("! joined"):
            _, _, _, complete, pid = text.split()
            if complete != "True" and self._last_id:
                self.faults.append(f"the history does not go back to {self._last_id}")
            self.pid = int(pid)
            self._joined.set()
            return
        self.heard_at = time.monotonic()
        id, room, sender, number = text.split()
        if room != self.room:
            self.faults.append(f"got {text!r} in {self.room}")
        self.heard[sender].append(int(number))
        if id != "-":
            head, _, tail = id.partition("-")
            place = int(head), int(tail)
            if place <= self._place:
                self.faults.append(f"got {id} after {self._last_id}")
            self._last_id, self._place = id, place


class Speaker:
    """Sends to one room after the other.

    :param seconds: between two messages.
    """

    def __init__(self, name: str, rooms: list[str], seconds: float) -> None:
        self.name = name
        #: By room and number: what became of the message, and the process that sent it.
        self.outcomes: dict[tuple[str, int], tuple[str, int]] = {}
        self._rooms = itertools.cycle(rooms)
        self._numbers: defaultdict[str, int] = defaultdict(int)
        self._seconds = seconds
        self.paused = False
        #: Messages of which it may still be told what became of them.
        self.waiting: set[tuple[str, int]] = set()

    def next(self) -> tuple[str, int]:
        """Choose a room and a number; until more is known, that message may have been sent."""
        room = next(self._rooms)
        self._numbers[room] += 1
        self.outcomes[room, self._numbers[room]] = MAYBE, 0
        self.waiting.add((room, self._numbers[room]))
        return room, self._numbers[room]

    def told(self, room: str, number: int, outcome: str, pid: int) -> None:
        """Take note of what became of a message."""
        self.outcomes[room, number] = outcome, pid
        self.waiting.discard((room, number))

    async def live(self) -> None:
        raise NotImplementedError


class Handler(Speaker):
    """Speaks through a handler."""

    def __init__(self, name: str, rooms: list[str], seconds: float, port: int) -> None:
        super().__init__(name, rooms, seconds)
        self._port = port

    async def live(self) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                async with Line.to(self._port, self._hear) as line:
                    while not line.ended.done():
                        if not self.paused:
                            room, number = self.next()
                            line.say(f"say {room} {self.name} {number}")
                        await asyncio.sleep(self._seconds)
            self.waiting.clear()
            await asyncio.sleep(0.1)

    def _hear(self, text: str) -> None:
        _, _, room, number, outcome, pid = text.split()
        self.told(room, int(number), outcome, int(pid))


class View(Speaker):
    """Speaks through a view."""

    def __init__(self, name: str, rooms: list[str], seconds: float, port: int) -> None:
        super().__init__(name, rooms, seconds)
        self._port = port

    async def live(self) -> None:
        while True:
            start = time.monotonic()
            if not self.paused:
                room, number = self.next()
                with contextlib.suppress(OSError, TimeoutError, ValueError):
                    answer = await asyncio.wait_for(self._ask(room, number), 20)
                    outcome, pid = answer.split()
                    self.told(room, number, outcome, int(pid))
                self.waiting.clear()
            await asyncio.sleep(max(self._seconds - (time.monotonic() - start), 0.001))

    async def _ask(self, room: str, number: int) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(
                f"GET /say/{room}/{self.name}/{number} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode()
            )
            answer = await reader.read()
            return answer.decode().partition("\r\n\r\n")[2]
        finally:
            writer.close()


class Script(Speaker):
    """Speaks from a program of its own, which uWSGI knows nothing of."""

    def __init__(
        self, name: str, rooms: list[str], seconds: float, url: str, prefix: str, history: int
    ) -> None:
        super().__init__(name, rooms, seconds)
        self._arguments = [url, prefix, str(history), name]

    async def live(self) -> None:
        program = str(Path(__file__).parent / "script.py")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            program,
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            while True:
                start = time.monotonic()
                if not self.paused:
                    room, number = self.next()
                    process.stdin.write(f"{room} {number}\n".encode())
                    outcome = (await process.stdout.readline()).decode().strip()
                    self.told(room, number, outcome, process.pid)
                await asyncio.sleep(max(self._seconds - (time.monotonic() - start), 0.001))
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
