"""permessage-deflate on a real uWSGI, with the ``websockets`` package as the client."""

from __future__ import annotations

import json
import socket
import zlib
from collections.abc import Iterator

import pytest
from modes import Mode
from peers import close_of, ended, leaves_nothing, open_client
from playwright.sync_api import Browser
from raw import RawClient, frame
from uwsgi_server import Server
from websockets.sync.client import ClientConnection

OFFER = "permessage-deflate; client_max_window_bits"


@pytest.fixture(
    scope="module",
    params=[{}, {"server_no_context_takeover": True, "client_no_context_takeover": True}],
    ids=["takeover", "no-takeover"],
)
def compressed(mode: Mode, request: pytest.FixtureRequest) -> Iterator[Server]:
    with mode.serve(env={"COMPRESSION": json.dumps(request.param or True)}) as running:
        yield running


def compressing(server: Server, path: str) -> ClientConnection:
    ws = open_client(server, path)
    assert [type(each).__name__ for each in ws.protocol.extensions] == ["PerMessageDeflate"]
    return ws


def test_messages_come_back(compressed: Server) -> None:
    with compressing(compressed, "/echo") as ws:
        for message in ("hi", "hi", "", "é€😀" * 100, b"", b"\0\xff", b"x" * 2**20, "hi"):
            ws.send(message)
            assert ws.recv(timeout=10) == message


def test_messages_sent_at_once_come_back_in_order(compressed: Server) -> None:
    messages = [f"message {i} " + "abc" * (i % 50) for i in range(500)]
    with compressing(compressed, "/echo") as ws:
        for message in messages:
            ws.send(message)
        assert [ws.recv(timeout=10) for _ in messages] == messages


def test_threads_and_views_send_at_once(compressed: Server) -> None:
    with compressing(compressed, "/register/everybodys") as ws:
        # The answer tells that it can be found.
        ws.send("registered")
        assert ws.recv(timeout=10) == "registered"
        assert compressed.get("/send/everybodys/40") == (200, "sent")
        found: dict[str, list[str]] = {}
        for _ in range(5 * 40):
            mark, number, rest = str(ws.recv(timeout=10)).split(" ")
            found.setdefault(mark, []).append(number)
            assert rest == "x" * 2000
        assert set(found) == set("01234")
        assert all(numbers == [str(i) for i in range(40)] for numbers in found.values())


def test_handler_that_sends_without_rest(compressed: Server) -> None:
    with compressing(compressed, "/stream?compressed") as ws:
        for _ in range(2000):
            assert ws.recv(timeout=10) == "x" * 1000
        # Its closing handshake would wait for all that is still coming.
        ws.socket.shutdown(socket.SHUT_RDWR)
    assert ended(compressed, "/stream?compressed")


def test_client_that_does_not_offer_it_gets_none(compressed: Server) -> None:
    with RawClient(compressed.port) as client:
        assert client.header("Sec-WebSocket-Extensions") == []
        client.send(frame(1, b"plain"))
        assert client.receive() == (0x81, b"plain")
    assert close_of(compressed, "/echo", frame(1, b"x", rsv=0x40))[0] == 1002


def test_server_that_is_not_told_to_does_not_compress(plain: Server) -> None:
    with RawClient(plain.port, Sec_WebSocket_Extensions=OFFER) as client:
        assert client.status == 101
        assert client.header("Sec-WebSocket-Extensions") == []


def test_bomb_is_refused_and_costs_little_memory(compressed: Server) -> None:
    compressor = zlib.compressobj(9, wbits=-12)
    bomb = b"".join(compressor.compress(b"\0" * 2**20) for _ in range(512))
    bomb = frame(2, (bomb + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4], rsv=0x40)
    with compressing(compressed, "/echo") as other:
        # With the largest message that is allowed, so that its memory is there.
        other.send(b"\0" * 32 * 2**20)
        assert other.recv(timeout=30) == b"\0" * 32 * 2**20
        before = compressed.memory()
        for _ in range(3):
            with RawClient(compressed.port, Sec_WebSocket_Extensions=OFFER) as client:
                client.send(bomb)
                first, payload = client.receive()
                assert (first, payload[:2]) == (0x88, (1009).to_bytes(2, "big"))
        other.send("not touched")
        assert other.recv(timeout=10) == "not touched"
        assert compressed.memory() - before < 64 * 2**20


def test_browser_compresses(compressed: Server, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(f"http://{compressed.address}/pid")
    extensions, echoes = page.evaluate(
        """async (messages) => {
            const ws = new WebSocket(`ws://${location.host}/echo`);
            const echoes = [];
            await new Promise((resolve, reject) => {
                ws.onopen = () => messages.forEach((message) => ws.send(message));
                ws.onmessage = (event) => {
                    echoes.push(event.data);
                    if (echoes.length === messages.length) resolve();
                };
                ws.onclose = (event) => reject(`${event.code} ${event.reason}`);
            });
            return [ws.extensions, echoes];
        }""",
        messages := ["hi", "hi", "", "é€😀" * 100, "x" * 2**20, "hi"],
    )
    page.close()
    assert extensions.startswith("permessage-deflate")
    assert echoes == messages


def test_nothing_is_left_of_compressed_connections(compressed: Server) -> None:
    def use() -> None:
        for _ in range(20):
            with compressing(compressed, "/echo") as ws:
                ws.send("x" * 1000)
                ws.recv(timeout=10)

    leaves_nothing(compressed, use)
