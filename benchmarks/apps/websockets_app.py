"""Echo and broadcast on websockets' asyncio server.

python websockets_app.py PORT
"""

from __future__ import annotations

import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

clients: set[ServerConnection] = set()


async def handler(ws: ServerConnection) -> None:
    if ws.request is not None and ws.request.path == "/broadcast":
        clients.add(ws)
        async for message in ws:
            broadcast(clients, message)
        clients.discard(ws)
        return
    async for message in ws:
        await ws.send(message)


async def main() -> None:
    port = int(sys.argv[1])
    async with serve(handler, "127.0.0.1", port, compression=None, max_size=None) as server:
        await server.serve_forever()


uvloop.run(main())
