"""Send every message back: the smallest WebSocket app.

    python examples/echo/echo.py

Then open http://localhost:5000/ (``PORT`` in the environment names another port).
"""

import os

from flask import Flask, render_template

from flask_uwsgi_ws import WebSocket

app = Flask(__name__)
websocket = WebSocket(app)


@app.route("/")
def index():
    return render_template("echo.html")


@websocket.route("/echo")
def echo(ws):
    # Ends by itself: once the browser has gone, send raises ConnectionClosed.
    while True:
        msg = ws.receive()
        ws.send(msg)


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")))
