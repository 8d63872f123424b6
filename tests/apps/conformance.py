"""The echo that the Autobahn testsuite tests, of the class that BACKEND names."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask

import flask_uwsgi_ws

app = Flask("conformance")
# The largest message of the testsuite has 16 MiB. A Ping of ours would be one that it did not ask
# for.
websocket = getattr(flask_uwsgi_ws, os.environ["BACKEND"])(
    app, max_size=32 * 2**20, ping_interval=None, compression=True
)


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


if isinstance(websocket, flask_uwsgi_ws.AsyncioWebSocket):

    @websocket.route("/")
    async def echo_in_task(ws: Any) -> None:
        async for message in ws:
            await ws.send(message)

else:

    @websocket.route("/")
    def echo(ws: Any) -> None:
        for message in ws:
            ws.send(message)
