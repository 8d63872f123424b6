"""The test client, on all backends, and what it tells of a handler that is wrong."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request, session

import flask_uwsgi_ws
from flask_uwsgi_ws import ConnectionClosed, WebSocket
from flask_uwsgi_ws.testing import HandshakeRefused, WebSocketTestClient

BACKENDS = ("WebSocket", "GeventWebSocket", "AsyncioWebSocket")

HANDLERS: dict[str, Callable[..., Any]] = {}
ended: list[str] = []


def handler(function: Callable[..., Any]) -> Callable[..., Any]:
    HANDLERS[function.__name__] = function
    return function


@handler
def echo(ws: Any) -> None:
    for message in ws:
        ws.send(message)


@handler
def double(ws: Any) -> None:
    value = ws.receive_json()
    ws.send_json({"twice": value["number"] * 2})


@handler
def about(ws: Any) -> None:
    environ = ws.environ
    names = ("HTTP_X_WORD", "QUERY_STRING", "HTTP_ORIGIN", "REMOTE_ADDR", "HTTP_COOKIE", "word")
    ws.send_json({name: environ.get(name) for name in names})


@handler
def end(ws: Any) -> None:
    try:
        while ws.receive() is not None:
            pass
    finally:
        time.sleep(0.05)
        ended.append(f"{ws.close_code} {ws.close_reason}")


@handler
def say_goodbye(ws: Any) -> None:
    ws.send("one")
    ws.send(b"two")
    ws.close(4001, "enough")


@handler
def fail(ws: Any) -> None:
    ws.send("before")
    raise LookupError("on purpose")


@handler
def hang(ws: Any) -> None:
    ws.send("here")
    released.wait(30)


released = threading.Event()


def make_app(backend: str) -> tuple[Flask, Any]:
    app = Flask("tested")
    app.config["SECRET_KEY"] = "secret"
    app.config["UWSGI_WEBSOCKET_SUBPROTOCOLS"] = ["v2", "v1"]
    app.config["UWSGI_WEBSOCKET_COMPRESSION"] = True
    app.config["UWSGI_WEBSOCKET_CLOSE_TIMEOUT"] = 0.5
    app.config["UWSGI_WEBSOCKET_MAX_QUEUE"] = 16
    websocket = getattr(flask_uwsgi_ws, backend)(app)
    for name, function in HANDLERS.items():
        websocket.add_url_rule(f"/{name}", name, function)
    if backend == "AsyncioWebSocket":

        async def coroutine(ws: Any) -> None:
            async for message in ws:
                await ws.send(message)

        websocket.add_url_rule("/coroutine", "coroutine", coroutine)

    @app.post("/login")
    def login() -> str:
        session["user"] = "ada"
        return ""

    @app.errorhandler(404)
    def missing(_: Exception) -> tuple[dict[str, str], int]:
        return {"missing": request.path}, 404

    return app, websocket


@pytest.fixture(params=BACKENDS)
def made(request: pytest.FixtureRequest) -> tuple[Flask, Any]:
    return make_app(request.param)


@pytest.fixture
def app(made: tuple[Flask, Any]) -> Flask:
    return made[0]


@pytest.fixture
def client(made: tuple[Flask, Any]) -> WebSocketTestClient:
    client: WebSocketTestClient = made[1].test_client()
    return client


@pytest.mark.parametrize("message", ["text é€😀", b"\0\xff", "", b"", b"x" * 2**19], ids=len)
def test_message_comes_back_as_it_was_sent(
    client: WebSocketTestClient, message: str | bytes
) -> None:
    with client.connect("/echo") as ws:
        ws.send(message)
        assert ws.receive(timeout=10) == message


def test_json_goes_both_ways(client: WebSocketTestClient) -> None:
    with client.connect("/double") as ws:
        ws.send_json({"number": 21})
        assert ws.receive_json() == {"twice": 42}


def test_many_messages_are_sent_before_one_is_received(client: WebSocketTestClient) -> None:
    message = b"x" * 100_000
    with client.connect("/echo") as ws:
        for _ in range(100):
            ws.send(message)
        assert [ws.receive() for _ in range(100)] == [message] * 100


def test_handshake_has_what_it_was_given(client: WebSocketTestClient) -> None:
    with client.connect(
        "/about",
        headers={"X-Word": "hello"},
        query_string={"a": "b c"},
        origin="http://localhost",
        environ_overrides={"word": "own"},
    ) as ws:
        assert ws.receive_json() == {
            "HTTP_X_WORD": "hello",
            "QUERY_STRING": "a=b+c",
            "HTTP_ORIGIN": "http://localhost",
            "REMOTE_ADDR": "127.0.0.1",
            "HTTP_COOKIE": None,
            "word": "own",
        }
    with client.connect("ws://localhost/about?x=1") as ws:
        assert ws.receive_json()["QUERY_STRING"] == "x=1"


def test_subprotocol_and_compression_are_those_that_the_app_chose(
    client: WebSocketTestClient,
) -> None:
    with client.connect("/echo", subprotocols=["v1", "v2"], compression=True) as ws:
        assert ws.subprotocol == "v2"
        assert ws.headers["Sec-WebSocket-Protocol"] == "v2"
        assert ws.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
        ws.send("x" * 1000)
        assert ws.receive() == "x" * 1000
    with client.connect("/echo") as ws:
        assert ws.subprotocol is None
        assert "Sec-WebSocket-Extensions" not in ws.headers


def test_end_that_the_handler_chose(client: WebSocketTestClient) -> None:
    with client.connect("/say_goodbye") as ws:
        assert list(ws) == ["one", b"two"]
        assert (ws.connected, ws.close_code, ws.close_reason) == (False, 4001, "enough")
        assert ws.receive() is None
        with pytest.raises(ConnectionClosed) as error:
            ws.send("too late")
        assert error.value.code == 4001


@pytest.mark.parametrize(
    ("code", "reason"), [(None, ""), (1001, "page left"), (4002, "é")], ids=str
)
def test_leaving_the_block_waits_for_the_end_of_the_handler(
    client: WebSocketTestClient, code: int | None, reason: str
) -> None:
    ended.clear()
    with client.connect("/end") as ws:
        assert ws.connected
        assert ws.close_code is None
        if code is not None:
            ws.close(code, reason)
            assert ended == [f"{code} {reason}"]
    assert ended == [f"{code or 1000} {reason}"]
    assert ws.close_code == (code or 1000)


def test_dropped_connection_is_1006_for_the_handler(client: WebSocketTestClient) -> None:
    ended.clear()
    with client.connect("/end") as ws:
        ws.drop()
    assert ended == ["1006 "]


def test_ping_is_answered(client: WebSocketTestClient) -> None:
    with client.connect("/echo") as ws:
        ws.ping()
        ws.ping(b"data")
        ws.send("still here")
        assert ws.receive() == "still here"


def test_message_that_does_not_come_is_a_timeout_and_nothing_is_lost(
    client: WebSocketTestClient,
) -> None:
    with client.connect("/echo") as ws:
        with pytest.raises(TimeoutError, match=r"/echo within 0\.01 seconds"):
            ws.receive(timeout=0.01)
        ws.send("x")
        assert ws.receive() == "x"


# Refusals and errors.


def test_refused_handshake_has_the_response(client: WebSocketTestClient) -> None:
    with pytest.raises(HandshakeRefused, match="403") as error:
        client.connect("/echo", origin="https://evil.example")
    assert error.value.response.status_code == 403
    assert "evil.example may not connect" in error.value.response.text
    with pytest.raises(HandshakeRefused, match="404") as error:
        client.connect("/nowhere")
    assert error.value.response.json == {"missing": "/nowhere"}


@pytest.mark.parametrize("how", ["receive", "close", "with", "iterate"])
def test_what_the_handler_raises_reaches_the_test_where_exceptions_propagate(
    app: Flask, client: WebSocketTestClient, how: str
) -> None:
    app.testing = True

    def use() -> None:
        with client.connect("/fail") as ws:
            assert ws.receive() == "before"
            if how == "receive":
                ws.receive()
            elif how == "iterate":
                list(ws)
            elif how == "close":
                ws.close()

    with pytest.raises(LookupError, match="on purpose"):
        use()


def test_what_the_handler_raises_is_1011_where_exceptions_do_not_propagate(
    app: Flask, client: WebSocketTestClient
) -> None:
    app.config.update(TESTING=True, PROPAGATE_EXCEPTIONS=False)
    with client.connect("/fail") as ws:
        assert list(ws) == ["before"]
        assert ws.close_code == 1011


def test_error_of_the_app_before_the_handshake_reaches_the_test(app: Flask) -> None:
    def broken(*_: Any) -> list[bytes]:
        raise LookupError("on purpose")

    app.wsgi_app = broken  # type: ignore[method-assign,assignment]
    client = WebSocketTestClient(app.test_client())
    with pytest.raises(LookupError, match="on purpose"):
        client.connect("/echo")


def test_error_of_the_test_is_not_hidden_by_that_of_the_handler(
    app: Flask, client: WebSocketTestClient
) -> None:
    app.testing = True
    with pytest.raises(ZeroDivisionError), client.connect("/fail"):
        _ = 1 / 0


def test_handler_that_does_not_end_is_named(made: tuple[Flask, Any]) -> None:
    client = made[1].test_client(timeout=0.2)
    released.clear()
    try:
        with (
            pytest.raises(TimeoutError, match=r"handler of /hang has not ended 0\.2 seconds after"),
            client.connect("/hang") as ws,
        ):
            assert ws.receive(timeout=10) == "here"
    finally:
        released.set()


def test_handler_that_does_not_read_is_named(made: tuple[Flask, Any]) -> None:
    client = made[1].test_client(timeout=0.2)
    released.clear()
    try:
        ws = client.connect("/hang")

        def send_much() -> None:
            for _ in range(1000):
                ws.send(b"x" * 100_000)

        with pytest.raises(TimeoutError, match="handler of /hang has read nothing"):
            send_much()
    finally:
        released.set()


# Cookies.


def test_cookies_are_those_of_the_apps_test_client(made: tuple[Flask, Any]) -> None:
    app, websocket = made
    flask_client = app.test_client()
    flask_client.post("/login")
    flask_client.set_cookie("other", "1", path="/elsewhere")
    with websocket.test_client(flask_client).connect("/about") as ws:
        cookie = ws.receive_json()["HTTP_COOKIE"]
    assert cookie.startswith("session=")
    assert ";" not in cookie
    headers = {"Cookie": "own=1"}
    with websocket.test_client(flask_client).connect("/about", headers=headers) as ws:
        assert ws.receive_json()["HTTP_COOKIE"] == "own=1"


def test_cookies_of_a_refusal_and_of_the_101_are_kept(made: tuple[Flask, Any]) -> None:
    app, websocket = made
    inner = app.wsgi_app

    def with_cookie(environ: Any, start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            headers.append(("Set-Cookie", f"for{status[:3]}=yes; Path=/"))
            return start_response(status, headers, *more)

        return inner(environ, start)

    app.wsgi_app = with_cookie  # type: ignore[method-assign]
    flask_client = app.test_client()
    with pytest.raises(HandshakeRefused):
        websocket.test_client(flask_client).connect("/nowhere")
    cookie = flask_client.get_cookie("for404")
    assert cookie is not None
    assert cookie.value == "yes"


# Where the test runs.


def test_several_connections_at_once_and_from_several_threads(
    client: WebSocketTestClient,
) -> None:
    with ExitStack() as stack:
        sockets = [stack.enter_context(client.connect("/echo")) for _ in range(10)]
        for i, ws in enumerate(sockets):
            ws.send(f"{i}")
        assert [ws.receive() for ws in sockets] == [f"{i}" for i in range(10)]

        def talk(ws: Any, word: str) -> None:
            for i in range(20):
                ws.send(f"{word} {i}")

        threads = [
            threading.Thread(target=talk, args=(sockets[0], f"thread {i}")) for i in range(4)
        ]
        for thread in threads:
            thread.start()
        heard = [str(sockets[0].receive()) for _ in range(80)]
        for thread in threads:
            thread.join()
    for i in range(4):
        mine = [word for word in heard if word.startswith(f"thread {i} ")]
        assert mine == [f"thread {i} {j}" for j in range(20)]


def test_handler_may_end_while_the_message_to_it_is_still_being_sent(
    client: WebSocketTestClient,
) -> None:
    answers = []

    def talk() -> None:
        for _ in range(30):
            with client.connect("/double") as ws:
                ws.send_json({"number": 1})
                answers.append(ws.receive_json())

    threads = [threading.Thread(target=talk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [{"twice": 2}] * 120


def test_in_a_running_event_loop(client: WebSocketTestClient) -> None:
    async def talk() -> Any:
        with client.connect("/echo") as ws:
            ws.send("x")
            await asyncio.sleep(0)
            return ws.receive()

    assert asyncio.run(talk()) == "x"


def test_coroutine_of_an_asyncio_app() -> None:
    _, websocket = make_app("AsyncioWebSocket")
    with websocket.test_client().connect("/coroutine") as ws:
        ws.send("x")
        assert ws.receive() == "x"


def test_connections_leave_no_thread_and_no_descriptor(client: WebSocketTestClient) -> None:
    def use() -> None:
        for _ in range(50):
            with client.connect("/echo") as ws:
                ws.send("x")
                assert ws.receive() == "x"

    def left() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    use()
    before = left()
    use()
    end = time.monotonic() + 10
    while left() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert left() <= before


def test_which_app_is_meant_has_to_be_said_where_there_are_two() -> None:
    websocket = WebSocket()
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        websocket.init_app(app)
    websocket.add_url_rule("/echo", "echo", echo)
    with pytest.raises(RuntimeError, match="serves 2 apps"):
        websocket.test_client()
    with websocket.test_client(apps[1].test_client()).connect("/echo") as ws:
        ws.send("x")
        assert ws.receive() == "x"


def run_python(tmp_path: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "test_own.py"
    path.write_text(code)
    command = [sys.executable, *arguments, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)


PATCHED = """
from gevent import monkey
monkey.patch_all()
import gevent
from flask import Flask
from flask_uwsgi_ws import AsyncioWebSocket, GeventWebSocket, WebSocket
from flask_uwsgi_ws.testing import HandshakeRefused

app = Flask(__name__)
websocket = GeventWebSocket(app)

@websocket.route('/echo')
def echo(ws):
    for message in ws:
        gevent.sleep(0.001)
        ws.send(message)

def talk(number):
    with websocket.test_client().connect('/echo') as ws:
        for _ in range(10):
            ws.send(f'{number}')
            assert ws.receive() == f'{number}'
    return number

jobs = [gevent.spawn(talk, number) for number in range(10)]
gevent.joinall(jobs, raise_error=True)
assert [job.value for job in jobs] == list(range(10))
assert talk(11) == 11

def greet(ws):
    ws.send(ws.receive() + ' too')

for kind in (WebSocket, AsyncioWebSocket):
    app = Flask(__name__)
    websocket = kind(app)
    websocket.add_url_rule('/greet', 'greet', greet)
    with websocket.test_client().connect('/greet') as ws:
        ws.send('hello')
        assert ws.receive() == 'hello too'
print('done')
"""


def test_in_a_process_that_gevent_has_patched(tmp_path: Path) -> None:
    done = run_python(tmp_path, PATCHED)
    assert done.stdout == "done\n", done.stderr


# The fixture.

OWN_TEST = """
import pytest
from flask import Flask
from flask_uwsgi_ws import WebSocket

@pytest.fixture
def app():
    app = Flask(__name__)
    websocket = WebSocket(app)

    @websocket.route('/echo')
    def echo(ws):
        ws.send(ws.receive())

    return app

def test_echo(websocket_client):
    with websocket_client.connect('/echo') as ws:
        ws.send('hi')
        assert ws.receive(timeout=1) == 'hi'
"""


def test_fixture_serves_the_app_of_the_users_own_fixture(tmp_path: Path) -> None:
    done = run_python(tmp_path, OWN_TEST, "-m", "pytest", "-q")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("fixture", "error"),
    [
        ("", "fixture 'app' not found"),
        (
            "@pytest.fixture\ndef app():\n    return Flask(__name__)\n",
            "has no WebSocket extension",
        ),
    ],
)
def test_fixture_says_what_is_missing(tmp_path: Path, fixture: str, error: str) -> None:
    start = "import pytest\nfrom flask import Flask\n"
    code = f"{start}{fixture}\ndef test_x(websocket_client):\n    pass\n"
    done = run_python(tmp_path, code, "-m", "pytest", "-q")
    assert "1 error" in done.stdout
    assert error in done.stdout


def test_neither_the_plugin_nor_the_package_imports_what_was_not_asked_for(tmp_path: Path) -> None:
    # What gevent patches late, and what coverage does not see.
    code = "import sys, flask_uwsgi_ws.pytest_plugin; print({'flask', 'ssl'} & {*sys.modules})"
    assert run_python(tmp_path, code).stdout == "set()\n"
    code = "import sys; from flask_uwsgi_ws import WebSocket; print('pytest' in sys.modules)"
    assert run_python(tmp_path, code).stdout == "False\n"
