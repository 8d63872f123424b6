"""What the tests of a worker's end do with servers and clients."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from modes import MODES
from peers import eventually
from raw import RawClient, frame
from uwsgi_server import Server

# More than a busy machine may take, since clients answer.
CLOSE_TIMEOUT = 20.0

#: The Close frames of a worker that another follows, and of one that none does.
RELOAD, STOP = (1012, "service restart"), (1001, "going away")

# The master would wait between two new workers.
WITH_MASTER = ("--forkbomb-delay", "0")


@dataclass(frozen=True)
class Reloading:
    """A server and the folder of the files that it reloads for."""

    server: Server
    folder: Path


def serve(mode: str, *options: str, master: bool = True, **env: str) -> Server:
    """Make a server of the app of these tests."""
    env = {"CLOSE_TIMEOUT": str(CLOSE_TIMEOUT), **env}
    options += WITH_MASTER if master else ()
    return MODES[mode].serve(*options, app="ending", env=env, master=master)


def serve_all_modes(
    stack: ExitStack, options: Callable[[str], tuple[str, ...]], **env: str
) -> dict[str, Server]:
    """Start a server in each mode."""
    servers: dict[str, Server] = {}

    def start(mode: str) -> None:
        servers[mode] = stack.enter_context(serve(mode, *options(mode), **env))

    on_all_modes(start)
    return servers


def on_all_modes(check: Callable[[str], None]) -> None:
    """Do the same on all modes at once: most of it is waiting."""
    with ThreadPoolExecutor(len(MODES)) as pool:
        results = {mode: pool.submit(check, mode) for mode in MODES}
    errors = {mode: error for mode, result in results.items() if (error := result.exception())}
    assert not errors, errors


def close_of(client: RawClient) -> tuple[int, str]:
    """Read on to the Close frame and answer it; gives its code and reason."""
    first, payload = client.receive()
    while first != 0x88:
        first, payload = client.receive()
    client.send(frame(8, payload[:2]))
    assert client.rest() == b""
    client.socket.close()
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


def greeted(port: int, path: str = "/echo") -> RawClient:
    """Open a connection and see that its handler runs."""
    client = RawClient(port, path)
    assert client.status == 101, client.head
    client.send(frame(1, b"hi"))
    assert client.receive() == (0x81, b"hi")
    return client


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def goes(pid: int, seconds: float = 20) -> bool:
    return eventually(lambda: is_gone(pid), seconds)


def is_back(server: Server, before: int) -> bool:
    """Wait for another worker that answers, and a master that takes signals."""

    def other() -> bool:
        try:
            return server.worker != before
        except (OSError, ValueError):
            return False

    if not eventually(other, 20):
        return False
    server.settle()
    return True


def words(server: Server) -> list[str]:
    """What handlers and others left in the log for after the end."""
    lines = server.log.splitlines()
    return [line.partition("word: ")[2] for line in lines if "word: " in line]
