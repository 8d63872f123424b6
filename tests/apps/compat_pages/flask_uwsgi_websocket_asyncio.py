"""An app and its page, as for Flask-uWSGI-WebSocket with asyncio."""

from __future__ import annotations

import asyncio

from compat_pages.page import page
from compat_views import add_views
from flask import Blueprint, Flask, request

from flask_uwsgi_ws.compat.flask_uwsgi_websocket import AsyncioWebSocket, coroutine

app = Flask(__name__)
websocket = AsyncioWebSocket(app)
loud = Blueprint("loud", __name__)
members = {}
add_views(app)


async def tell(message):
    await asyncio.gather(*(member.send(message) for member in members.values()))


@app.get("/")
def index():
    return page(Echo="/echo", Chat=f"/chat/{request.args['name']}", Shout="/loud/shout")


@websocket.route("/echo")
@coroutine
def echo(ws):
    while True:
        message = yield from ws.receive()
        if message == b"bye":
            return
        yield from ws.send(message)


@websocket.route("/chat/<name>")
async def chat(ws, name):
    members[ws.id] = ws
    await tell(f"{name} is here")
    while (message := await ws.receive()) is not None:
        await tell(name.encode() + b": " + message)
    del members[ws.id]
    await tell(f"{name} has left")


@loud.route("/shout")
async def shout(ws):
    async def answer(message):
        await ws.send(message.decode().upper())

    while (message := await ws.receive()) is not None:
        await asyncio.create_task(answer(message))


websocket.register_blueprint(loud, url_prefix="/loud")
