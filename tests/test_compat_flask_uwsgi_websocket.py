"""Apps of Flask-uWSGI-WebSocket with another import, on uWSGI and Werkzeug."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask
from flask_run import FlaskRun
from modes import MODES, Mode
from peers import close_of, eventually, messages, open_client
from raw import RawClient
from uwsgi_server import APPS, Server, free_port, wait_for_uwsgi
from websockets.exceptions import InvalidStatus

import flask_uwsgi_ws
from flask_uwsgi_ws.compat import flask_uwsgi_websocket

SYNC, ASYNCIO = "compat_flask_uwsgi_websocket", "compat_flask_uwsgi_websocket_asyncio"

#: The class of the original, or how the app is served.
KINDS: dict[str, Callable[[], Server]] = {
    "WebSocket": partial(MODES["threads"].serve, app=SYNC),
    "AsyncWebSocket": partial(Mode("AsyncWebSocket", SYNC, ("--threads", "2")).serve),
    "GeventWebSocket": partial(MODES["gevent"].serve, app=SYNC),
    "WebSocket-gevent": partial(Mode("WebSocket", SYNC, ("--gevent", "100")).serve),
    "flask-run": partial(FlaskRun, SYNC),
    "asyncio-engine": partial(MODES["asyncio-engine"].serve, app=ASYNCIO),
    "asyncio-thread": partial(MODES["asyncio-thread"].serve, app=ASYNCIO),
}

_marks = (f"m{number}" for number in range(10**9))


BLOCKING = [kind for kind in KINDS if not kind.startswith("asyncio")]
AWAITING = [kind for kind in KINDS if kind.startswith("asyncio")]


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[[str], Server]]:
    """Starts a server of each kind once."""
    with ExitStack() as stack:
        yield functools.cache(lambda kind: stack.enter_context(KINDS[kind]()))


@pytest.fixture(params=KINDS, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def server(kind: str, start: Callable[[str], Server]) -> Server:
    return start(kind)


@pytest.fixture(params=BLOCKING, scope="module")
def blocking(request: pytest.FixtureRequest, start: Callable[[str], Server]) -> Server:
    """For handlers that block."""
    return start(request.param)


@pytest.fixture(params=AWAITING, scope="module")
def awaiting(request: pytest.FixtureRequest, start: Callable[[str], Server]) -> Server:
    """For handlers that await."""
    return start(request.param)


def failed(server: Server, path: str) -> list[str]:
    """What the log has on handlers of a URL that failed."""
    return re.findall(rf".*handler failed.*'{path}'.*", server.log)


def told_of(server: Server, mark: str) -> str:
    """Wait for what a handler tells, and give what follows the mark."""
    lines: list[str] = []

    def there() -> bool:
        told = json.loads(server.get("/told")[1])
        lines[:] = [line for line in told if line.startswith(f"{mark} ")]
        return bool(lines)

    assert eventually(there), server.get("/told")
    return lines[0].removeprefix(f"{mark} ")


# The project's examples.


@pytest.mark.parametrize("message", ["hi é€😀", "", b"\x00\xff", "x" * 100_000], ids=len)
def test_echo(server: Server, message: str | bytes) -> None:
    with open_client(server, "/echo") as ws:
        for _ in range(3):
            ws.send(message)
            assert ws.recv(timeout=10) == message


def test_bytes_of_utf8_go_as_text(server: Server) -> None:
    with open_client(server, "/echo") as ws:
        ws.send("bytes é".encode())
        assert ws.recv(timeout=10) == "bytes é"


def test_chat(server: Server) -> None:
    with ExitStack() as stack:
        ann, bob = (stack.enter_context(open_client(server, "/chat")) for _ in range(2))
        assert eventually(lambda: server.get("/users") == (200, "2"))
        ann.send("hello from ann")
        assert bob.recv(timeout=10) == "hello from ann"
        bob.send("hello from bob")
        assert ann.recv(timeout=10) == "hello from bob"
        late = stack.enter_context(open_client(server, "/chat"))
        assert [late.recv(timeout=10) for _ in range(2)] == ["hello from ann", "hello from bob"]
    assert eventually(lambda: server.get("/users") == (200, "0"))
    assert not failed(server, "/chat")


def test_more_of_the_examples(blocking: Server) -> None:
    with open_client(blocking, "/echo-if") as ws:
        ws.send("one")
        assert ws.recv(timeout=10) == "one"
        ws.send("")
        assert list(messages(ws)) == []
        assert ws.close_code == 1000
    with open_client(blocking, "/greet") as ws:
        ws.send("Ann")
        assert ws.recv(timeout=10) == "Hello, Ann"
    with open_client(blocking, "/context?name=Ann") as ws:
        assert ws.recv(timeout=10) == "Ann"


def test_generators_and_coroutines_are_handlers(awaiting: Server) -> None:
    with open_client(awaiting, "/echo-async") as ws:
        ws.send("one")
        assert ws.recv(timeout=10) == "one"
    with open_client(awaiting, "/echo-generator") as ws:
        for word in ("one", "two"):
            ws.send(word)
            assert ws.recv(timeout=10) == word * 2
    assert "never awaited" not in awaiting.log


def test_coroutine_is_a_task_beside_the_handler(awaiting: Server) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(open_client(awaiting, "/websocket/news")) for _ in range(2)]
        for client in clients:
            assert client.recv(timeout=10) == "Welcome to channel <news>"
        clients[0].send("word")
        for client in clients:
            assert client.recv(timeout=10) == "word"


def test_what_receive_gives_can_be_waited_for_in_all_ways(awaiting: Server) -> None:
    with open_client(awaiting, "/tasks") as ws:
        for word in ("one", "two", "three", "four"):
            ws.send(word)
        assert ws.recv(timeout=10) == "one two three four nothing"


# Messages.


def test_messages_are_received_as_bytes(blocking: Server) -> None:
    with open_client(blocking, "/kinds") as ws:
        ws.send("é")
        ws.send(b"\xff")
        got = list(messages(ws))
    text = ["text", "utf-8 é", b"\xff", "array"]
    assert got[:2] == [json.dumps(repr(each)) for each in ("é".encode(), b"\xff")]
    assert got[2:6] == text
    assert got[6:10] == [each.encode() if isinstance(each, str) else each for each in text]
    assert got[10:] == [b"as binary", "as text"]


def test_messages_are_sent_as_text_where_they_can_be(awaiting: Server) -> None:
    with open_client(awaiting, "/kinds") as ws:
        got = list(messages(ws))
    text = ["text", "utf-8 é", b"\xff", "array"]
    assert got[:8] == [each for each in text for _ in range(2)]
    assert got[8:] == [b"as binary", b"as binary", "TypeError", "ValueError", "ValueError"]


def test_recv_nb_gives_nothing_where_there_is_no_message(server: Server, kind: str) -> None:
    mark = next(_marks)
    empty = "''" if kind.startswith("asyncio") else "b''"
    with open_client(server, f"/poll?mark={mark}") as ws:
        assert ws.recv(timeout=10) == empty
        ws.send("word")
        assert ws.recv(timeout=10) == "b'word'"
        ws.close(4001)
    end = ["None, 4001, 4001]", ""] if kind.startswith("asyncio") else ["]", " 4001"]
    separator = ", " if kind.startswith("asyncio") else ""
    assert told_of(server, mark) == f"[{empty}, b'word'{separator}{end[0]}{end[1]}"
    assert not failed(server, "/poll")


def test_end_is_none_once_and_then_an_oserror(server: Server, kind: str) -> None:
    mark = next(_marks)
    with open_client(server, f"/end?mark={mark}") as ws:
        ws.close(4001, "bye")
    error: list[Any] = [4001, "bye"]
    if kind.startswith("asyncio"):
        expected = [None, error, error, False]
    else:
        error.append(True)
        expected = [None, error, error, error, False]
    assert json.loads(told_of(server, mark)) == expected


def test_lost_connection_is_the_end_too(server: Server) -> None:
    mark = next(_marks)
    with RawClient(server.port, f"/end?mark={mark}") as client:
        assert client.status == 101
    seen = json.loads(told_of(server, mark))
    assert (seen[0], seen[1][0]) == (None, 1006)


def test_handler_that_only_sends_ends_with_its_client(server: Server) -> None:
    mark = next(_marks)
    with open_client(server, f"/push?mark={mark}") as ws:
        assert ws.recv(timeout=10) == "ready"
    assert told_of(server, mark) == "ended"
    assert not failed(server, "/push")


def test_who_sends_to_a_client_that_has_gone_goes_on(server: Server) -> None:
    mark = next(_marks)
    with open_client(server, f"/keep?mark={mark}") as gone:
        assert gone.recv(timeout=10) == "kept"
        with open_client(server, "/to-kept") as ws:
            ws.send("one")
            assert gone.recv(timeout=10) == "one"
            assert ws.recv(timeout=10) == "sent one"
            gone.close()
            assert told_of(server, mark) == "gone"
            for word in ("two", "three"):
                ws.send(word)
                assert ws.recv(timeout=10) == f"sent {word}"
    server.get("/let-go")


def test_view_and_thread_send(server: Server, kind: str) -> None:
    is_asyncio = kind.startswith("asyncio")
    with open_client(server, f"/keep?mark={next(_marks)}") as ws:
        assert ws.recv(timeout=10) == "kept"
        path = "/send-from-view/" if is_asyncio else "/send-from-thread/"
        assert server.get(f"{path}word")[0] == 200
        assert ws.recv(timeout=10) == "word"
    server.get("/let-go")


def test_close_begins_the_close_and_does_not_wait(server: Server, kind: str) -> None:
    mark = next(_marks)
    expected = "False None" if kind.startswith("asyncio") else "False True"
    with RawClient(server.port, f"/close?mark={mark}") as client:
        assert client.receive() == (0x88, b"\x03\xe8")
        # Without an answer.
        assert told_of(server, mark) == expected


def test_handler_that_fails_is_logged(server: Server) -> None:
    assert close_of(server, "/fails") == (1011, "internal error")
    assert eventually(lambda: "KeyError: 'on purpose'" in server.log)


# What clients and extensions are.


def test_client_has_the_attributes_of_the_original(server: Server, kind: str) -> None:
    with open_client(server, "/about?argument=x") as ws:
        about = json.loads(ws.recv(timeout=10))
    if kind.startswith("asyncio"):
        assert about == {
            "class": "Named",
            "connected": True,
            "id": True,
            "fd": True,
            "timeout": 7,
            "path": "/about",
            "argument": "x",
        }
        return
    assert len(about.pop("id")) > 10
    assert about == {
        "class": "Named",
        "connected": True,
        "same": True,
        "fd": True,
        "timeout": 5,
        "path": "/about",
        "url": f"{server.ws}/echo",
    }


def test_client_can_do_what_that_of_this_package_can(server: Server) -> None:
    with open_client(server, "/rooms") as ws:
        assert ws.recv(timeout=10) == '["news"]'


def test_class_of_the_client_can_be_replaced(server: Server, kind: str) -> None:
    with open_client(server, "/named/word") as ws:
        if kind.startswith("asyncio"):
            assert ws.recv(timeout=10) == "wordTrue"
        else:
            assert [ws.recv(timeout=10), ws.recv(timeout=10)] == ["WORD", "True"]


def test_client_that_is_set_to_be_not_connected_is_closed(blocking: Server) -> None:
    mark = next(_marks)
    with RawClient(blocking.port, f"/hang-up?mark={mark}") as client:
        assert client.receive() == (0x88, b"\x03\xe8")
    assert told_of(blocking, mark) == "False"


def test_names_of_sockets_and_pages_are_apart(blocking: Server) -> None:
    assert blocking.get("/same") == (200, "a page")
    assert blocking.get("/live/page") == (200, "a page of the blueprint")
    with open_client(blocking, "/same") as ws:
        assert ws.recv(timeout=10) == "a socket"
    with open_client(blocking, "/live/echo") as ws:
        ws.send("word")
        assert ws.recv(timeout=10) == "websocket:live word"
    with open_client(blocking, "/again/echo") as ws:
        ws.send("word")
        assert ws.recv(timeout=10) == "websocket:live:2 word"


def test_pages_of_other_sites_are_refused(server: Server) -> None:
    with pytest.raises(InvalidStatus) as caught:
        open_client(server, "/echo", origin="https://elsewhere.example")
    assert caught.value.response.status_code == 403


def test_gevent_is_imported_in_its_loop_only(blocking: Server) -> None:
    assert blocking.get("/loaded") == (200, str("--gevent" in blocking.command))


# app.run.


@contextmanager
def program(app: str, backend: str, **options: Any) -> Iterator[Server]:
    """Start an app as a program that calls ``app.run``."""
    port = free_port()
    env = {**os.environ, "PORT": str(port), "BACKEND": backend, "RUN": json.dumps(options)}
    env["FLASK_UWSGI_BINARY"] = os.path.join(os.path.dirname(sys.executable), "uwsgi")
    process = subprocess.Popen([sys.executable, f"{app}.py"], cwd=APPS, env=env)
    try:
        wait_for_uwsgi(port, process)
        server = Server(app)
        server.port, server.address, server.process = port, f"127.0.0.1:{port}", process
        yield server
    finally:
        process.terminate()
        process.wait(15)


RUNS = {
    "threads": (SYNC, "WebSocket", {"threads": 2}),
    "gevent": (SYNC, "GeventWebSocket", {"gevent": 100}),
    "WebSocket-gevent": (SYNC, "WebSocket", {"gevent": 100}),
    "asyncio": (ASYNCIO, "AsyncioWebSocket", {"asyncio": 100, "greenlet": True}),
    "debug": (SYNC, "GeventWebSocket", {"debug": True, "host": "localhost", "gevent": 100}),
}


@pytest.mark.parametrize("run", RUNS)
def test_app_run(run: str) -> None:
    app, backend, options = RUNS[run]
    with program(app, backend, **options) as server, open_client(server, "/echo") as ws:
        ws.send("word")
        assert ws.recv(timeout=10) == "word"
        command = Path(f"/proc/{server.process.pid}/cmdline").read_text().split("\0")
    given = {f"--{name}" for name in options} & {"--gevent", "--asyncio", "--greenlet", "--threads"}
    assert given <= {word.split("=")[0] for word in command}


def test_extension_runs_the_app_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    monkeypatch.setattr(flask_uwsgi_ws.runner, "run", lambda *arguments: runs.append(arguments))
    app = Flask(__name__)
    websocket = flask_uwsgi_websocket.WebSocket(app)
    websocket.run("chat:app", processes=8)
    app.run(app="chat:app")
    other = Flask(__name__)
    websocket.run(other)
    assert [run[0] for run in runs] == [app, app, other]
    with pytest.raises(RuntimeError, match="this WebSocket has no app yet"):
        flask_uwsgi_websocket.WebSocket().run()


def test_extension_runs_the_app_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    monkeypatch.setattr(flask_uwsgi_ws.runner, "run", lambda *arguments: runs.append(arguments))
    app = Flask(__name__)
    websocket = flask_uwsgi_websocket.WebSocket(app)
    websocket.run(port=8080, gevent=100)
    app.debug = True
    app.run(processes=8)
    assert [run[:6] for run in runs] == [
        (app, False, "localhost", 8080, None, {"gevent": 100}),
        (app, True, "localhost", 5000, None, {"processes": 8}),
    ]


# Without a server.


def test_every_name_of_the_original_is_there() -> None:
    for kind in ("", "Async", "Gevent", "Asyncio"):
        for suffix in ("", "Client", "Middleware"):
            name = f"{kind}WebSocket{suffix}"
            assert getattr(flask_uwsgi_websocket, name).__name__ == name
        extension = getattr(flask_uwsgi_websocket, f"{kind}WebSocket")
        assert issubclass(extension, flask_uwsgi_ws.WebSocket)
        middleware = getattr(flask_uwsgi_websocket, f"{kind}WebSocketMiddleware")
        assert extension.middleware is middleware
        assert middleware.client is getattr(flask_uwsgi_websocket, f"{kind}WebSocketClient")
    assert flask_uwsgi_websocket.uwsgi is None
    assert issubclass(flask_uwsgi_websocket.AsyncioNotAvailable, Exception)
    with pytest.raises(AttributeError, match="no attribute 'Sockets'"):
        flask_uwsgi_websocket.Sockets  # noqa: B018


def test_extension_has_the_attributes_of_the_original() -> None:
    app = Flask(__name__)
    websocket = flask_uwsgi_websocket.WebSocket(app)
    live = Blueprint("live", __name__)

    def echo(ws: Any) -> None: ...

    live.route("/echo")(echo)
    websocket.route("/echo", methods=["GET"])(echo)
    websocket.register_blueprint(live, url_prefix="/live")
    assert websocket.blueprints == {"live": live}
    rules = [rule for rule in websocket.url_map.iter_rules() if rule.websocket]
    assert {rule.rule for rule in rules} == {"/echo", "/live/echo"}
    assert [websocket.view_functions[rule.endpoint] for rule in rules] == [echo, echo]
    assert (websocket.app, websocket.timeout) == (app, 5)


def test_middleware_may_be_given_the_app_by_its_extension() -> None:
    app = Flask(__name__)
    websocket = flask_uwsgi_websocket.WebSocket()
    websocket.init_app(app)
    middleware = flask_uwsgi_websocket.WebSocketMiddleware(app.wsgi_app, websocket)
    assert middleware.app is app


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_without_gevent_its_extension_says_what_to_install() -> None:
    code = """if True:
        import sys
        sys.modules["gevent"] = None
        from flask_uwsgi_ws.compat.flask_uwsgi_websocket import *
        try:
            GeventWebSocket(None, timeout=3)
        except GeventNotInstalled as error:
            print(error)
    """
    assert python(code) == "GeventWebSocket needs gevent: pip install gevent\n"


@pytest.mark.parametrize("name", ["flask_sock", "flask_uwsgi_websocket"])
def test_import_needs_no_gevent(name: str) -> None:
    missing = "import sys; sys.modules.update(dict.fromkeys(['gevent', 'greenlet', 'gunicorn']))"
    imported = f"from flask_uwsgi_ws.compat import {name}; print({name}.__name__)"
    assert python(f"{missing}; {imported}") == f"flask_uwsgi_ws.compat.{name}\n"
