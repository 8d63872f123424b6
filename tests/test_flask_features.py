"""What handlers have of Flask, on every backend: a test for each row of docs/flask.rst."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.cookies import SimpleCookie
from typing import Any
from urllib.request import Request, urlopen

import pytest
from flask import Blueprint, Flask, session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin
from flask_run import FlaskRun
from modes import BACKENDS, MODES
from peers import eventually, open_client
from raw import RawClient
from uwsgi_server import APPS, Server
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

import flask_uwsgi_ws
from flask_uwsgi_ws import WebSocketView
from flask_uwsgi_ws.testing import HandshakeRefused

CLASSES = ("WebSocket", "GeventWebSocket", "AsyncioWebSocket")
SERVERS: dict[str, Callable[[], Server]] = {
    **{name: partial(MODES[name].serve, app="features") for name in BACKENDS},
    **{
        f"flask-run-{name}": partial(FlaskRun, "features", env={"BACKEND": name})
        for name in CLASSES
    },
}


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.smoke] if name in BACKENDS else [])
        for name in SERVERS
    ],
    scope="module",
)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with SERVERS[request.param]() as running:
        yield running


_marks = iter(range(10**9))


# Flask-Login notes in the session when it changes.
USER_AGENT = "tests"


def new_mark() -> str:
    return f"m{next(_marks)}"


def events(server: Server, mark: str) -> list[str]:
    found: list[str] = json.loads(server.get(f"/events/{mark}")[1])
    return found


def cookies(headers: Any) -> dict[str, str]:
    """The cookies that a response sets."""
    found: SimpleCookie = SimpleCookie()
    for value in headers.get_all("Set-Cookie"):
        found.load(value)
    return {name: morsel.value for name, morsel in found.items()}


def refused(server: Server, path: str, **options: Any) -> tuple[int, str, Any]:
    """Be refused; gives the response's status, body and headers."""
    with pytest.raises(InvalidStatus) as caught:
        open_client(server, path, **options)
    response = caught.value.response
    return response.status_code, response.body.decode(), response.headers


def get(server: Server, path: str, cookie: str = "") -> tuple[str, Any]:
    """Get a page as a browser with a cookie does; gives its body and headers."""
    headers = {"Cookie": cookie, "User-Agent": USER_AGENT}
    request = Request(f"http://{server.address}{path}", headers=headers)
    with urlopen(request, timeout=30) as response:
        return response.read().decode(), response.headers


def ask(ws: ClientConnection, word: str = "") -> Any:
    ws.send(word)
    return ws.recv(timeout=10)


# Contexts.


def test_handler_has_the_contexts_of_its_handshake(server: Server) -> None:
    headers = {"Cookie": "taste=salty", "X-Header": "head"}
    with open_client(server, "/context?number=7&x=y", additional_headers=headers) as ws:
        for word in ("one", "two"):
            assert json.loads(ask(ws, word)) == {
                "word": word,
                "number": "7",
                "args": {"number": "7", "x": "y"},
                "cookie": "salty",
                "header": "head",
                "endpoint": "context",
                "rule": "/context",
                "app": "features",
                "url": f"ws://{server.address}/context",
                "page": "/events/m",
                "session": {},
                "same environ": True,
            }


def test_contexts_of_connections_are_kept_apart(server: Server) -> None:
    with ExitStack() as stack:
        clients = [
            stack.enter_context(open_client(server, f"/context?number={i}")) for i in range(20)
        ]
        for _ in range(3):
            for client in clients:
                client.send("word")
            answers = [json.loads(client.recv(timeout=10)) for client in clients]
            assert [each["number"] for each in answers] == [str(i) for i in range(20)]


def test_contexts_are_torn_down_when_the_handler_ends_and_once(server: Server) -> None:
    mark = new_mark()
    with open_client(server, f"/context?number=3&mark={mark}") as ws:
        ask(ws)
        assert events(server, mark) == ["before_request context"]
    expected = ["before_request context", "teardown_request NoneType 3"]
    expected.append("teardown_appcontext NoneType")
    assert eventually(lambda: events(server, mark) == expected), events(server, mark)


def test_teardown_functions_get_the_error_of_the_handler(server: Server) -> None:
    mark = new_mark()
    with open_client(server, f"/fails?mark={mark}") as ws:
        ws.send("go")
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv(timeout=10)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1011
    expected = [
        "before_request fails",
        "got_request_exception ZeroDivisionError",
        "teardown_request ZeroDivisionError None",
        "teardown_appcontext ZeroDivisionError",
    ]
    assert eventually(lambda: events(server, mark) == expected), events(server, mark)


def test_teardown_function_that_fails_is_logged_and_costs_nothing_else(server: Server) -> None:
    mark = new_mark()
    with open_client(server, f"/context?teardown=fails&mark={mark}") as ws:
        ask(ws)
    assert eventually(lambda: "teardown_appcontext NoneType" in events(server, mark))
    assert eventually(lambda: "could not be torn down" in server.log)
    with open_client(server, "/context") as ws:
        assert json.loads(ask(ws, "x"))["word"] == "x"


def test_request_context_made_by_hand_works_inside(server: Server) -> None:
    with open_client(server, "/older?number=5") as ws:
        assert [ws.recv(timeout=10), ws.recv(timeout=10)] == ["5", "5"]


# The session.


def session_cookie(server: Server, path: str) -> str:
    return "session=" + cookies(get(server, path)[1])["session"]


WAYS = ("set", "delete", "pop", "update", "setdefault", "clear", "permanent", "flash")


def test_session_can_be_read_and_a_write_raises(server: Server) -> None:
    headers = {"Cookie": session_cookie(server, "/session/kept")}
    with open_client(server, "/session", additional_headers=headers) as ws:
        for way in WAYS:
            answer = ask(ws, way)
            assert answer.startswith("kept the session can not be changed any more"), (way, answer)


def test_session_that_was_changed_before_the_handshake_goes_out_with_it(server: Server) -> None:
    with open_client(server, "/context?before=session") as ws:
        assert ws.response is not None
        cookie = cookies(ws.response.headers)["session"]
        assert json.loads(ask(ws))["session"]["seen"] == "before"
    assert json.loads(get(server, "/session", f"session={cookie}")[0])["seen"] == "before"


def test_session_that_was_not_changed_sets_no_cookie(server: Server) -> None:
    headers = {"Cookie": session_cookie(server, "/login/ann")}
    with open_client(
        server, "/context", additional_headers=headers, user_agent_header=USER_AGENT
    ) as ws:
        assert ws.response is not None
        assert "Set-Cookie" not in ws.response.headers


# Hooks.


def test_what_a_before_request_function_refuses_is_refused(server: Server) -> None:
    mark = new_mark()
    path = f"/context?mark={mark}&before="
    assert refused(server, path + "abort")[:2] == (403, "forbidden: not you")
    status, body, headers = refused(server, path + "return")
    assert (status, json.loads(body), headers["X-Why"]) == (409, {"why": "returned"}, "because")
    assert "handler" not in " ".join(events(server, mark))
    # Torn down as any request, and without a view's after_request.
    torn = ["before_request context", "teardown_request NoneType None"]
    torn.append("teardown_appcontext NoneType")
    assert events(server, mark) == torn * 2


def test_refusal_has_the_session_that_was_changed(server: Server) -> None:
    # Not with a client that follows it.
    with RawClient(server.port, "/context?before=redirect") as client:
        assert (client.status, client.header("Location")) == (302, ["/login"])
        cookie = client.header("Set-Cookie")[0].split(";")[0]
    page = get(server, "/session", cookie)[0]
    assert json.loads(page)["_flashes"] == [["message", "log in first"]]


def test_errors_before_the_handshake_go_to_the_error_handlers_of_the_app(server: Server) -> None:
    assert refused(server, "/context?before=own")[:2] == (418, "the app's own")
    mark = new_mark()
    path = f"/context?before=crash&mark={mark}"
    assert refused(server, path)[:2] == (500, "sorry: ZeroDivisionError")
    assert "in a hook" in server.log
    assert events(server, mark) == [
        "before_request context",
        "got_request_exception ZeroDivisionError",
        "teardown_request ZeroDivisionError None",
        "teardown_appcontext ZeroDivisionError",
    ]


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("before=number", "TypeError"),
        ("hook=number", "TypeError"),
        ("before=unserializable", "TypeError"),
        ("hook=letter", "ValueError"),
        ("hook=name", "ValueError"),
        ("hook=much", "ValueError"),
    ],
)
def test_what_can_not_be_sent_is_an_error_of_the_app(
    query: str, error: str, server: Server
) -> None:
    mark = new_mark()
    assert refused(server, f"/context?mark={mark}&{query}")[:2] == (500, f"sorry: {error}")
    told = [each.split()[0] for each in events(server, mark)]
    assert sorted(told) == [
        "before_request",
        "got_request_exception",
        "teardown_appcontext",
        "teardown_request",
    ]
    assert server.get("/expected") == (200, "0")


def test_exit_in_a_teardown_function_costs_nothing_else(server: Server) -> None:
    worker = server.worker
    with open_client(server, "/context") as other:
        with open_client(server, "/context?teardown=exits") as ws:
            ask(ws)
        assert json.loads(ask(other, "x"))["word"] == "x"
    assert server.worker == worker


def test_what_hooks_leave_in_their_thread_is_not_for_other_requests(server: Server) -> None:
    if "--asyncio" in server._options:
        pytest.skip("the engine has one thread for all requests, in views as well")
    seen = set()
    for number in range(8):
        with RawClient(server.port, f"/thread?user=user{number}") as client:
            assert client.status == 101
            seen.update(server.get("/own-user")[1] for _ in range(4))
    assert seen == {"None"}


def test_hooks_handler_and_teardown_are_in_one_thread(server: Server) -> None:
    if "Asyncio" in str(server._env) and "--asyncio" not in server._options:
        pytest.skip("a coroutine runs in the loop's thread, its hooks do not")
    before = server.log.count("could not be torn down")
    with open_client(server, "/thread?before=database&user=ann") as ws:
        assert ask(ws) in {"ann", "nobody"}
        assert ws.recv(timeout=10) == "1"
    assert server.log.count("could not be torn down") == before


def test_plain_function_is_torn_down_in_its_own_thread(server: Server) -> None:
    before = server.log.count("could not be torn down")
    mark = new_mark()
    with open_client(server, f"/plain-database?mark={mark}") as ws:
        assert ws.recv(timeout=10) == "1"
    assert eventually(lambda: "teardown_appcontext NoneType" in events(server, mark))
    assert server.log.count("could not be torn down") == before


def test_after_request_is_not_run(server: Server) -> None:
    mark = new_mark()
    with open_client(server, f"/context?mark={mark}") as ws:
        ask(ws)
    assert eventually(lambda: len(events(server, mark)) == 3)
    assert "after_request" not in events(server, mark)
    mark = new_mark()
    get(server, f"/url/context?mark={mark}")
    assert "after_request" in events(server, mark)


def test_hook_chooses_the_subprotocol_and_adds_headers_and_cookies(server: Server) -> None:
    with open_client(server, "/context?hook=choose", subprotocols=["v1", "v9"]) as ws:  # type: ignore[list-item]
        assert ws.subprotocol == "v9"
        assert ws.response is not None
        headers = ws.response.headers
        assert headers["X-Offered"] == "v1, v9"
        assert cookies(headers).keys() == {"taste", "session"}
        assert cookies(headers)["taste"] == "sweet"
        assert "Content-Type" not in headers
        assert json.loads(ask(ws))["session"]["seen"] == "hook"


def test_hook_may_leave_the_subprotocol_out(server: Server) -> None:
    with open_client(server, "/context?hook=none", subprotocols=["v1"]) as ws:  # type: ignore[list-item]
        assert ws.subprotocol is None
    with open_client(server, "/context", subprotocols=["v1"]) as ws:  # type: ignore[list-item]
        assert ws.subprotocol == "v1"


def test_hook_can_not_choose_what_breaks_the_handshake(server: Server) -> None:
    for wish, words in (("unoffered", "choose one of"), ("accept", "is the protocol's")):
        path = f"/context?hook={wish}"
        assert refused(server, path, subprotocols=["v1"])[:2] == (500, "sorry: ValueError")
        assert words in server.log


def test_hook_refuses(server: Server) -> None:
    assert refused(server, "/context?hook=refuse")[:2] == (429, "not in the mood")
    assert refused(server, "/context?hook=abort")[:2] == (403, "forbidden: in a hook")


def test_cross_site_handshake_is_refused_before_any_hook(server: Server) -> None:
    mark = new_mark()
    status, body, _ = refused(server, f"/context?mark={mark}", origin="http://evil.example")
    assert status == 403
    assert "evil.example" in body
    assert events(server, mark) == []
    for words in ("http://evil.example", server.address, "UWSGI_WEBSOCKET_ORIGINS"):
        assert words in server.log
    with open_client(server, "/context", origin=f"http://{server.address}") as ws:
        ask(ws)


@pytest.mark.parametrize("when", ["BEFORE", "AFTER"])
def test_origin_is_compared_with_what_proxy_fix_makes_of_the_host(when: str) -> None:
    headers = {"X-Forwarded-Host": "public.example", "X-Forwarded-Proto": "https"}
    with MODES["threads"].serve(app="features", env={f"PROXY_FIX_{when}": "1"}) as server:
        with open_client(
            server, "/context", additional_headers=headers, origin="https://public.example"
        ) as ws:
            # And wss:// where the proxy ends TLS.
            assert json.loads(ask(ws))["url"] == "wss://public.example/context"
        internal = f"http://{server.address}"
        assert refused(server, "/context", additional_headers=headers, origin=internal)[0] == 403


# Blueprints.


def test_blueprint_of_sockets_with_its_hooks(server: Server) -> None:
    mark = new_mark()
    with open_client(server, f"/bp/echo/de?mark={mark}") as ws:
        assert ask(ws, "hi") == "hi sockets.echo de"
    expected = [
        "before_request sockets.echo",
        "blueprint before_request",
        "handler sockets.echo ['sockets'] de",
        "blueprint teardown_request",
        "teardown_request NoneType None",
        "teardown_appcontext NoneType",
    ]
    assert eventually(lambda: events(server, mark) == expected), events(server, mark)


def test_blueprint_handles_its_errors(server: Server) -> None:
    assert refused(server, "/bp/echo/xx")[:2] == (404, "the blueprint's own")


def test_blueprint_of_sockets_has_static_files_and_plain_routes(server: Server) -> None:
    assert server.get("/bp/static/hello.txt") == (200, "hello\n")
    assert server.get("/bp/page") == (200, "page")


def test_nested_blueprint(server: Server) -> None:
    with open_client(server, "/bp/inner/deep") as ws:
        expected = f"sockets.inner.deep ws://{server.address}/bp/inner/deep"
        assert ws.recv(timeout=10) == expected


def test_socket_of_a_blueprint_that_has_views(server: Server) -> None:
    assert server.get("/mixed/both") == (200, "/mixed/both")
    with open_client(server, "/mixed/both") as ws:
        assert ws.recv(timeout=10) == "/mixed/both"


# Classes and URLs.


def test_class_based_handler_is_made_for_each_connection(server: Server) -> None:
    for _ in range(2):
        with open_client(server, "/counter/5") as ws:
            assert ws.recv(timeout=10) == "each 5 counter"


def test_class_based_handler_may_be_one_for_all(server: Server) -> None:
    for count in (2, 4):
        with open_client(server, "/shared/2") as ws:
            assert ws.recv(timeout=10) == f"all {count} shared"


def test_url_for(server: Server) -> None:
    assert json.loads(server.get("/url/sockets.echo")[1]) == {
        "external": f"ws://{server.address}/bp/echo/de?more=1",
        "path": "/bp/echo/de",
    }


# The test client.

IN_TEST_CLIENT = """
import pytest
from features import app, websocket
from flask_uwsgi_ws.testing import HandshakeRefused

app.testing = True
browser = app.test_client()
client = websocket.test_client(browser)
with client.connect("/context?number=7", headers={"X-Header": "head"}) as ws:
    ws.send("one")
    told = ws.receive_json()
    assert (told["number"], told["header"], told["rule"]) == ("7", "head", "/context"), told
for path, status in (("/private", 401), ("/context?before=own", 418), ("/context?hook=abort", 403)):
    with pytest.raises(HandshakeRefused) as caught:
        client.connect(path)
    assert caught.value.response.status_code == status
with client.connect("/context?hook=choose", subprotocols=["v1", "v9"]) as ws:
    assert (ws.subprotocol, ws.headers["X-Offered"]) == ("v9", "v1, v9")
assert browser.get("/session").json["seen"] == "hook"
browser.get("/login/ann")
with client.connect("/private") as ws:
    assert ws.receive() == "hello ann"
with client.connect("/bp/echo/de") as ws:
    ws.send("hi")
    assert ws.receive() == "hi sockets.echo de"
with client.connect("/counter/5") as ws:
    assert ws.receive() == "each 5 counter"
with client.connect("/context?mark=m") as ws:
    pass
# The handler has ended when the block is left.
assert browser.get("/events/m").json[-1] == "teardown_appcontext NoneType"
with pytest.raises(ZeroDivisionError):
    with client.connect("/fails") as ws:
        ws.send("go")
        ws.receive()
"""


@pytest.mark.parametrize("name", CLASSES)
def test_test_client_has_all_that_a_server_has(name: str) -> None:
    subprocess.run(
        [sys.executable, "-c", IN_TEST_CLIENT],
        env={**os.environ, "BACKEND": name},
        cwd=APPS,
        check=True,
        timeout=100,
    )


# Flask-Login.


def test_flask_login_knows_the_user(server: Server) -> None:
    header = {"Cookie": session_cookie(server, "/login/ann")}
    with (
        open_client(server, "/whoami", additional_headers=header) as ann,
        open_client(server, "/whoami") as nobody,
    ):
        for _ in range(2):
            assert (ask(ann), ask(nobody)) == ("ann", "nobody")


def test_flask_login_remembers_the_user_without_a_session(server: Server) -> None:
    token = cookies(get(server, "/login/bob?remember=1")[1])["remember_token"]
    header = {"Cookie": f"remember_token={token}"}
    with open_client(server, "/whoami", additional_headers=header) as ws:
        assert ask(ws) == "bob"


def test_login_required_refuses_with_401(server: Server) -> None:
    assert refused(server, "/private")[0] == 401
    header = {"Cookie": session_cookie(server, "/login/ann")}
    with open_client(server, "/private", additional_headers=header) as ws:
        assert ws.recv(timeout=10) == "hello ann"


def test_users_are_kept_apart_under_load(server: Server) -> None:
    names = [f"user{i}" for i in range(8)]
    headers = {name: {"Cookie": session_cookie(server, f"/login/{name}")} for name in names}
    wrong: list[str] = []

    def be(name: str) -> None:
        for _ in range(5):
            with open_client(server, "/whoami", additional_headers=headers[name]) as ws:
                wrong.extend(answer for _ in range(5) if (answer := ask(ws)) != name)

    threads = [threading.Thread(target=be, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# In this process.


def make_app(backend: str = "WebSocket") -> tuple[Flask, Any]:
    app = Flask(__name__)
    app.secret_key = "of the tests"
    return app, getattr(flask_uwsgi_ws, backend)(app)


class KeptSession(SecureCookieSession):
    """A session that its interface keeps, and gives to several requests."""


class Keeper(SecureCookieSessionInterface):
    def __init__(self) -> None:
        self.kept = KeptSession()

    def open_session(self, *_: Any) -> Any:
        return self.kept

    def save_session(self, *_: Any) -> None:
        pass


def test_session_that_is_kept_can_be_changed_by_others_while_a_handler_reads_it() -> None:
    app, websocket = make_app()
    app.session_interface = Keeper()

    @app.get("/set")
    def set_value() -> str:
        session["value"] = session.get("value", 0) + 1
        return ""

    @websocket.route("/value")
    def value(ws: Any) -> None:
        while ws.receive() is not None:
            ws.send(str(session["value"]))

    browser = app.test_client()
    assert browser.get("/set").status_code == 200
    with websocket.test_client().connect("/value") as ws:
        for number in (1, 2):
            ws.send("")
            assert ws.receive() == str(number)
            assert browser.get("/set").status_code == 200
    assert type(app.session_interface.kept) is KeptSession


def test_session_can_be_copied_and_looked_at() -> None:
    app, websocket = make_app()

    @websocket.before_handshake
    def fill(_: Any) -> None:
        session.update(value=1)
        session.permanent = True

    @websocket.route("/look")
    def look(ws: Any) -> None:
        own = session._get_current_object()  # type: ignore[attr-defined]
        assert isinstance(own, SessionMixin)
        assert dict(own) == dict(copy.copy(own)) == dict(copy.deepcopy(own))
        assert (own.permanent, own.get("value"), len(own), "no" in own) == (True, 1, 2, False)
        for change in ("modified", "anything"):
            with pytest.raises(RuntimeError, match="can not be changed any more"):
                setattr(own, change, True)
        ws.send(repr(own))

    app.testing = True
    with websocket.test_client().connect("/look") as ws:
        assert "read only" in ws.receive()


def test_session_that_can_not_be_opened_is_an_error_of_the_app() -> None:
    app, websocket = make_app()
    torn: list[str] = []

    class Broken(SecureCookieSessionInterface):
        def open_session(self, *_: Any) -> Any:
            raise ConnectionError("no Redis")

    app.session_interface = Broken()
    app.teardown_appcontext(lambda error: torn.append(type(error).__name__))

    @app.errorhandler(ConnectionError)
    def sorry(_: ConnectionError) -> tuple[str, int]:
        return "come back later", 503

    websocket.add_url_rule("/x", "x", lambda _: None)
    with pytest.raises(HandshakeRefused) as caught:
        websocket.test_client().connect("/x")
    assert (caught.value.response.status_code, caught.value.response.text) == (
        503,
        "come back later",
    )
    assert torn == ["NoneType"]


def test_shared_view_may_be_false() -> None:
    _, websocket = make_app()

    class Room(WebSocketView):
        init_every_request = False
        made = 0

        def __init__(self) -> None:
            Room.made += 1

        def __len__(self) -> int:
            return 0

        def dispatch_request(self, ws: Any) -> None:
            ws.send(str(Room.made))

    websocket.add_url_rule("/room", view_func=Room.as_view("room"))
    for _ in range(2):
        with websocket.test_client().connect("/room") as ws:
            assert ws.receive() == "1"


def test_blueprint_of_sockets_sees_the_app_and_takes_no_coroutines() -> None:
    app, websocket = make_app()
    seen: list[Any] = []
    blueprint = Blueprint("b", __name__)
    blueprint.record(lambda state: seen.append(state.app))
    websocket.register_blueprint(blueprint)
    assert isinstance(seen[0], Flask)
    assert seen[0] == app

    other = Blueprint("other", __name__)

    @other.route("/x")
    async def x(ws: Any) -> None:
        pass

    with pytest.raises(TypeError, match="use AsyncioWebSocket"):
        websocket.register_blueprint(other)


def test_app_whose_set_up_failed_can_be_set_up_again() -> None:
    websocket = flask_uwsgi_ws.WebSocket()
    websocket.register_blueprint(Blueprint("b", __name__))
    app = Flask(__name__)
    app.register_blueprint(Blueprint("b", __name__))
    for _ in range(2):
        with pytest.raises(ValueError, match="already registered"):
            websocket.init_app(app)
