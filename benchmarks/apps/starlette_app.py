"""Echo and broadcast on Starlette."""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

clients: set[WebSocket] = set()


async def echo(ws: WebSocket) -> None:
    await ws.accept()
    while (event := await ws.receive())["type"] == "websocket.receive":
        await ws.send(_answer(event))


async def broadcast(ws: WebSocket) -> None:
    await ws.accept()
    clients.add(ws)
    while (event := await ws.receive())["type"] == "websocket.receive":
        for client in list(clients):
            await client.send(_answer(event))
    clients.discard(ws)


def _answer(event: Any) -> dict[str, Any]:
    return {"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")}


app = Starlette(
    routes=[WebSocketRoute("/echo", echo), WebSocketRoute("/broadcast", broadcast)],
)
