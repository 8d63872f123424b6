"""One connection of the chat, for handlers that are plain functions.

What a guest is told comes from the rooms of the package, so that nobody waits for somebody who
reads slowly. Its calls raise ``QueueError`` where the message queue does not answer.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from room import (
    NOTICES,
    TALK,
    BadRequest,
    event,
    find,
    message,
    newcomer,
    now,
    people,
    read_request,
)

from flask_uwsgi_ws import QueueError

log = logging.getLogger(__name__)


class Guest:
    """Somebody at the other end of a connection, who is in the rooms from when they join.

    :param websocket: the extension.
    :param ws: the client.
    """

    def __init__(self, websocket: Any, ws: Any) -> None:
        self.websocket, self.ws = websocket, ws
        # What presence tells of them, once they have joined.
        self.info: dict[str, Any] = {}

    def stay(self) -> None:
        """Do what their page asks for, until it leaves."""
        try:
            for asked in self.ws:
                self.take(asked)
        finally:
            if self.info:
                # Without the queue nobody can be told.
                with suppress(QueueError):
                    self.leave()

    def take(self, asked: str | bytes) -> None:
        try:
            request = read_request(asked, bool(self.info))
        except BadRequest as error:
            self.ws.send(error.event)
            return
        match request["type"]:
            case "ping":
                self.ws.send(event("pong"))
            case "join":
                try:
                    self.join(request)
                except QueueError as error:
                    # Its page comes again.
                    log.error("nobody can join: %s", error)
                    self.ws.close(1013, "try again later")
            case "say":
                try:
                    self.websocket.send_to(
                        TALK, message(self.info, request["text"], request["key"])
                    )
                except QueueError:
                    self.ws.send(BadRequest("This was not sent.", request["key"]).event)
            case "typing":
                with suppress(QueueError):
                    self.tell("typing")

    def join(self, request: dict[str, Any]) -> None:
        present = self.websocket.presence(NOTICES)
        info = newcomer(present, request["name"], request["session"])
        self.ws.join(NOTICES, info)
        # What was said before comes first.
        complete = self.ws.join(TALK, **request["wish"])
        names = people(self.websocket.presence(NOTICES))
        self.ws.send(event("welcome", name=info["name"], people=names, complete=complete))
        self.info = info
        if find(present, info["session"]) is None:
            self.tell("joined", people=names)
        self.correct(names)

    def leave(self) -> None:
        self.ws.leave(NOTICES)
        present = self.websocket.presence(NOTICES)
        names = people(present)
        # Another connection of their page may have taken their place.
        if find(present, self.info["session"]) is None:
            self.tell("left", people=names)
            self.correct(names)

    def correct(self, names: list[str]) -> None:
        """Tell all who is here, if others came or went while they were told these names."""
        while (names_now := people(self.websocket.presence(NOTICES))) != names:
            names = names_now
            self.websocket.send_to(NOTICES, event("people", people=names))

    def tell(self, type: str, **fields: Any) -> None:
        """Tell the others."""
        notice = event(type, name=self.info["name"], time=now(), **fields)
        self.websocket.send_to(NOTICES, notice, skip=self.ws)
