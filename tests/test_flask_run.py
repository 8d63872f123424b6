"""``flask run``: the same app and its sockets on Werkzeug's development server."""

from __future__ import annotations

import base64
import itertools
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import websocket as websocket_client
from flask_run import BACKENDS, FlaskRun
from peers import close_of, ended, eventually, leaves_nothing, open_client
from playwright.sync_api import Browser
from raw import RawClient, frame
from websockets.exceptions import ConnectionClosed


def handshake(address: str) -> bytes:
    lines = [
        "GET /echo HTTP/1.1",
        f"Host: {address}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.fixture(params=BACKENDS, scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[FlaskRun]:
    """The app of the behavioural suite, for each backend."""
    with FlaskRun(BACKENDS[request.param], env={"BACKEND": request.param}) as server:
        yield server


@pytest.mark.parametrize("message", ["hi é€😀", b"\x00\xff", "", b"", b"x" * 2**22], ids=len)
def test_message_comes_back(running: FlaskRun, message: str | bytes) -> None:
    with open_client(running, "/echo") as ws:
        ws.send(message)
        assert ws.recv(timeout=30) == message


def test_message_in_fragments_with_pings_in_between(running: FlaskRun) -> None:
    parts = [f"part {i} é€😀 ".encode() for i in range(20)]
    with RawClient(running.port) as client:
        for i, part in enumerate(parts[:-1]):
            client.send(frame(0 if i else 1, part, fin=False) + frame(9, b"%d" % i))
            assert client.receive() == (0x8A, b"%d" % i)
        client.send(frame(0, parts[-1]))
        assert client.receive() == (0x81, b"".join(parts))


@pytest.mark.parametrize("size", [2, 100_000])
def test_messages_right_behind_the_handshake_are_not_lost(running: FlaskRun, size: int) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as sock:
        begin = frame(1, b"a" * size) + frame(9, b"ping") + frame(1, b"second")
        sock.sendall(handshake(running.address) + begin)
        sock.sendall(frame(1, b"third"))
        answer = b""
        while not answer.endswith(b"third"):
            answer += sock.recv(65536)
    _, _, answer = answer.partition(b"\r\n\r\n")
    # The Pong may come before the answer to what was sent before the Ping.
    pong = b"\x8a\x04ping"
    assert answer.count(pong) == 1
    head = b"\x81\x02" if size == 2 else b"\x81\x7f" + struct.pack("!Q", size)
    expected = head + b"a" * size + b"\x81\x06second" + b"\x81\x05third"
    assert answer.replace(pong, b"") == expected


def test_close_codes_reach_both_sides(running: FlaskRun) -> None:
    with open_client(running, "/close/4001/enough?run") as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert (ws.close_code, ws.close_reason) == (4001, "enough")
    with open_client(running, "/iterate?run-4002") as ws:
        ws.close(4002, "bye")
    assert ended(running, "/iterate?run-4002") == "4002 bye"


def test_faulty_frame_closes_with_1002(running: FlaskRun) -> None:
    assert close_of(running, "/echo", frame(0, b"lone"))[0] == 1002


def test_client_that_vanishes_ends_its_handler(running: FlaskRun) -> None:
    client = RawClient(running.port, "/push?vanish")
    client.receive()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()
    assert ended(running, "/push?vanish").startswith("1006")


def test_handler_that_raises_ends_with_1011_and_is_logged_as_on_uwsgi(running: FlaskRun) -> None:
    before = len(running.noise())
    with open_client(running, "/fail") as ws:
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert ws.close_code == 1011
    assert eventually(lambda: "RuntimeError: on purpose" in running.noise()[before:])
    assert "WebSocket handler failed" in running.log
    assert running.noise()[before].startswith("Traceback")


def test_20_clients_at_once_and_pages_beside_them(running: FlaskRun) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(open_client(running, "/echo")) for _ in range(20)]
        for i, ws in enumerate(clients):
            ws.send(f"client {i}")
        assert running.get("/both") == (200, "page")
        answers = [ws.recv(timeout=10) for ws in clients]
    assert answers == [f"client {i}" for i in range(20)]


def test_client_can_be_reached_from_views_and_other_handlers(running: FlaskRun) -> None:
    with open_client(running, "/register/target") as target:
        target.send("ready")
        assert target.recv(timeout=10) == "ready"
        with open_client(running, "/send-to/target/1/5"):
            heard = [str(target.recv(timeout=10)) for _ in range(5)]
        assert [line.split(" x")[0] for line in heard] == [f"1 {i}" for i in range(5)]
        with open_client(running, "/close-other/target"), pytest.raises(ConnectionClosed):
            target.recv(timeout=10)
        assert target.close_code == 4002


def test_websocket_client_library_takes_the_answer(running: FlaskRun) -> None:
    # It refuses a 101 that says "Connection: close" beside "Connection: Upgrade".
    ws = websocket_client.create_connection(running.ws + "/echo", timeout=10)
    ws.send("text")
    assert ws.recv() == "text"
    ws.close()


def test_connections_leave_nothing_behind(running: FlaskRun) -> None:
    def use() -> None:
        for _ in range(50):
            with open_client(running, "/echo") as ws:
                ws.send("x")
                ws.recv(timeout=10)

    leaves_nothing(running, use)


def test_browser_talks_to_the_echo(running: FlaskRun, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(f"http://{running.address}/both")
    answer = page.evaluate(
        """() => new Promise((resolve) => {
            const socket = new WebSocket(`ws://${location.host}/echo`);
            socket.onopen = () => socket.send('from Chromium');
            socket.onmessage = (event) => { socket.said = event.data; socket.close(4000, 'done'); };
            socket.onclose = (event) => resolve([socket.said, event.code, event.wasClean]);
        })"""
    )
    page.close()
    assert answer == ["from Chromium", 4000, True]


def test_thread_that_closes_a_client_whose_handler_has_ended_gets_no_error(
    running: FlaskRun,
) -> None:
    before = running.noise()
    for _ in range(5):
        with open_client(running, "/register/late") as ws:
            ws.send("ready")
            ws.recv(timeout=10)
            with open_client(running, "/close-other/late"), pytest.raises(ConnectionClosed):
                ws.recv(timeout=10)
    assert eventually(lambda: running.left()["registry"] == 0)
    assert running.noise() == before


def test_log_tells_of_the_connections_and_of_no_trouble(running: FlaskRun) -> None:
    asked = itertools.count()
    with ExitStack() as stack:
        for path in ("/echo", "/push", "/close/4001/x", "/register/log"):
            stack.enter_context(open_client(running, f"{path}?{next(asked)}"))
    for path in ("/push", "/echo"):
        with RawClient(running.port, f"{path}?{next(asked)}") as client:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for number in range(next(asked)):
        assert eventually(lambda number=number: f"?{number} HTTP/1.1" in running.log)
    lines = [line for line in running.log.splitlines() if any(f"?{i} " in line for i in range(9))]
    assert all(" 101 -" in line for line in lines)
    # But what the handler that raises left there.
    tracebacks = [line for line in running.noise() if "on purpose" not in line]
    assert tracebacks in ([], ["Traceback (most recent call last):"])


# Each with a server of its own.


@pytest.mark.parametrize("backend", BACKENDS)
def test_interrupt_ends_the_server_at_once_beside_open_connections(backend: str) -> None:
    with FlaskRun(BACKENDS[backend], env={"BACKEND": backend}) as server:
        with open_client(server, "/echo") as ws, open_client(server, "/push"):
            ws.send("x")
            assert ws.recv(timeout=10) == "x"
            server.interrupt()
            with pytest.raises(ConnectionClosed):
                ws.recv(timeout=10)
            assert ws.close_code == 1001
            server.process.wait(10)
        assert not server.noise()


APP = """
from flask import Flask
from flask_uwsgi_ws import {backend}
app = Flask(__name__)
websocket = {backend}(app)

@websocket.route('/word')
{kind}def word(ws):
    {wait}ws.send('{word}')
    {wait}ws.receive()

@app.route('/broken')
def broken():
    raise RuntimeError('a page of the debugger')

if __name__ == '__main__':
    app.run()
app.run()
"""


def write_app(path: Path, backend: str, word: str) -> None:
    asyncio = backend == "AsyncioWebSocket"
    kind, wait = ("async ", "await ") if asyncio else ("", "")
    path.write_text(APP.format(backend=backend, kind=kind, wait=wait, word=word))


@pytest.mark.parametrize("backend", BACKENDS)
def test_debug_reloads_a_changed_app_and_shows_the_debugger(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "hello.py"
    write_app(path, backend, "old")
    with FlaskRun("hello", "--debug", folder=tmp_path) as server:
        with open_client(server, "/word") as ws:
            assert ws.recv(timeout=10) == "old"
            write_app(path, backend, "new")
            with pytest.raises(ConnectionClosed):
                ws.recv(timeout=30)
            assert (ws.close_code, ws.close_reason) == (1012, "service restart")

        def new_word() -> bool:
            try:
                with open_client(server, "/word") as ws:
                    return ws.recv(timeout=10) == "new"
            except (OSError, EOFError, ConnectionClosed):
                return False

        assert eventually(new_word, 30)
        assert not server.noise()
        status, page = server.get("/broken")
        assert status == 500
        assert "a page of the debugger" in page
        assert "EVALEX" in page


@pytest.mark.parametrize(
    ("options", "what_to_do"),
    [
        (("--without-threads",), b"one thread"),
        (("--cert", "adhoc"), b"app.run(ssl_context='adhoc')"),
    ],
    ids=["without-threads", "cert"],
)
def test_what_does_not_go_is_refused_with_what_to_do(
    options: tuple[str, ...], what_to_do: bytes
) -> None:
    with FlaskRun("behaviour", *options, env={"BACKEND": "WebSocket"}) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
            if "--cert" in options:
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                sock = context.wrap_socket(sock)
            sock.sendall(handshake(server.address))
            with sock.makefile("rb") as stream:
                answer = stream.read()
        assert answer.split()[1] == b"501"
        assert what_to_do in answer
