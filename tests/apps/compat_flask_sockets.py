"""An app of Flask-Sockets, but for its imports."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any

from compat_views import add_views, told
from flask import Blueprint, Flask, current_app, request, session, url_for

from flask_uwsgi_ws.compat.flask_sockets import Sockets, WebSocketError
from flask_uwsgi_ws.compat.gevent_websocket import server

app = Flask(__name__)
app.secret_key = "secret"
app.config["UWSGI_WEBSOCKET_CLOSE_TIMEOUT"] = 1
if "ORIGINS" in os.environ:
    app.config["UWSGI_WEBSOCKET_ORIGINS"] = os.environ["ORIGINS"].split()
sockets = Sockets(app)
add_views(app)


@sockets.route("/echo", websocket=True)
def echo_socket(ws):
    while True:
        message = ws.receive()
        ws.send(message)


@app.route("/")
def hello():
    return "Hello World!"


@sockets.route("/chat")
def chat(ws):
    while not ws.closed:
        message = ws.receive()
        if message:
            for client in ws.handler.server.clients.values():
                client.ws.send(message)


# A blueprint of sockets, and one of pages with the same name.

live = Blueprint("live", __name__, static_folder="static")
pages = Blueprint("live", __name__)


@live.route("/echo", methods=["GET", "POST"])
@live.route("/<int:times>/echo")
def echo(ws, times=1):
    while not ws.closed:
        message = ws.receive()
        if message is not None:
            ws.send(message * times)


@pages.route("/page")
def page():
    return "a page"


sockets.register_blueprint(live, url_prefix=r"/live")
app.register_blueprint(pages, url_prefix="/live")
sockets.register_blueprint(live, url_prefix="/again")


# Names that views and handlers, and handlers among them, have in common.


@app.route("/same")
def same():
    return url_for("same") + " " + url_for("echo_socket") + " " + url_for("live.echo")


def make_same(word):
    def same(ws):
        ws.send(word)

    return same


sockets.route("/same")(make_same("one"))
sockets.route("/same/two")(make_same("two"))


@sockets.route("/rooms")
@sockets.route("/rooms/<name>/<int:number>", endpoint="ignored")
def rooms(ws, name="lobby", number=0):
    ws.send(f"{name} {number!r}")


sockets.add_url_rule("/added", None, lambda ws: ws.send("added"))


# What handlers know.


@app.route("/login/<name>")
def login(name):
    session["name"] = name
    return name


@sockets.route("/about")
def about(ws):
    client = ws.handler.active_client
    ws.send(
        json.dumps(
            {
                "name": session.get("name"),
                "cookie": request.cookies.get("taste"),
                "arg": request.args.get("arg"),
                "app": current_app.name,
                "path": ws.path,
                "origin": ws.origin,
                "protocol": ws.protocol,
                "version": ws.version,
                "closed": ws.closed,
                "same ws": request.environ["wsgi.websocket"] is ws,
                "same environ": ws.environ["wsgi.websocket"] is ws,
                "environ version": ws.environ["wsgi.websocket_version"],
                "same client": client.ws is ws and ws.handler.websocket is ws,
                "address": client.address,
                "key": ws.handler.server.clients[ws.handler.client_address] is client,
                "clients": len(ws.handler.server.clients),
                "handler": ws.handler.environ is ws.environ,
                "items": [key for key, each in ws.handler.server.clients.items() if each is client],
                "keys": list(ws.handler.server.clients) == list(ws.handler.server.clients.keys()),
                "repr": repr(ws),
                "id": ws.id == ws.client.id,
                "private": hasattr(ws, "_socket"),
            }
        )
    )
    ws.logger.debug("told")
    ws.receive()
    told.append(f"about {ws.environ['wsgi.websocket'] is ws} {ws.closed}")
    kept.append(ws.environ)


kept: list[Any] = []


@app.route("/clients")
def clients():
    return str(len(server.clients))


@app.route("/kept")
def what_is_kept():
    return [each["wsgi.websocket"] is None for each in kept]


@sockets.route("/kind")
def kind(ws):
    for _ in range(3):
        message = ws.receive()
        ws.send(f"{type(message).__name__} {len(message)}")


@sockets.route("/frames")
def frames(ws):
    ws.send_frame("text", ws.OPCODE_TEXT)
    ws.send_frame(7, ws.OPCODE_TEXT)
    ws.send_frame(b"bytes", ws.OPCODE_TEXT)
    ws.send_frame(bytearray(b"\0\1"), ws.OPCODE_BINARY)
    ws.send_frame("ping", ws.OPCODE_PING)
    ws.send_frame(b"pong", ws.OPCODE_PONG)
    for opcode, payload in (
        (ws.OPCODE_CONTINUATION, b"x"),
        (11, b"x"),
        (ws.OPCODE_PONG, b"x" * 126),
    ):
        try:
            ws.send_frame(payload, opcode)
        except (WebSocketError, ValueError) as error:
            ws.send(type(error).__name__)
    ws.send(b"as text", binary=False)
    ws.send("as bytes", binary=True, do_compress=True)
    ws.send("")
    ws.send_frame(b"\x0f\xa2done", ws.OPCODE_CLOSE)
    for opcode in (ws.OPCODE_TEXT, ws.OPCODE_PING, ws.OPCODE_PONG):
        try:
            ws.send_frame("late", opcode)
        except WebSocketError as error:
            told.append(f"frames {opcode} {type(error).__name__}")


# How connections end.


@sockets.route("/close")
def close(ws):
    code = int(request.args["code"])
    reason = request.args.get("reason")
    began = time.monotonic()
    ws.close(code, None if reason is None else reason.encode())
    # Twice is no matter.
    ws.close()
    told.append(f"close {code} {ws.closed} {ws.receive()} {time.monotonic() - began < 0.5}")
    ws.receive()
    told.append("never reached")


@sockets.route("/end")
def end(ws):
    mark = request.args["mark"]
    messages = []
    try:
        while True:
            messages.append(ws.receive())
    except WebSocketError as error:
        told.append(f"{mark} {messages} {ws.closed} {isinstance(error, OSError)}")
    ws.send("too late")
    told.append(f"{mark} never reached")


@sockets.route("/slow")
def slow(ws):
    """Come to the messages when all are here, and the end too."""
    ws.send("ready")
    while not ws.client.closed:
        time.sleep(0.01)
    got = []
    while not ws.closed:
        message = ws.receive()
        got.append(message)
        if message is not None:
            ws.send("answer")
            time.sleep(0.6)
    told.append(f"slow {got}")


@sockets.route("/push")
def push(ws):
    """Never receive: the end shows in an error of ``send`` alone."""
    sent = 0
    ws.send("ready")
    try:
        while True:
            ws.send("more")
            sent += 1
            time.sleep(0.05)
    except WebSocketError:
        told.append(f"push {request.args['mark']} ended")
        raise


@sockets.route("/raises")
def raises(ws):
    ws.receive()
    raise KeyError("on purpose")


@sockets.route("/remember")
def remember(ws):
    remembered.append(ws)
    ws.send("here")
    while ws.receive() is not None:
        pass


@sockets.route("/remember-and-return")
def remember_and_return(ws):
    remembered.append(ws)


remembered: list[Any] = []


@sockets.route("/to-another")
def to_another(ws):
    """Send to one that has gone, without a care."""
    word = ws.receive()
    sent = 0
    try:
        while True:
            remembered[-1].send(word)
            sent += 1
            time.sleep(0.1)
    finally:
        told.append(f"to another {sent}")


@app.route("/close-other")
def close_other():
    began = time.monotonic()
    remembered[-1].close(4003, "by a view")
    return str(time.monotonic() - began < 0.5)


@app.route("/send-from-thread/<word>")
def send_from_thread(word):
    thread = threading.Thread(target=remembered[-1].send, args=(word,))
    thread.start()
    thread.join()
    return ""


if __name__ == "__main__":
    from gevent import pywsgi

    from flask_uwsgi_ws.compat.flask_sockets import WebSocketHandler

    listen = ("127.0.0.1", int(os.environ["PORT"]))
    pywsgi.WSGIServer(listen, app, handler_class=WebSocketHandler).serve_forever()
