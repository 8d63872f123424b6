"""Echo and broadcast on gevent-websocket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

clients: set[Any] = set()


def app(environ: dict[str, Any], _start_response: Callable[..., Any]) -> list[bytes]:
    ws = environ["wsgi.websocket"]
    if environ["PATH_INFO"] == "/broadcast":
        broadcast(ws)
    else:
        echo(ws)
    return []


def echo(ws: Any) -> None:
    while True:
        message = ws.receive()
        if message is None:
            return
        ws.send(message)


def broadcast(ws: Any) -> None:
    clients.add(ws)
    while True:
        message = ws.receive()
        if message is None:
            clients.discard(ws)
            return
        for client in list(clients):
            client.send(message)
