"""The servers that are measured: their commands, and what they can not do."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "bench"
PEERS = BUILD / "venv" / "bin"
APPS = str(HERE / "apps")
BACKLOG = str(min(4096, int(Path("/proc/sys/net/core/somaxconn").read_text())))
# Above the largest message sent; uWSGI counts KiB.
LARGEST_KIB = "4096"

ONE_CORE_EACH = "each connection holds one of --threads, and thousands of them serve nobody well"
OWN_CLIENT_ONLY = "a request can send to its own client only"


@dataclass(frozen=True)
class Server:
    """One way to serve the echo.

    :param command: in which ``{port}`` and ``{cores}`` are replaced, the latter
        by a number a little above that of the connections, for servers that
        hold a thread or greenlet of a fixed number for each.
    :param mode: the concurrency model; it says which ``native`` to compare with.
    :param cannot: reasons, by the name of the workload.
    """

    name: str
    mode: str
    command: Sequence[str]
    cannot: Mapping[str, str] = field(default_factory=dict)

    @property
    def native(self) -> str:
        """The name of the server that runs uWSGI's own functions in the same mode."""
        return f"native-{self.mode}"

    @property
    def is_peer(self) -> bool:
        """Whether it needs what is in ``requirements.txt``."""
        return self.command[0].startswith(str(PEERS))


def uwsgi(module: str, *options: str, prefix: str = sys.prefix) -> list[str]:
    return [
        str(Path(sys.executable).parent / "uwsgi"),
        *("--http-socket", "127.0.0.1:{port}", "--listen", BACKLOG),
        *("--master", "--need-app", "--die-on-term", "--no-orphans", "--disable-logging"),
        *("--single-interpreter", "--virtualenv", prefix),
        *("--pythonpath", str(HERE.parent), "--pythonpath", APPS, "--module", module),
        *("--websockets-max-size", LARGEST_KIB, *options),
    ]


def gunicorn(worker: str, module: str, *options: str) -> list[str]:
    return [
        str(PEERS / "gunicorn"),
        *("--bind", "127.0.0.1:{port}", "--backlog", BACKLOG, "--chdir", APPS),
        *("--worker-class", worker, "--worker-connections", "{cores}", *options, module),
    ]


_MANY = dict.fromkeys(("1000x32", "5000x32", "memory"), ONE_CORE_EACH)

SERVERS = [
    Server("floor", "", [str(BUILD / "floor"), "{port}"]),
    Server("ours-threads", "threads", uwsgi("ours:threads()", "--threads", "2")),
    Server("ours-gevent", "gevent", uwsgi("ours:gevent()", "--gevent", "100")),
    Server("ours-asyncio", "asyncio", uwsgi("ours:asyncio()", "--asyncio", "100", "--greenlet")),
    Server("ours-asyncio-thread", "asyncio", uwsgi("ours:asyncio()", "--threads", "2")),
    Server(
        "native-threads",
        "threads",
        uwsgi("native:app", "--threads", "{cores}"),
        {**_MANY, "broadcast": OWN_CLIENT_ONLY},
    ),
    Server(
        "native-gevent",
        "gevent",
        uwsgi("native:app", "--gevent", "{cores}"),
        {"broadcast": OWN_CLIENT_ONLY},
    ),
    Server(
        "native-asyncio",
        "asyncio",
        uwsgi("native_asyncio:app", "--asyncio", "{cores}", "--greenlet"),
        {"broadcast": OWN_CLIENT_ONLY},
    ),
    Server(
        "flask-sock-gthread",
        "threads",
        gunicorn("gthread", "flask_sock_app:app", "--threads", "{cores}"),
    ),
    Server("flask-sock-gevent", "gevent", gunicorn("gevent", "flask_sock_app:app")),
    Server(
        "gevent-websocket",
        "gevent",
        gunicorn(
            "geventwebsocket.gunicorn.workers.GeventWebSocketWorker", "gevent_websocket_app:app"
        ),
    ),
    Server("websockets", "asyncio", [str(PEERS / "python"), f"{APPS}/websockets_app.py", "{port}"]),
    Server(
        "uvicorn-starlette",
        "asyncio",
        [
            *(str(PEERS / "uvicorn"), "starlette_app:app", "--app-dir", APPS, "--port", "{port}"),
            *("--loop", "uvloop", "--http", "httptools", "--ws", "websockets-sansio"),
            *("--ws-per-message-deflate", "false", "--backlog", BACKLOG),
            *("--log-level", "warning"),
        ],
    ),
    Server("picows", "asyncio", [str(PEERS / "python"), f"{APPS}/picows_app.py", "{port}"]),
]
