"""An app of flask-sock, but for its imports."""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from compat_views import add_views, told
from flask import Blueprint, Flask, current_app, request, url_for

from flask_uwsgi_ws.compat.flask_sock import ConnectionClosed, Server, Sock

app = Flask(__name__)
app.config["UWSGI_WEBSOCKET_CLOSE_TIMEOUT"] = 1
if "ORIGINS" in os.environ:
    app.config["UWSGI_WEBSOCKET_ORIGINS"] = os.environ["ORIGINS"]
add_views(app)

sock = Sock()


@sock.route("/early/<name>")
def early(ws, name):
    ws.send(name)


live = Blueprint("live", __name__)


@sock.route("/echo", bp=live)
def live_echo(ws):
    ws.send(f"{request.blueprint} {ws.receive()}")


sock.init_app(app)
app.register_blueprint(live, url_prefix="/live")

# As late as the project allows.
if "SERVER_OPTIONS" in os.environ:
    app.config["SOCK_SERVER_OPTIONS"] = json.loads(os.environ["SERVER_OPTIONS"])

# A blueprint whose Sock has no app, in an app that another one is for.
lonely = Blueprint("lonely", __name__)


@Sock().route("/echo", bp=lonely)
def lonely_echo(ws):
    ws.send(ws.receive())


app.register_blueprint(lonely, url_prefix="/lonely")


@sock.route("/echo")
def echo(ws):
    while True:
        data = ws.receive()
        ws.send(data)


@sock.route("/echo-close")
def echo_close(ws):
    while True:
        data = ws.receive()
        if data == "close":
            break
        ws.send(data)
    return "what is ignored"


def send_time(ws):
    while True:
        time.sleep(0.05)
        try:
            ws.send(json.dumps({"type": "clock"}))
        except ConnectionClosed as error:
            told.append(f"clock {error.reason}")
            return


@sock.route("/clock")
def clock(ws):
    threading.Thread(target=send_time, args=(ws,)).start()
    while True:
        data = ws.receive()
        ws.send(json.dumps({"type": "log", "text": data}))


users: set[Server] = set()


@sock.route("/chat")
def chat(ws):
    users.add(ws)
    try:
        while True:
            text = ws.receive()
            for user in list(users):
                user.send(text)
    finally:
        users.discard(ws)


@sock.route("/ticks")
def ticks(ws):
    while True:
        data = ws.receive(timeout=0.1)
        ws.send("tick" if data is None else data)


@sock.route("/poll")
def poll(ws):
    ws.send(ws.receive(timeout=0))
    while (data := ws.receive(timeout=0)) is None:
        time.sleep(0.01)
    ws.send(data)


@sock.route("/end")
def end(ws):
    """Tell what the end looks like, more than once."""
    mark = request.args["mark"]
    seen = []
    for call in (ws.receive, lambda: ws.receive(timeout=1), lambda: ws.send("x"), ws.close):
        try:
            seen.append(call())
        except ConnectionClosed as error:
            kinds = [isinstance(error, kind) for kind in (RuntimeError, ConnectionClosed)]
            seen.append([error.reason, error.message, error.code, *kinds])
    seen.append([ws.connected, ws.close_reason, ws.close_message])
    told.append(f"{mark} {json.dumps(seen)}")


@sock.route("/quiet")
def quiet(ws):
    """Let the end through."""
    try:
        while True:
            ws.receive()
    finally:
        told.append(f"quiet {request.args['mark']}")


@sock.route("/close")
def close(ws):
    began = time.monotonic()
    arguments = json.loads(request.args["with"])
    try:
        ws.close(*arguments)
        told.append(f"closed {ws.connected} {time.monotonic() - began < 0.5}")
        ws.close()
    except (ConnectionClosed, ValueError) as error:
        told.append(f"close {type(error).__name__} {error}")
        if isinstance(error, ValueError):
            ws.close(4000)


@sock.route("/kinds")
def kinds(ws):
    for data in ("text", b"bytes", bytearray(b"array"), 7, None, ["a", 1]):
        ws.send(data)


@sock.route("/about")
def about(ws):
    about = {
        "connected": ws.connected,
        "subprotocol": ws.subprotocol,
        "mode": ws.mode,
        "path": ws.environ["PATH_INFO"],
        "argument": request.args.get("argument"),
        "app": current_app.name,
        "close": [ws.close_reason, ws.close_message],
        "kind": isinstance(ws, Server),
        "urls": [url_for("echo"), url_for("live.live_echo")],
        "early": url_for("__flask_sock.early", name="x"),
    }
    ws.send(json.dumps(about))


@sock.route("/rooms")
def rooms(ws):
    """Do what the client of this package can do."""
    ws.join("news")
    ws.send_json(sorted(ws.rooms))
    ws.receive()


@sock.route("/fails")
def fails(ws):
    ws.send("about to fail")
    raise KeyError("on purpose")


@sock.route("/async")
async def asynchronous(ws):
    ws.send("never")


kept: list[Server] = []


@sock.route("/keep")
def keep(ws):
    kept.append(ws)
    ws.send("kept")
    ws.receive()


@app.route("/close-kept")
def close_kept():
    began = time.monotonic()
    kept[-1].close(4005, "from a view")
    return str(time.monotonic() - began < 0.5)


@app.route("/loaded")
def loaded():
    return {name: name in sys.modules for name in ("gevent", "simple_websocket", "flask_sock")}


@app.route("/")
def index():
    return "a page"


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]))
