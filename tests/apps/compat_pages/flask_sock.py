"""An app and its page, as for flask-sock."""

from __future__ import annotations

from contextlib import suppress

from compat_pages.page import page
from compat_views import add_views
from flask import Blueprint, Flask, request

from flask_uwsgi_ws.compat.flask_sock import ConnectionClosed, Sock

sock = Sock()
loud = Blueprint("loud", __name__, url_prefix="/loud")
members = []


def tell(message):
    for member in list(members):
        with suppress(ConnectionClosed):
            member.send(message)


@sock.route("/echo")
def echo(ws):
    while (message := ws.receive()) != "bye":
        ws.send(message)


@sock.route("/chat/<name>")
def chat(ws, name):
    members.append(ws)
    tell(f"{name} is here")
    try:
        while True:
            tell(f"{name}: {ws.receive()}")
    finally:
        members.remove(ws)
        tell(f"{name} has left")


@sock.route("/shout", bp=loud)
def shout(ws):
    while True:
        ws.send(ws.receive().upper())


@loud.get("/")
def index():
    return page(Echo="/echo", Chat=f"/chat/{request.args['name']}", Shout="/loud/shout")


app = Flask(__name__)
app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": 25}
sock.init_app(app)
app.register_blueprint(loud)
app.add_url_rule("/", view_func=index)
add_views(app)
