"""Send every message back, with a task for each connection.

    python examples/echo-asyncio/echo.py

Then open http://localhost:5000/ (``PORT`` in the environment names another port).
"""

import os

from flask import Flask, render_template

from flask_uwsgi_ws import AsyncioWebSocket

# The page is that of examples/echo.
app = Flask(__name__, template_folder="../echo/templates", static_folder="../echo/static")
websocket = AsyncioWebSocket(app)


@app.route("/")
def index():
    return render_template("echo.html")


@websocket.route("/echo")
async def echo(ws):
    # Ends by itself: once the browser has gone, send raises ConnectionClosed.
    while True:
        msg = await ws.receive()
        await ws.send(msg)


if __name__ == "__main__":
    # The event loop has a thread of the worker, which every uWSGI can give it. In one that was
    # built with its asyncio engine, app.run(asyncio=100, greenlet=True) takes uWSGI's own.
    app.run(port=int(os.environ.get("PORT", "5000")))
