"""A chat: who is here, what was said last, and every message to everybody.

    python examples/chat/chat.py

Then open http://localhost:5000/ in two windows (``PORT`` in the environment
names another port). The room lives in the memory of its process, so there is
one. With ``REDIS_URL`` in the environment, such as ``redis://localhost``, it is
in that Redis, and four processes serve it.

What a page may ask for is in ``room.py``, and what is done then in ``guest.py``.
"""

import os

from flask import Flask, render_template
from guest import Guest
from room import HISTORY_MOST, LIMITS

from flask_uwsgi_ws import WebSocket

REDIS_URL = os.environ.get("REDIS_URL")

app = Flask(__name__)
websocket = WebSocket(app, message_queue=REDIS_URL, queue_prefix="chat", history=HISTORY_MOST)


@app.route("/")
def index():
    return render_template("chat.html", **LIMITS)


@websocket.route("/chat")
def chat(ws):
    Guest(websocket, ws).stay()


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")), processes=4 if REDIS_URL else 1)
