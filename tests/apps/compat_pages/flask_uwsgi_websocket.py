"""An app and its page, as for Flask-uWSGI-WebSocket; ``BACKEND`` names the class."""

from __future__ import annotations

import os

from compat_pages.page import page
from compat_views import add_views
from flask import Blueprint, Flask, request

from flask_uwsgi_ws.compat import flask_uwsgi_websocket

app = Flask(__name__)
websocket = getattr(flask_uwsgi_websocket, os.environ["BACKEND"])(app)
loud = Blueprint("loud", __name__)
members = {}
add_views(app)


def tell(message):
    for member in list(members.values()):
        member.send(message)


@app.get("/")
def index():
    return page(Echo="/echo", Chat=f"/chat/{request.args['name']}", Shout="/loud/shout")


@websocket.route("/echo")
def echo(ws):
    while (message := ws.receive()) != b"bye":
        ws.send(message)


@websocket.route("/chat/<name>")
def chat(ws, name):
    members[ws.id] = ws
    tell(f"{name} is here")
    while (message := ws.receive()) is not None:
        tell(name.encode() + b": " + message)
    del members[ws.id]
    tell(f"{name} has left")


@loud.route("/shout")
def shout(ws):
    while ws.connected:
        message = ws.receive()
        if message is not None:
            ws.send(message.decode().upper())


websocket.register_blueprint(loud, url_prefix="/loud")
