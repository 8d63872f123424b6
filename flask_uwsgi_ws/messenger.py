"""Sends to the clients of an extension, wherever they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from .client import Sendable, to_json
from .exceptions import ConnectionClosed
from .locks import Lock
from .queues.base import MakeMessage, MessageQueue, check_room, check_wish, outgoing
from .queues.memory import MemoryQueue
from .rooms import Rooms
from .servers import uwsgi_module
from .settings import Settings


class Messenger:
    """The rooms of an extension, and its way to the clients of other workers.

    :param clients: those of this worker.
    :param settings: gives the options of the app.
    :param hand_over: has something done where the clients are served, in order.
    """

    def __init__(
        self, clients: Any, settings: Callable[[], Settings], hand_over: Callable[..., None]
    ) -> None:
        self.rooms = Rooms(clients)
        self._clients = clients
        self._settings = settings
        self._hand_over = hand_over
        self._lock = Lock()
        self._queue: MessageQueue | None = None
        # The process that has the clients.
        self._clients_pid = 0
        # The process that serves the app, and whether there are more of them.
        self._server_pid = 0
        self._are_many = False

    def queue(self, settings: Settings | None = None) -> MessageQueue:
        """Give what joins this process to others, which is made at the first call.

        :param settings: of the app; else they are asked for.
        :raises RuntimeError: if it is not known which app is meant.
        """
        queue = self._queue
        # One that was made before a fork is the parent's.
        if queue is not None and queue.pid == os.getpid():
            return queue
        settings = settings or self._settings()
        with self._lock:
            if self._queue is None or self._queue.pid != os.getpid():
                self._queue = self._make_queue(settings)
            return self._queue

    def _make_queue(self, settings: Settings) -> MessageQueue:
        everybody: Callable[[], Iterable[Any]] = self._clients.__iter__
        hand_over = self._hand_over
        if self._is_forked():
            # Their connections are the parent's, which reaches them as any other worker does.
            self.rooms, everybody, hand_over = Rooms(self._clients), tuple, _nobody_is_here
        if settings.message_queue is None:
            return MemoryQueue(self.rooms, settings, everybody, hand_over, obstacle=self._not_alone)
        from .queues.redis import RedisQueue

        return RedisQueue(self.rooms, settings, everybody, hand_over)

    def _is_forked(self) -> bool:
        """Whether this process was forked from the one that has the clients."""
        return self._clients_pid not in (0, os.getpid())

    def start(self, settings: Settings) -> None:
        """Begin to receive what other workers send to the clients of this one.

        :param settings: of the app that has the clients.
        :raises RuntimeError: if there is no thread for it.
        """
        self._clients_pid = os.getpid()
        self.queue(settings).start()

    def serves(self, environ: dict[str, Any]) -> None:
        """Take note that this process serves the app."""
        self._server_pid = os.getpid()
        self._are_many = bool(environ.get("wsgi.multiprocess"))

    def _not_alone(self) -> str:
        """Say why there may be clients in other processes; nothing if there can not be any."""
        uwsgi: Any = uwsgi_module()
        if self._is_forked():
            return "this process was forked from the one that has the clients"
        if uwsgi is not None:
            if uwsgi.numproc > 1:
                return f"there are {uwsgi.numproc} worker processes, each with its own clients"
            if not uwsgi.worker_id():
                return "this process is not the worker that has the clients"
        elif self._server_pid != os.getpid():
            return "this process serves no clients"
        elif self._are_many:
            return "there are several worker processes, each with its own clients"
        return ""

    # What the extension and the clients call.

    def send_to(
        self, room: str, message: Sendable | MakeMessage, skip: Any, binary: bool | None
    ) -> str | None:
        queue = self.queue()
        ready = outgoing(message, binary, bool(queue.settings.history))
        return queue.send_to(check_room(room), ready, _id(skip))

    def broadcast(self, message: Sendable, skip: Any, binary: bool | None) -> None:
        self.queue().broadcast(outgoing(message, binary, False), _id(skip))

    def send_to_client(self, id: Any, message: Sendable, binary: bool | None) -> bool:
        target = _id(id)
        if target is None:
            raise TypeError("send_to_client takes the id of a client, not None")
        return self.queue().send_to_client(target, outgoing(message, binary, False))

    def presence(self, room: str) -> dict[str, Any]:
        return self.queue().presence(check_room(room))

    def join(self, client: Any, room: str, info: Any, last: int | None, since: str | None) -> bool:
        client = getattr(client, "_client", client)
        queue = self.queue()
        check_room(room)
        last, place = check_wish(last, since)
        if (last or place is not None) and not queue.settings.history:
            raise ValueError(
                "this room has no history: set UWSGI_WEBSOCKET_HISTORY to the number of messages "
                "to keep"
            )
        if last is not None:
            # Redis takes no number of any size.
            last = min(last, queue.settings.history)
        to_json(info)
        complete = queue.join(client, room, info, last, place)
        if client not in self._clients:
            # It has ended meanwhile, and nothing else would let it out.
            self.ended(client)
            raise ConnectionClosed(client.close_code or 1006, client.close_reason)
        return complete

    def leave(self, client: Any, room: str) -> None:
        client = getattr(client, "_client", client)
        if self.rooms.discard(client, check_room(room)):
            self.queue().leave(client, [room])

    def ended(self, client: Any) -> None:
        """A client has ended, and its handler too."""
        rooms = self.rooms.forget(client)
        if rooms:
            self.queue().leave(client, rooms)


def _id(client: Any) -> str | None:
    """Give the id of a client, or the one that was given."""
    id = client if client is None or isinstance(client, str) else getattr(client, "id", None)
    if (id is None and client is not None) or not isinstance(id, (str, type(None))):
        raise TypeError(f"a client or its id, not {type(client).__name__}")
    # What can not be UTF-8 is nobody's id, as much as any other text.
    return id if id is None or id.isascii() else "?"


def _nobody_is_here(*call: Any) -> None:
    """Do nothing where there are no clients to do it for."""
