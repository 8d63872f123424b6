"""A WebSocket client that can do wrong: a socket after its handshake, for frames by hand."""

from __future__ import annotations

import base64
import os
import socket
from types import TracebackType

from wire import frame as frame


def handshake(
    address: str,
    path: str = "/echo",
    method: str = "GET",
    version: str = "HTTP/1.1",
    **headers: str | None,
) -> bytes:
    """Give the bytes of an opening handshake.

    :param address: the server's host and port.
    :param path: the route.
    :param headers: instead of or besides those of a right one; ``None`` leaves one out.
    """
    wanted: dict[str, str | None] = {
        "Host": address,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
    }
    wanted.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = [f"{method} {path} {version}"]
    lines += [f"{name}: {value}" for name, value in wanted.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class RawClient:
    """A connection to a server's WebSocket route.

    :param port: the server's.
    :param path: the route.
    :param headers: instead of or besides those of a right handshake; ``None`` leaves one out.
    """

    def __init__(
        self,
        port: int,
        path: str = "/echo",
        method: str = "GET",
        version: str = "HTTP/1.1",
        **headers: str | None,
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(handshake(f"127.0.0.1:{port}", path, method, version, **headers))
        self._rest = b""
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.socket.recv(65536)
            if not data:
                break
            head += data
        self.head, _, self._rest = head.partition(b"\r\n\r\n")
        self.status = int(self.head.split()[1]) if self.head else 0

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def header(self, name: str) -> list[str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.split(": ", 1) for line in lines)
        return [value for key, value in pairs if key.lower() == name.lower()]

    def rest(self) -> bytes:
        """Read to the end of file, which says that nothing was left half open."""
        data = self._rest
        while more := self.socket.recv(65536):
            data += more
        return data

    def send(self, data: bytes | memoryview) -> None:
        self.socket.sendall(data)

    def skip(self, count: int) -> None:
        """Read bytes that are no frames."""
        self._exactly(count)

    def receive(self) -> tuple[int, bytes]:
        """Read one frame: its first byte and its payload."""
        head = self._exactly(2)
        size = head[1]
        if size == 126:
            size = int.from_bytes(self._exactly(2), "big")
        elif size == 127:
            size = int.from_bytes(self._exactly(8), "big")
        return head[0], self._exactly(size)

    def _exactly(self, count: int) -> bytes:
        while len(self._rest) < count:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError("the server closed the connection")
            self._rest += data
        data, self._rest = self._rest[:count], self._rest[count:]
        return data
