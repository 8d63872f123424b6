"""An app and its page, as for Flask-Sockets."""

from __future__ import annotations

from compat_pages.page import page
from compat_views import add_views
from flask import Blueprint, Flask, request

from flask_uwsgi_ws.compat.flask_sockets import Sockets

app = Flask(__name__)
sockets = Sockets(app)
loud = Blueprint("loud", __name__)
add_views(app)


def tell(ws, message):
    # Those of the other sockets are among them.
    for client in ws.handler.server.clients.values():
        if client.ws.path.startswith("/chat/"):
            client.ws.send(message)


@app.get("/")
def index():
    return page(Echo="/echo", Chat=f"/chat/{request.args['name']}", Shout="/loud/shout")


@sockets.route("/echo")
def echo(ws):
    while not ws.closed:
        message = ws.receive()
        if message == "bye":
            break
        ws.send(message)


@sockets.route("/chat/<name>")
def chat(ws, name):
    tell(ws, f"{name} is here")
    while not ws.closed:
        message = ws.receive()
        if message is not None:
            tell(ws, f"{name}: {message}")
    tell(ws, f"{name} has left")


@loud.route("/shout")
def shout(ws):
    while not ws.closed:
        message = ws.receive()
        if message is not None:
            ws.send(message.upper())


sockets.register_blueprint(loud, url_prefix="/loud")
