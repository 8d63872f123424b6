"""Clients of ``apps/rooms.py``, and what they are told to do."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from typing import Any

from flask import Flask
from modes import Mode
from peers import eventually, open_client
from uwsgi_server import Server

from flask_uwsgi_ws import WebSocket


def serve(mode: Mode, *options: str, env: dict[str, str] | None = None, **settings: Any) -> Server:
    """Make a server of the app, with settings of the package."""
    return mode.serve(*options, app="rooms", env={"OPTIONS": json.dumps(settings), **(env or {})})


class Refused(Exception):
    """The app's call raised; the text says what."""


class Member:
    """A client, which keeps what it is sent apart from the answers to its commands.

    :param server: to connect to.
    :param rooms: that it joins at once.
    :param path: of the route.
    :param options: of the connection.
    """

    def __init__(self, server: Server, *rooms: str, path: str = "/room", **options: object) -> None:
        # All that comes is read, so that the end is not behind what nobody asks for.
        options = {"compression": None, "max_queue": None, **options}
        self.ws = open_client(server, path, **options).__enter__()
        self._answers: list[dict[str, Any]] = []
        #: What has come and was not asked for.
        self.messages: list[str | bytes] = []
        #: That of its worker, whose answer says that the client is known there.
        self.pid = int(self.do("pid"))
        for room in rooms:
            self.do("join", room=room)

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *_: object) -> None:
        self.ws.close()

    def do(self, call: str, **arguments: Any) -> Any:
        """Have the handler call something; gives the result.

        :raises Refused: if it raised.
        """
        self.begin({"call": call, **arguments})
        return self.answer()

    def begin(self, *commands: dict[str, Any]) -> None:
        """Have the handler do several things, one right after the other."""
        self.ws.send(json.dumps(commands))

    def answer(self) -> Any:
        while not self._answers:
            self._take(30)
        return result_of(self._answers.pop(0))

    def has_answered(self) -> bool:
        """Tell whether the answer to a command is here, without waiting for it."""
        with contextlib.suppress(TimeoutError):
            while not self._answers:
                self._take(0)
        return bool(self._answers)

    def next(self, seconds: float = 20) -> str | bytes:
        """Wait for a message."""
        while not self.messages:
            self._take(seconds)
        return self.messages.pop(0)

    def take(self, count: int) -> list[str | bytes]:
        return [self.next() for _ in range(count)]

    def all_so_far(self) -> list[str | bytes]:
        """Give what was sent before now from the worker that has this client."""
        self.do("pid")
        found, self.messages = self.messages, []
        return found

    @property
    def id(self) -> str:
        return str(self.do("id"))

    def _take(self, seconds: float) -> None:
        message = self.ws.recv(timeout=seconds)
        if isinstance(message, str) and message.startswith("{"):
            self._answers.append(json.loads(message))
        else:
            self.messages.append(message)


def result_of(answer: dict[str, Any]) -> Any:
    if "error" in answer:
        raise Refused(answer["error"])
    return answer["result"]


def post(server: Server, path: str, **command: Any) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        body = json.dumps(command)
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode()
        assert response.status == 200, text
        return text
    finally:
        connection.close()


def in_view(server: Server, call: str, **arguments: Any) -> Any:
    """Have a view call something; gives the result.

    :raises Refused: if it raised.
    """
    return result_of(json.loads(post(server, "/call", call=call, **arguments)))


def registry(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.get("/rooms")[1])
    return found


def snapshot(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.get("/snapshot")[1])
    return found


def is_empty(server: Server) -> bool:
    """Wait until the registry of rooms holds nothing."""
    empty = {"rooms": [], "clients": 0, "ids": 0, "open": 0}
    return eventually(lambda: registry(server) == empty)


def one_in_each_worker(server: Server, count: int, *rooms: str) -> list[Member]:
    """Open a client in each of a server's workers."""
    found: dict[int, Member] = {}

    def is_everywhere() -> bool:
        member = Member(server)
        if found.setdefault(member.pid, member) is not member:
            member.ws.close()
        return len(found) == count

    assert eventually(is_everywhere, 30), found
    for member in found.values():
        for room in rooms:
            member.do("join", room=room)
    return list(found.values())


_apps: list[Flask] = []


def outside(url: str, prefix: str, **options: Any) -> WebSocket:
    """Make an extension for the test's own process, which serves nobody."""
    # The extension does not hold it.
    _apps.append(Flask("outside"))
    return WebSocket(_apps[-1], message_queue=url, queue_prefix=prefix, **options)


def up_to_end(sender: WebSocket, *members: Member) -> list[list[str | bytes]]:
    """Give what members were sent before now, from wherever.

    :param sender: of :func:`outside`.
    """
    end = f"end {time.monotonic()}"
    sender.broadcast(end)
    found = []
    for member in members:
        messages = [member.next()]
        while messages[-1] != end:
            messages.append(member.next())
        # Those of earlier times were for others.
        found.append([each for each in messages if not str(each).startswith("end ")])
    return found
