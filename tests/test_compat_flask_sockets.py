"""``compat.flask_sockets``: an app of Flask-Sockets with another import, on each server."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from urllib.request import urlopen

import pytest
from flask import Blueprint, Flask
from flask_run import FlaskRun
from modes import MODES
from peers import eventually, open_client
from raw import RawClient, frame
from uwsgi_server import APPS, Server, free_port, wait_for_port
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from werkzeug.routing import BuildError

from flask_uwsgi_ws.compat import flask_sockets
from flask_uwsgi_ws.compat import gevent_websocket as compat
from flask_uwsgi_ws.compat.flask_sockets import Sockets, WebSocket, WebSocketError
from flask_uwsgi_ws.compat.gevent_websocket import Client, Clients


class Command(FlaskRun):
    """A command that serves an app on the port of ``$PORT``.

    :param command: its words, in which ``{port}`` is that port.
    :param env: environment variables besides those of the test.
    """

    def __init__(self, *command: str, env: dict[str, str] | None = None) -> None:
        super().__init__("", env=env)
        self._words = command

    def __enter__(self) -> Command:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.command = [word.format(port=self.port) for word in self._words]
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.command,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "PORT": str(self.port), **self._env},
            cwd=APPS,
            start_new_session=True,
        )
        try:
            wait_for_port(self.port, self.process)
        except BaseException:
            print(self.log)
            self.interrupt()
            raise
        return self


APP = "compat_flask_sockets"
GUNICORN = (sys.executable, "-m", "gunicorn", "--no-control-socket", "-b", "127.0.0.1:{port}")

SERVERS: dict[str, Callable[[], Server]] = {
    "threads": partial(MODES["threads"].serve, app=APP),
    "gevent": partial(MODES["gevent"].serve, app=APP),
    "gevent-router": partial(MODES["gevent"].serve, app=APP, router=True),
    "flask-run": partial(FlaskRun, APP),
}


@pytest.fixture(params=SERVERS, scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with SERVERS[request.param]() as running:
        yield running


def told(server: Server, start: str) -> list[str]:
    lines: list[str] = json.loads(server.get("/told")[1])
    return [line for line in lines if line.startswith(start)]


def ask(ws: ClientConnection, message: str | bytes) -> str | bytes:
    ws.send(message)
    return ws.recv(timeout=10)


def first_word(server: Server, path: str) -> str | bytes:
    with open_client(server, path) as ws:
        return ws.recv(timeout=10)


def settled(server: Server, count: int) -> bool:
    """Wait until so many handlers run."""
    return eventually(lambda: server.get("/clients") == (200, str(count)))


# The README's examples, and others that are around.


def test_readme_echoes_and_its_page_is_there(server: Server) -> None:
    assert server.get("/") == (200, "Hello World!")
    with open_client(server, "/echo") as ws:
        assert ask(ws, "hello é€😀") == "hello é€😀"
        assert ask(ws, "") == ""
        assert ask(ws, b"\0\xff" * 1000) == b"\0\xff" * 1000


def test_loop_that_sends_the_none_of_the_end_ends_without_a_traceback(server: Server) -> None:
    before = server.log.count("Traceback")
    for path in ("/echo", "/live/echo", "/chat"):
        with open_client(server, path) as ws:
            assert ask(ws, "x") == "x"
    with open_client(server, "/remember") as ws:
        assert ws.recv(timeout=10) == "here"
    assert eventually(lambda: server.get("/open") == (200, "0"))
    assert server.log.count("Traceback") == before


def test_chat_by_way_of_the_servers_clients_reaches_all(server: Server) -> None:
    with ExitStack() as stack:
        assert settled(server, 0)
        clients = [stack.enter_context(open_client(server, "/chat")) for _ in range(5)]
        # A handshake may be answered before the handler has begun.
        assert settled(server, 5)
        for i, ws in enumerate(clients):
            ws.send(f"from {i}")
            assert [each.recv(timeout=10) for each in clients] == [f"from {i}"] * 5


def test_chat_goes_on_while_others_come_and_leave(server: Server) -> None:
    """A sender is not hurt by one that leaves while it goes through the clients."""
    with open_client(server, "/chat") as stays:
        for i in range(40):
            with RawClient(server.port, "/chat") as leaves:
                leaves.send(frame(8, b"\x03\xe8"))
            # Those who have left are not among those who get it, or lose it.
            assert ask(stays, f"message {i}") == f"message {i}"
    assert stays.close_code == 1000


# Routes.


def test_blueprint_and_url_variables(server: Server) -> None:
    for path, answer in (("/live/echo", "ab"), ("/live/3/echo", "ababab"), ("/again/echo", "ab")):
        with open_client(server, path) as ws:
            assert ask(ws, "ab") == answer


def test_blueprint_of_pages_may_have_the_name_of_one_of_sockets(server: Server) -> None:
    assert server.get("/live/page") == (200, "a page")
    text = (APPS / "static" / "hello.txt").read_text()
    assert server.get("/live/static/hello.txt") == (200, text)


def test_several_rules_of_a_handler(server: Server) -> None:
    assert first_word(server, "/rooms") == "lobby 0"
    assert first_word(server, "/rooms/blue/7") == "blue 7"
    assert first_word(server, "/added") == "added"
    with pytest.raises(InvalidStatus):
        open_client(server, "/rooms/blue/seven")


def test_views_and_handlers_may_have_names_in_common(server: Server) -> None:
    assert first_word(server, "/same") == "one"
    assert first_word(server, "/same/two") == "two"
    page = f"/same ws://{server.address}/echo ws://{server.address}/live/echo"
    assert server.get("/same") == (200, page)


# What a handler knows.


def test_handler_knows_its_request_and_its_session(server: Server) -> None:
    with urlopen(f"http://{server.address}/login/ann", timeout=30) as response:
        cookie = response.headers["Set-Cookie"].split(";")[0]
    headers = {"Cookie": f"{cookie}; taste=salty"}
    options = {"origin": f"http://{server.address}", "subprotocols": ["chat"]}
    with open_client(server, "/about?arg=7", additional_headers=headers, **options) as ws:
        about = json.loads(ws.recv(timeout=10))
        host, port = ws.local_address[:2]
        assert ws.subprotocol is None
    address = about.pop("address")
    assert address[0] == host
    assert about.pop("items") == [address]
    # uWSGI's router has the two bytes of the port the wrong way round, and uWSGI alone has none.
    swapped = int.from_bytes(port.to_bytes(2, "big"), "little")
    assert address[1] in {port, swapped} or address[1] > 65535
    assert about.pop("repr").startswith("<WebSocket of <")
    assert about == {
        "name": "ann",
        "cookie": "salty",
        "arg": "7",
        "app": APP,
        "path": "/about",
        "origin": f"http://{server.address}",
        "protocol": "chat",
        "version": "13",
        "closed": False,
        "same ws": True,
        "same environ": True,
        "environ version": "13",
        "same client": True,
        "key": True,
        "clients": about["clients"],
        "handler": True,
        "keys": True,
        "id": True,
        "private": False,
    }


def test_nothing_is_left_when_a_handler_has_ended(server: Server) -> None:
    assert settled(server, 0)
    before = len(json.loads(server.get("/kept")[1]))
    assert json.loads(first_word(server, "/about"))["clients"] == 1
    assert settled(server, 0)
    # What an environ had of the connection is gone with it.
    assert eventually(lambda: len(json.loads(server.get("/kept")[1])) == before + 1)
    assert eventually(lambda: all(json.loads(server.get("/kept")[1])))
    assert set(told(server, "about")) == {"about True True"}


def test_binary_messages_are_bytearrays(server: Server) -> None:
    with open_client(server, "/kind") as ws:
        assert ask(ws, "text") == "str 4"
        assert ask(ws, b"bytes") == "bytearray 5"
        assert ask(ws, b"") == "bytearray 0"


def test_frames_of_each_kind(server: Server) -> None:
    with RawClient(server.port, "/frames") as client:
        expected = [
            (0x81, b"text"),
            (0x81, b"7"),
            (0x81, b"bytes"),
            (0x82, b"\0\1"),
            (0x89, b"ping"),
            (0x8A, b"pong"),
            (0x81, b"ProtocolError"),
            (0x81, b"ProtocolError"),
            (0x81, b"ValueError"),
            (0x81, b"as text"),
            (0x82, b"as bytes"),
            (0x81, b""),
            (0x88, b"\x0f\xa2done"),
        ]
        assert [client.receive() for _ in expected] == expected
        client.send(frame(8, b"\x0f\xa2"))
        assert client.rest() == b""
    late = [f"frames {opcode} WebSocketError" for opcode in (1, 9, 10)]
    assert eventually(lambda: told(server, "frames") == late), told(server, "frames")


# How connections end.


@pytest.mark.parametrize(("code", "reason"), [(4001, "enough"), (1000, "")])
def test_close_tells_code_and_reason_and_does_not_wait(
    server: Server, code: int, reason: str
) -> None:
    query = f"code={code}&reason={reason}" if reason else f"code={code}"
    with RawClient(server.port, f"/close?{query}") as client:
        # Which does not answer for now.
        assert client.receive() == (0x88, code.to_bytes(2, "big") + reason.encode())
        line = f"close {code} True None True"
        assert eventually(lambda: told(server, f"close {code}") == [line])
        client.send(frame(8, code.to_bytes(2, "big")))
        assert client.rest() == b""
    assert told(server, "never") == []


def test_code_that_may_not_be_sent_is_an_error(server: Server) -> None:
    with open_client(server, "/close?code=1006") as ws, pytest.raises(ConnectionClosed):
        ws.recv(timeout=10)
    assert ws.close_code == 1011


@pytest.mark.parametrize(
    "end",
    [frame(8, b"\x0f\xa1bye"), frame(8), frame(0, b"lone"), frame(1, b"\xff"), b""],
    ids=["close", "close without a code", "protocol error", "no UTF-8", "gone"],
)
def test_end_is_none_once_and_then_an_error(server: Server, end: bytes) -> None:
    mark = f"end-{end.hex()}"
    with RawClient(server.port, f"/end?mark={mark}") as client:
        client.send(frame(1, b"one") + frame(2, b"two"))
        client.send(end)
    line = f"{mark} ['one', bytearray(b'two'), None] True True"
    assert eventually(lambda: told(server, f"{mark} ") == [line]), told(server, mark)


def test_messages_before_the_end_are_all_received(server: Server) -> None:
    """Even where answers to them find nobody any more."""
    with RawClient(server.port, "/slow") as client:
        assert client.receive() == (0x81, b"ready")
        client.send(frame(1, b"a") + frame(1, b"b") + frame(1, b"c") + frame(8, b"\x03\xe8"))
        client.receive()
    expected = "slow ['a', 'b', 'c']"
    assert eventually(lambda: told(server, "slow") == [expected]), told(server, "slow")


@pytest.mark.parametrize("unread", [0, 3])
def test_handler_that_never_receives_ends_with_an_error_of_send(
    server: Server, unread: int
) -> None:
    before = server.log.count("Traceback")
    mark = f"unread-{unread}"
    with RawClient(server.port, f"/push?mark={mark}") as client:
        assert client.receive() == (0x81, b"ready")
        client.send(frame(1, b"x") * unread + frame(8, b"\x03\xe8"))
    assert eventually(lambda: told(server, f"push {mark}") == [f"push {mark} ended"])
    # It lets the error through, which is no fault.
    assert server.log.count("Traceback") == before


def test_handler_that_raises_is_logged_and_closes_with_1011(server: Server) -> None:
    with open_client(server, "/raises") as ws, pytest.raises(ConnectionClosed):
        ask(ws, "x")
    assert ws.close_code == 1011
    assert eventually(lambda: "KeyError: 'on purpose'" in server.log)


@pytest.mark.parametrize("path", ["/remember", "/remember-and-return"])
def test_error_of_another_connection_is_not_a_quiet_end(server: Server, path: str) -> None:
    before = len(told(server, "to another"))
    with open_client(server, path):
        pass
    assert settled(server, 0)
    with open_client(server, "/to-another") as ws:
        ws.send("hello?")
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert ws.close_code == 1011
    assert eventually(lambda: "WebSocketError: the connection has ended" in server.log)
    # Lost, as to one that is about to be gone, and then no more.
    (line,) = told(server, "to another")[before:]
    assert int(line.split()[-1]) < 20


def test_views_and_threads_send_and_close(server: Server) -> None:
    with open_client(server, "/remember") as ws:
        assert ws.recv(timeout=10) == "here"
        assert server.get("/send-from-thread/word") == (200, "")
        assert ws.recv(timeout=10) == "word"
        assert server.get("/close-other") == (200, "True")
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=10)
        assert (ws.close_code, ws.close_reason) == (4003, "by a view")


# Origins.


def test_pages_of_other_sites_are_refused(server: Server) -> None:
    with pytest.raises(InvalidStatus) as caught:
        open_client(server, "/echo", origin="https://elsewhere.example")
    assert caught.value.response.status_code == 403


def test_pages_of_other_sites_connect_if_the_configuration_says_so() -> None:
    origin = "https://elsewhere.example"
    with (
        MODES["gevent"].serve(app=APP, env={"ORIGINS": origin}) as server,
        open_client(server, "/echo", origin=origin) as ws,
    ):
        assert ask(ws, "x") == "x"


# gevent's own server, and gunicorn.


def talks_as_in_the_readme(server: Server) -> None:
    assert server.get("/") == (200, "Hello World!")
    with open_client(server, "/echo") as ws, open_client(server, "/chat") as other:
        assert ask(ws, "hello") == "hello"
        assert settled(server, 2)
        assert ask(other, "beside it") == "beside it"
        assert ws.recv(timeout=10) == "beside it"
        assert server.get("/") == (200, "Hello World!")
    assert settled(server, 0)


def test_readme_on_gevents_own_server() -> None:
    with Command(sys.executable, f"{APP}.py") as server:
        talks_as_in_the_readme(server)


def test_readme_on_gunicorn_with_the_worker() -> None:
    worker = "flask_uwsgi_ws.compat.flask_sockets.worker"
    with Command(*GUNICORN, "-k", worker, f"{APP}:app") as server:
        talks_as_in_the_readme(server)


def test_worker_and_handler_are_made_when_they_are_asked_for() -> None:
    code = """
import sys
from flask_uwsgi_ws.compat import flask_sockets, flask_threaded_sockets
loaded = [name for name in ("gevent", "gunicorn", "greenlet", "eventlet") if name in sys.modules]
assert not loaded, loaded
from flask_uwsgi_ws.compat.flask_sockets import Worker, WebSocketHandler, WebSocketServer, worker
from gevent import pywsgi
from gunicorn.workers.ggevent import GeventWorker
assert worker is Worker and issubclass(worker, GeventWorker)
assert issubclass(WebSocketHandler, pywsgi.WSGIHandler)
assert issubclass(WebSocketServer, pywsgi.WSGIServer)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("missing", ["gevent", "gunicorn"])
def test_what_is_missing_is_named(missing: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
from flask_uwsgi_ws.compat import flask_sockets
try:
    flask_sockets.worker
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("worker: ")
    assert missing in done.stdout.removesuffix("; pip install gunicorn gevent\n")


def test_handler_without_gevent_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gevent", None)
    with pytest.raises(ImportError, match="WebSocketHandler needs gevent: pip install gevent"):
        _ = flask_sockets.WebSocketHandler
    with pytest.raises(AttributeError, match="nothing"):
        _ = flask_sockets.nothing


# Without a server.


def test_sockets_for_an_app_that_is_made_later() -> None:
    sockets = Sockets()
    live = Blueprint("live", __name__)

    @sockets.route("/early")
    def early(ws: WebSocket) -> None:
        ws.send("early")

    @live.route("/live")
    def late(ws: WebSocket) -> None:
        ws.send("live")

    sockets.register_blueprint(live)
    with pytest.raises(RuntimeError, match="call init_app"):
        _ = sockets.url_map
    app = Flask(__name__)
    sockets.init_app(app)
    assert sockets.url_map is app.url_map
    assert sockets.blueprints == {"live": live}
    client = sockets.websocket.test_client()
    for path in ("/early", "/live"):
        with client.connect(path) as ws:
            assert ws.receive() == path[1:]


def test_handler_that_can_not_be_is_an_error_at_once() -> None:
    sockets = Sockets(Flask(__name__))

    async def handler(ws: object) -> None: ...

    with pytest.raises(TypeError, match="async def"):
        sockets.route("/x")(handler)
    with pytest.raises(TypeError, match="needs a function"):
        sockets.add_url_rule("/x")
    blueprint = Blueprint("live", __name__)
    blueprint.route("/x")(handler)
    with pytest.raises(TypeError, match="async def"):
        sockets.register_blueprint(blueprint)


def test_url_that_there_is_none_of_is_flasks_error() -> None:
    app = Flask(__name__)
    Sockets(app)
    with app.test_request_context(), pytest.raises(BuildError, match="endpoint 'nowhere'"):
        app.url_for("nowhere")


def nobody() -> Client:
    return Client(("here", 0), WebSocket(SimpleNamespace(receive=None, send=None, environ={})))


def test_clients_can_be_gone_through_while_they_change() -> None:
    clients = Clients({("here", port): nobody() for port in range(10)})
    ports = itertools.count(10)
    for look in (clients.values, clients.items, clients.keys, clients.__iter__):
        for _ in look():
            clients["here", next(ports)] = nobody()
    assert len(clients) == 10 + 10 + 20 + 40 + 80


def test_clients_of_the_same_address_are_kept_apart() -> None:
    server = compat.Server()
    environ = {"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": "80"}
    sockets = [
        WebSocket(SimpleNamespace(receive=None, send=None, environ=each))
        for each in (environ, environ, {"REMOTE_ADDR": ""}, {"REMOTE_ADDR": ""})
    ]
    addresses = [server.enter(ws) for ws in sockets]
    assert addresses[0] == ("10.0.0.1", 80)
    assert [host for host, _ in addresses] == ["10.0.0.1", "10.0.0.1", "", ""]
    assert all(port > 65535 for _, port in addresses[1:])
    assert [client.ws for client in server.clients.values()] == sockets
    assert [client.address for client in server.clients.values()] == addresses


def test_websocket_error_is_an_os_error() -> None:
    assert issubclass(WebSocketError, OSError)
    assert issubclass(flask_sockets.FrameTooLargeException, flask_sockets.ProtocolError)
    assert issubclass(flask_sockets.ProtocolError, WebSocketError)
