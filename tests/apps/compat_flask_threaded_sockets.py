"""An app of flask-threaded-sockets, but for its import, with its own server."""

from __future__ import annotations

import os
import time

from compat_views import add_views, told
from flask import Blueprint, Flask, request, session, url_for

from flask_uwsgi_ws.compat.flask_threaded_sockets import (
    Sockets,
    ThreadedWebsocketServer,
    ThreadedWsWSGIServer,
    WebSocketError,
    WebSocketHandler,
)

html = Blueprint(r"html", __name__)
ws = Blueprint(r"ws", __name__)
sockets = Sockets()


@html.route("/")
def hello():
    return "Hello World!"


@ws.route("/echo")
def echo_socket(socket):
    while not socket.closed:
        message = socket.receive()
        socket.send(message)


@sockets.route("/add/<int:number>", endpoint="adder", defaults={"more": 1})
@sockets.route("/add/<int:number>/<int:more>", endpoint="adder")
def add(socket, number, more):
    socket.send(str(number + more))


def mirror(socket, side="none"):
    message = socket.receive()
    if message is not None:
        socket.send(f"{message[::-1]} {side}", do_compress=True)


sockets.add_view("/mirror", mirror)
sockets.add_view("/mirror/<side>", mirror, endpoint="sided")


@sockets.route("/who")
def who(socket):
    socket.send(f"{session['name']} {request.cookies['taste']}")
    try:
        while True:
            socket.send("more")
            time.sleep(0.05)
    except WebSocketError:
        told.append("who ended")


@html.route("/login/<name>")
def login(name):
    session["name"] = name
    return name


@html.route("/urls")
def urls():
    return [
        url_for("html.hello"),
        url_for("ws.echo_socket"),
        url_for("adder", number=1, more=2),
        url_for("adder", number=1),
        url_for("mirror", q="x"),
        url_for("sided", side="left"),
    ]


def create_app():
    app = Flask(__name__)
    app.secret_key = "secret"
    add_views(app)
    sockets.init_app(app)
    app.register_blueprint(html, url_prefix=r"/")
    sockets.register_blueprint(ws, url_prefix=r"/")

    @app.get("/count")
    def count():
        return str(len(ThreadedWebsocketServer.clients))

    return app


app = create_app()


class Handler(WebSocketHandler):
    def log(self, type, message, *args):
        print("handled", type, message % args, flush=True)


if __name__ == "__main__":
    port = int(os.environ["PORT"])
    if "HANDLER" in os.environ:
        srv = ThreadedWebsocketServer("127.0.0.1", port, app, handler=Handler)
    else:
        srv = ThreadedWsWSGIServer("127.0.0.1", port, app)
    srv.serve_forever()
    print("it has ended quietly", flush=True)
