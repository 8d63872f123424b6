"""Echo and broadcast on Flask-Sock."""

from __future__ import annotations

from flask import Flask
from flask_sock import Sock
from simple_websocket import Server

app = Flask(__name__)
sock = Sock(app)
clients: set[Server] = set()


@sock.route("/echo")
def echo(ws: Server) -> None:
    while True:
        ws.send(ws.receive())


@sock.route("/broadcast")
def broadcast(ws: Server) -> None:
    clients.add(ws)
    try:
        while True:
            message = ws.receive()
            for client in list(clients):
                client.send(message)
    finally:
        clients.discard(ws)
