"""A broadcast on websockets' asyncio server, in uvloop.

python rooms_websockets.py PORT
"""

from __future__ import annotations

import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

clients: set[ServerConnection] = set()


async def handler(ws: ServerConnection) -> None:
    if ws.request is not None and ws.request.path == "/publish":
        async for message in ws:
            broadcast(clients, message)
        return
    clients.add(ws)
    try:
        await ws.send("joined")
        async for _ in ws:
            pass
    finally:
        clients.discard(ws)


async def main() -> None:
    port = int(sys.argv[1])
    async with serve(handler, "127.0.0.1", port, compression=None, max_size=None) as server:
        await server.serve_forever()


uvloop.run(main())
