"""Routes, several apps, replaced classes: how the extension sits in Flask, on a real uWSGI."""

from __future__ import annotations

import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask import Blueprint, Flask
from peers import eventually
from raw import RawClient, frame
from uwsgi_server import Server
from websockets.sync.client import connect

import flask_uwsgi_ws
from flask_uwsgi_ws import (
    AsyncioWebSocket,
    GeventWebSocket,
    WebSocket,
    WebSocketClient,
    WebSocketMiddleware,
)
from flask_uwsgi_ws.runner import RunError
from flask_uwsgi_ws.settings import Settings, unknown_names


@pytest.fixture(scope="module")
def routing() -> Server:  # type: ignore[misc]
    with Server("routing", "--enable-threads", "--websockets-max-size", "2") as server:
        yield server


def first_message(server: Server, path: str, host: str | None = None) -> str | bytes:
    with RawClient(server.port, path, Host=host or server.address) as client:
        assert client.status == 101, client.head
        return client.receive()[1].decode()


def test_routes_declared_before_init_app_are_served(routing: Server) -> None:
    assert first_message(routing, "/early") == "early"


def test_routes_declared_after_init_app_are_served(routing: Server) -> None:
    assert first_message(routing, "/late") == "late"


def test_add_url_rule_takes_options_of_flask(routing: Server) -> None:
    assert first_message(routing, "/added/7") == "added 7"
    assert first_message(routing, "/added") == "added 0"


def test_websocket_rule_of_the_app_itself_is_served(routing: Server) -> None:
    assert first_message(routing, "/flask-rule") == "flask rule"


def test_websocket_rule_of_a_blueprint_is_served(routing: Server) -> None:
    assert first_message(routing, "/bp/socket") == "blueprint"


def test_subdomain_and_host_pick_the_handler(routing: Server) -> None:
    port = routing.port
    assert first_message(routing, "/sub", f"live.127.0.0.1:{port}") == "subdomain"
    with RawClient(port, "/sub", Host=f"127.0.0.1:{port}") as client:
        assert client.status == 404


def test_endpoint_names_the_url(routing: Server) -> None:
    assert routing.get("/url-of/named") == (200, f"{routing.ws}/renamed")


def test_url_without_its_slash_is_redirected_by_flask(routing: Server) -> None:
    with RawClient(routing.port, "/slash") as client:
        assert client.status == 308
        assert client.header("Location")[0].endswith("/slash/")


def test_plain_request_on_a_websocket_rule_is_answered_by_flask(routing: Server) -> None:
    status, body = routing.get("/early")
    assert status == 400
    assert "Bad Request" in body


def test_handshake_on_a_page_is_answered_by_flask(routing: Server) -> None:
    with RawClient(routing.port, "/pid") as client:
        assert client.status == 400


def test_proxy_that_drops_the_upgrade_header_is_told(routing: Server) -> None:
    with RawClient(routing.port, "/early", Upgrade=None, Connection="close") as client:
        assert client.status == 426
        assert b"proxy in front must pass the Upgrade" in client.rest()


def test_replaced_middleware_and_client_are_used(routing: Server) -> None:
    with connect(routing.ws + "/shout", proxy=None) as ws:
        ws.send("quiet")
        assert ws.recv(timeout=10) == "QUIET!"


def test_client_that_can_not_be_made_leaves_no_open_connection(routing: Server) -> None:
    counts = []
    for _ in range(3):
        for _ in range(5):
            with RawClient(routing.port, "/early?broken") as client:
                assert client.rest() == b""
        counts.append(routing.descriptors())
    assert "this client can not be made" in routing.log
    # uWSGI closes its own a moment after the client has seen the end.
    assert eventually(lambda: routing.descriptors() <= counts[0])


def test_older_request_context_from_the_environ_works(routing: Server) -> None:
    assert first_message(routing, "/context?name=ann") == "ann"


def test_uwsgi_option_for_the_size_limit_is_the_default(routing: Server) -> None:
    with RawClient(routing.port, "/count") as client:
        client.send(frame(1, b"x" * 2048))
        assert client.receive() == (0x81, b"2048")
        client.send(frame(1, b"x" * 2049))
        assert client.receive()[1][:2] == b"\x03\xf1"


def test_two_apps_of_one_extension_have_the_same_routes() -> None:
    options = ("--single-interpreter", "--mount", "/second=routing:second")
    with Server("routing", "--enable-threads", "--manage-script-name", *options) as server:
        assert first_message(server, "/late") == "late"
        assert first_message(server, "/second/late") == "late"
        assert first_message(server, "/second/early") == "early"
        with RawClient(server.port, "/second/added") as client:
            assert client.status == 101


def test_two_functions_on_one_endpoint_are_refused_as_flask_does() -> None:
    app = Flask(__name__)
    websocket = WebSocket(app)
    websocket.add_url_rule("/a", "same", lambda ws: ws.send("a"))
    with pytest.raises(AssertionError, match="overwriting an existing endpoint function: same"):
        websocket.add_url_rule("/b", "same", lambda ws: ws.send("b"))


def test_one_function_may_have_two_rules() -> None:
    app = Flask(__name__)
    websocket = WebSocket(app)

    @websocket.route("/a")
    @websocket.route("/b")
    def both(ws: WebSocketClient) -> None:
        ws.send("x")

    assert {rule.rule for rule in app.url_map.iter_rules("both")} == {"/a", "/b"}


def test_rule_with_websocket_false_is_refused() -> None:
    with pytest.raises(ValueError, match=r"app\.route"):
        WebSocket().add_url_rule("/a", view_func=lambda ws: ws.send("x"), websocket=False)


def test_second_extension_on_one_app_is_refused() -> None:
    app = Flask(__name__)
    WebSocket(app)
    with pytest.raises(RuntimeError, match="has a WebSocket extension already"):
        WebSocket(app)


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def test_host_option_picks_the_handler() -> None:
    app = Flask(__name__, host_matching=True, static_host="static.example")
    websocket = WebSocket(app)
    websocket.add_url_rule("/x", "x", lambda ws: ws.send("x"), host="live.example")
    client = app.test_client()
    # Outside uWSGI 501 says that the handshake was matched and found right.
    assert client.get("/x", headers={**HANDSHAKE, "Host": "live.example"}).status_code == 501
    assert client.get("/x", headers={**HANDSHAKE, "Host": "other.example"}).status_code == 404


def test_outside_uwsgi_a_handshake_is_told_what_to_start() -> None:
    app = Flask(__name__)
    WebSocket(app).add_url_rule("/echo", "echo", lambda ws: ws.send("x"))
    response = app.test_client().get("/echo", headers=HANDSHAKE)
    assert response.status_code == 501
    assert "app.run()" in response.text


def test_classes_to_replace_are_public() -> None:
    assert WebSocket.middleware is WebSocketMiddleware
    assert WebSocketMiddleware.client is WebSocketClient


def test_blueprint_is_registered_once_with_its_sockets_and_views() -> None:
    blueprint = Blueprint("bp", __name__)
    blueprint.add_url_rule("/x", "x", lambda ws: ws.send("x"), websocket=True)
    blueprint.add_url_rule("/x", "page", lambda: "page")
    app = Flask(__name__)
    WebSocket(app)
    app.register_blueprint(blueprint)
    assert app.test_client().get("/x").text == "page"


# Options.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_size", 0),
        ("max_size", "1"),
        ("max_size", True),
        ("ping_interval", 0),
        ("ping_timeout", "soon"),
        ("close_window", -1),
        ("close_timeout", None),
        ("send_timeout", -1),
        ("send_timeout", float("inf")),
        ("close_timeout", 1e9),
        ("ping_interval", float("nan")),
        ("max_queue", 1.5),
        ("subprotocols", "chat"),
        ("subprotocols", [1]),
        ("origins", "https://example.com"),
        ("origins", [5]),
    ],
)
def test_option_that_can_not_be_meant_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"UWSGI_WEBSOCKET_{name.upper()}"):
        WebSocket(**{name: value})
    app = Flask(__name__)
    app.config[f"UWSGI_WEBSOCKET_{name.upper()}"] = value
    with pytest.raises(ValueError, match=f"UWSGI_WEBSOCKET_{name.upper()}"):
        WebSocket(app)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@localhost:port",
        "redis://localhost/0?socket_timeout=soon",
        "rediss://:sec/ret@localhost",
        "redis+sentinel://:secret@localhost:26379",
        "redis+sentinel://:secret@localhost/main/first",
        "redis+cluster://:secret@one:6379,two:port",
        "redis+cluster://one,",
        "redis+cluster://one:1_0",
        "redis+sentinel://one:65536/main",
        "redis://[sec",
    ],
)
def test_url_of_a_message_queue_that_can_not_be_read_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="UWSGI_WEBSOCKET_MESSAGE_QUEUE") as early:
        WebSocket(Flask(__name__), message_queue=url)
    app = Flask(__name__)
    websocket = WebSocket(app)
    app.config["UWSGI_WEBSOCKET_MESSAGE_QUEUE"] = url
    with app.app_context(), pytest.raises(ValueError, match="%XX") as late:
        websocket.broadcast("hello")
    # Nor in what the log shows of it.
    for error in (early.value, late.value):
        assert "sec" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "unix:///run/redis.sock?db=1",
        "rediss://user:sec%2Fret@localhost:6380/1?ssl_ca_certs=ca.pem",
        "redis+sentinel://user:secret@one,[::1]:26379/main/1",
        "redis+cluster://one:7000,two",
    ],
)
def test_url_of_a_message_queue_that_can_be_read_needs_no_redis_yet(url: str) -> None:
    WebSocket(Flask(__name__), message_queue=url)


def test_unknown_option_is_told_with_the_one_that_is_like_it() -> None:
    with pytest.raises(TypeError, match="did you mean 'max_size'"):
        WebSocket(maxsize=5)
    known, *others = ("UWSGI_WEBSOCKET_MAX_SIZE", "UWSGI_WEBSOCKET_MAX_SZIE", "UWSGI_WS_MAX_SIZE")
    others.append("UWSGI_WEBSOCKETS_MAX_SIZE")
    assert unknown_names(dict.fromkeys([known, *others, "UWSGI_HOME"], 1)) == {
        name: f"{name}; did you mean {known!r}?" for name in others
    }


def test_unknown_names_in_the_configuration_are_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Flask(__name__)
    app.config["UWSGI_WEBSOCKET_MAX_SZIE"] = 5
    websocket = WebSocket(app)
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "there is no option UWSGI_WEBSOCKET_MAX_SZIE"
    ]
    app.config["UWSGI_WEBSOCKETS_ORIGINS"] = "*"
    websocket.settings(app)
    assert len(caplog.records) == 2
    assert "UWSGI_WEBSOCKETS_ORIGINS" in caplog.text


@pytest.mark.parametrize("extension", [WebSocket, GeventWebSocket])
def test_async_handler_of_a_blocking_backend_is_refused(extension: type[WebSocket]) -> None:
    async def handler(ws: object) -> None: ...

    with pytest.raises(TypeError, match="use AsyncioWebSocket"):
        extension(Flask(__name__)).route("/echo")(handler)
    AsyncioWebSocket(Flask(__name__)).route("/echo")(handler)


def test_wrong_value_that_comes_later_is_a_500_with_the_reason_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Flask(__name__)
    WebSocket(app).add_url_rule("/echo", "echo", lambda ws: ws.send("x"))
    app.config["UWSGI_WEBSOCKET_MAX_SIZE"] = "big"
    response = app.test_client().get("/echo", headers={"Upgrade": "websocket"})
    assert response.status_code == 500
    assert "give it a whole number" in caplog.text


def test_keyword_comes_before_configuration_and_that_before_uwsgi() -> None:
    uwsgi = {"websockets-max-size": [b"1", b"2"], "websocket-ping-freq": b"7"}
    settings = Settings.load({}, {}, uwsgi)
    assert (settings.max_size, settings.ping_interval) == (2048, 7)
    config = {"UWSGI_WEBSOCKET_MAX_SIZE": 5, "UWSGI_WEBSOCKET_ORIGINS": ["https://a.example"]}
    settings = Settings.load(config, {}, uwsgi)
    assert (settings.max_size, settings.origins) == (5, ("https://a.example",))
    assert Settings.load(config, {"max_size": None}, uwsgi).max_size is None


def test_importing_an_app_that_calls_run_inside_flask_run_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from flask import Flask\nfrom flask_uwsgi_ws import WebSocket\n"
        "app = Flask(__name__)\nWebSocket(app)\napp.run()\nafter = True\n"
    )
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    assert runpy.run_path(str(script))["after"]


def test_names_of_the_package_are_listed_before_they_are_imported() -> None:
    code = "import flask_uwsgi_ws; print(*dir(flask_uwsgi_ws))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert {"WebSocket", "QueueError", "__version__"} <= set(result.stdout.split())


def test_name_that_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="GeventSocket"):
        _ = flask_uwsgi_ws.GeventSocket


def test_gevent_backend_without_gevent_says_what_to_install() -> None:
    # None in sys.modules is how Python marks what can not be imported.
    code = "import sys; sys.modules['gevent'] = None; from flask_uwsgi_ws import GeventWebSocket"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.strip().endswith("GeventWebSocket needs gevent: pip install gevent")


def test_message_queue_that_would_decode_messages_is_refused() -> None:
    with pytest.raises(ValueError, match="leave decode_responses out"):
        WebSocket(Flask(__name__), message_queue="redis://localhost/0?decode_responses=True")


def test_prefix_that_could_be_the_start_of_anothers_names_is_refused() -> None:
    # A room "room:x" of "app" would be the room "x" of this one.
    with pytest.raises(ValueError, match="with none of alive, all, history, presence, room, work"):
        WebSocket(Flask(__name__), queue_prefix="app:room")
    assert WebSocket(Flask(__name__), queue_prefix="room:site:1")


def test_who_has_another_id_than_a_clients_is_not_one() -> None:
    app = Flask(__name__)
    websocket = WebSocket(app)
    for user in (SimpleNamespace(id=5), SimpleNamespace(), 5):
        with app.app_context(), pytest.raises(TypeError, match="a client or its id"):
            websocket.send_to("a", "hello", skip=user)
        with app.app_context(), pytest.raises(TypeError, match="a client or its id"):
            websocket.send_to_client(user, "hello")


def test_gevent_backend_does_not_start_uwsgi_with_threads() -> None:
    with pytest.raises(RunError, match="GeventWebSocket needs gevent, which does not go with thr"):
        flask_uwsgi_ws.GeventWebSocket().uwsgi_defaults({"threads": 4})


def test_app_that_has_threads_replaced_without_their_loop_is_told_so() -> None:
    code = """
from gevent import monkey
monkey.patch_all()
from flask import Flask
from flask_uwsgi_ws import WebSocket
app = Flask("app")
WebSocket(app)
print(app.wsgi_app.obstacle())
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "take monkey.patch_all() or monkey_patch() out, or start uWSGI with --g" in result.stdout
