"""A chat room: who is here, what was said last, and every message to everybody.

    python examples/chat/chat.py

Then open http://localhost:5000/ in two windows (``PORT`` in the environment
names another port). The room lives in the memory of its process, so run one
worker process, as ``app.run`` does: a second one would be a second room.

Messages are JSON objects with a ``type``. The page sends ``join``, ``say``,
``typing`` and ``ping``; it gets ``welcome``, ``joined``, ``left``, ``message``,
``typing``, ``pong`` and ``error``.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from flask import Flask, render_template

from flask_uwsgi_ws import ConnectionClosed, WebSocket, WebSocketClient

NAME_MOST = 24
TEXT_MOST = 1000
HISTORY_MOST = 100
TOKEN_MOST = 64

app = Flask(__name__)
# Who speaks waits for the slowest listener, so one that takes nothing is given up soon.
websocket = WebSocket(app, send_timeout=3)


class BadRequest(Exception):
    """A request that the room does not take; the text is for the person who made it."""


class Member:
    """Somebody in the room, and the events on the way to them.

    :param ws: their connection.
    :param name: what they are called here.
    :param session: a secret of their page, by which it takes its place again.
    """

    def __init__(self, ws: WebSocketClient, name: str, session: str) -> None:
        self.ws = ws
        self.name = name
        self.session = session
        self._events: deque[str] = deque()
        self._sending = threading.Lock()

    def post(self, event: str) -> None:
        """Put an event last in line; :meth:`deliver` sends it."""
        self._events.append(event)

    def deliver(self) -> None:
        """Send what is in line, unless another thread is at it: that one sends all."""
        while self._events and self._sending.acquire(blocking=False):
            try:
                while self._events:
                    self.ws.send(self._events.popleft())
            except ConnectionClosed:
                # Their own handler will notice and leave the room.
                self._events.clear()
            finally:
                self._sending.release()


class Room:
    """The members and the last messages.

    The lock is held to change the room and to put events in line, so that
    everybody gets them in the same order; never to send, which may take long.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: dict[str, Member] = {}
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY_MOST)
        self._last_id = 0

    def join(self, ws: WebSocketClient, name: str, session: str) -> Member:
        """Let somebody in; one whose session is known takes their place over."""
        with self._lock:
            before = self._members.get(session)
            member = Member(ws, before.name if before else self._free_name(name), session)
            self._members[session] = member
            people = [each.name for each in self._members.values()]
            self._post(
                {
                    "type": "welcome",
                    "name": member.name,
                    "people": people,
                    "history": list(self._history),
                },
                [member],
            )
            told = [member]
            if before is None:
                event = {"type": "joined", "name": member.name, "people": people, "time": now()}
                told += self._post(event, self._others(member))
        deliver(told)
        return member

    def leave(self, member: Member) -> None:
        with self._lock:
            if not self._has(member):
                return
            del self._members[member.session]
            people = [each.name for each in self._members.values()]
            event = {"type": "left", "name": member.name, "people": people, "time": now()}
            told = self._post(event, self._members.values())
        deliver(told)

    def say(self, member: Member, text: str, key: str) -> None:
        """Tell everybody a message, once: a page that lost the answer sends it again.

        :param key: the message's own, which the page chose.
        """
        with self._lock:
            if not self._has(member):
                raise BadRequest("Another connection of this page has taken over.")
            said = next((each for each in self._history if each["key"] == key), None)
            if said is not None:
                told = self._post(said, [member])
            else:
                # Greater than any before, even if the server has been started anew.
                self._last_id = max(self._last_id + 1, time.time_ns() // 1000)
                said = {
                    "type": "message",
                    "id": self._last_id,
                    "key": key,
                    "name": member.name,
                    "text": text,
                    "time": now(),
                }
                self._history.append(said)
                told = self._post(said, self._members.values())
        deliver(told)

    def typing(self, member: Member) -> None:
        with self._lock:
            others = self._others(member) if self._has(member) else []
            self._post({"type": "typing", "name": member.name}, others)
        deliver(others)

    def _has(self, member: Member) -> bool:
        return self._members.get(member.session) is member

    def _others(self, member: Member) -> list[Member]:
        return [each for each in self._members.values() if each is not member]

    def _free_name(self, wanted: str) -> str:
        taken = {each.name.casefold() for each in self._members.values()}
        name, number = wanted, 1
        while name.casefold() in taken:
            number += 1
            name = f"{wanted} {number}"
        return name

    @staticmethod
    def _post(event: dict[str, Any], members: Iterable[Member]) -> list[Member]:
        message = json.dumps(event)
        posted = list(members)
        for member in posted:
            member.post(message)
        return posted


def deliver(members: Iterable[Member]) -> None:
    for member in members:
        member.deliver()


def now() -> int:
    """Give the time as JavaScript counts it, in milliseconds."""
    return time.time_ns() // 1_000_000


def parse(message: str | bytes) -> dict[str, Any]:
    if not isinstance(message, str):
        raise BadRequest("A message is text, not binary.")
    try:
        request = json.loads(message)
    except (ValueError, RecursionError):
        raise BadRequest("A message is JSON.") from None
    if not isinstance(request, dict):
        raise BadRequest("A message is a JSON object.")
    return request


def read(request: dict[str, Any], field: str, most: int) -> str:
    """Give the text in a field, without the space around it."""
    value = request.get(field)
    if not isinstance(value, str) or not value.strip():
        raise BadRequest(f"The {field} is missing.")
    value = value.strip()
    if len(value) > most:
        raise BadRequest(f"The {field} is too long: {len(value)} characters, {most} at most.")
    return value


def read_name(request: dict[str, Any]) -> str:
    # Without what can not be seen, two names that look the same are the same.
    name = "".join(each for each in read(request, "name", NAME_MOST) if each.isprintable())
    return read({"name": " ".join(name.split())}, "name", NAME_MOST)


room = Room()


@app.route("/")
def index() -> str:
    return render_template(
        "chat.html", name_most=NAME_MOST, text_most=TEXT_MOST, history_most=HISTORY_MOST
    )


@websocket.route("/chat")
def chat(ws: WebSocketClient) -> None:
    member: Member | None = None
    try:
        for message in ws:
            request: dict[str, Any] = {}
            try:
                request = parse(message)
                member = answer(ws, member, request)
            except BadRequest as error:
                key = request.get("key")
                key = key if isinstance(key, str) else None
                ws.send_json({"type": "error", "text": str(error), "key": key})
    finally:
        if member is not None:
            room.leave(member)


def answer(ws: WebSocketClient, member: Member | None, request: dict[str, Any]) -> Member | None:
    """Do what a request asks for.

    :param member: who asks; ``None`` before they have joined.
    :returns: who they are after it.
    :raises BadRequest: if it can not be done.
    """
    match request.get("type"):
        case "ping":
            ws.send_json({"type": "pong"})
        case "join" if member is None:
            return room.join(ws, read_name(request), read(request, "session", TOKEN_MOST))
        case "say" if member is not None:
            room.say(member, read(request, "text", TEXT_MOST), read(request, "key", TOKEN_MOST))
        case "typing" if member is not None:
            room.typing(member)
        case "join":
            raise BadRequest("You have joined already.")
        case "say" | "typing":
            raise BadRequest("Join first.")
        case _:
            raise BadRequest("The type of a message is join, say, typing or ping.")
    return member


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")))
