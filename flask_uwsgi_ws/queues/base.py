"""What the queues have in common: messages as they were given, and the way to this worker's own."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..client import Sendable, payload_of
from ..rooms import Fanout, Place, Rooms
from ..settings import Settings

#: What makes a message of the id that it gets in the history of its room.
MakeMessage = Callable[[str], Sendable]

# What Redis Streams take, of 64 bits each, and what they do not.
_NO_PLACE = 1 << 64, 0
_ID = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")

# Bytes of what stands in the place of an id that is not known yet.
_PLACEHOLDER = 16


class QueueError(RuntimeError):
    """A message can not be passed on to all whom it is for; the text says what to do."""


class Outgoing(NamedTuple):
    """A message on its way.

    :param placeholder: what stands in the payload for the message's id; empty if nothing does.
    """

    binary: bool
    payload: bytes
    placeholder: bytes = b""

    def fanout(self, place: Place | None) -> Fanout:
        """Frame it, with its id."""
        payload = self.payload
        if self.placeholder and place is not None:
            payload = payload.replace(self.placeholder, place_id(place).encode())
        return Fanout(self.binary, payload)


def outgoing(message: Sendable | MakeMessage, binary: bool | None, numbered: bool) -> Outgoing:
    """Look at a message as it was given.

    :param numbered: whether it will get an id.
    :raises TypeError: for what is not a message.
    :raises ValueError: for text that can not be UTF-8.
    """
    if not callable(message):
        return Outgoing(*payload_of(message, binary))
    if not numbered:
        raise TypeError(
            "a message that is made of its id goes to a room with a history: "
            "set UWSGI_WEBSOCKET_HISTORY to the number of messages to keep"
        )
    placeholder = secrets.token_hex(_PLACEHOLDER)
    return Outgoing(*payload_of(message(placeholder), binary), placeholder.encode())


def place_id(place: Place) -> str:
    """Say a place as Redis Streams do."""
    return f"{place[0]}-{place[1]}"


def read_place(id: str) -> Place:
    """Read what :func:`place_id` has said.

    :raises ValueError: if it did not.
    """
    found = _ID.fullmatch(id) if isinstance(id, str) else None
    place = (int(found[1]), int(found[2] or "0")) if found else _NO_PLACE
    if max(place) >= _NO_PLACE[0]:
        raise ValueError(f"{id!r} is not the id of a message, such as '1700000000000-0'")
    return place


def check_room(room: object) -> str:
    """See that something can be the name of a room.

    :raises TypeError: if it is not a ``str``.
    :raises ValueError: if it is empty, or can not be UTF-8.
    """
    if not isinstance(room, str):
        raise TypeError(f"the name of a room is a str, not {type(room).__name__}")
    if not room:
        raise ValueError("the name of a room is not empty")
    try:
        room.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the name of a room is UTF-8: {error.reason}") from None
    return room


def check_wish(last: int | None, since: str | None) -> tuple[int | None, Place | None]:
    """See that a wish for history can be meant, and which of the two it is.

    :raises TypeError: for a *last* that is no number.
    :raises ValueError: for a *last* below 0, or a *since* that is no id.
    """
    if last is not None and (isinstance(last, bool) or not isinstance(last, int)):
        raise TypeError(f"last is a number of messages, not {last!r}")
    if last is not None and last < 0:
        raise ValueError("last is 0 or more")
    # A page that has seen nothing yet may send an empty id.
    return (last, None) if since is None or since == "" else (None, read_place(since))


class MessageQueue:
    """What both kinds do.

    :param rooms: of this worker.
    :param settings: of the app.
    :param everybody: gives the clients of this worker.
    :param hand_over: has something done where the clients are served, now or soon, in order.
    """

    #: Whether its calls wait for something outside of this process.
    waits = False

    def __init__(
        self,
        rooms: Rooms,
        settings: Settings,
        everybody: Callable[[], Iterable[Any]],
        hand_over: Callable[..., None],
    ) -> None:
        self.rooms = rooms
        self.settings = settings
        self.everybody = everybody
        self.hand_over = hand_over
        self.pid = os.getpid()

    def start(self) -> None:
        """Begin to receive what others send to the clients of this worker."""

    def close(self) -> None:
        """Tell the others that this worker ends."""

    def send_to(self, room: str, message: Outgoing, skip: str | None) -> str | None:
        """Send to the members of a room; gives the id in its history, if it has one."""
        raise NotImplementedError

    def broadcast(self, message: Outgoing, skip: str | None) -> None:
        """Send to all clients."""
        raise NotImplementedError

    def send_to_client(self, id: str, message: Outgoing) -> bool:
        """Send to a client; gives whether there is a worker that may have it."""
        raise NotImplementedError

    def join(
        self, client: Any, room: str, info: Any, last: int | None, since: Place | None
    ) -> bool:
        """Let a client in; gives whether it has missed nothing since *since*."""
        raise NotImplementedError

    def leave(self, client: Any, rooms: Iterable[str]) -> None:
        """A client has left these rooms."""
        raise NotImplementedError

    def presence(self, room: str) -> dict[str, Any]:
        """Give the ids of a room's members and what each has told of itself."""
        raise NotImplementedError

    # For both.

    def deliver(
        self, room: str, message: Outgoing, skip: str | None, place: Place | None = None
    ) -> None:
        """Send to the members of a room in this worker."""
        if room in self.rooms:
            self.hand_over(self.rooms.deliver, room, message.fanout(place), skip, place)

    def deliver_to_all(self, message: Outgoing, skip: str | None) -> None:
        """Send to all clients of this worker."""
        self.hand_over(self._deliver_to_all, message.fanout(None), skip)

    def catch_up(
        self,
        client: Any,
        room: str,
        history: Iterable[tuple[Place, Outgoing]],
        known: Place | None,
    ) -> None:
        """Send the history to a client that has joined and waits for it.

        :param known: the place up to which it has been looked at.
        """
        framed = [(place, message.fanout(place)) for place, message in history]
        self.hand_over(self.rooms.catch_up, client, room, framed, known)

    def _deliver_to_all(self, message: Fanout, skip: str | None) -> None:
        self.rooms.deliver_to(self.everybody(), message, skip)

    def deliver_to_client(self, id: str, message: Outgoing) -> bool:
        """Send to a client if it is one of this worker."""
        client = self.rooms.find(id)
        if client is None:
            return False
        self.hand_over(self.rooms.deliver_to, [client], message.fanout(None), None)
        return True


def wanted(
    kept: list[tuple[Place, Outgoing]], last: int | None, since: Place | None
) -> list[tuple[Place, Outgoing]]:
    """Give what a client wants of a history: the last so many, or those after a place."""
    if since is not None:
        return [(place, message) for place, message in kept if place > since]
    return kept[-last:] if last else []


def is_complete(kept: list[tuple[Place, Outgoing]], since: Place) -> bool:
    """Tell whether a history has for sure all messages after a place: if it has that one."""
    return any(place == since for place, _ in kept)
