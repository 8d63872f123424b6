"""Echo and broadcast on picows.

python picows_app.py PORT
"""

from __future__ import annotations

import sys

import uvloop
from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)

LARGEST = 4 * 2**20
clients: set[WSTransport] = set()


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


class Broadcast(Echo):
    def on_ws_connected(self, transport: WSTransport) -> None:
        clients.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        clients.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            super().on_ws_frame(transport, frame)
            return
        payload = frame.get_payload_as_bytes()
        for client in clients:
            client.send(frame.msg_type, payload)


def listener(request: WSUpgradeRequest) -> WSListener:
    return Broadcast() if request.path == b"/broadcast" else Echo()


async def main() -> None:
    port = int(sys.argv[1])
    server = await ws_create_server(listener, "127.0.0.1", port, max_frame_size=LARGEST)
    await server.serve_forever()


uvloop.run(main())
