"""A chat room: who is here, what was said last, and every message to everybody.

    python examples/chat/chat.py

Then open http://localhost:5000/ in two windows (``PORT`` in the environment
names another port). The room lives in the memory of its process, so run one
worker process, as ``app.run`` does: a second one would be a second room.

Each connection has two threads: its handler's, which receives, and one that
sends what is in its outbox. So nobody waits for somebody who reads slowly.
"""

import os
from queue import SimpleQueue
from threading import Thread

from flask import Flask, render_template
from room import LIMITS, Guest, Room

from flask_uwsgi_ws import ConnectionClosed, WebSocket

app = Flask(__name__)
# Who takes nothing for so many seconds is given up; until then their outbox grows.
websocket = WebSocket(app, send_timeout=3)
room = Room()


@app.route("/")
def index():
    return render_template("chat.html", **LIMITS)


@websocket.route("/chat")
def chat(ws):
    outbox = SimpleQueue()
    Thread(target=deliver, args=(ws, outbox), daemon=True).start()
    guest = Guest(room, outbox.put)
    try:
        for message in ws:
            guest.take(message)
    finally:
        guest.leave()
        outbox.put(None)


def deliver(ws, outbox):
    try:
        while (message := outbox.get()) is not None:
            ws.send(message)
    except ConnectionClosed:
        pass


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")))
