"""``recv`` and ``send`` of a socket; ``sockets.pyx`` takes this module's place where compiled."""

from __future__ import annotations

import socket


class RawSocket:
    """The two methods of a socket that every message passes.

    :param sock: the socket, which somebody else closes.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.recv = sock.recv
        self.send = sock.send
