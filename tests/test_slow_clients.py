"""A client that does not read, among others that do: it harms itself only."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from modes import Mode
from peers import ended, eventually, leaves_nothing, messages, more, open_client
from raw import RawClient
from uwsgi_server import Server

COUNT = 250
# Bytes of a message, about, of those that may wait, and of all that is sent to a client.
SIZE, LIMIT = 37_500, 65_536
TOTAL = COUNT * SIZE
LISTENERS = 3


@pytest.fixture(scope="module")
def site(mode: Mode) -> Iterator[Server]:
    env = {"SEND_TIMEOUT": "3", "COMPRESSION": "true"}
    with mode.serve(app="slow_clients", env=env) as server:
        yield server


def snapshot(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.get("/snapshot")[1])
    return found


class Listener(threading.Thread):
    """Takes what comes; every second one has it compressed."""

    def __init__(self, server: Server, number: int) -> None:
        super().__init__()
        compression = "deflate" if number % 2 else None
        self.client = open_client(server, "/listen", compression=compression)
        self.numbers: list[int] = []
        self.start()

    def run(self) -> None:
        with self.client as client:
            self.numbers += [int(str(message).split()[0]) for message in messages(client)]


@pytest.mark.parametrize(
    ("sender", "extension"), [("thread", None), ("handler", "permessage-deflate")]
)
def test_broadcast_goes_on_beside_a_client_that_does_not_read(
    site: Server, sender: str, extension: str | None
) -> None:
    with RawClient(site.port, "/listen"):
        assert eventually(lambda: snapshot(site)["open"] == 1)
    assert eventually(lambda: snapshot(site)["open"] == 0)
    left, before, memory = site.left(), snapshot(site), site.memory()
    path = f"/deaf?{sender}-{extension}"
    listeners = [Listener(site, number) for number in range(LISTENERS)]
    with RawClient(site.port, path, Sec_WebSocket_Extensions=extension):
        assert eventually(lambda: snapshot(site)["open"] == LISTENERS + 1)
        if sender == "thread":
            assert site.get(f"/broadcast/{COUNT}")[0] == 200
        else:
            sending = RawClient(site.port, f"/broadcast/{COUNT}")
        unsent = []

        def dropped() -> bool:
            now = snapshot(site)
            unsent.append(now["unsent"])
            return bool(now["slow_clients"] > before["slow_clients"])

        assert eventually(dropped, 40)
        assert ended(site, path) == "1008 the client took no bytes for 3 seconds"
    for listener in listeners:
        listener.join(40)
        assert listener.numbers == list(range(COUNT))
    if sender == "handler":
        sending.socket.close()
    # The deaf one's were waiting, and no client's were ever more than this.
    assert LIMIT < max(unsent) <= (LISTENERS + 2) * (LIMIT + SIZE)
    assert site.memory() - memory < TOTAL / 2
    assert eventually(lambda: snapshot(site)["unsent"] == snapshot(site)["open"] == 0)
    assert snapshot(site)["closed"]["1008"] == before["closed"].get("1008", 0) + 1
    assert not more(site, left)


@pytest.mark.parametrize("extension", [None, "permessage-deflate"])
def test_handler_that_returns_leaves_a_client_that_does_not_read_to_its_end(
    site: Server, extension: str | None
) -> None:
    def fill() -> None:
        before = snapshot(site)["opened"]
        with RawClient(site.port, "/fill", Sec_WebSocket_Extensions=extension):
            assert eventually(lambda: snapshot(site)["opened"] == before + 1)
            assert eventually(lambda: snapshot(site)["open"] == 0, 20)

    log = len(site.log)
    leaves_nothing(site, fill)
    assert "Traceback" not in site.log[log:]
