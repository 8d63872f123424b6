"""A chat: who is here, what was said last, and every message to everybody.

    python examples/chat-asyncio/chat.py

Then open http://localhost:5000/ in two windows (``PORT`` in the environment
names another port). The room lives in the memory of its process, so there is
one. With ``REDIS_URL`` in the environment, such as ``redis://localhost``, it is
in that Redis, and four processes serve it.
"""

import os
import sys
from contextlib import suppress

from flask import Flask, render_template

from flask_uwsgi_ws import AsyncioWebSocket, QueueError

# What pages may ask for, and the page, are those of examples/chat.
sys.path.append(os.path.join(os.path.dirname(__file__), "../chat"))
import room
from room import HISTORY_MOST, LIMITS, NOTICES, TALK, BadRequest, event

REDIS_URL = os.environ.get("REDIS_URL")

app = Flask(__name__, template_folder="../chat/templates", static_folder="../chat/static")
websocket = AsyncioWebSocket(
    app, message_queue=REDIS_URL, queue_prefix="chat", history=HISTORY_MOST
)


@app.route("/")
def index():
    return render_template("chat.html", **LIMITS)


@websocket.route("/chat")
async def chat(ws):
    # What presence tells of the guest, once they have joined.
    me = {}
    try:
        async for message in ws:
            try:
                request = room.read_request(message, bool(me))
                me = await answer(ws, me, request)
            except BadRequest as error:
                await ws.send(error.event)
    finally:
        if me:
            # Without the queue nobody can be told.
            with suppress(QueueError):
                await leave(ws, me)


async def answer(ws, me, request):
    match request["type"]:
        case "ping":
            await ws.send(event("pong"))
        case "join":
            try:
                return await join(ws, request)
            except QueueError as error:
                # Its page comes again.
                app.logger.error("nobody can join: %s", error)
                await ws.close(1013, "try again later")
        case "say":
            said = room.message(me, request["text"], request["key"])
            try:
                await websocket.send_to(TALK, said)
            except QueueError:
                raise BadRequest("This was not sent.", request["key"]) from None
        case "typing":
            with suppress(QueueError):
                await tell(ws, me, "typing")
    return me


async def join(ws, request):
    present = await websocket.presence(NOTICES)
    me = room.newcomer(present, request["name"], request["session"])
    await ws.join(NOTICES, me)
    # What was said before comes first.
    complete = await ws.join(TALK, **request["wish"])
    names = room.people(await websocket.presence(NOTICES))
    await ws.send(event("welcome", name=me["name"], people=names, complete=complete))
    if room.find(present, me["session"]) is None:
        await tell(ws, me, "joined", people=names)
    await correct(names)
    return me


async def leave(ws, me):
    await ws.leave(NOTICES)
    present = await websocket.presence(NOTICES)
    names = room.people(present)
    # Another connection of their page may have taken their place.
    if room.find(present, me["session"]) is None:
        await tell(ws, me, "left", people=names)
        await correct(names)


async def correct(names):
    """Tell all who is here, if others came or went while they were told these names."""
    while (names_now := room.people(await websocket.presence(NOTICES))) != names:
        names = names_now
        await websocket.send_to(NOTICES, event("people", people=names))


async def tell(ws, me, type, **fields):
    """Tell the others."""
    notice = event(type, name=me["name"], time=room.now(), **fields)
    await websocket.send_to(NOTICES, notice, skip=ws)


if __name__ == "__main__":
    # The event loop has a thread of the worker, which every uWSGI can give it. In one that was
    # built with its asyncio engine, app.run(asyncio=100, greenlet=True) takes uWSGI's own.
    app.run(port=int(os.environ.get("PORT", "5000")), processes=4 if REDIS_URL else 1)
