"""Coroutines and views that use what the standard library waits with, side by side."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import time
from typing import Any

from flask import Flask

from flask_uwsgi_ws import AsyncioWebSocket

app = Flask(__name__)
websocket = AsyncioWebSocket(app, close_timeout=3)
log = logging.getLogger("greened")
logging.basicConfig(level=logging.INFO)

#: What a view puts there for handlers.
words: queue.Queue[str] = queue.Queue()


@websocket.route("/log")
async def log_and_echo(ws: Any) -> None:
    async for message in ws:
        for number in range(20):
            log.info("%s %d", message, number)
            await asyncio.sleep(0)
        await ws.send(message)


@websocket.route("/log-in-thread")
def log_and_echo_in_thread(ws: Any) -> None:
    for message in ws:
        for number in range(20):
            log.info("%s %d", message, number)
        ws.send(message)


@websocket.route("/to-thread")
async def to_thread(ws: Any) -> None:
    async for message in ws:
        await asyncio.to_thread(time.sleep, 0.05)
        await ws.send(message)


@websocket.route("/word")
def word(ws: Any) -> None:
    ws.send("ready")
    ws.send(words.get(timeout=20))


@websocket.route("/asleep")
async def asleep(ws: Any) -> None:
    await ws.send("sleeps")
    await asyncio.sleep(0.05)
    # Not in the way of coroutines.
    while words.empty():
        time.sleep(0.02)
    await ws.send(words.get())


@websocket.route("/computing")
async def computing(ws: Any) -> None:
    await ws.send("computes")
    await asyncio.sleep(0.05)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass
    await ws.receive()


@websocket.route("/silent")
async def silent(ws: Any) -> None:
    await ws.receive()


@app.get("/put/<text>")
def put(text: str) -> str:
    words.put(text)
    return text


@app.get("/broadcast/<text>")
def broadcast(text: str) -> str:
    return f"{websocket.broadcast(text)} {[*websocket.presence('nowhere')]}"


@app.get("/await-broadcast/<text>")
async def await_broadcast(text: str) -> str:
    await asyncio.sleep(0.5)
    return f"{await websocket.broadcast(text)}"


@app.get("/log")
def log_in_view() -> str:
    for number in range(20):
        log.info("view %d", number)
        time.sleep(0)
    return "logged"


@app.get("/close-all")
def close_all() -> str:
    for client in websocket.clients:
        client.sync.close(4000, "by a view")
    return "closed"


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


@app.get("/clients")
def clients() -> str:
    return str(len(websocket.clients))
