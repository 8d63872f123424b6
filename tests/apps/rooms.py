"""An app whose clients and views call what is about rooms, as they are told in JSON.

A command names what to call and its arguments: ``{"call": "send_to", "room": "a", "message":
"hello"}``. A client's is answered with ``{"result": …}`` or ``{"error": …}``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import click
from common import app as app
from common import start_native_thread, websocket
from flask import request

from flask_uwsgi_ws import AsyncioWebSocket, QueueError
from flask_uwsgi_ws.locks import pause

for name, value in json.loads(os.environ.get("OPTIONS", "{}")).items():
    app.config["UWSGI_WEBSOCKET_" + name.upper()] = value

#: Those that have ended, which the app holds all the same.
gone: list[Any] = []
#: What was called in threads, and came of it.
done: list[Any] = []


def call_websocket(command: dict[str, Any], ws: Any = None) -> Any:
    """Begin what a command says; gives its result, or what is to be awaited for that."""
    given = dict(command)
    name = given.pop("call")
    if isinstance(given.get("message"), list):
        given["message"] = bytes(given["message"])
    if given.get("message") == {"id": True}:
        given["message"] = lambda id: f"message {id}"
    if given.pop("skip_me", False):
        given["skip"] = ws
    if name in {"join", "leave"}:
        return getattr(ws, name)(**given)
    if name == "send_many":
        return send_many(**given)
    return getattr(websocket, name)(**given)


def numbered(sender: str, first: int, last: int, padding: int = 0) -> Iterator[str]:
    for number in range(first, last):
        yield f"{sender} {number}" + " and so on" * padding


def send_many(room: str, **given: Any) -> None:
    for message in numbered(**given):
        websocket.send_to(room, message)


def answer_to(command: dict[str, Any], ws: Any = None) -> dict[str, Any]:
    """Do what a command says, without an event loop."""
    try:
        return {"result": call_websocket(command, ws)}
    except (QueueError, TypeError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def about_rooms() -> dict[str, Any]:
    """Count what the registry of rooms holds."""
    rooms = websocket.messenger.rooms
    return {
        "rooms": rooms.names(),
        "clients": len(rooms._rooms),
        "ids": len(rooms._by_id),
        "open": len(websocket.clients),
    }


@app.post("/call")
def call_in_view() -> dict[str, Any]:
    return answer_to(request.get_json())


@app.post("/call-in-threads")
def call_in_threads() -> str:
    """Have a command done in a Python thread and in one of the system."""
    command = request.get_json()
    threading.Thread(target=lambda: done.append(answer_to(command))).start()
    start_native_thread(lambda: done.append(answer_to(command)))
    return ""


@app.get("/done")
def what_was_done() -> list[Any]:
    return list(done)


@app.cli.command("say")
@click.argument("room")
@click.argument("message")
def say(room: str, message: str) -> None:
    websocket.send_to(room, message)


@app.get("/rooms")
def rooms_view() -> dict[str, Any]:
    return about_rooms()


@app.get("/use-gone/<room>")
def use_gone(room: str) -> list[str]:
    """Let all that have ended join a room, and skip them."""
    told = []
    for client in gone:
        blocking: Any = getattr(client, "sync", client)
        try:
            blocking.join(room)
        except Exception as error:
            told.append(type(error).__name__)
        websocket.send_to(room, "not for those who are gone", skip=client)
        told.append(str(client.id in repr(client)))
    return told


@app.post("/call-in-child")
def call_in_child() -> dict[str, Any]:
    """Have a process that is forked for it do what a command says."""
    command = request.get_json()
    # A file and not a pipe, whose end gevent's os.close puts off.
    with tempfile.TemporaryFile(buffering=0) as answer:
        pid = os.fork()
        if not pid:
            try:
                answer.write(json.dumps(answer_to(command)).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        answer.seek(0)
        told: dict[str, Any] = json.load(answer)
        return told


@app.post("/join-many/<int:rooms>")
def join_many(rooms: int) -> str:
    """Let all who are there join many rooms."""
    for client in websocket.clients:
        for number in range(rooms):
            getattr(client, "sync", client).join(f"many{number}")
    return ""


@app.get("/forget-gone")
def forget_gone() -> str:
    gone.clear()
    return ""


@app.get("/log-level/<level>")
def set_log_level(level: str) -> str:
    logging.getLogger("flask_uwsgi_ws").setLevel(level)
    return ""


def special(command: dict[str, Any], ws: Any) -> Callable[[], Any] | None:
    """Give what a client is told to do that is no call of the package."""

    def fail() -> None:
        raise RuntimeError("on purpose")

    return {
        "id": lambda: ws.id,
        "pid": os.getpid,
        "rooms": lambda: sorted(ws.rooms),
        "fail": fail,
        "block": lambda: pause(command["seconds"]),
        "thread": lambda: start_native_thread(answer_to, command["command"]),
        "join in a thread": lambda: start_native_thread(
            getattr(ws, "sync", ws).join, command["room"]
        ),
        "echo": lambda: command["text"],
    }.get(command["call"])


if isinstance(websocket, AsyncioWebSocket):

    async def obey(ws: Any, command: dict[str, Any]) -> dict[str, Any]:
        own = special(command, ws)
        if own is not None:
            return {"result": own()}
        try:
            if command["call"] == "send_many":
                given = {name: command[name] for name in command if name not in {"call", "room"}}
                for message in numbered(**given):
                    await websocket.send_to(command["room"], message)
                return {"result": None}
            return {"result": await call_websocket(command, ws)}
        except (QueueError, TypeError, ValueError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    @websocket.route("/room")
    async def room(ws: Any) -> None:
        try:
            async for message in ws:
                for command in as_list(json.loads(message)):
                    await ws.send_json(await obey(ws, command))
        finally:
            gone.append(ws)

    @websocket.route("/room/<name>")
    async def room_of(ws: Any, name: str) -> None:
        """Joins at once and echoes nothing."""
        await ws.join(name)
        await ws.send("joined")
        async for _ in ws:
            pass
        await asyncio.sleep(0)

    @websocket.route("/room-of-thread")
    def room_of_thread(ws: Any) -> None:
        """A plain function, which has a thread and blocking calls."""
        for message in ws:
            for command in as_list(json.loads(message)):
                own = special(command, ws)
                ws.send_json({"result": own()} if own else answer_to(command, ws))

else:

    @websocket.route("/room")
    @websocket.route("/room-of-thread")
    def room_blocking(ws: Any) -> None:
        try:
            for message in ws:
                for command in as_list(json.loads(message)):
                    own = special(command, ws)
                    ws.send_json({"result": own()} if own else answer_to(command, ws))
        finally:
            gone.append(ws)

    @websocket.route("/room/<name>")
    def room_of_blocking(ws: Any, name: str) -> None:
        ws.join(name)
        ws.send("joined")
        for _ in ws:
            pass


def as_list(commands: Any) -> list[dict[str, Any]]:
    return commands if isinstance(commands, list) else [commands]
