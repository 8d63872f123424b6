"""One client of the soak: it connects, talks and vanishes, in a way that dice decide."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import socket
import struct
import time

from wire import frame

# Seconds that anything may take which does not depend on us; the machine may be busy.
PATIENCE = 45.0
# How a visit ends, and how often.
WAYS = {"close": 40, "reset": 30, "leave": 15, "silence": 10, "deaf": 2, "half": 3}


class Lost(Exception):
    """The server did not do what it had to."""


class Guest:
    """A client of the app of the behavioural suite.

    :param port: the server's.
    :param dice: decides all that is not said.
    """

    def __init__(self, port: int, dice: random.Random) -> None:
        self._port, self._dice = port, dice
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def visit(self, end: float) -> str:
        """Come, talk, at most until *end* of ``time.monotonic()``, and go.

        :returns: how it ended.
        :raises Lost: if anything was not as it should be.
        """
        way = self._dice.choices([*WAYS], [*WAYS.values()])[0]
        path = "/stream" if way == "deaf" else self._dice.choice(["/echo", "/iterate"])
        try:
            await asyncio.wait_for(self._connect(path), PATIENCE)
            if way != "deaf":
                while time.monotonic() < end and self._dice.random() < 0.8:
                    await asyncio.wait_for(self._talk(), PATIENCE)
                    await self._listen(self._dice.random() * 2)
            await asyncio.wait_for(self._go(way), PATIENCE)
        except TimeoutError:
            raise Lost(f"{way} at {path}: nothing for {PATIENCE:g} seconds") from None
        except (OSError, EOFError) as error:
            raise Lost(f"{way} at {path}: {type(error).__name__} {error}") from None
        return way

    def leave(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()

    async def _connect(self, path: str) -> None:
        # Little room, so that one who does not read is noticed soon.
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
            self._reader, self._writer = await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        key = base64.b64encode(self._dice.randbytes(16)).decode()
        self._writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise Lost(f"answered {head[:40]!r}")

    async def _talk(self) -> None:
        """Say some words and have them back."""
        assert self._writer is not None
        words = [
            self._dice.randbytes(int(2 ** (self._dice.random() * 14)))
            for _ in range(self._dice.choice([1, 1, 1, 5]))
        ]
        self._writer.write(b"".join(frame(2, word) for word in words))
        for word in words:
            while True:
                first, payload = await self._receive()
                if first != 0x89:
                    break
            if (first, payload) != (0x82, word):
                raise Lost(f"{first:#x} {payload[:40]!r} instead of {word[:40]!r}")

    async def _receive(self) -> tuple[int, bytes]:
        """Read a frame; a Ping is answered."""
        assert self._reader is not None
        assert self._writer is not None
        first, size = await self._reader.readexactly(2)
        if size == 126:
            size = int.from_bytes(await self._reader.readexactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self._reader.readexactly(8), "big")
        payload = await self._reader.readexactly(size)
        if first == 0x89:
            self._writer.write(frame(10, payload))
        return first, payload

    async def _listen(self, seconds: float) -> None:
        """Be quiet; only a Ping may come."""
        # Never cancelled in the middle of a frame, which Pings are too short for.
        with contextlib.suppress(TimeoutError):
            first, payload = await asyncio.wait_for(self._receive(), seconds)
            if first != 0x89:
                raise Lost(f"{first:#x} {payload[:40]!r} unasked")

    async def _go(self, way: str) -> None:
        assert self._reader is not None
        assert self._writer is not None
        if way == "close":
            self._writer.write(frame(8, b"\x03\xe8"))
            while (await self._receive())[0] != 0x88:
                pass
            if await self._reader.read(1):
                raise Lost("something came after the Close frame")
        elif way == "reset":
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif way == "half":
            self._writer.write(frame(1, b"never finished")[:-1])
            self._writer.write_eof()
            while await self._reader.read(65536):
                pass
        elif way == "silence":
            # Pings come and are not answered, and then the end.
            with contextlib.suppress(ConnectionResetError):
                while await self._reader.read(65536):
                    pass
        elif way == "deaf":
            self._writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(6)
