"""The app of the routing tests."""

from __future__ import annotations

import os
from typing import Any

from flask import Blueprint, Flask, request, url_for

from flask_uwsgi_ws import WebSocket, WebSocketClient, WebSocketMiddleware


class LoudClient(WebSocketClient):
    def __init__(self, environ: dict[str, Any], *arguments: Any) -> None:
        if environ["QUERY_STRING"] == "broken":
            raise RuntimeError("this client can not be made")
        super().__init__(environ, *arguments)

    def send(self, message: str, binary: bool | None = None) -> None:
        loud = self.environ["PATH_INFO"] == "/shout"
        super().send(f"{message.upper()}!" if loud else message, binary)


class LoudMiddleware(WebSocketMiddleware):
    client = LoudClient


class LoudWebSocket(WebSocket):
    middleware = LoudMiddleware


websocket = LoudWebSocket()


@websocket.route("/early")
def early(ws: WebSocketClient) -> None:
    ws.send("early")


app = Flask(__name__, subdomain_matching=True)
second = Flask("second")
app.config["SERVER_NAME"] = os.environ["ADDRESS"]
websocket.init_app(app)
websocket.init_app(second)


@websocket.route("/late")
def late(ws: WebSocketClient) -> None:
    ws.send("late")


def added(ws: WebSocketClient, number: int) -> None:
    ws.send(f"added {number}")


websocket.add_url_rule("/added/<int:number>", "added", added)
websocket.add_url_rule("/added", "added", added, defaults={"number": 0})


@websocket.route("/sub", subdomain="live")
def sub(ws: WebSocketClient) -> None:
    ws.send("subdomain")


@websocket.route("/renamed", endpoint="named")
def another_name(ws: WebSocketClient) -> None:
    ws.send("named")


@websocket.route("/slash/")
def slash(ws: WebSocketClient) -> None:
    ws.send("slash")


@websocket.route("/shout")
def shout(ws: WebSocketClient) -> None:
    ws.send(ws.receive())


@websocket.route("/count")
def count(ws: WebSocketClient) -> None:
    for message in ws:
        ws.send(str(len(message)))


@websocket.route("/context")
def context(ws: WebSocketClient) -> None:
    with app.request_context(ws.environ):
        ws.send(request.args["name"])


@app.route("/flask-rule", websocket=True)
def flask_rule(ws: WebSocketClient) -> None:
    ws.send("flask rule")


blueprint = Blueprint("bp", __name__, url_prefix="/bp")


@blueprint.route("/socket", websocket=True)
def blueprint_socket(ws: WebSocketClient) -> None:
    ws.send("blueprint")


app.register_blueprint(blueprint)


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


@app.get("/url-of/<endpoint>")
def url_of(endpoint: str) -> str:
    return url_for(endpoint)
