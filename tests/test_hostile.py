"""Hostile clients: they get what they deserve, the others notice nothing, and nothing is left."""

from __future__ import annotations

import itertools
import json
import re
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import pytest
from crowd import Crowd
from modes import MODES, Mode
from peers import close_of, ended, eventually, frames, more, sends
from raw import RawClient
from uwsgi_server import Server
from wire import frame, header

MAX_SIZE = 100_000
LIMITS = {
    "MAX_SIZE": str(MAX_SIZE),
    "SEND_TIMEOUT": "1",
    "PING_INTERVAL": "0.3",
    "PING_TIMEOUT": "4",
    "COMPRESSION": "true",
    # All memory comes from malloc then, which can tell how much of it is in use.
    "PYTHONMALLOC": "malloc",
    # One arena for all threads: what one frees serves the next, so that what the process has at its
    # most is what was in use.
    "MALLOC_ARENA_MAX": "1",
}
COMPRESSED = "permessage-deflate"

CROWD = 50
# Attackers at the same time.
MANY = 5
# Times that an attack may add to the memory: what is kept for later use is kept once, a leak adds
# each time.
MOST_GROWTHS = 4

_marks = map(str, itertools.count())


@dataclass(frozen=True)
class Site:
    """A server and the crowd that it serves.

    :param worker: the pid that it has and is to keep.
    :param before: what it holds without attackers.
    :param size: bytes of memory that one of the crowd takes there.
    """

    server: Server
    crowd: Crowd
    worker: int
    before: dict[str, int]
    size: int

    @property
    def port(self) -> int:
        return self.server.port

    def withstands(
        self, attack: Callable[[Site], object], many: int = MANY, fails: bool = False
    ) -> None:
        """See that nobody notices the attack, and that nothing is left of it.

        :param many: attackers at the same time.
        :param fails: whether a handler raises, which is logged.
        """
        used: list[int] = []
        log = len(self.server.log)
        # Less than a connection for each attacker; Python's free lists grow by less.
        while len(used) < 2 or used[-1] - used[-2] >= many * self.size:
            assert len(used) <= MOST_GROWTHS, f"more bytes of memory each time: {used}"
            with ThreadPoolExecutor(many) as pool:
                for attacker in [pool.submit(attack, self) for _ in range(many)]:
                    attacker.result()
            self.crowd.answered()
            self.has_nothing_left()
            with self.crowd.silent():
                used.append(memory(self.server))
        new = self.server.log[log:]
        assert "Traceback" not in new or fails
        # Every line is the server's own.
        assert not re.search("^.?Injected", new, re.MULTILINE)

    def has_nothing_left(self) -> None:
        assert not more(self.server, self.before)
        assert self.server.worker == self.worker


@pytest.fixture(scope="module")
def site(mode: Mode) -> Iterator[Site]:
    with mode.serve("--socket-timeout", "1", "--listen", "1024", env=LIMITS) as server:
        # What is made once, for all connections, is there after the first.
        close_of(server, "/echo", frame(8, b"\x03\xe8"))
        empty = memory(server)
        with Crowd(server.port, CROWD) as crowd:
            crowd.answered()
            with crowd.silent():
                before = at_rest(server)
                size = (memory(server) - empty) // CROWD
            yield Site(server, crowd, server.worker, before, size)


def memory(server: Server) -> int:
    """Bytes of memory in use; what the allocator has kept does not count."""
    used: int = json.loads(server.get("/memory")[1])["used"]
    return used


def at_rest(server: Server) -> dict[str, int]:
    """What the server holds when twice in a row it is the same."""
    counts = [server.left()]

    def same() -> bool:
        counts.append(server.left())
        return counts[-1] == counts[-2]

    assert eventually(same), counts
    return counts[-1]


# What the protocol forbids.


def is_closed_with(code: int, *data: bytes, path: str = "/echo") -> Callable[[Site], None]:
    def attack(site: Site) -> None:
        for each in data:
            assert close_of(site.server, path, each)[0] == code

    return attack


FORBIDDEN = {
    "continuations": is_closed_with(
        1002,
        frame(0, b"x"),
        frame(0, b"x", fin=False),
        frame(1, b"one", fin=False) + frame(1, b"two"),
        frame(1, b"one", fin=False) + frame(9, b"between") + frame(2, b"two", fin=False),
    ),
    "headers": is_closed_with(
        1002,
        # Unmasked.
        *(frame(opcode, b"x", mask=None) for opcode in (1, 2, 8, 9)),
        # Reserved bits.
        *(frame(1, b"x", rsv=rsv) for rsv in (0x40, 0x20, 0x10, 0x70)),
        # Reserved opcodes.
        *(frame(opcode, b"x") for opcode in (*range(3, 8), *range(11, 16))),
        # Control frames fragmented, and too long.
        frame(9, b"x", fin=False),
        frame(9, b"x" * 126),
        header(2, 2**63),
        frame(1, b"x", fin=False) + header(0, 2**64 - 1),
    ),
    "close-frames": is_closed_with(
        1002,
        frame(8, b"\x03"),
        *(
            frame(8, code.to_bytes(2, "big"))
            for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1999, 2000, 2999, 5000, 65535)
        ),
    ),
    "half-characters": is_closed_with(
        1007,
        frame(1, b"\xf0\x9f", fin=False) + frame(0, b"\x92\xf0", fin=False) + frame(0, b"x"),
        frame(1, b"\xf0\x9f", fin=False) + frame(0),
        frame(1, b"\xed", fin=False) + frame(0, b"\xa0", fin=False),
        frame(8, b"\x03\xe8\xff"),
    ),
    "too-large": is_closed_with(
        1009,
        header(2, 2**62),
        header(1, 2**63 - 1),
        frame(2, fin=False) + header(0, 2**62),
        frame(1, b"x" * (MAX_SIZE + 1)),
        frame(1, b"x" * MAX_SIZE, fin=False) + frame(0, b"x"),
        frame(1, b"x" * (MAX_SIZE - 1000), fin=False) + frame(0, b"x", fin=False) * 1001,
    ),
}


@pytest.mark.parametrize("attack", FORBIDDEN.values(), ids=FORBIDDEN)
def test_forbidden_frames(site: Site, attack: Callable[[Site], None]) -> None:
    site.withstands(attack)


# Compression.


def bomb(opcode: int = 2) -> bytes:
    """Make a message of 1 MiB that becomes 1 GiB."""
    return frame(opcode, _zeros(2**26) * 16, rsv=0x40)


@cache
def _zeros(count: int) -> bytes:
    return _deflated(bytes(count))


def _deflated(data: bytes) -> bytes:
    """Deflate to what can be repeated: it refers to nothing before."""
    deflater = zlib.compressobj(9, wbits=-15)
    return deflater.compress(data) + deflater.flush(zlib.Z_FULL_FLUSH)


DEFLATED: dict[int, Callable[[], list[bytes]]] = {
    1009: lambda: [
        bomb(1),
        bomb(2),
        frame(2, _zeros(2**16), rsv=0x40, fin=False) + frame(0, _zeros(2**16)),
        frame(2, _zeros(MAX_SIZE + 1), rsv=0x40),
    ],
    1007: lambda: [
        # No such block; another after a good one; more ends of the stream than are taken.
        frame(2, b"\xff\xff", rsv=0x40),
        frame(2, _zeros(1000) + b"\x07", rsv=0x40),
        frame(2, b"\x03\x00" * 50_000, rsv=0x40),
        # Its characters are none.
        frame(1, _deflated(b"\xff"), rsv=0x40),
    ],
    1002: lambda: [
        frame(9, b"x", rsv=0x40),
        frame(1, b"x", fin=False) + frame(0, b"x", rsv=0x40),
    ],
}


@pytest.mark.parametrize("code", DEFLATED)
def test_compressed_messages(site: Site, code: int) -> None:
    data = DEFLATED[code]()

    def attack(site: Site) -> None:
        for each in data:
            with RawClient(site.port, Sec_WebSocket_Extensions="permessage-deflate") as client:
                assert client.header("Sec-WebSocket-Extensions")
                client.send(each)
                assert closing(client)[:2] == code.to_bytes(2, "big")

    before = site.server.memory()
    site.withstands(attack)
    # What arrives and what becomes of it, for each attacker; not the gibibyte.
    assert site.server.memory() - before < MANY * (2**20 + 2 * MAX_SIZE)


def closing(client: RawClient) -> bytes:
    """Wait for the end; gives the payload of the Close frame."""
    for first, payload in frames(client):
        if first == 0x88:
            client.send(frame(8, payload[:2]))
            assert client.rest() == b""
            return payload
    raise AssertionError


# What is not forbidden.


def test_bytes_after_the_close_frame(site: Site) -> None:
    def attack(site: Site) -> None:
        with RawClient(site.port) as client:
            client.send(frame(8, b"\x03\xe8") + frame(1, b"after") * 10_000 + b"\xff" * 10_000)
            assert (0x88, b"\x03\xe8") in frames(client)
            assert client.rest() == b""

    site.withstands(attack)


def test_half_closed_sockets(site: Site) -> None:
    def attack(site: Site) -> None:
        for said in (b"", frame(1, b"whole"), frame(1, b"half")[:-1], frame(1, b"x", fin=False)):
            with RawClient(site.port) as client:
                client.send(said)
                client.socket.shutdown(socket.SHUT_WR)
                # The end may be quicker than the echo; a Ping may be quicker than both.
                assert without_pings(client.rest()) in {b"", frame(1, b"whole", mask=None)}

    site.withstands(attack)


def without_pings(data: bytes) -> bytes:
    """Leave Pings out of short frames."""
    left = b""
    while data:
        size = 2 + data[1]
        left += data[:size] if data[0] != 0x89 else b""
        data = data[size:]
    return left


def test_resets_in_the_middle(site: Site) -> None:
    def attack(site: Site) -> None:
        for said in (b"", frame(1, b"x" * 90_000)[:-1], frame(1, b"x", fin=False), frame(1)[:1]):
            for path in ("/echo", "/stream", "/push"):
                client = RawClient(site.port, path)
                client.send(said)
                reset(client.socket)

    site.withstands(attack)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_a_thousand_connections_opened_and_reset(site: Site) -> None:
    def attack(site: Site) -> None:
        for i in range(50):
            connection = socket.create_connection(("127.0.0.1", site.port), timeout=10)
            # Without a byte a few only: uWSGI's asyncio engine keeps a place for each of those,
            # of which it has a hundred, up to --socket-timeout.
            connection.sendall(handshake(site)[: 0 if i % 25 == 0 else None])
            reset(connection)

    # Not fewer, since that engine loses some 55 bytes with each request, be it of a page.
    site.withstands(attack, many=20)


def handshake(site: Site) -> bytes:
    return (
        f"GET /echo HTTP/1.1\r\nHost: 127.0.0.1:{site.port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


# Those who wait, and let wait.


def test_pings_whose_pongs_are_not_read(site: Site) -> None:
    def attack(site: Site) -> None:
        with RawClient(site.port) as client:
            while sends(client, frame(9, b"x" * 125) * 1000):
                pass

    site.withstands(attack)


def test_reader_that_does_not_read_is_dropped_after_send_timeout(site: Site) -> None:
    def attack(site: Site) -> None:
        path = f"/stream?unread{next(_marks)}"
        begun = time.monotonic()
        with RawClient(site.port, path) as client:
            site.crowd.answered()
            dropped = any(line.startswith(path) for line in site.server.ends())
            assert not dropped or time.monotonic() - begun > 1
            # It is heard of, so that its silence is not the reason. Not asking meanwhile: uWSGI's
            # asyncio engine loses some 70 bytes with each request.
            with suppress(OSError):
                for _ in range(100):
                    client.send(frame(10))
                    time.sleep(0.1)
            assert "took no bytes for 1 seconds" in ended(site.server, path)

    site.withstands(attack)


BEGUN = [frame(0)[:1], frame(0, b"x" * 200)[:3], frame(0, b"x")[:5], frame(0, b"never")[:-1], b""]


def test_frames_begun_and_never_finished(site: Site) -> None:
    def attack(site: Site) -> None:
        clients = [RawClient(site.port) for _ in BEGUN]
        for client, begun in zip(clients, BEGUN, strict=True):
            client.send(frame(1, b"first", fin=False) + begun)
        site.crowd.answered()
        for client in clients:
            with client:
                assert client.receive()[0] == 0x89
                assert closing(client) == b"\x03\xf3keepalive ping timeout"

    site.withstands(attack)


def test_a_byte_at_a_time(site: Site) -> None:
    def attack(site: Site) -> None:
        with RawClient(site.port) as client:
            for byte in frame(1, b"x"):
                client.send(bytes((byte,)))
                site.crowd.answered()
            # The server may have asked meanwhile whether somebody is there.
            assert (0x81, b"x") in frames(client)

    site.withstands(attack)


def test_handshakes_that_stop_half_way(site: Site) -> None:
    whole = handshake(site)

    def attack(site: Site) -> None:
        parts = [whole[:end] for end in (1, 60)]
        stopped = [socket.create_connection(("127.0.0.1", site.port), 10) for _ in parts]
        for connection, part in zip(stopped, parts, strict=True):
            connection.sendall(part)
        site.crowd.answered()
        for connection in stopped:
            with connection:
                assert connection.recv(1000) == b""

    site.withstands(attack, many=1)


def test_handlers_that_never_return_while_their_clients_leave(site: Site) -> None:
    paths = itertools.cycle(("/stay", "/insist"))

    def attack(site: Site) -> None:
        path, mark = next(paths), next(_marks)
        gone, closed, half = (RawClient(site.port, f"{path}/{mark}") for _ in range(3))
        try:
            with closed, half:
                for client in (gone, closed, half):
                    assert (0x81, b"here") in frames(client)
                reset(gone.socket)
                closed.send(frame(8, b"\x03\xe8"))
                assert (0x88, b"\x03\xe8") in frames(closed)
                half.socket.shutdown(socket.SHUT_WR)
                # Nobody has to wait for the handler.
                closed.rest()
                half.rest()
                site.crowd.answered()
                assert not any(f"/{mark}?" in line for line in site.server.ends())
        finally:
            assert site.server.get(f"/release/{mark}") == (200, "released")

    site.withstands(attack)


def test_handlers_that_raise(site: Site) -> None:
    def attack(site: Site) -> None:
        for path in ("/fail", "/fail?exit"):
            assert close_of(site.server, path) == (1011, "internal error")

    site.withstands(attack, fails=True)


# Words that are meant to become lines of their own.

INJECTIONS = (
    "http://x\rInjected: yes",
    "http://x\nInjected: yes",
    "http://x\r\nInjected: yes",
    "http://x\r\n Injected: yes",
    "http://x\0Injected: yes",
    "http://\xe9\x85Injected: yes",
    "http://x" + "x" * 3000 + "\rInjected: yes",
    "http://x" + "x" * 100_000,
)


def test_lines_in_headers(site: Site) -> None:
    def attack(site: Site) -> None:
        for value in INJECTIONS:
            for name in ("Origin", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"):
                assert not re.search(rb"[\r\n\0] ?Injected", head_for(site, name, value))

    site.withstands(attack, many=2)


def head_for(site: Site, name: str, value: str) -> bytes:
    """Give the head of the answer to a handshake with this header."""
    # The Host is that of the Origin, so that it is let in where it can be.
    host = value.removeprefix("http://")[:100]
    try:
        with RawClient(site.port, **{"Host": host, name: value}) as client:
            assert client.status in {0, 101, 400, 403}
            return client.head
    except ConnectionResetError:
        # More than --buffer-size: uWSGI does not read it to the end.
        assert len(value) > 4096
        return b""


def test_lines_in_the_url(site: Site) -> None:
    def attack(site: Site) -> None:
        # Which raises, since no such code can be sent.
        path = "/close/1005/a%0D%0AInjected:%20yes%0AInjected"
        assert close_of(site.server, path) == (1011, "internal error")

    site.withstands(attack, fails=True)


def test_router_ends_handshakes_that_stop_half_way() -> None:
    with (
        MODES["threads"].serve("--http-headers-timeout", "1", router=True) as server,
        Crowd(server.port, CROWD) as crowd,
    ):
        # With a byte at least: the kernel keeps a connection without from uWSGI for some seconds.
        for part in (b"G", b"GET /echo HTTP/1.1\r\nUpgrade: websocket\r\n"):
            with socket.create_connection(("127.0.0.1", server.port), 10) as stopped:
                stopped.sendall(part)
                crowd.answered()
                assert stopped.recv(1000) == b""
        crowd.answered()
