"""Joins the workers, of one machine or of many, through Redis.

Each worker has one connection on which it publishes and asks, and one on which it is told: of
what is sent to all, to its own clients, and to the rooms that have a member here. Two threads
(greenlets where gevent has replaced them) belong to it: the listener has the second connection
for itself, and the keeper says every few seconds that this worker lives.

A message is published once, whatever the number of those who get it. What its sender's worker
has of members gets it right after that. Each publisher numbers its messages to a channel, so
that others notice what they have not been told; where rooms have a history, a Redis Stream each,
everybody takes their messages in its order, and fetches what is missing from there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from redis import RedisError

from ..client import worker_token
from ..ending import worker_end
from ..rooms import Place
from ..servers import threads_run
from .base import MessageQueue, Outgoing, QueueError, is_complete, place_id, read_place, wanted
from .clients import FAILURES, AwayError, RefusedError, check, close, connect
from .keeper import ALIVE, PRESENCE, Keeper
from .letters import Letter, decode, encode
from .listener import Listener

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Seconds that Redis may take to answer, and that a worker that ends takes to say so.
_TIMEOUT, _FAREWELL = 3.0, 0.5
# Seconds after a failure in which nothing is published.
_PAUSE = 0.5
# Channels whose messages are numbered.
_CHANNELS = 10_000

# Seconds for other workers to find Redis again as well, before they are sent what was kept.
_GRACE = 1.5

# Adds a message to a room's history and publishes it, in one step, so that both have one order.
# One that is tried again may be there already: the answer to the first time was lost.
_REMEMBER = """
if ARGV[5] == '1' then
    for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-')) do
        if entry[2][2] == ARGV[3] then return entry[1] end
    end
end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[1], '*', 'm', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[4], id .. '\\n' .. ARGV[3])
return id
"""


class RedisQueue(MessageQueue):
    """Reaches the clients of all processes that use the same Redis and prefix."""

    waits = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._url: str = self.settings.message_queue or ""
        check(self._url)
        self._prefix = self.settings.queue_prefix
        self._history = self.settings.history
        # Those of the server's kind: greenlets' where gevent has replaced them.
        self._commanding = threading.Lock()
        self._sending = threading.Lock()
        self._client: Any = None
        self._remember: Any = None
        self._paused_until = self._kept_until = self._failed_at = 0.0
        self._why = ""
        # Whether the connection is from before Redis was lost.
        self._is_stale = False
        # By channel, the tag and number of the last message that was published there.
        self._numbers: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._kept: deque[Letter] = deque()
        # With a history, the kept messages that the members in this worker have already.
        self._ahead: OrderedDict[tuple[str, int], None] = OrderedDict()
        #: Names this process to others in what it publishes.
        self.token = os.urandom(8).hex()
        self._listener: Listener | None = None
        self._keeper: Keeper
        self._starting = threading.Lock()
        self._steps: list[Callable[[], None]] = []

    def start(self) -> None:
        with self._starting:
            if self._listener is None:
                if not threads_run():
                    raise RuntimeError("a message queue needs Python threads: --enable-threads")
                listener, self._keeper = Listener(self), Keeper(self)
                self._steps = [listener.run, self._keeper.run]
                self._listener = listener
                worker_end().call_last(self.close)
            # Each may find no thread, and is tried again then.
            while self._steps:
                threading.Thread(target=self._steps[0], name="flask-uwsgi-ws", daemon=True).start()
                del self._steps[0]

    def close(self) -> None:
        # Maybe in a thread of its own: not with the connection of others. Without this they see
        # in some seconds that the worker is not there any more.
        with contextlib.suppress(*FAILURES):
            client = connect(self._url, _FAREWELL)
            client.delete(self.key("alive", worker_token()))
            client.close()

    # Names.

    def key(self, kind: str, name: str) -> str:
        """Give the name of a key or channel."""
        return f"{self._prefix}:{kind}:{name}"

    # Commands.

    def do(self, call: Callable[[Any], Result]) -> Result:
        """Ask Redis for something, on the connection for that.

        :raises AwayError: if it does not do it.
        """
        came = time.monotonic()
        with self._commanding:
            # Who has waited for its turn while Redis did not answer does not wait for it as well.
            if came < self._failed_at:
                raise AwayError(self._why)
            try:
                if self._is_stale:
                    self._is_stale = False
                    client, self._client = self._client, None
                    if client is not None:
                        close(client)
                if self._client is None:
                    self._client = connect(self._url, _TIMEOUT)
                    self._remember = self._client.register_script(_REMEMBER)
                return call(self._client)
            except BaseException as error:
                # Whatever it was, an answer may still be on its way there.
                client, self._client = self._client, None
                if client is not None:
                    close(client)
                if isinstance(error, FAILURES):
                    away = AwayError.because(error)
                    # Of a connection from before Redis was back it says nothing about that.
                    if not isinstance(away, RefusedError) and not self._is_stale:
                        self._failed_at, self._why = time.monotonic(), f"{away}"
                        self._paused_until = self._failed_at + _PAUSE
                    raise away from error
                raise

    def command(self, name: str, *arguments: Any, **options: Any) -> Any:
        """The same for a single command, by the name that its method has."""
        return self.do(lambda client: getattr(client, name)(*arguments, **options))

    def do_all(self, add: Callable[[Any], None]) -> None:
        """Ask for much at once, each for a key of its own.

        :param add: puts the commands into a pipeline.
        :raises AwayError: if Redis does not do it; not for what is one key's own trouble.
        """

        def run(client: Any) -> None:
            if "+cluster:" in self._url:
                # Its pipeline tries each command again by itself, however many seconds that takes.
                add(_OneByOne(client))
                return
            with client.pipeline(transaction=False) as pipe:
                add(pipe)
                for answer in pipe.execute(raise_on_error=False):
                    if isinstance(answer, Exception):
                        _raise_unless_lasting(answer)

        self.do(run)

    # Sending.

    def send_to(self, room: str, message: Outgoing, skip: str | None) -> str | None:
        place = self._send(Letter(self.key("room", room), message, skip, room))
        return place if isinstance(place, str) else None

    def broadcast(self, message: Outgoing, skip: str | None) -> None:
        self._send(Letter(self.key("all", ""), message, skip))

    def send_to_client(self, id: str, message: Outgoing) -> bool:
        if self.deliver_to_client(id, message):
            return True
        token = id[: len(worker_token())]
        if token == worker_token():
            return False
        letter = Letter(self.key("worker", token), message, id, delivered=True)
        # None for one that is kept.
        if self._send(letter) != 0:
            return True
        # A cluster counts those only that listen where the message was published.
        return "+cluster:" in self._url and self._may_live(token)

    def _may_live(self, token: str) -> bool:
        try:
            return self._lives(token)
        except AwayError:
            return False

    def _send(self, letter: Letter) -> str | int | None:
        """Publish a letter; gives its id, or how many workers have got it."""
        with self._sending:
            if self._kept or self._is_away():
                self._keep(letter)
                return None
            try:
                return self._publish(letter)
            except AwayError as error:
                # What will never go is not kept, and its sender is told.
                lasting = isinstance(error, RefusedError) and error.is_lasting
                self._keep(letter, may_wait=not lasting)
                return None

    def _is_away(self) -> bool:
        """Whether it is known that Redis can not be reached, so that nobody has to wait for it."""
        lost = self._listener.why if self._listener is not None else ""
        self._why = lost or self._why
        return bool(lost) or time.monotonic() < self._paused_until

    def _publish(self, letter: Letter) -> str | int:
        tried, letter.tried = letter.tried, True
        if not letter.tag:
            letter.tag, letter.number = self._next_number(letter.channel)
        data = encode(letter, self.token)
        try:
            if letter.room and self._history:
                return self._publish_to_history(letter, data, tried)
            count: int = self.command("publish", letter.channel, b"\n" + data)
        except RefusedError as error:
            self._why, letter.tried = f"{error}", tried
            if not error.is_lasting:
                # What is kept is tried again a little later; all else may go on.
                self._kept_until = time.monotonic() + _PAUSE
            raise
        if not letter.delivered:
            self._deliver_here(letter)
        return count

    def _publish_to_history(self, letter: Letter, data: bytes, tried: bool) -> str:
        ttl = int(self.settings.history_ttl * 1000)
        arguments = [self._history, ttl, data, letter.channel, int(tried)]
        keys = [self.key("history", letter.room)]
        id: bytes = self.do(lambda client: self._remember(keys, arguments, client))
        return id.decode()

    def _deliver_here(self, letter: Letter) -> None:
        letter.delivered = True
        if letter.room:
            self.deliver(letter.room, letter.message, letter.skip)
        else:
            self.deliver_to_all(letter.message, letter.skip)

    def _keep(self, letter: Letter, may_wait: bool = True) -> None:
        """Do what is to be done with a letter that can not be published now.

        :param may_wait: whether it may be published later.
        :raises QueueError: if it is not kept.
        """
        has_place = self._listener is not None and len(self._kept) < self.settings.queue_kept
        is_kept = may_wait and has_place
        if self.settings.queue_local and not letter.delivered:
            if letter.room and self._history and (is_kept or letter.tried):
                self._expect_ahead(letter)
            self._deliver_here(letter)
        if is_kept:
            self._kept.append(letter)
            self._keeper.look()
            return
        reached = "only members in this worker got it" if self.settings.queue_local else "not sent"
        if letter.tried:
            reached += ", or it was, and the answer was lost"
        if not may_wait:
            raise QueueError(f"{reached}: {self._why}; delete what others have written to that key")
        raise QueueError(
            f"{reached}: {self._why}; send it again later, or set "
            f"UWSGI_WEBSOCKET_QUEUE_KEPT (it is {self.settings.queue_kept}) to the number of "
            "messages to keep meanwhile"
        )

    def _expect_ahead(self, letter: Letter) -> None:
        """Take note that a letter is delivered before it comes back, as all that have a history."""
        if not letter.tag:
            letter.tag, letter.number = self._next_number(letter.channel)
        self._ahead[letter.tag, letter.number] = None
        if len(self._ahead) > _CHANNELS:
            self._ahead.popitem(last=False)

    def send_kept(self) -> None:
        """Publish what was kept, if it is time to.

        :raises AwayError: if Redis is still away.
        """
        while self.kept_due() <= time.monotonic():
            with self._sending:
                if self._kept:
                    self._publish_kept(self._kept[0])
                    self._kept.popleft()

    def _publish_kept(self, letter: Letter) -> None:
        try:
            self._publish(letter)
        except RefusedError as error:
            if not error.is_lasting:
                raise
            # All others would wait behind it for ever.
            self.rooms.count_lost(1)
            _log.error("a message to %r that was kept is lost: %s", letter.channel, error)

    def kept_due(self) -> float:
        """Say when what was kept can be published, of ``time.monotonic()``."""
        if not self._kept or (self._listener is not None and self._listener.why):
            return math.inf
        return max(self._paused_until, self._kept_until)

    def _next_number(self, channel: str) -> tuple[str, int]:
        tag, number = self._numbers.pop(channel, ("", 0))
        # A channel that was forgotten begins anew, with another tag.
        found = self._numbers[channel] = (tag or os.urandom(4).hex(), number + 1)
        if len(self._numbers) > _CHANNELS:
            self._numbers.popitem(last=False)
        return found

    # Rooms.

    def join(
        self, client: Any, room: str, info: Any, last: int | None, since: Place | None
    ) -> bool:
        wishes = bool(last) or since is not None
        self.rooms.add(client, room, info, wishes)
        history: list[tuple[Place, Outgoing]] = []
        known: Place | None = None
        try:
            if self._listener is not None:
                self._listener.need(room)
            try:
                self._say_present(client, room, info)
                if wishes:
                    letters = self.read_history(room, last, since)
                    history = [(place, letter.message) for place, letter in letters]
                    # Not *since*, which may be of another time: with it a client would get nothing.
                    known = history[-1][0] if history else (0, 0)
            except AwayError as error:
                if self._listener is not None:
                    self._keeper.write_all()
                if wishes:
                    raise QueueError(
                        f"the history of the room can not be had: {error}; let the client connect "
                        "again later"
                    ) from error
        finally:
            if self._listener is not None and not self.rooms.has(client, room):
                # It has left, or ended, before Redis was told that it came.
                self._keeper.forget(room, client.id)
            if wishes:
                self.catch_up(client, room, wanted(history, last, since), known)
        return since is None or is_complete(history, since)

    def _say_present(self, client: Any, room: str, info: Any) -> None:
        key, id, value = self.key("presence", room), client.id, json.dumps(info)
        alive = self.key("alive", worker_token())

        def say(redis: Any) -> None:
            with redis.pipeline(transaction=False) as pipe:
                # First: who is there and does not live is taken for a worker's that was killed.
                pipe.set(alive, 1, ex=ALIVE)
                pipe.hset(key, id, value)
                pipe.expire(key, PRESENCE)
                pipe.execute()

        self.do(say)

    def read_history(
        self, room: str, last: int | None = None, since: Place | None = None
    ) -> list[tuple[Place, Letter]]:
        """Fetch the messages that a room remembers, or the last of them, or those from a place on.

        :raises AwayError: if Redis does not answer.
        """
        key = self.key("history", room)
        if since is None:
            entries = self.command("xrevrange", key, count=last)[::-1]
        else:
            # From there only: after a reload very many come back at once.
            entries = self.command("xrange", key, min=place_id(since))
        found = []
        seen = set()
        for id, fields in entries:
            decoded = decode(fields.get(b"m", b""))
            if decoded is None:
                continue
            letter = decoded[0]
            # Not one that was published twice, since the answer to the first time was lost.
            if (letter.tag, letter.number) not in seen:
                seen.add((letter.tag, letter.number))
                found.append((read_place(id.decode()), letter))
        return found

    def leave(self, client: Any, rooms: Iterable[str]) -> None:
        if self._listener is not None:
            for room in rooms:
                self._listener.look_at(room)
                self._keeper.forget(room, client.known_id)

    def presence(self, room: str) -> dict[str, Any]:
        key = self.key("presence", room)
        here = self.rooms.presence(room)
        try:
            found = self.command("hgetall", key)
            members = dict(_read_members(found))
            length = len(worker_token())
            others = {id[:length] for id in members} - {worker_token()}
            living = {token for token in others if self._lives(token)}
            dead = [id for id in members if id[:length] in others - living]
            if dead:
                self.command("hdel", key, *dead)
        except AwayError as error:
            raise QueueError(f"who is there can not be told: {error}; try again later") from error
        return {id: info for id, info in members.items() if id[:length] in living} | here

    def _lives(self, token: str) -> bool:
        return bool(self.command("exists", self.key("alive", token)))

    # What the listener hears.

    def hear(self, channel: str, place: Place | None, letter: Letter, sender: str) -> None:
        """Deliver what another worker, or with a history this one, has published."""
        kind, _, name = channel.removeprefix(f"{self._prefix}:").partition(":")
        if kind == "room":
            if sender == self.token and (place is None or self._was_ahead(letter)):
                return
            self.deliver(name, letter.message, letter.skip, place)
        elif sender == self.token:
            return
        elif kind == "all":
            self.deliver_to_all(letter.message, letter.skip)
        elif letter.skip:
            self.deliver_to_client(letter.skip, letter.message)

    def _was_ahead(self, letter: Letter) -> bool:
        return self._ahead.pop((letter.tag, letter.number), self) is None

    @property
    def has_history(self) -> bool:
        return bool(self._history)

    def connect(self) -> Any:
        """Make a client for the listener."""
        client = connect(self._url, _TIMEOUT)
        if "+cluster:" in self._url:
            # One that lacks a master lets everybody subscribe and does nothing else.
            try:
                client.exists(self.key("alive", worker_token()))
            except BaseException:
                close(client)
                raise
        return client

    def back(self) -> None:
        """The listener has Redis again."""
        self._is_stale = True
        self._paused_until = self._failed_at = 0.0
        # From a history everybody gets them, whenever they come back.
        self._kept_until = 0.0 if self._history else time.monotonic() + _GRACE
        self._keeper.write_all()


class _OneByOne:
    """Has the commands of a pipeline done at once, each by itself."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., None]:
        command = getattr(self._client, name)

        def run(*arguments: Any, **options: Any) -> None:
            try:
                command(*arguments, **options)
            except RedisError as error:
                _raise_unless_lasting(error)

        return run


def _raise_unless_lasting(error: Exception) -> None:
    refused = AwayError.because(error)
    if not (isinstance(refused, RefusedError) and refused.is_lasting):
        raise error


def _read_members(found: Mapping[bytes, bytes]) -> Iterator[tuple[str, Any]]:
    """Give the ids of members and what they told of themselves; not what others have written."""
    for id, info in found.items():
        with contextlib.suppress(ValueError, RecursionError):
            yield id.decode(), json.loads(info)
