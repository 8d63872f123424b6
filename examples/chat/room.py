"""The room of the chat: who is here, what was said last, and who is told what.

Nothing here sends or waits, so that threads, greenlets and tasks can use it
alike: what somebody is to be told goes into their outbox, and it is for
``chat.py`` to take it from there to their page.

Messages are JSON objects with a ``type``. A page sends ``join``, ``say``,
``typing`` and ``ping``; it gets ``welcome``, ``joined``, ``left``, ``message``,
``typing``, ``pong`` and ``error``.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

NAME_MOST = 24
TEXT_MOST = 1000
HISTORY_MOST = 100
TOKEN_MOST = 64

#: What the page has to know of these.
LIMITS = {"name_most": NAME_MOST, "text_most": TEXT_MOST, "history_most": HISTORY_MOST}


class BadRequest(Exception):
    """A request that the room does not take; the text is for the person who made it."""


class Guest:
    """One connection, whose person is in the room from when they join.

    :param room: where to.
    :param put: puts a message for their page into their outbox, without waiting.
    """

    def __init__(self, room: Room, put: Callable[[str], object]) -> None:
        self.put = put
        self.name = ""
        self.session = ""
        self._room = room

    def take(self, message: str | bytes) -> None:
        """Do what a message of their page asks for, or tell them why not."""
        request: dict[str, Any] = {}
        try:
            request = parse(message)
            self._do(request)
        except BadRequest as error:
            key = request.get("key")
            key = key if isinstance(key, str) else None
            tell([self], type="error", text=str(error), key=key)

    def leave(self) -> None:
        self._room.leave(self)

    def _do(self, request: dict[str, Any]) -> None:
        match request.get("type"):
            case "ping":
                tell([self], type="pong")
            case "join":
                self._room.join(self, read_name(request), read(request, "session", TOKEN_MOST))
            case "say":
                text, key = read(request, "text", TEXT_MOST), read(request, "key", TOKEN_MOST)
                self._room.say(self, text, key)
            case "typing":
                self._room.typing(self)
            case _:
                raise BadRequest("The type of a message is join, say, typing or ping.")


class Room:
    """The people and the last messages; the lock keeps the order the same for all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By the secret of their page, with which it takes its place again.
        self._members: dict[str, Guest] = {}
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY_MOST)
        self._last_id = 0

    def join(self, guest: Guest, name: str, session: str) -> None:
        """Let somebody in; one whose session is known takes their place over."""
        with self._lock:
            if guest.session:
                raise BadRequest("You have joined already.")
            before = self._members.get(session)
            guest.name = before.name if before else self._free_name(name)
            guest.session = session
            self._members[session] = guest
            people, history = self._people(), list(self._history)
            tell([guest], type="welcome", name=guest.name, people=people, history=history)
            if before is None:
                others = self._others(guest)
                tell(others, type="joined", name=guest.name, people=people, time=now())

    def leave(self, guest: Guest) -> None:
        with self._lock:
            if self._has(guest):
                del self._members[guest.session]
                people = self._people()
                members = self._members.values()
                tell(members, type="left", name=guest.name, people=people, time=now())

    def say(self, guest: Guest, text: str, key: str) -> None:
        """Tell everybody a message, once: a page that lost the answer sends it again.

        :param key: the message's own, which the page chose.
        """
        with self._lock:
            self._expect(guest)
            said = next((each for each in self._history if each["key"] == key), None)
            if said is not None:
                tell([guest], **said)
                return
            # Greater than any before, even if the server has been started anew.
            self._last_id = max(self._last_id + 1, time.time_ns() // 1000)
            said = {"type": "message", "id": self._last_id, "key": key}
            said |= {"name": guest.name, "text": text, "time": now()}
            self._history.append(said)
            tell(self._members.values(), **said)

    def typing(self, guest: Guest) -> None:
        with self._lock:
            self._expect(guest)
            tell(self._others(guest), type="typing", name=guest.name)

    def _has(self, guest: Guest) -> bool:
        return self._members.get(guest.session) is guest

    def _expect(self, guest: Guest) -> None:
        if not guest.session:
            raise BadRequest("Join first.")
        if not self._has(guest):
            raise BadRequest("Another connection of this page has taken over.")

    def _people(self) -> list[str]:
        return [each.name for each in self._members.values()]

    def _others(self, guest: Guest) -> list[Guest]:
        return [each for each in self._members.values() if each is not guest]

    def _free_name(self, wanted: str) -> str:
        taken = {each.casefold() for each in self._people()}
        name, number = wanted, 1
        while name.casefold() in taken:
            number += 1
            name = f"{wanted} {number}"
        return name


def tell(guests: Iterable[Guest], **event: Any) -> None:
    message = json.dumps(event)
    for guest in guests:
        guest.put(message)


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
