"""Apps of flask-sock with another import, on uWSGI and Werkzeug."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
from flask import Blueprint, Flask
from flask_run import FlaskRun
from modes import MODES
from peers import close_of, eventually, messages, open_client
from raw import RawClient, frame
from uwsgi_server import APPS, Server, free_port, wait_for_port
from websockets.exceptions import InvalidStatus

import flask_uwsgi_ws
from flask_uwsgi_ws.compat import flask_sock
from flask_uwsgi_ws.compat.flask_sock import Sock

APP = "compat_flask_sock"

SERVERS: dict[str, Callable[..., Server]] = {
    "threads": partial(MODES["threads"].serve, app=APP),
    "gevent": partial(MODES["gevent"].serve, app=APP),
    "werkzeug": partial(FlaskRun, APP),
}

_marks = (f"m{number}" for number in range(10**9))


@pytest.fixture(params=SERVERS, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def server(kind: str) -> Iterator[Server]:
    with SERVERS[kind]() as running:
        yield running


def told(server: Server) -> list[str]:
    lines: list[str] = json.loads(server.get("/told")[1])
    return lines


def told_of(server: Server, mark: str) -> str:
    """Wait for what a handler tells, and give what follows the mark."""
    lines: list[str] = []

    def there() -> bool:
        lines[:] = [line for line in told(server) if line.startswith(f"{mark} ")]
        return bool(lines)

    assert eventually(there), told(server)
    return lines[0].removeprefix(f"{mark} ")


# The project's examples.


@pytest.mark.parametrize("message", ["hi é€😀", b"\x00\xff", "", b"", "x" * 100_000], ids=len)
def test_echo_keeps_text_and_bytes(server: Server, message: str | bytes) -> None:
    with open_client(server, "/echo") as ws:
        for _ in range(3):
            ws.send(message)
            assert ws.recv(timeout=10) == message


def test_handler_that_returns_closes_and_what_it_returns_is_ignored(server: Server) -> None:
    with open_client(server, "/echo-close") as ws:
        ws.send("one")
        ws.send("close")
        assert list(messages(ws)) == ["one"]
        assert ws.close_code == 1000


def test_thread_of_the_handler_sends(server: Server) -> None:
    with open_client(server, "/clock") as ws:
        ws.send("word")
        kinds = {json.loads(ws.recv(timeout=10))["type"] for _ in range(5)}
        assert kinds == {"clock", "log"}
    assert told_of(server, "clock") == "1000"


def test_chat_sends_to_all(server: Server) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(open_client(server, "/chat")) for _ in range(3)]
        for number, client in enumerate(clients):
            # All have been added when each has got its own.
            client.send(f"here {number}")
            while client.recv(timeout=10) != f"here {number}":
                pass
        clients[1].send("hello")
        for client in clients:
            while client.recv(timeout=10) != "hello":
                pass


@pytest.mark.parametrize(
    ("path", "sent", "answer"),
    [
        ("/early/ann", None, "ann"),
        ("/live/echo", "x", "live x"),
        ("/lonely/echo", "x", "x"),
    ],
)
def test_route_of_a_blueprint_and_one_before_the_app(
    server: Server, path: str, sent: str | None, answer: str
) -> None:
    with open_client(server, path) as ws:
        if sent is not None:
            ws.send(sent)
        assert ws.recv(timeout=10) == answer


def test_pages_are_served_beside(server: Server) -> None:
    assert server.get("/") == (200, "a page")


# receive, send and close.


def test_receive_gives_none_when_nothing_came_in_time(server: Server) -> None:
    with open_client(server, "/ticks") as ws:
        assert ws.recv(timeout=10) == "tick"
        ws.send("hello")
        while (message := ws.recv(timeout=10)) == "tick":
            pass
        assert message == "hello"


def test_receive_with_a_timeout_of_0_does_not_wait(server: Server) -> None:
    with open_client(server, "/poll") as ws:
        assert ws.recv(timeout=10) == "None"
        ws.send("hello")
        assert ws.recv(timeout=10) == "hello"


def test_end_raises_at_once_and_again_with_reason_and_message(server: Server) -> None:
    mark = next(_marks)
    with open_client(server, f"/end?mark={mark}") as ws:
        ws.close(4001, "bye é")
    ended = [4001, "bye é", 4001, True, True]
    expected = [ended, ended, ended, ended, [False, 4001, "bye é"]]
    assert json.loads(told_of(server, mark)) == expected


def test_close_without_a_text_has_no_message(server: Server) -> None:
    mark = next(_marks)
    with open_client(server, f"/end?mark={mark}") as ws:
        ws.close(1001)
    assert json.loads(told_of(server, mark))[0] == [1001, None, 1001, True, True]


def test_lost_connection_has_reason_1006(server: Server) -> None:
    mark = next(_marks)
    with RawClient(server.port, f"/end?mark={mark}") as client:
        assert client.status == 101
    seen = json.loads(told_of(server, mark))
    assert [each[:2] for each in seen[:3]] == [[1006, None]] * 3


def test_end_that_is_let_through_is_no_error(server: Server) -> None:
    mark = next(_marks)
    with open_client(server, f"/quiet?mark={mark}") as ws:
        ws.send("x")
    assert eventually(lambda: f"quiet {mark}" in told(server))
    assert eventually(lambda: server.get("/open") == (200, "0"))
    assert not re.search("failed.*quiet", server.log)


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ("[]", 1000, ""),
        ("[4002]", 4002, ""),
        ('[4002, "enough é"]', 4002, "enough é"),
        (f'[1008, "{"é" * 100}"]', 1008, "é" * 61),
        ("[null, null]", 1000, ""),
    ],
    ids=["default", "reason", "message", "long", "none"],
)
def test_close_says_why_and_does_not_wait(
    server: Server, arguments: str, code: int, reason: str
) -> None:
    before = len(told(server))
    with RawClient(server.port, f"/close?with={quote(arguments)}") as client:
        first, payload = client.receive()
        assert first == 0x88
        assert (int.from_bytes(payload[:2], "big"), payload[2:].decode()) == (code, reason)
        # Without an answer.
        assert eventually(lambda: len(told(server)) == before + 2)
    closed, again = told(server)[-2:]
    assert closed == "closed False True"
    assert again.startswith(f"close ConnectionClosed the connection has ended: {code}")


def test_close_code_that_can_not_be_sent_is_an_error(server: Server) -> None:
    assert close_of(server, "/close?with=[1005]")[0] == 4000
    assert eventually(lambda: told(server)[-1].startswith("close ValueError 1005 is not"))


def test_view_closes_a_connection_without_waiting_for_it(server: Server) -> None:
    with RawClient(server.port, "/keep") as client:
        assert client.receive() == (0x81, b"kept")
        assert server.get("/close-kept") == (200, "True")
        first, payload = client.receive()
        assert (first, payload[2:]) == (0x88, b"from a view")


def test_what_is_not_bytes_is_sent_as_text(server: Server) -> None:
    with open_client(server, "/kinds") as ws:
        expected = ["text", b"bytes", b"array", "7", "None", "['a', 1]"]
        assert list(messages(ws)) == expected


def test_handler_that_fails_closes_with_1011_and_is_logged(server: Server) -> None:
    assert close_of(server, "/fails") == (1011, "internal error")
    assert eventually(lambda: "KeyError: 'on purpose'" in server.log)


def test_async_handler_is_an_error_in_the_log(server: Server) -> None:
    assert close_of(server, "/async") == (1011, "internal error")
    assert eventually(lambda: "use AsyncioWebSocket for it" in server.log)


# What handlers know.


def test_connection_knows_what_it_did(server: Server, kind: str) -> None:
    with open_client(server, "/about?argument=7") as ws:
        assert json.loads(ws.recv(timeout=10)) == {
            "connected": True,
            "subprotocol": None,
            "mode": "werkzeug" if kind == "werkzeug" else "uwsgi",
            "path": "/about",
            "argument": "7",
            "app": APP,
            "close": [1005, None],
            "kind": True,
            "urls": [f"{server.ws}/echo", f"{server.ws}/live/echo"],
            "early": f"{server.ws}/early/x",
        }


def test_connection_can_do_what_the_client_of_this_package_can(server: Server) -> None:
    with open_client(server, "/rooms") as ws:
        assert ws.recv(timeout=10) == '["news"]'


def test_gevent_is_imported_in_its_loop_only(server: Server, kind: str) -> None:
    loaded = json.loads(server.get("/loaded")[1])
    assert loaded == {"gevent": kind == "gevent", "simple_websocket": False, "flask_sock": False}


# Options.


def test_pages_of_other_sites_are_refused(server: Server) -> None:
    with pytest.raises(InvalidStatus) as caught:
        open_client(server, "/echo", origin="https://elsewhere.example")
    assert caught.value.response.status_code == 403


@pytest.fixture(scope="module")
def optioned(kind: str) -> Iterator[Server]:
    options = {
        "ping_interval": 0.3,
        "max_message_size": 1000,
        "subprotocols": "chat",
        "receive_bytes": 65536,
        "thread_class": None,
        "event_class": None,
        "selector_class": None,
    }
    env = {"SERVER_OPTIONS": json.dumps(options), "ORIGINS": "*"}
    with SERVERS[kind](env=env) as running:
        yield running


def test_origins_are_those_of_the_config(optioned: Server) -> None:
    with open_client(optioned, "/echo", origin="https://elsewhere.example") as ws:
        ws.send("x")
        assert ws.recv(timeout=10) == "x"


def test_ping_interval_sends_pings_and_gives_up_who_does_not_answer(optioned: Server) -> None:
    mark = next(_marks)
    with RawClient(optioned.port, f"/quiet?mark={mark}") as client:
        assert client.receive()[0] == 0x89
        first, payload = client.receive()
        assert first == 0x88
        assert payload[2:] == b"keepalive ping timeout"


def test_message_over_the_largest_size_is_refused(optioned: Server) -> None:
    assert close_of(optioned, "/echo", frame(1, b"x" * 1001))[0] == 1009
    with open_client(optioned, "/echo") as ws:
        ws.send("x" * 1000)
        assert ws.recv(timeout=10) == "x" * 1000


def test_subprotocol_may_be_one_name(optioned: Server) -> None:
    with open_client(optioned, "/about", subprotocols=["other", "chat"]) as ws:
        assert ws.subprotocol == "chat"
        assert json.loads(ws.recv(timeout=10))["subprotocol"] == "chat"
    with open_client(optioned, "/about", subprotocols=["other"]) as ws:
        assert json.loads(ws.recv(timeout=10))["subprotocol"] is None


def test_unknown_option_that_is_set_late_is_in_the_log() -> None:
    env = {"SERVER_OPTIONS": '{"ping_intervall": 25}'}
    with SERVERS["threads"](env=env) as server, RawClient(server.port) as client:
        assert client.status == 500
        fault = "there is no option 'ping_intervall' in SOCK_SERVER_OPTIONS; did you mean"
        assert eventually(lambda: f"{fault} 'ping_interval'?" in server.log)


# Without a server.


def settings(**config: Any) -> flask_uwsgi_ws.settings.Settings:
    app = Flask(__name__)
    Sock(app)
    app.config.update(config)
    found: flask_uwsgi_ws.settings.Settings = app.extensions["uwsgi_websocket"].websocket.settings(
        app
    )
    return found


def test_options_are_those_of_the_package() -> None:
    options = {"ping_interval": 7, "max_message_size": 99, "subprotocols": ["a", "b"]}
    found = settings(SOCK_SERVER_OPTIONS=options)
    assert (found.ping_interval, found.ping_timeout, found.max_size) == (7, 7, 99)
    assert found.subprotocols == ("a", "b")


@pytest.mark.parametrize("nothing", [None, 0])
def test_options_can_be_none(nothing: int | None) -> None:
    options = {"ping_interval": nothing, "max_message_size": nothing, "subprotocols": None}
    found = settings(SOCK_SERVER_OPTIONS=options)
    assert (found.ping_interval, found.max_size, found.subprotocols) == (None, None, ())
    assert found.ping_timeout == 20


def test_without_options_the_defaults_of_the_package_hold() -> None:
    assert settings() == flask_uwsgi_ws.settings.Settings()


def test_options_of_the_package_come_first() -> None:
    options = {"ping_interval": 7, "max_message_size": 99}
    found = settings(SOCK_SERVER_OPTIONS=options, UWSGI_WEBSOCKET_PING_INTERVAL=9)
    assert (found.ping_interval, found.ping_timeout, found.max_size) == (9, 7, 99)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"max_mesage_size": 1}, "'max_mesage_size' in SOCK_SERVER_OPTIONS; did you mean"),
        ({"zzz": 1}, "there is no option 'zzz' in SOCK_SERVER_OPTIONS$"),
        ({"ping_interval": "soon"}, "ping_interval"),
        ({"max_message_size": -1}, "max_size"),
        ({"subprotocols": [1]}, "subprotocols"),
        ({"subprotocols": 1}, "subprotocols"),
    ],
)
def test_wrong_options_are_an_error_at_once(options: dict[str, Any], fault: str) -> None:
    app = Flask(__name__)
    app.config["SOCK_SERVER_OPTIONS"] = options
    with pytest.raises(ValueError, match=fault):
        Sock(app)


def test_sock_shares_the_extension_that_an_app_has() -> None:
    app = Flask(__name__)
    app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": 7}
    websocket = flask_uwsgi_ws.WebSocket(app)
    first, second = Sock(app), Sock()
    second.init_app(app)

    def echo(ws: Any) -> None:
        ws.send(ws.receive())

    first.route("/one")(echo)
    second.route("/two", endpoint="two")(echo)

    assert websocket.settings(app).ping_interval == 7
    for path in ("/one", "/two"):
        with websocket.test_client().connect(path) as ws:
            ws.send("x")
            assert ws.receive() == "x"


def test_sock_gives_the_extension_for_its_rooms() -> None:
    app = Flask(__name__)
    sock = Sock()
    with pytest.raises(RuntimeError, match="call init_app"):
        _ = sock.websocket
    sock.init_app(app)

    @sock.route("/news")
    def news(ws: Any) -> None:
        ws.join("news")
        ws.send("here")
        sock.websocket.send_to("news", ws.receive(), skip=ws)
        ws.receive()

    with (
        sock.websocket.test_client().connect("/news") as ann,
        sock.websocket.test_client().connect("/news") as bob,
    ):
        assert ann.receive() == bob.receive() == "here"
        ann.send("rain")
        assert bob.receive() == "rain"
        bob.send("sun")
        assert ann.receive() == "sun"


def test_blueprint_is_served_in_an_app_that_no_sock_has_seen() -> None:
    blueprint = Blueprint("blueprint", __name__)

    @Sock().route("/echo", bp=blueprint)
    def echo(ws: Any) -> None:
        ws.send(ws.receive())

    app = Flask(__name__)
    app.register_blueprint(blueprint)
    websocket = app.extensions["uwsgi_websocket"].websocket
    with websocket.test_client().connect("/echo") as ws:
        ws.send("x")
        assert ws.receive() == "x"


def test_sock_has_the_attributes_of_the_original() -> None:
    def handler(ws: Any, **variables: Any) -> None: ...

    sock = Sock()
    assert (sock.app, sock.bp) == (None, None)
    blueprint = Blueprint("blueprint", __name__)
    sock.route("/of-blueprint", bp=blueprint)(handler)
    assert sock.bp is None
    sock.route("/early", endpoint="early")(handler)
    app = Flask(__name__, static_folder=None)
    sock.init_app(app)
    assert sock.app is app
    assert isinstance(sock.bp, Blueprint)
    sock.route("/late", endpoint="late", defaults={"word": "x"})(handler)
    rules = {rule.endpoint: rule for rule in app.url_map.iter_rules()}
    assert set(rules) == {"__flask_sock.early", "late"}
    assert all(rule.websocket for rule in rules.values())
    app.register_blueprint(blueprint)
    assert "/of-blueprint" in {rule.rule for rule in app.url_map.iter_rules()}


def test_errors_have_the_names_and_attributes_of_simple_websocket() -> None:
    error = flask_sock.ConnectionClosed(1001, "away")
    assert (error.reason, error.message, error.code) == (1001, "away", 1001)
    assert isinstance(error, flask_sock.SimpleWebsocketError)
    assert isinstance(error, flask_uwsgi_ws.ConnectionClosed)
    assert flask_sock.ConnectionClosed().reason == 1005
    refused = flask_sock.ConnectionError(403)
    assert refused.status_code == 403
    assert isinstance(refused, RuntimeError)


def test_gunicorn_eventlet_and_gevent_are_told_apart() -> None:
    class Client:
        receive = send = subprotocol = None

        def __init__(self, **environ: str) -> None:
            self.environ = {name.replace("_socket", ".socket"): environ[name] for name in environ}

    def mode(client: Client) -> str:
        return flask_sock.Server(client).mode

    assert mode(Client(gunicorn_socket="")) == "gunicorn"
    assert mode(Client(**{"eventlet.input": ""})) == "eventlet"
    assert mode(Client(SERVER_SOFTWARE="gevent/25.1 Python/3.11")) == "gevent"
    assert mode(Client()) == "unknown"


def test_app_run_is_still_that_of_flask() -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, f"{APP}.py"],
        cwd=APPS,
        env={**os.environ, "PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for_port(port)
        server = FlaskRun(APP)
        server.port, server.address = port, f"127.0.0.1:{port}"
        with open_client(server, "/about") as ws:
            assert json.loads(ws.recv(timeout=10))["mode"] == "werkzeug"
    finally:
        process.terminate()
        process.wait(10)


def test_uwsgi_with_gevent_is_not_refused_by_app_run() -> None:
    app = Flask(__name__)
    Sock(app)
    websocket = app.extensions["uwsgi_websocket"].websocket
    assert websocket.uwsgi_defaults({"gevent": 100}) == {}
