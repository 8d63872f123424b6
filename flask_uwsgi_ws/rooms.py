"""Who of this worker's clients is in which room, and one message for all of them.

A message to many is framed once, and compressed once for all clients that have agreed on the
same compression without context takeover; the same bytes go to each. Nobody is waited for: what
a member does not take at once waits for it, up to ``room_limit`` bytes, and beyond them it is
given up as a slow client.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .frames import BINARY, TEXT, serialize
from .locks import Lock

if TYPE_CHECKING:
    from .clients import Clients

#: The place of a message in the history of its room: milliseconds and a number, as Redis Streams
#: count; greater than those of all messages before it.
Place = tuple[int, int]

# Bytes to a client after which its sender lets it be served.
_MUCH = 65536


class Fanout:
    """A message on its way to many.

    :param binary: whether it is a binary message, and not text.
    :param payload: of the message; for text its UTF-8.
    """

    __slots__ = ("_compressed", "frame")

    def __init__(self, binary: bool, payload: bytes) -> None:
        self.frame = serialize(BINARY if binary else TEXT, payload)
        self._compressed: dict[Any, bytes] = {}

    def put(self, client: Any) -> bool:
        """Send the message to a client, without waiting; gives whether it was put on its way."""
        if not client.compresses:
            sent: bool = client.put_shared(self.frame, True)
            return sent
        # What was agreed on, if that is all that the bytes depend on.
        key = client.shared_compression
        if key is None:
            return bool(client.put_shared(self.frame, False))
        if key not in self._compressed:
            self._compressed[key] = client.compress_shared(self.frame)
        return bool(client.put_shared(self._compressed[key], True))

    @property
    def frames(self) -> int:
        """How often the message was framed, each compression of it counted."""
        return 1 + len(self._compressed)


class Member:
    """A client in a room.

    :param info: what ``presence`` tells of it.
    """

    __slots__ = ("after", "info", "waiting")

    def __init__(self, info: Any, waits: bool) -> None:
        self.info = info
        # What came while it still had to get the history; None when it has it.
        self.waiting: list[tuple[Place, Fanout]] | None = [] if waits else None
        # Up to here it has had the room's messages.
        self.after: Place | None = None


class Rooms:
    """The rooms of one extension in this worker.

    :param clients: those of this worker.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._lock = Lock()
        self._members: dict[str, dict[Any, Member]] = {}
        self._rooms: dict[Any, set[str]] = {}
        self._by_id: dict[str, Any] = {}
        # Bytes for a client since somebody asked whether they are many.
        self._sent = 0

    # Who is where.

    def know(self, client: Any, id: str) -> None:
        """Take note of a client's id, with which it can be found until its end."""
        with self._lock:
            self._by_id[id] = client
        if client not in self._clients:
            # It has ended, maybe meanwhile, and will not be forgotten another time.
            with self._lock:
                self._by_id.pop(id, None)

    def find(self, id: str) -> Any:
        """Give the client with this id, ``None`` if this worker has none."""
        return self._by_id.get(id)

    def add(self, client: Any, room: str, info: Any, waits: bool) -> None:
        """Let a client in, or take note of what it tells of itself now.

        :param waits: whether messages are to be kept back for it until :meth:`catch_up`.
        """
        with self._lock:
            members = self._members.setdefault(room, {})
            before = members.get(client)
            if before is not None:
                before.info = info
                if waits:
                    before.waiting, before.after = [], None
            else:
                members[client] = Member(info, waits)
                self._rooms.setdefault(client, set()).add(room)

    def begin_at(self, room: str, place: Place) -> Place | None:
        """Let the members of a room have the messages after a place, but for those they have had.

        :returns: the least place up to which one of them has had them, if it is before that one.
        """
        with self._lock:
            least = place
            for member in self._members.get(room, {}).values():
                if member.waiting is None:
                    if member.after is None:
                        member.after = place
                    least = min(least, member.after)
        return least if least < place else None

    def discard(self, client: Any, room: str) -> bool:
        """Let a client out; gives whether it was in."""
        with self._lock:
            return self._discard(client, room)

    def forget(self, client: Any) -> list[str]:
        """Let a client that has ended out of all its rooms; gives them."""
        with self._lock:
            self._by_id.pop(client.known_id, None)
            rooms = list(self._rooms.get(client, ()))
            for room in rooms:
                self._discard(client, room)
            return rooms

    def _discard(self, client: Any, room: str) -> bool:
        members = self._members.get(room)
        if members is None or client not in members:
            return False
        del members[client]
        if not members:
            del self._members[room]
        rooms = self._rooms[client]
        rooms.discard(room)
        if not rooms:
            del self._rooms[client]
        return True

    def __contains__(self, room: str) -> bool:
        """Whether a room has members in this worker."""
        return room in self._members

    def has(self, client: Any, room: str) -> bool:
        """Whether a client is in a room."""
        return client in self._members.get(room, ())

    def names(self) -> list[str]:
        """Give the rooms that have members in this worker."""
        with self._lock:
            return list(self._members)

    def rooms_of(self, client: Any) -> frozenset[str]:
        """Give the rooms that a client is in."""
        with self._lock:
            return frozenset(self._rooms.get(client, ()))

    def presence(self, room: str) -> dict[str, Any]:
        """Give the ids of a room's members in this worker, and what each has told of itself."""
        with self._lock:
            here = [(client, member.info) for client, member in self._members.get(room, {}).items()]
        return {client.id: info for client, info in here}

    def count_lost(self, messages: int) -> None:
        """Messages of the queue have not arrived in this worker."""
        self._clients.count_lost(messages)

    # Sending.

    def deliver(
        self, room: str, message: Fanout, skip: str | None, place: Place | None = None
    ) -> None:
        """Send a message to a room's members in this worker.

        :param skip: the id of a client that is not to get it.
        :param place: its place in the room's history, if that has one.
        """
        sent = 0
        self._sent += len(message.frame)
        left_out = self._by_id.get(skip) if skip else None
        # For the whole of it: who has to get the history first gets it by the same rule.
        with self._lock:
            members = self._members.get(room, {})
            for client, member in members.items():
                if client is left_out:
                    continue
                if place is not None:
                    if member.waiting is not None:
                        member.waiting.append((place, message))
                        continue
                    if member.after is not None and place <= member.after:
                        continue
                if message.put(client):
                    sent += 1
        self._clients.count_fanout(message.frames, sent)

    def deliver_to(self, clients: Iterable[Any], message: Fanout, skip: str | None) -> None:
        """Send a message to some clients of this worker."""
        self._sent += len(message.frame)
        left_out = self._by_id.get(skip) if skip else None
        sent = sum(client is not left_out and message.put(client) for client in clients)
        self._clients.count_fanout(message.frames, sent)

    def much_was_sent(self) -> bool:
        """Whether it is time to let the clients be served, since the last time that it was."""
        if self._sent < _MUCH:
            return False
        self._sent = 0
        return True

    def catch_up(
        self, client: Any, room: str, history: list[tuple[Place, Fanout]], known: Place | None
    ) -> None:
        """Send a client the room's history, and then what was kept back for it meanwhile.

        :param known: the place up to which the room's history has been looked at.
        """
        sent = frames = 0
        with self._lock:
            member = self._members.get(room, {}).get(client)
            if member is None:
                return
            waiting, member.waiting = member.waiting or [], None
            for place, message in [*history, *waiting]:
                if member.after is None or place > member.after:
                    member.after = place
                    sent += message.put(client)
                    frames += message.frames
            if known is not None and (member.after is None or known > member.after):
                member.after = known
        self._clients.count_fanout(frames, sent)
