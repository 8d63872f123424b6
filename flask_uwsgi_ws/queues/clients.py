"""Redis clients for the URLs that ``UWSGI_WEBSOCKET_MESSAGE_QUEUE`` takes.

``redis://``, ``rediss://`` and ``unix://`` are those of the ``redis`` package. Two more name
several hosts, with the options of the others behind a ``?``::

    redis+sentinel://[user:password@]host[:port],host[:port]/service[/db]
    redis+cluster://[user:password@]host[:port],host[:port]

and ``rediss+sentinel://`` and ``rediss+cluster://`` are the same through TLS.
"""

from __future__ import annotations

import contextlib
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis import AuthenticationError, Redis, RedisError, ResponseError
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.exceptions import (
    AuthorizationError,
    ClusterError,
    NoPermissionError,
    RedisClusterException,
)
from redis.retry import Retry
from redis.sentinel import Sentinel

# Of these the package has no types.
_ClusterNode: Any = ClusterNode
_Sentinel: Any = Sentinel
_parse_url: Any = parse_url

#: What is raised where Redis can not be had; that a cluster can not is no RedisError.
FAILURES: tuple[type[Exception], ...] = (RedisError, RedisClusterException, OSError)
_LOGIN = AuthenticationError, AuthorizationError, NoPermissionError
_PORTS = {"sentinel": 26379, "cluster": 6379}


class AwayError(Exception):
    """Redis does not do what it is asked for; the text says so."""

    @classmethod
    def because(cls, error: Exception) -> AwayError:
        """Make it of what was raised on the way to Redis."""
        if isinstance(error, AwayError):
            return error
        # Of a cluster that is changing its masters it is no more than that it is away.
        refuses = isinstance(error, ResponseError) and not isinstance(error, ClusterError)
        kind = RefusedError if refuses else cls
        if isinstance(error, _LOGIN):
            hint = "see to the user and password in UWSGI_WEBSOCKET_MESSAGE_QUEUE"
            return kind(f"Redis does not let this app do it ({error}): {hint}")
        if refuses:
            return kind(f"Redis refuses it ({error})")
        return cls(f"Redis does not answer ({f'{error}' or type(error).__name__})")


# What Redis says of a key: of another type than a stream or a hash, or a stream with the last id.
_OF_ONE_KEY = "WRONGTYPE", "the last possible ID", "ID specified in XADD"


class RefusedError(AwayError):
    """Redis has answered that it does not."""

    @property
    def is_lasting(self) -> bool:
        """Whether it is a key's own trouble, so that to wait does not help."""
        return any(words in f"{self}" for words in _OF_ONE_KEY)


def close(client: Any) -> None:
    """Close a client, whose connection may be lost already."""
    with contextlib.suppress(*FAILURES):
        client.close()


def check(url: str) -> None:
    """See that a URL can be read, without connecting.

    :raises ValueError: if it can not; the text has nothing of the URL, which may be a password.
    """
    try:
        scheme, _, kind = urlsplit(url).scheme.partition("+")
        if kind:
            _read(url, scheme, kind)
        else:
            _parse_url(url)
    except ValueError:
        raise ValueError(
            "UWSGI_WEBSOCKET_MESSAGE_QUEUE is a URL that can not be read: see to its hosts, its "
            "ports and its database's number, name the service of a Sentinel "
            "(redis+sentinel://host/service), and write what is special in a password as %XX"
        ) from None
    if "decode_responses" in parse_qs(urlsplit(url).query):
        raise ValueError(
            "leave decode_responses out of UWSGI_WEBSOCKET_MESSAGE_QUEUE: messages may be bytes"
        )


def connect(url: str, timeout: float) -> Any:
    """Make a client, which connects when it is first used, or already now to a cluster.

    It does not try again by itself.

    :param url: where to.
    :param timeout: seconds that Redis may take to answer.
    :raises ValueError: for a URL that can not be read.
    :raises redis.exceptions.RedisClusterException: if a cluster can not be reached.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
    }
    scheme, _, kind = urlsplit(url).scheme.partition("+")
    if not kind:
        return Redis.from_url(url, **options)
    hosts, service, given = _read(url, scheme, kind)
    options |= given
    if kind == "cluster":
        nodes = [_ClusterNode(host, port) for host, port in hosts]
        return RedisCluster(startup_nodes=nodes, ssl=scheme == "rediss", **options)
    secure = {"ssl": True} if scheme == "rediss" else {}
    sentinel = _Sentinel(
        hosts, sentinel_kwargs={**secure, "socket_timeout": timeout}, **secure, **options
    )
    return sentinel.master_for(service)


def _read(url: str, scheme: str, kind: str) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """Give the hosts, the service of a Sentinel, and the options of a URL."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    # For what redis makes of the options' values.
    options = dict(_parse_url(f"{scheme}://host?{parts.query}"))
    for name in ("host", "connection_class"):
        options.pop(name, None)
    user, _, password = login.partition(":")
    if user:
        options["username"] = unquote(user)
    if password:
        options["password"] = unquote(password)
    found = []
    for each in hosts.split(","):
        place = urlsplit(f"//{each}")
        if not place.hostname:
            raise ValueError("a host has no name")
        found.append((place.hostname, place.port or _PORTS[kind]))
    service, _, db = parts.path.strip("/").partition("/")
    if kind == "sentinel" and not service:
        raise ValueError("a Sentinel's service has no name")
    if db:
        options["db"] = int(db)
    return found, service, options
