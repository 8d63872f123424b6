"""The app of the big run of rooms: clients that join, leave and speak, and a view that speaks.

A client says ``join ROOM [SINCE]``, ``leave ROOM`` or ``say ROOM SENDER NUMBER`` and is answered
with ``! joined ROOM COMPLETE PID``, ``! left ROOM`` or ``! said ROOM NUMBER OUTCOME PID``.
Messages are ``ID ROOM SENDER NUMBER``, with ``-`` for the id where there is no history.
"""

from __future__ import annotations

import os
from typing import Any

from common import app as app
from common import websocket
from rooms import rooms_view as rooms_view

from flask_uwsgi_ws import AsyncioWebSocket, QueueError


def words(room: str, sender: str, number: str) -> Any:
    if app.config.get("UWSGI_WEBSOCKET_HISTORY"):
        return lambda id: f"{id} {room} {sender} {number}"
    return f"- {room} {sender} {number}"


def outcome_of(error: QueueError) -> str:
    """Say whether a message that was not confirmed may have been published all the same."""
    return "maybe" if "or it was" in str(error) else "failed"


@app.get("/say/<room>/<sender>/<number>")
def say(room: str, sender: str, number: str) -> str:
    try:
        websocket.send_to(room, words(room, sender, number))
    except QueueError as error:
        return f"{outcome_of(error)} {os.getpid()}"
    return f"ok {os.getpid()}"


if isinstance(websocket, AsyncioWebSocket):

    async def obey(ws: Any, what: str, room: str, *more: str) -> str:
        if what == "join":
            complete = await ws.join(room, since=more[0] if more else None)
            return f"! joined {room} {complete} {os.getpid()}"
        if what == "leave":
            await ws.leave(room)
            return f"! left {room}"
        try:
            await websocket.send_to(room, words(room, *more))
        except QueueError as error:
            return f"! said {room} {more[1]} {outcome_of(error)} {os.getpid()}"
        return f"! said {room} {more[1]} ok {os.getpid()}"

    @websocket.route("/crowd")
    async def crowd(ws: Any) -> None:
        async for message in ws:
            try:
                await ws.send(await obey(ws, *message.split()))
            except QueueError:
                await ws.close(1013, "try again later")

else:

    def obey_blocking(ws: Any, what: str, room: str, *more: str) -> str:
        if what == "join":
            complete = ws.join(room, since=more[0] if more else None)
            return f"! joined {room} {complete} {os.getpid()}"
        if what == "leave":
            ws.leave(room)
            return f"! left {room}"
        return f"! said {room} {more[1]} {say(room, *more)}"

    @websocket.route("/crowd")
    def crowd_blocking(ws: Any) -> None:
        for message in ws:
            try:
                ws.send(obey_blocking(ws, *message.split()))
            except QueueError:
                ws.close(1013, "try again later")
