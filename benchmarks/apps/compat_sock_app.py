"""The echo of ``flask_sock_app.py`` with another import."""

from __future__ import annotations

from typing import Any

from flask import Flask

from flask_uwsgi_ws.compat.flask_sock import Sock

app = Flask(__name__)
sock = Sock(app)


@sock.route("/echo")
def echo(ws: Any) -> None:
    while True:
        ws.send(ws.receive())
