"""What the pages of the chat may ask for and what they are told; it sends nothing by itself.

Messages are JSON objects with a ``type``. A page sends ``join``, ``say``,
``typing`` and ``ping``; it gets ``welcome``, ``joined``, ``left``, ``people``,
``message``, ``typing``, ``pong`` and ``error``.

There are two rooms, since the package remembers what is sent to a room: what
was said is in one, and in the other what matters at its moment only.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

#: The rooms: of what is said, and of who comes, goes and writes.
TALK, NOTICES = "talk", "notices"

NAME_MOST = 24
TEXT_MOST = 1000
HISTORY_MOST = 100
TOKEN_MOST = 64

#: What the page has to know of these.
LIMITS = {"name_most": NAME_MOST, "text_most": TEXT_MOST}

# What ``websocket.presence`` gives.
Present = Mapping[str, dict[str, Any]]


class BadRequest(Exception):
    """A request that is not taken; the text is for the person who made it.

    :param key: of the message that it had.
    """

    def __init__(self, text: str, key: object = None) -> None:
        super().__init__(text)
        self.key = key if isinstance(key, str) else None

    @property
    def event(self) -> str:
        """What their page is told."""
        return event("error", text=str(self), key=self.key)


def event(type: str, **fields: Any) -> str:
    return json.dumps({"type": type, **fields})


def message(guest: Mapping[str, Any], text: str, key: str) -> Callable[[str], str]:
    """Say what somebody has said, for ``send_to``, which knows its id in the history.

    :param key: the message's own, which the page chose: one that was sent again, since the answer
        was lost, has the same, and pages show it once.
    """
    said = {"name": guest["name"], "text": text, "key": key, "time": now()}
    return lambda id: event("message", id=id, **said)


# Who is here. A person is known by the secret of their page (``session``), since a page that comes
# again may be here twice, until the server notices that its old connection is dead.


def newcomer(present: Present, name: str, session: str) -> dict[str, Any]:
    """Give what ``presence`` is to tell of somebody who joins.

    One whose session is there takes their place over; another gets a name that nobody has.
    """
    before = find(present, session)
    if before is not None:
        return before
    return {"name": free_name(people(present), name), "session": session, "since": now()}


def find(present: Present, session: str) -> dict[str, Any] | None:
    return next((guest for guest in present.values() if guest["session"] == session), None)


def people(present: Present) -> list[str]:
    """Give the names of those who are here, in the order in which they came."""
    guests = {guest["session"]: guest for guest in present.values()}.values()
    in_order = sorted(guests, key=lambda guest: (guest["since"], guest["session"]))
    return [guest["name"] for guest in in_order]


def free_name(names: Iterable[str], wanted: str) -> str:
    taken = {each.casefold() for each in names}
    name, number = wanted, 1
    while name.casefold() in taken:
        number += 1
        name = f"{wanted} {number}"
    return name


def now() -> int:
    """Give the time as JavaScript counts it, in milliseconds."""
    return time.time_ns() // 1_000_000


# What pages ask for.


def read_request(message: str | bytes, has_joined: bool) -> dict[str, Any]:
    """Read what a page asks for.

    :raises BadRequest: for what it may not.
    """
    request = parse(message)
    try:
        match request.get("type"):
            case "ping":
                return {"type": "ping"}
            case "join" if has_joined:
                raise BadRequest("You have joined already.")
            case "join":
                name, session = read_name(request), read(request, "session", TOKEN_MOST)
                # What it wants of the history: all, or what came after a message.
                since = request.get("since")
                if since is not None and not re.fullmatch(r"\d{1,19}-\d{1,19}", str(since), re.A):
                    raise BadRequest("The since of a join is the id of a message.")
                wish = {"last": HISTORY_MOST} if since is None else {"since": since}
                return {"type": "join", "name": name, "session": session, "wish": wish}
            case "say" | "typing" if not has_joined:
                raise BadRequest("Join first.")
            case "say":
                text, key = read(request, "text", TEXT_MOST), read(request, "key", TOKEN_MOST)
                return {"type": "say", "text": text, "key": key}
            case "typing":
                return {"type": "typing"}
            case _:
                raise BadRequest("The type of a message is join, say, typing or ping.")
    except BadRequest as error:
        raise BadRequest(str(error), request.get("key")) from None


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
