"""A chat room: who is here, what was said last, and every message to everybody.

    python examples/chat-gevent/chat.py

Then open http://localhost:5000/ in two windows (``PORT`` in the environment
names another port). The room lives in the memory of its process, so run one
worker process, as ``app.run`` does: a second one would be a second room.

Each connection has two greenlets: its handler's, which receives, and one that
sends what is in its outbox. So nobody waits for somebody who reads slowly.
"""

import os
import sys

import gevent
from flask import Flask, render_template
from gevent.queue import SimpleQueue

from flask_uwsgi_ws import ConnectionClosed, GeventWebSocket

# The room and the page are those of examples/chat.
sys.path.append(os.path.join(os.path.dirname(__file__), "../chat"))
from room import LIMITS, Guest, Room

app = Flask(__name__, template_folder="../chat/templates", static_folder="../chat/static")
# Who takes nothing for so many seconds is given up; until then their outbox grows.
websocket = GeventWebSocket(app, send_timeout=3)
room = Room()


@app.route("/")
def index():
    return render_template("chat.html", **LIMITS)


@websocket.route("/chat")
def chat(ws):
    outbox = SimpleQueue()
    writer = gevent.spawn(deliver, ws, outbox)
    guest = Guest(room, outbox.put)
    try:
        for message in ws:
            guest.take(message)
    finally:
        guest.leave()
        writer.kill()


def deliver(ws, outbox):
    try:
        for message in outbox:
            ws.send(message)
    except ConnectionClosed:
        pass


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")), gevent=100)
