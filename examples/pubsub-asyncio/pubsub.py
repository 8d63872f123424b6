"""Channels over Redis: a window hears what any window says, in whichever worker process.

    redis-server &
    python examples/pubsub-asyncio/pubsub.py

Then open http://localhost:5000/ in two windows (``PORT`` in the environment
names another port, ``REDIS_URL`` another Redis). From a shell,

    flask --app examples/pubsub-asyncio/pubsub.py publish news Hello

reaches them too. A channel is a room of the package.

Messages are JSON objects with a ``type``. The page sends ``subscribe``,
``unsubscribe``, ``publish`` and ``ping``, each with an answer, and gets ``welcome``
and ``message`` by itself.
"""

import json
import os
import sys
import time

import click
from flask import Flask, render_template

from flask_uwsgi_ws import AsyncioWebSocket, QueueError

CHANNEL_MOST = 40
CHANNELS_MOST = 20
TEXT_MOST = 1000

app = Flask(__name__)
websocket = AsyncioWebSocket(
    app,
    message_queue=os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"),
    # Not the default, so that pages reach no others of this Redis.
    queue_prefix="pubsub",
)


@app.route("/")
def index():
    limits = {"channel": CHANNEL_MOST, "channels": CHANNELS_MOST, "text": TEXT_MOST}
    return render_template("pubsub.html", most=limits)


@websocket.route("/pubsub")
async def pubsub(ws):
    await ws.send_json({"type": "welcome", "worker": os.getpid()})
    async for message in ws:
        await ws.send_json(await answer(ws, message))


async def answer(ws, message):
    try:
        request = json.loads(message)
    except (ValueError, RecursionError):
        request = None
    match request:
        case {"type": "subscribe", "channel": str(channel)} if (
            is_name(channel) and len(ws.rooms | {channel}) <= CHANNELS_MOST
        ):
            await ws.join(channel)
            return {"type": "subscribed", "channel": channel}
        case {"type": "unsubscribe", "channel": str(channel)} if is_name(channel):
            await ws.leave(channel)
            return {"type": "unsubscribed", "channel": channel}
        case {"type": "publish", "channel": str(channel), "text": str(text)} if (
            is_name(channel) and 0 < len(text) <= TEXT_MOST
        ):
            try:
                await websocket.send_to(channel, told(channel, text))
            except QueueError as error:
                app.logger.error("%s", error)
                return {"type": "error", "text": "Not published: Redis is not there."}
            return {"type": "published", "channel": channel}
        case {"type": "ping"}:
            return {"type": "pong"}
    return {"type": "error", "text": "The server does not take this."}


def told(channel, text):
    # As JavaScript counts the time, in milliseconds.
    now = time.time_ns() // 1_000_000
    return json.dumps({"type": "message", "channel": channel, "text": text, "time": now})


def is_name(channel):
    return 0 < len(channel) <= CHANNEL_MOST and channel.isprintable()


@app.cli.command("publish")
@click.argument("channel")
@click.argument("text")
def publish(channel, text):
    """Publish TEXT on CHANNEL."""
    websocket.send_to(channel, told(channel, text))


if __name__ == "__main__":
    try:
        websocket.presence("news")
    except QueueError as error:
        sys.exit(f"no Redis: {error}. Start redis-server, or set REDIS_URL.")
    app.run(port=int(os.environ.get("PORT", "5000")), processes=2)
