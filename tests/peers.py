"""What tests do as a client: open, close, wait for what becomes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from raw import RawClient, frame
from uwsgi_server import Server
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect


def eventually(check: Callable[[], object], seconds: float = 10) -> bool:
    """Wait until *check* holds; for what has no moment of its own to wait for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():
            return True
        time.sleep(0.02)
    return bool(check())


def open_client(server: Server, path: str, **options: object) -> ClientConnection:
    options = {"open_timeout": 30, **options}
    return connect(server.ws + path, max_size=None, proxy=None, **options)  # type: ignore[arg-type]


def messages(ws: ClientConnection) -> Iterator[str | bytes]:
    """Give the messages up to the close, whatever its code."""
    while True:
        try:
            yield ws.recv(timeout=10)
        except ConnectionClosed:
            return


def sends(client: RawClient, data: bytes) -> bool:
    """Send what is taken; tells whether the connection is still there."""
    try:
        client.send(data)
    except ConnectionError:
        return False
    return True


def frames(client: RawClient, seconds: float = 10) -> Iterator[tuple[int, bytes]]:
    """Give the frames that come, for at most *seconds*."""
    end = time.monotonic() + seconds
    while True:
        yield client.receive()
        assert time.monotonic() < end, f"what was waited for did not come in {seconds} s"


def close_of(server: Server, path: str, *frames: bytes) -> tuple[int, str]:
    """Send frames and give the code and reason of the Close frame that answers."""
    with RawClient(server.port, path) as client:
        client.send(b"".join(frames))
        while True:
            first, payload = client.receive()
            if first == 0x88:
                client.send(frame(8, payload[:2]))
                assert client.rest() == b""
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()


def ended(server: Server, start: str, seconds: float = 10) -> str:
    """Wait for what a handler told of its end.

    :param start: how the line starts: with the URL, whose query tells tests apart.
    """
    lines: list[str] = []

    def there() -> bool:
        lines[:] = [line for line in server.ends() if line.startswith(start)]
        return bool(lines)

    assert eventually(there, seconds), f"no handler ended {start!r}: {server.ends()}"
    return lines[0].removeprefix(start).strip()


def more(server: Server, before: Mapping[str, int], seconds: float = 10) -> dict[str, int]:
    """What a server holds more of than before, after time to let go; empty, it should be."""
    grown: dict[str, int] = {}

    def nothing() -> bool:
        grown.clear()
        now = server.left()
        grown.update((name, now[name] - count) for name, count in before.items())
        return not any(count > 0 for count in grown.values())

    eventually(nothing, seconds)
    return {name: count for name, count in grown.items() if count > 0}


def leaves_nothing(server: Server, use: Callable[[], None]) -> None:
    """Show that a use of the server leaves nothing behind.

    What is made once for all, such as a pool's threads, may come with any of the first uses; what
    connections leave behind would come with each.
    """
    use()
    assert eventually(lambda: server.left()["clients"] == 0), server.left()
    seen = []
    for _ in range(5):
        before = server.left()
        use()
        seen.append(more(server, before))
        if not seen[-1]:
            return
    raise AssertionError(f"each use left more: {seen}")
