"""Reading and writing of a socket; ``sockets.pyx`` takes this module's place where compiled."""

from __future__ import annotations

import socket

_NOW = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
#: The most that :meth:`RawSocket.recv_now` reads, bytes.
AT_ONCE = 262144


class RawSocket:
    """The methods of a socket that every message passes.

    :param sock: the socket, which somebody else closes.
    """

    def __init__(self, sock: socket.socket) -> None:
        # A socket that gevent has patched would wait in ways of its own.
        self._socket = getattr(sock, "_sock", sock)
        self.recv = self._socket.recv

    def recv_now(self) -> bytes | None:
        """Receive what is there, at most 256 KiB; ``b""`` at the end, ``None`` for nothing yet."""
        try:
            return self._socket.recv(AT_ONCE, _NOW)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def send_now(self, data: bytes, start: int = 0) -> int:
        """Send what the kernel takes of *data* from *start* on.

        :returns: how many bytes; 0 if it takes none now, -1 if the connection is gone.
        """
        try:
            return self._socket.send(memoryview(data)[start:] if start else data, _NOW)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            return -1
