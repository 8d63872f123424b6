"""An app of Flask-uWSGI-WebSocket, but for its import; ``BACKEND`` names the class."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque

from compat_views import add_views, told
from flask import Blueprint, Flask, request, url_for

import flask_uwsgi_ws.compat.flask_uwsgi_websocket as flask_uwsgi_websocket

app = Flask(__name__)
app.config["UWSGI_WEBSOCKET_CLOSE_TIMEOUT"] = 1
ws = getattr(flask_uwsgi_websocket, os.environ.get("BACKEND", "WebSocket"))(app)
add_views(app)

users = {}
backlog = deque(maxlen=10)


@ws.route("/echo")
def echo(ws):
    while True:
        msg = ws.receive()
        ws.send(msg)


@ws.route("/echo-if")
def echo_if(ws):
    while True:
        msg = ws.receive()
        if not msg:
            return
        ws.send(msg)


@ws.route("/chat")
def chat(ws):
    users[ws.id] = ws

    for msg in list(backlog):
        ws.send(msg)

    while True:
        msg = ws.receive()
        if msg is not None:
            backlog.append(msg)
            for id in list(users):
                if id != ws.id:
                    users[id].send(msg)
        else:
            break

    del users[ws.id]


@app.route("/users")
def who_is_here():
    return str(len(users))


@ws.route("/greet")
def greet(ws):
    while ws.connected:
        name = ws.receive()
        if name is not None:
            ws.send(b"Hello, " + name)


@ws.route("/context")
def context(ws):
    with app.request_context(ws.environ):
        ws.send(request.args["name"])


@ws.route("/kinds")
def kinds(ws):
    ws.send(json.dumps(repr(ws.receive())))
    ws.send(json.dumps(repr(ws.recv())))
    for send in (ws.send, ws.send_binary):
        for msg in ("text", b"utf-8 \xc3\xa9", b"\xff", bytearray(b"array")):
            send(msg)
    ws.send("as binary", binary=True)
    ws.send("as text", binary=False)


@ws.route("/poll")
def poll(ws):
    msgs = []
    try:
        while True:
            msg = ws.recv_nb()
            if msg not in msgs:
                msgs.append(msg)
                ws.send(repr(msg))
            time.sleep(0.01)
    except OSError as error:
        told.append(f"{request.args['mark']} {msgs} {error.code}")
        raise


@ws.route("/end")
def end(ws):
    seen = []
    for call in (ws.receive, ws.receive, ws.recv_nb, lambda: ws.send("x")):
        try:
            seen.append(call())
        except OSError as error:
            is_ours = isinstance(error, flask_uwsgi_websocket.ConnectionClosed)
            seen.append([error.code, error.reason, is_ours])
    told.append(f"{request.args['mark']} {json.dumps([*seen, ws.connected])}")


@ws.route("/push")
def push(ws):
    ws.send("ready")
    try:
        while True:
            ws.send("more")
            time.sleep(0.02)
    finally:
        told.append(f"{request.args['mark']} ended")


@ws.route("/close")
def close(ws):
    began = time.monotonic()
    ws.close()
    told.append(f"{request.args['mark']} {ws.connected} {time.monotonic() - began < 0.5}")
    ws.close()


@ws.route("/about")
def about(client):
    client.send(
        json.dumps(
            {
                "class": type(client).__name__,
                "connected": client.connected,
                "id": client.id,
                "same": client.id in {each.id for each in ws.clients},
                "fd": os.path.exists(f"/proc/self/fd/{client.fd}"),
                "timeout": client.timeout,
                "path": client.environ["PATH_INFO"],
                "url": url_for("websocket:echo"),
            }
        )
    )
    client.receive()


@ws.route("/rooms")
def rooms(ws):
    ws.join("news")
    ws.send(json.dumps(sorted(ws.rooms)))
    ws.receive()


kept = {}


@ws.route("/keep")
def keep(ws):
    """Stay, whatever becomes of the client."""
    kept["ws"] = ws
    ws.send("kept")
    ws.receive()
    told.append(f"{request.args['mark']} gone")
    while "ws" in kept:
        time.sleep(0.01)


@ws.route("/to-kept")
def to_kept(ws):
    while True:
        msg = ws.receive()
        if msg is None:
            return
        kept["ws"].send(msg)
        ws.send(b"sent " + msg)


@app.route("/let-go")
def let_go():
    kept.clear()
    return ""


@app.route("/send-from-thread/<word>")
def send_from_thread(word):
    thread = threading.Thread(target=kept["ws"].send, args=(word,))
    thread.start()
    thread.join()
    return ""


# A view and a handler of the same name, and blueprints of the same name.


@app.route("/same")
def same():
    return "a page"


def make_same():
    def same(ws):
        ws.send("a socket")

    return same


ws.route("/same")(make_same())

pages = Blueprint("live", __name__)
live = Blueprint("live", __name__)


@pages.route("/page")
def page():
    return "a page of the blueprint"


@live.route("/echo")
def live_echo(ws):
    ws.send(f"{request.blueprint} {ws.receive().decode()}")


app.register_blueprint(pages, url_prefix="/live")
ws.register_blueprint(live, url_prefix="/live")
ws.register_blueprint(live, url_prefix="/again")


# A client class of the app's own.


class Named(ws.middleware.client):
    def __init__(self, environ, fd, timeout=5):
        super().__init__(environ, fd, timeout)
        self.name = f"{self.id} {self.connected}"

    def shout(self, word):
        self.send(word.upper())


ws.middleware.client = Named


@ws.route("/named/<word>")
def named(ws, word):
    ws.shout(word)
    ws.send(str(ws.name == f"{ws.id} True"))


@ws.route("/hang-up", methods=["GET", "POST"])
def hang_up(ws):
    ws.connected = False
    told.append(f"{request.args['mark']} {ws.connected}")


@ws.route("/fails")
def fails(ws):
    ws.send("about to fail")
    raise KeyError("on purpose")


@app.route("/loaded")
def loaded():
    return str("gevent" in sys.modules)


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), **json.loads(os.environ["RUN"]))
