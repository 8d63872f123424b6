"""An app and its page, as for flask-threaded-sockets."""

from __future__ import annotations

import threading
from contextlib import suppress

from compat_pages.page import page
from compat_views import add_views
from flask import Blueprint, Flask, request

from flask_uwsgi_ws.compat.flask_threaded_sockets import Sockets, WebSocketError

app = Flask(__name__)
sockets = Sockets(app)
pages, loud = Blueprint("loud", __name__), Blueprint("loud", __name__)
lock = threading.Lock()
members = {}
add_views(app)


def tell(message):
    with lock:
        for member in members.values():
            with suppress(WebSocketError):
                member.send(message)


@pages.get("/")
def index():
    return page(Echo="/echo", Chat=f"/chat/{request.args['name']}", Shout="/loud/shout")


@sockets.route("/echo")
def echo(ws):
    for message in iter(ws.receive, "bye"):
        ws.send(message)


@sockets.route("/chat/<name>")
def chat(ws, name):
    with lock:
        members[name] = ws
    tell(f"{name} is here")
    while (message := ws.receive()) is not None:
        tell(f"{name}: {message}")
    with lock:
        del members[name]
    tell(f"{name} has left")


@loud.route("/shout")
def shout(ws):
    while (message := ws.receive()) is not None:
        ws.send_frame(message.upper(), ws.OPCODE_TEXT)


app.register_blueprint(pages)
sockets.register_blueprint(loud, url_prefix="/loud")
