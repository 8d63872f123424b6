"""A chat room: who is here, what was said last, and every message to everybody.

    python examples/chat-asyncio/chat.py

Then open http://localhost:5000/ in two windows (``PORT`` in the environment
names another port). The room lives in the memory of its process, so run one
worker process, as ``app.run`` does: a second one would be a second room.

Each connection has two tasks: its handler's, which receives, and one that
sends what is in its outbox. So nobody waits for somebody who reads slowly.
"""

import asyncio
import os
import sys

from flask import Flask, render_template

from flask_uwsgi_ws import AsyncioWebSocket, ConnectionClosed

# The room and the page are those of examples/chat.
sys.path.append(os.path.join(os.path.dirname(__file__), "../chat"))
from room import LIMITS, Guest, Room

app = Flask(__name__, template_folder="../chat/templates", static_folder="../chat/static")
# Who takes nothing for so many seconds is given up; until then their outbox grows.
websocket = AsyncioWebSocket(app, send_timeout=3)
room = Room()


@app.route("/")
def index():
    return render_template("chat.html", **LIMITS)


@websocket.route("/chat")
async def chat(ws):
    outbox = asyncio.Queue()
    writer = asyncio.create_task(deliver(ws, outbox))
    guest = Guest(room, outbox.put_nowait)
    try:
        async for message in ws:
            guest.take(message)
    finally:
        guest.leave()
        writer.cancel()


async def deliver(ws, outbox):
    try:
        while True:
            await ws.send(await outbox.get())
    except ConnectionClosed:
        pass


if __name__ == "__main__":
    # The event loop has a thread of the worker, which every uWSGI can give it. In one that was
    # built with its asyncio engine, app.run(asyncio=100, greenlet=True) takes uWSGI's own.
    app.run(port=int(os.environ.get("PORT", "5000")))
