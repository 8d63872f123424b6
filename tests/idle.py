"""Idle connections behind proxies that drop those that are silent for long.

    python tests/idle.py

opens two on each backend behind nginx and behind ``--http``, both with their defaults (60 s): one
that is silent, and one that only receives. After 150 s all have to be alive, and those of servers
that send no Pings, beside them, gone where they are silent.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from modes import BACKENDS, MODES
from nginx import Nginx
from peers import eventually, sends
from raw import RawClient, frame
from uwsgi_server import Server

FRONTS = ("nginx", "http")

#: What a connection does, and the route that has it do so.
KINDS = {"silent": "/echo", "only receives": "/push"}

PING, CLOSE = 0x89, 0x88

# Seconds: none is sent before the end.
NO_PINGS = {"PING_INTERVAL": "1000"}


class Idle(threading.Thread):
    """A connection that sends nothing by itself but answers to Pings.

    :param name: who it is, for people.
    :param port: what it connects to.
    :param kind: of :data:`KINDS`.
    """

    def __init__(self, name: str, port: int, kind: str) -> None:
        super().__init__(name=f"{name}, {kind}", daemon=True)
        self.kind = kind
        #: Seconds that it has lasted, once it has ended.
        self.lasted: float | None = None
        self._messages = 0
        self._client = RawClient(port, KINDS[kind])
        self._client.socket.settimeout(None)
        self.start()

    def run(self) -> None:
        opened = time.monotonic()
        with contextlib.suppress(OSError, EOFError):
            while (received := self._client.receive())[0] != CLOSE:
                if received[0] == PING:
                    self._client.send(frame(10, received[1]))
                else:
                    self._messages += 1
        self.lasted = time.monotonic() - opened

    def alive(self) -> bool:
        """Tell whether messages still come, be it as answers."""
        before = self._messages
        if self.kind == "silent":
            sends(self._client, frame(1, b"Are you there?"))
        return eventually(lambda: self._messages > before or self.lasted is not None) and (
            self.lasted is None
        )

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._client.socket.shutdown(socket.SHUT_RDWR)
        self.join()
        self._client.socket.close()


class Front:
    """Servers behind a proxy each, with idle connections to them.

    :param kind: of :data:`FRONTS`.
    :param options: uWSGI's.
    :param directives: nginx's.
    """

    def __init__(self, kind: str, options: tuple[str, ...] = (), directives: str = "") -> None:
        self._kind, self._options, self._directives = kind, options, directives
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Front:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, mode: str, env: dict[str, str], name: str) -> list[Idle]:
        """Start a server and open a connection of each kind to it."""
        port = self._serve(mode, env)
        clients = [Idle(f"{mode} behind {self._kind}, {name}", port, kind) for kind in KINDS]
        for client in clients:
            self._stack.callback(client.close)
        return clients

    def _serve(self, mode: str, env: dict[str, str]) -> int:
        if self._kind == "http":
            router = MODES[mode].serve(*self._options, router=True, env=env)
            return self._stack.enter_context(router).port
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "http.sock"
        listen = ("--http-socket", str(path))
        self._stack.enter_context(MODES[mode].serve(*listen, *self._options, env=env))
        return self._stack.enter_context(Nginx(folder / "nginx", path, self._directives)).port


def main(seconds: float = 150) -> int:
    with contextlib.ExitStack() as stack:
        fronts = [stack.enter_context(Front(kind)) for kind in FRONTS]
        pinged, others = [], []
        for front in fronts:
            others += front.open("threads", NO_PINGS, "no Pings")
            for mode in BACKENDS:
                pinged += front.open(mode, {}, "Pings")
        time.sleep(seconds)
        alive = {client: client.alive() for client in (*pinged, *others)}
        for client in alive:
            outcome = f"gone after {client.lasted:.0f} s" if client.lasted else "alive"
            print(f"{client.name}: {outcome}")
    Server.wait_for_the_stopped()
    lost = any(not alive[client] for client in pinged)
    # Else this could not have found out.
    kept = any(alive[client] for client in others if client.kind == "silent")
    return int(lost or kept)


if __name__ == "__main__":
    sys.exit(main())
