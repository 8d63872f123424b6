"""``compat.flask_threaded_sockets``: an app with another import, on its own server and uWSGI."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from flask_run import FlaskRun
from modes import MODES
from peers import eventually, open_client
from raw import RawClient, frame
from test_compat_flask_sockets import Command, ask, first_word, told
from uwsgi_server import Server, free_port, wait_for_port
from websockets.exceptions import ConnectionClosed, InvalidStatus
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from flask_uwsgi_ws.compat import flask_threaded_sockets, gevent_websocket

APP = "compat_flask_threaded_sockets"
OWN = partial(Command, sys.executable, f"{APP}.py")

SERVERS: dict[str, Callable[[], Server]] = {
    "own": OWN,
    "threads": partial(MODES["threads"].serve, app=APP),
    "gevent": partial(MODES["gevent"].serve, app=APP),
}


@pytest.fixture(params=SERVERS, scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with SERVERS[request.param]() as running:
        yield running


def test_readme_echoes_and_its_page_is_there(server: Server) -> None:
    assert server.get("/") == (200, "Hello World!")
    with open_client(server, "/echo") as ws:
        assert ask(ws, "hello é€😀") == "hello é€😀"
        assert ask(ws, b"\0\xff") == b"\0\xff"
    assert "Traceback" not in server.log


def test_20_clients_at_once_and_pages_beside_them(server: Server) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(open_client(server, "/echo")) for _ in range(20)]
        for i, ws in enumerate(clients):
            ws.send(f"client {i}")
        assert server.get("/") == (200, "Hello World!")
        assert eventually(lambda: server.get("/count") == (200, "20"))
        assert [ws.recv(timeout=10) for ws in clients] == [f"client {i}" for i in range(20)]
    assert eventually(lambda: server.get("/count") == (200, "0"))


def test_routes_take_what_those_of_flask_take(server: Server) -> None:
    assert first_word(server, "/add/4") == "5"
    assert first_word(server, "/add/4/6") == "10"
    for path, side in (("/mirror", "none"), ("/mirror/left", "left")):
        with open_client(server, path) as ws:
            assert ask(ws, "abc") == f"cba {side}"


def test_urls_of_sockets_are_found_by_their_endpoints(server: Server) -> None:
    base = f"ws://{server.address}"
    assert json.loads(server.get("/urls")[1]) == [
        "/",
        f"{base}/echo",
        f"{base}/add/1/2",
        f"{base}/add/1",
        f"{base}/mirror?q=x",
        f"{base}/mirror/left",
    ]


def test_session_and_cookies_are_known(server: Server) -> None:
    with urlopen(f"http://{server.address}/login/ann", timeout=30) as response:
        cookie = response.headers["Set-Cookie"].split(";")[0]
    headers = {"Cookie": f"{cookie}; taste=salty"}
    with open_client(server, "/who", additional_headers=headers) as ws:
        assert ws.recv(timeout=10) == "ann salty"
        assert ws.recv(timeout=10) == "more"
    assert eventually(lambda: told(server, "who") == ["who ended"])


def test_client_that_vanishes_ends_its_handler(server: Server) -> None:
    before = int(server.get("/count")[1])
    client = RawClient(server.port, "/echo")
    client.send(frame(1, b"x"))
    client.receive()
    assert int(server.get("/count")[1]) == before + 1
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()
    assert eventually(lambda: int(server.get("/count")[1]) == before)


def test_pages_of_other_sites_are_refused(server: Server) -> None:
    with pytest.raises(InvalidStatus) as caught:
        open_client(server, "/echo", origin="https://elsewhere.example")
    assert caught.value.response.status_code == 403


# Its own server.


def test_ctrl_c_ends_the_server_quietly_beside_open_connections() -> None:
    with OWN() as server, open_client(server, "/echo") as ws:
        assert ask(ws, "x") == "x"
        server.interrupt()
        server.process.wait(10)
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert ws.close_code == 1001
        assert server.process.returncode == 0
        assert isinstance(server, FlaskRun)
        assert server.noise() == []
        assert "it has ended quietly\n" in server.log


def test_handler_of_requests_may_be_ones_own() -> None:
    with OWN(env={"HANDLER": "1"}) as server:
        assert server.get("/") == (200, "Hello World!")
        with open_client(server, "/echo") as ws:
            assert ask(ws, "x") == "x"
        assert eventually(lambda: "/echo" in server.log)
        handled = [line for line in server.log.splitlines() if line.startswith("handled info")]
        assert [line for line in handled if "GET /echo HTTP/1.1" in line and "101" in line]


def test_port_that_is_taken_ends_it_with_a_line() -> None:
    with OWN() as server:
        command = Command(sys.executable, f"{APP}.py", env={"PORT": str(server.port)})
        with pytest.raises(RuntimeError, match="the server ended with 1"):
            command.__enter__()
        assert f"Port {server.port} is in use" in command.log
        assert "Traceback" not in command.log


def test_names_of_the_package_are_there() -> None:
    names = flask_threaded_sockets
    assert names.ThreadedWsWSGIServer is names.ThreadedWebsocketServer
    assert issubclass(names.ThreadedWebsocketServer, ThreadedWSGIServer)
    assert issubclass(names.WebSocketHandler, WSGIRequestHandler)
    assert names.ThreadedWebsocketServer.clients is gevent_websocket.server.clients
    assert names.Sockets is gevent_websocket.Sockets
    for error in (names.WebSocketError, names.ProtocolError, names.FrameTooLargeException):
        assert issubclass(error, OSError)


def test_app_run_is_still_that_of_flask() -> None:
    code = """
from flask import Flask
from flask_uwsgi_ws.compat.flask_threaded_sockets import Sockets
app = Flask("app")
Sockets(app)
app.run(port=%d)
"""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", code % port])
    try:
        wait_for_port(port, process)
        with pytest.raises(HTTPError) as caught:
            urlopen(f"http://127.0.0.1:{port}/none")
        assert caught.value.headers["Server"].startswith("Werkzeug/")
    finally:
        process.terminate()
        process.wait(10)
