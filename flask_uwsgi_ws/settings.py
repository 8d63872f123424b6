"""The options of the package: their names, defaults and where they are read.

Each can be given as a keyword argument of the extension (``max_size=…``), as
``app.config["UWSGI_WEBSOCKET_MAX_SIZE"]``, and some as an option of uWSGI's
own; the first of these that is there counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from .compression import deflate_factory

PREFIX = "UWSGI_WEBSOCKET_"
_LIKE_OURS = re.compile("UWSGI_WEBSOCKETS?_|UWSGI_WS_")

# Seconds, eleven days: what every system call takes.
LONGEST = 1_000_000


_WHOLE = ("max_size", "max_queue", "write_limit", "room_limit", "queue_kept", "history")
# What the names in Redis go on with, behind the prefix.
_KINDS = {"alive", "all", "history", "presence", "room", "worker"}
_QUEUES = re.compile(r"(rediss?|unix|rediss?\+(sentinel|cluster))://.")


@dataclass(frozen=True)
class Settings:
    """Checked values of the options.

    :raises ValueError: for a value that can not be meant, naming the option.
    """

    #: Largest message taken, in bytes; ``None`` for no limit
    #: (uWSGI's ``--websockets-max-size``, which counts KiB).
    max_size: int | None = 2**20
    #: Seconds of silence after which a Ping is sent; ``None`` for never
    #: (uWSGI's ``--websockets-ping-freq``).
    ping_interval: float | None = 25.0
    #: Seconds that the answer to a Ping may take; ``None`` for any time
    #: (uWSGI's ``--websockets-pong-tolerance``).
    ping_timeout: float | None = 20.0
    #: Seconds that the closing handshake may take.
    close_timeout: float = 5.0
    #: Seconds over which the connections of a worker that ends are closed, so that its clients
    #: do not all come back at once.
    close_window: float = 0.5
    #: Seconds that ``send`` waits for a client that takes no more bytes.
    send_timeout: float = 10.0
    #: Messages received and not yet taken, beyond which reading stops.
    max_queue: int = 1000
    #: Bytes that may wait to be sent to a client before ``send`` waits for it.
    write_limit: int = 65536
    #: Bytes that may wait to be sent to a client before the next message to one of its rooms ends
    #: it as a slow one.
    room_limit: int = 2**20
    #: The URL of the Redis that joins the workers: ``redis://``, ``rediss://``, ``unix://``,
    #: ``redis+sentinel://host,host/service/db`` or ``redis+cluster://host,host``; ``None`` for
    #: rooms in one worker.
    message_queue: str | None = None
    #: What the names of the queue's channels and keys begin with; apps that share a Redis have
    #: different ones.
    queue_prefix: str = "flask-uwsgi-ws"
    #: Messages that are kept while Redis is away, and sent when it is back; with 0 they raise.
    queue_kept: int = 0
    #: Whether the members in the sender's worker get a message even while Redis is away.
    queue_local: bool = False
    #: Messages that each room remembers for those who join it.
    history: int = 0
    #: Seconds after a room's last message after which all are forgotten.
    history_ttl: float = 3600.0
    #: Whether messages are compressed for clients that can (:rfc:`7692`): ``True``, or a dict
    #: of parameters (:data:`.compression.PARAMETERS`).
    compression: bool | Mapping[str, Any] = False
    #: Origins whose pages may connect: ``None`` for the site itself only,
    #: ``"*"`` for all, or a list of origins such as ``"https://example.com"``,
    #: in which ``*`` stands for a part of a host, and of compiled patterns.
    origins: str | tuple[str | re.Pattern[str], ...] | None = None
    #: Whether ``GeventWebSocket`` patches what gevent calls aggressive.
    aggressive_patch: bool = True
    #: Subprotocols that the application speaks, the preferred first.
    subprotocols: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least, none_allowed in (
            ("max_size", 1, True),
            ("ping_interval", 0.05, True),
            ("ping_timeout", 0.05, True),
            ("close_timeout", 0, False),
            ("close_window", 0, False),
            ("send_timeout", 0.05, False),
            ("max_queue", 1, False),
            ("write_limit", 1, False),
            ("room_limit", 1, False),
            ("queue_kept", 0, False),
            ("history", 0, False),
            ("history_ttl", 1, False),
        ):
            value = getattr(self, name)
            if value is None and none_allowed:
                continue
            whole = name in _WHOLE
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                kind = "a whole number" if whole else "a number of seconds"
                raise ValueError(_wrong(name, value, kind + (" or None" if none_allowed else "")))
            if not value >= least:
                raise ValueError(_wrong(name, value, f"{least} or more"))
            if not whole and value > LONGEST:
                raise ValueError(_wrong(name, value, f"{LONGEST} seconds at most"))
        url = self.message_queue
        if url is not None and not (isinstance(url, str) and _QUEUES.match(url)):
            # Not the rest of it, which may be a password.
            scheme = url.partition(":")[0] if isinstance(url, str) else url
            kind = "the URL of a Redis, such as 'redis://localhost:6379', or None"
            raise ValueError(_wrong("message_queue", scheme, kind))
        if not (isinstance(self.queue_prefix, str) and self.queue_prefix):
            raise ValueError(_wrong("queue_prefix", self.queue_prefix, "a name"))
        if _KINDS & set(self.queue_prefix.split(":")[1:]):
            # The names of this app could be those of another one's rooms.
            kind = f"a name with none of {', '.join(sorted(_KINDS))} after a colon"
            raise ValueError(_wrong("queue_prefix", self.queue_prefix, kind))
        try:
            deflate_factory(self.compression)
        except ValueError as error:
            raise ValueError(f"{_named('compression', self.compression)}: {error}") from None
        object.__setattr__(self, "subprotocols", _strings("subprotocols", self.subprotocols))
        if self.origins is not None and self.origins != "*":
            object.__setattr__(self, "origins", _strings("origins", self.origins))

    @classmethod
    def load(
        cls,
        config: Mapping[str, Any],
        overrides: Mapping[str, Any],
        uwsgi_options: Mapping[str, Any],
    ) -> Settings:
        """Read the options from where users set them.

        :param config: ``app.config``.
        :param overrides: keyword arguments of the extension.
        :param uwsgi_options: ``uwsgi.opt``; empty outside uWSGI.
        :raises ValueError: for a value that can not be meant.
        :raises TypeError: for a keyword argument that there is none of.
        """
        names = [field.name for field in fields(cls)]
        for name in overrides:
            if name not in names:
                raise TypeError(f"there is no option {name!r}{_suggest(name, names)}")
        values = _from_uwsgi(uwsgi_options)
        for name in names:
            if PREFIX + name.upper() in config:
                values[name] = config[PREFIX + name.upper()]
        values.update(overrides)
        return cls(**values)


def unknown_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Find the names in ``app.config`` that look like ours and are not.

    :returns: for each of them what to say in a warning.
    """
    known = [PREFIX + field.name.upper() for field in fields(Settings)]
    return {
        name: f"{name}{_suggest(name, known)}"
        for name in config
        if _LIKE_OURS.match(name) and name not in known
    }


def _from_uwsgi(options: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, option, factor in (
        ("max_size", "max-size", 1024),
        ("ping_interval", "ping-freq", 1),
        ("ping_timeout", "pong-tolerance", 1),
    ):
        for spelling in (f"websockets-{option}", f"websocket-{option}"):
            value = options.get(spelling)
            if isinstance(value, list):
                value = value[-1]
            if value is not None:
                found[name] = int(value) * factor
    return found


def _strings(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(_wrong(name, value, f"a list, for example [{value!r}]"))
    items = tuple(value)
    for item in items:
        if not isinstance(item, (str, re.Pattern)) or (
            name == "subprotocols" and not isinstance(item, str)
        ):
            raise ValueError(_wrong(name, item, "a list of strings"))
    return items


def _wrong(name: str, value: object, wanted: str) -> str:
    return f"{_named(name, value)}: give it {wanted}"


def _named(name: str, value: object) -> str:
    return f"{PREFIX}{name.upper()} ({name}) is {value!r}"


def _suggest(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""
