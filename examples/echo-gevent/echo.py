"""Send every message back, with a greenlet for each connection.

    python examples/echo-gevent/echo.py

Then open http://localhost:5000/ (``PORT`` in the environment names another port).
"""

import os

from flask import Flask, render_template

from flask_uwsgi_ws import GeventWebSocket

# The page is that of examples/echo.
app = Flask(__name__, template_folder="../echo/templates", static_folder="../echo/static")
websocket = GeventWebSocket(app)


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
    app.run(port=int(os.environ.get("PORT", "5000")), gevent=100)
