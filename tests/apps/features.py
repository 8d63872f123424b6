"""The app of the tests of what handlers have of Flask, the same for all backends."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import deque
from typing import Any

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    flash,
    g,
    got_request_exception,
    request,
    session,
    url_for,
)
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user
from handlers import as_handler
from werkzeug.middleware.proxy_fix import ProxyFix

import flask_uwsgi_ws
from flask_uwsgi_ws import WebSocketView

app = Flask(__name__, static_folder=None)
app.secret_key = "of the tests"
app.config["UWSGI_WEBSOCKET_SUBPROTOCOLS"] = ["v2", "v1"]
app.config["UWSGI_WEBSOCKET_CLOSE_TIMEOUT"] = 1
if "PROXY_FIX_BEFORE" in os.environ:
    app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1)
websocket = getattr(flask_uwsgi_ws, os.environ["BACKEND"])(app)
if "PROXY_FIX_AFTER" in os.environ:
    app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1)
login = LoginManager(app)

#: What happened, in order; for :func:`events`.
happened: deque[str] = deque(maxlen=1000)


@app.get("/events/<mark>")
def events(mark: str) -> list[str]:
    return [each.split(" ", 1)[1] for each in happened if each.split(" ", 1)[0] == mark]


def note(*words: object) -> None:
    """Note that something happened in a context that has a mark."""
    if g.get("mark"):
        happened.append(" ".join(map(str, (g.mark, *words))))


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


# Contexts.


@app.before_request
def before() -> Any:
    g.mark, g.teardown = request.args.get("mark"), request.args.get("teardown")
    note("before_request", request.endpoint)
    g.number = request.args.get("number")
    answer = request.args.get("before")
    if answer == "abort":
        abort(403, "not you")
    if answer == "return":
        return {"why": "returned"}, 409, {"X-Why": "because"}
    if answer == "redirect":
        flash("log in first")
        return "", 302, {"Location": "/login"}
    if answer == "own":
        raise OwnError
    if answer == "crash":
        raise ZeroDivisionError("in a hook")
    if answer == "session":
        session["seen"] = "before"
    if answer == "number":
        return 5
    if answer == "unserializable":
        session["seen"] = object()
    if "user" in request.args:
        own.user = request.args["user"]
    if answer == "database":
        g.database = sqlite3.connect(":memory:")
    return None


@app.after_request
def after(response: Response) -> Response:
    note("after_request")
    return response


#: As a scoped session of SQLAlchemy's, which is its thread's.
own = threading.local()


@app.teardown_appcontext
def clean_thread(_: BaseException | None) -> None:
    own.__dict__.clear()
    database = g.pop("database", None)
    if database is not None:
        database.close()


@app.get("/own-user")
def own_user() -> str:
    return str(getattr(own, "user", None))


@websocket.route("/thread")
@as_handler
async def thread(ws: Any) -> None:
    await ws.receive()
    await ws.send(getattr(own, "user", "nobody"))
    await ws.send(str(g.database.execute("select 1").fetchone()[0]))
    await ws.receive()


@websocket.route("/plain-database")
def plain_database(ws: Any) -> None:
    """Opens a database by itself; a plain function on each backend."""
    g.database = sqlite3.connect(":memory:")
    ws.send(str(g.database.execute("select 1").fetchone()[0]))
    ws.receive()


@app.teardown_request
def teardown_request(error: BaseException | None) -> None:
    note("teardown_request", type(error).__name__, g.number)


@app.teardown_appcontext
def teardown_appcontext(error: BaseException | None) -> None:
    note("teardown_appcontext", type(error).__name__)
    if g.get("teardown") == "exits":
        raise SystemExit
    if g.get("teardown") == "fails":
        raise ZeroDivisionError("in a teardown function")


class OwnError(Exception):
    pass


@app.errorhandler(OwnError)
def own_error(_: OwnError) -> tuple[str, int]:
    return "the app's own", 418


@app.errorhandler(403)
def forbidden(error: Any) -> tuple[str, int]:
    return f"forbidden: {error.description}", 403


@app.get("/expected")
def expected() -> str:
    return str(websocket.clients.expected)


@app.errorhandler(500)
def server_error(error: Any) -> tuple[str, int]:
    return f"sorry: {type(error.original_exception).__name__}", 500


@got_request_exception.connect
def got_exception(_: Flask, exception: BaseException, **__: Any) -> None:
    note("got_request_exception", type(exception).__name__)


@websocket.route("/context")
@as_handler
async def context(ws: Any) -> None:
    """Tells what its contexts have, each time."""
    while True:
        word = await ws.receive()
        await ws.send_json(
            {
                "word": word,
                "number": g.number,
                "args": request.args,
                "cookie": request.cookies.get("taste"),
                "header": request.headers.get("X-Header"),
                "endpoint": request.endpoint,
                "rule": str(request.url_rule),
                "app": current_app.name,
                "url": url_for("context"),
                "page": url_for("events", mark="m"),
                "session": dict(session),
                "same environ": request.environ is ws.environ,
            }
        )


@websocket.route("/older")
@as_handler
async def older(ws: Any) -> None:
    with app.request_context(ws.environ):
        await ws.send(request.args["number"])
    await ws.send(g.number)
    await ws.receive()


@websocket.route("/fails")
@as_handler
async def fails(ws: Any) -> None:
    await ws.receive()
    raise ZeroDivisionError("in a handler")


# The session.


@app.get("/session/<value>")
def set_session(value: str) -> str:
    session["value"] = value
    session.permanent = "permanent" in request.args
    return ""


@app.get("/session")
def get_session() -> dict[str, Any]:
    return dict(session)


@websocket.route("/session")
@as_handler
async def session_socket(ws: Any) -> None:
    """Reads the session, and tries to do what it is told with it."""
    ways = {
        "set": lambda: session.__setitem__("value", "changed"),
        "delete": lambda: session.__delitem__("value"),
        "pop": lambda: session.pop("value"),
        "update": lambda: session.update(value="changed"),
        "setdefault": lambda: session.setdefault("other", 1),
        "clear": lambda: session.clear(),
        "permanent": lambda: setattr(session, "permanent", True),
        "flash": lambda: flash("hello"),
    }
    while True:
        way = await ws.receive()
        try:
            ways[way]()
        except RuntimeError as error:
            await ws.send(f"{session.get('value')} {error}")
        else:
            await ws.send("changed")


# Hooks.


#: Headers that can not be sent.
HEADERS = {
    "letter": ("X-Name", "\u0142"),
    "name": ("X-A\r\nEvil", "1"),
    "much": ("X-Much", "x" * 40_000),
}


@websocket.before_handshake
def choose(handshake: Any) -> Any:
    wish = request.args.get("hook")
    if wish == "choose":
        handshake.subprotocol = handshake.subprotocols[-1]
        handshake.headers["X-Offered"] = ", ".join(handshake.subprotocols)
        handshake.set_cookie("taste", "sweet", httponly=True)
        session["seen"] = "hook"
    elif wish == "none":
        handshake.subprotocol = None
    elif wish == "unoffered":
        handshake.subprotocol = "v3"
    elif wish == "accept":
        handshake.headers["Sec-WebSocket-Accept"] = "x"
    elif wish in HEADERS:
        handshake.headers[HEADERS[wish][0]] = HEADERS[wish][1]
    elif wish == "number":
        return 5
    elif wish == "refuse":
        return "not in the mood", 429
    elif wish == "abort":
        abort(403, "in a hook")
    return None


# Blueprints.

socket_blueprint = Blueprint("sockets", __name__, static_folder="static")
inner_blueprint = Blueprint("inner", __name__)


@socket_blueprint.route("/echo/<lang>", methods=["GET", "POST"])
@as_handler
async def echo(ws: Any) -> None:
    note("handler", request.endpoint, request.blueprints, g.lang)
    await ws.send(f"{await ws.receive()} {request.endpoint} {g.lang}")
    await ws.receive()


@inner_blueprint.route("/deep")
@as_handler
async def deep(ws: Any) -> None:
    await ws.send(f"{request.endpoint} {websocket.url_for('.deep')}")
    await ws.receive()


@socket_blueprint.route("/page", websocket=False)
def page() -> str:
    return "page"


@socket_blueprint.url_value_preprocessor
def take_lang(_: str | None, arguments: dict[str, Any] | None) -> None:
    g.lang = (arguments or {}).pop("lang", None)


@socket_blueprint.before_request
def before_blueprint() -> Any:
    note("blueprint before_request")
    if g.lang == "xx":
        raise KeyError("no such language")


@socket_blueprint.errorhandler(KeyError)
def no_such_language(_: KeyError) -> tuple[str, int]:
    return "the blueprint's own", 404


@socket_blueprint.teardown_request
def teardown_blueprint(_: BaseException | None) -> None:
    note("blueprint teardown_request")


socket_blueprint.register_blueprint(inner_blueprint, url_prefix="/inner")
websocket.register_blueprint(socket_blueprint, url_prefix="/bp")

mixed_blueprint = Blueprint("mixed", __name__, url_prefix="/mixed")


@mixed_blueprint.route("/both")
def both_page() -> str:
    return url_for("mixed.both_page")


@websocket.route("/both", blueprint=mixed_blueprint)
@as_handler
async def both(ws: Any) -> None:
    await ws.send(websocket.url_for(".both", _external=False))
    await ws.receive()


app.register_blueprint(mixed_blueprint)


# Classes.


class Counter(WebSocketView):
    """Counts the connections of an instance."""

    def __init__(self, word: str) -> None:
        self.word, self.count = word, 0

    @as_handler
    async def dispatch_request(self, ws: Any, step: int) -> None:
        self.count += step
        await ws.send(f"{self.word} {self.count} {request.endpoint}")
        await ws.receive()


class Shared(Counter):
    init_every_request = False


websocket.add_url_rule("/counter/<int:step>", view_func=Counter.as_view("counter", "each"))
websocket.add_url_rule("/shared/<int:step>", view_func=Shared.as_view("shared", word="all"))


# URLs.


@app.get("/url/<endpoint>")
def url(endpoint: str) -> dict[str, str]:
    return {
        "external": websocket.url_for(endpoint, lang="de", more=1),
        "path": websocket.url_for(endpoint, lang="de", _external=False),
    }


# Flask-Login.


class User(UserMixin):
    def __init__(self, name: str) -> None:
        self.id = name


@login.user_loader
def load_user(name: str) -> User:
    return User(name)


@app.get("/login/<name>")
def log_in(name: str) -> str:
    login_user(User(name), remember="remember" in request.args)
    return name


@websocket.route("/whoami")
@as_handler
async def whoami(ws: Any) -> None:
    while True:
        await ws.receive()
        await ws.send(current_user.id if current_user.is_authenticated else "nobody")


private_blueprint = Blueprint("private", __name__)


@private_blueprint.before_request
@login_required
def members_only() -> None:
    """Lets through who is logged in."""


@websocket.route("/private", blueprint=private_blueprint)
@as_handler
async def private(ws: Any) -> None:
    await ws.send(f"hello {current_user.id}")
    await ws.receive()


app.register_blueprint(private_blueprint)
