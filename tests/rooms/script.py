"""A program that imports the package and sends: for each "ROOM NUMBER" that it reads, a message."""

from __future__ import annotations

import sys

from flask import Flask

from flask_uwsgi_ws import QueueError, WebSocket

url, prefix, history, name = sys.argv[1:]
app = Flask("script")
websocket = WebSocket(app, message_queue=url, queue_prefix=prefix, history=int(history))
for line in sys.stdin:
    room, number = line.split()
    words = f"{room} {name} {number}"
    try:
        if int(history):
            websocket.send_to(room, lambda id, words=words: f"{id} {words}")
        else:
            websocket.send_to(room, f"- {words}")
        print("ok", flush=True)
    except QueueError as error:
        print("maybe" if "or it was" in str(error) else "failed", flush=True)
