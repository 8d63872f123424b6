"""A chat: who is here, what was said last, and every message to everybody.

    python examples/chat-gevent/chat.py

Then open http://localhost:5000/ in two windows (``PORT`` in the environment
names another port). The room lives in the memory of its process, so there is
one. With ``REDIS_URL`` in the environment, such as ``redis://localhost``, it is
in that Redis, and four processes serve it.
"""

import os
import sys

from flask import Flask, render_template

from flask_uwsgi_ws import GeventWebSocket

# The guests and the page are those of examples/chat.
sys.path.append(os.path.join(os.path.dirname(__file__), "../chat"))
from guest import Guest
from room import HISTORY_MOST, LIMITS

REDIS_URL = os.environ.get("REDIS_URL")

app = Flask(__name__, template_folder="../chat/templates", static_folder="../chat/static")
websocket = GeventWebSocket(app, message_queue=REDIS_URL, queue_prefix="chat", history=HISTORY_MOST)


@app.route("/")
def index():
    return render_template("chat.html", **LIMITS)


@websocket.route("/chat")
def chat(ws):
    Guest(websocket, ws).stay()


if __name__ == "__main__":
    processes = 4 if REDIS_URL else 1
    app.run(port=int(os.environ.get("PORT", "5000")), gevent=100, processes=processes)
