"""``flask run``: the same app and its sockets on Werkzeug's development server."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
from flask_run import BACKENDS, FlaskRun
from peers import eventually, open_client
from raw import handshake
from websockets.exceptions import ConnectionClosed

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
        (("--cert", "adhoc"), b"flask uwsgi run --cert"),
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
