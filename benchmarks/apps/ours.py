"""The echo of the README."""

from flask import Flask

from flask_uwsgi_ws import WebSocket

app = Flask(__name__)
websocket = WebSocket(app)


@websocket.route("/echo")
def echo(ws):
    while True:
        message = ws.receive()
        ws.send(message)
