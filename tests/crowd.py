"""Healthy clients, who talk all the time and notice when anything is lost."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from peers import eventually
from raw import RawClient, frame

# Messages that leave in one piece, so that their order can be wrong.
AT_ONCE = 3
# Seconds from an answer to the next words.
PAUSE = 0.1


class Member:
    """One client of an echo; its messages have its name and a number.

    :param name: what no other is called.
    :param client: its connection.
    """

    def __init__(self, name: int, client: RawClient) -> None:
        self.client = client
        #: Times that it has spoken, and that all of what it said then came back.
        self.spoken = 0
        self.answered = 0
        #: What went wrong.
        self.fault = ""
        self._name = name
        self._number = 0
        self._expected: deque[bytes] = deque()
        self._came = b""

    def speak(self) -> None:
        for _ in range(AT_ONCE):
            self._number += 1
            self._expected.append(
                b"%d %d " % (self._name, self._number) + b"x" * (self._number * 37 % 100)
            )
        self.spoken += 1
        self._send(b"".join(frame(1, message) for message in self._expected))

    def listen(self) -> None:
        try:
            data = self.client.socket.recv(65536)
        except OSError as error:
            self.fault = f"lost: {error}"
            return
        if not data:
            self.fault = "closed without a Close frame"
        self._came += data
        # Whatever comes is short: one byte says how long.
        while len(self._came) >= 2 and len(self._came) >= (end := 2 + self._came[1]):
            first, payload = self._came[0], self._came[2:end]
            self._came = self._came[end:]
            self._take(first, payload)

    def _take(self, first: int, payload: bytes) -> None:
        if first == 0x89:
            self._send(frame(10, payload))
        elif first != 0x81 or not self._expected or self._expected.popleft() != payload:
            self.fault = f"got {first:#x} {payload!r} after {self._number} messages"
        elif not self._expected:
            self.answered += 1

    def _send(self, data: bytes) -> None:
        try:
            self.client.send(data)
        except OSError as error:
            self.fault = f"could not send: {error}"


class Crowd:
    """Many members, in one thread.

    :param port: the server's.
    :param count: how many.
    """

    def __init__(self, port: int, count: int) -> None:
        self._members = [Member(i, RawClient(port)) for i in range(count)]
        self._is_silent = False
        self._at_rest = False
        self._leaving = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Crowd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving = True
        self._thread.join()
        for member in self._members:
            member.client.socket.close()

    def answered(self) -> None:
        """Wait until each has been answered what it says from now on."""
        spoken = [member.spoken for member in self._members]
        self._wait(
            lambda: all(
                member.answered > before
                for member, before in zip(self._members, spoken, strict=True)
            )
        )

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Have all wait with what they would say next."""
        self._is_silent, self._at_rest = True, False
        try:
            self._wait(lambda: self._at_rest)
            yield
        finally:
            self._is_silent = False

    def check(self) -> None:
        """See that nobody has lost anything.

        :raises AssertionError: saying what.
        """
        faults = {i: member.fault for i, member in enumerate(self._members) if member.fault}
        assert not faults, f"{len(faults)} of the crowd were harmed: {faults}"

    def _wait(self, done: Callable[[], bool]) -> None:
        assert eventually(lambda: done() or self._faulty(), 20), "the crowd waits in vain"
        self.check()

    def _faulty(self) -> bool:
        return any(member.fault for member in self._members)

    def _run(self) -> None:
        poll = select.epoll()
        talking = {member.client.socket.fileno(): member for member in self._members}
        for fd in talking:
            poll.register(fd, select.EPOLLIN)
        resting = deque((0.0, member) for member in self._members)
        while not self._leaving:
            now = time.monotonic()
            while resting and resting[0][0] <= now and not self._is_silent:
                resting.popleft()[1].speak()
            self._at_rest = self._is_silent and len(resting) == len(talking)
            for fd, _ in poll.poll(0.02):
                member = talking[fd]
                before = member.answered
                member.listen()
                if member.fault:
                    poll.unregister(fd)
                    del talking[fd]
                elif member.answered > before:
                    resting.append((time.monotonic() + PAUSE, member))
        poll.close()
