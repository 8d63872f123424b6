"""Channels over Redis: a window hears what any window says, in whichever worker process.

    redis-server &
    python examples/pubsub-asyncio/pubsub.py

Then open http://localhost:5000/ in two windows (``PORT`` in the environment
names another port, ``REDIS_URL`` another Redis). From a shell,
``redis-cli publish pubsub:news Hello`` reaches them too.

Messages are JSON objects with a ``type``. The page sends ``subscribe``,
``unsubscribe``, ``publish`` and ``ping``, each with an answer, and gets ``state``
and ``message`` by itself. What goes on with Redis is in ``hub.py``.
"""

import asyncio
import json
import os
import sys

from flask import Flask, render_template
from hub import Hub
from redis import RedisError

from flask_uwsgi_ws import AsyncioWebSocket

CHANNEL_MOST = 40
CHANNELS_MOST = 20
TEXT_MOST = 1000

app = Flask(__name__)
websocket = AsyncioWebSocket(app)
hub = Hub(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))


@app.route("/")
def index():
    limits = {"channel": CHANNEL_MOST, "channels": CHANNELS_MOST, "text": TEXT_MOST}
    return render_template("pubsub.html", most=limits)


@websocket.route("/pubsub")
async def pubsub(ws):
    channels = set()
    try:
        await hub.enter(ws)
        async for message in ws:
            await ws.send_json(await answer(ws, channels, message))
    finally:
        await hub.leave(ws)


async def answer(ws, channels, message):
    try:
        request = json.loads(message)
    except (ValueError, RecursionError):
        request = None
    match request:
        case {"type": "subscribe", "channel": str(channel)} if (
            is_name(channel) and len(channels | {channel}) <= CHANNELS_MOST
        ):
            channels.add(channel)
            await hub.subscribe(ws, channel)
            return {"type": "subscribed", "channel": channel}
        case {"type": "unsubscribe", "channel": str(channel)}:
            channels.discard(channel)
            await hub.unsubscribe(ws, channel)
            return {"type": "unsubscribed", "channel": channel}
        case {"type": "publish", "channel": str(channel), "text": str(text)} if (
            is_name(channel) and 0 < len(text) <= TEXT_MOST
        ):
            try:
                await hub.publish(channel, text)
            except RedisError:
                return {"type": "error", "text": "Not published: Redis is not there."}
            return {"type": "published", "channel": channel}
        case {"type": "ping"}:
            return {"type": "pong"}
    return {"type": "error", "text": "The server does not take this."}


def is_name(channel):
    return 0 < len(channel) <= CHANNEL_MOST and channel.isprintable()


if __name__ == "__main__":
    try:
        asyncio.run(hub.check())
    except RedisError as error:
        sys.exit(f"no Redis: {error} Start redis-server, or set REDIS_URL.")
    app.run(port=int(os.environ.get("PORT", "5000")), processes=2)
