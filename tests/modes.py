"""The backends, and the ways uWSGI runs each: what the behavioural suite is run on."""

from __future__ import annotations

from dataclasses import dataclass

from uwsgi_server import Server


@dataclass(frozen=True)
class Mode:
    """A backend in one way to run it.

    :param backend: the class of the extension.
    :param app: the app of the behavioural suite for it, in ``tests/apps``.
    :param options: uWSGI's.
    """

    backend: str
    app: str
    options: tuple[str, ...]

    def serve(
        self,
        *options: str,
        app: str | None = None,
        kind: str = "uwsgi",
        router: bool = False,
        master: bool = True,
        env: dict[str, str] | None = None,
    ) -> Server:
        """Make a server in this mode; the parameters are those of :class:`Server`."""
        return Server(
            app or self.app,
            *self.options,
            *options,
            kind=kind,
            router=router,
            master=master,
            env={"BACKEND": self.backend, **(env or {})},
        )


MODES = {
    "threads": Mode("WebSocket", "behaviour", ("--threads", "2")),
    "gevent": Mode("GeventWebSocket", "behaviour", ("--gevent", "100")),
    "asyncio-engine": Mode(
        "AsyncioWebSocket", "behaviour_asyncio", ("--asyncio", "100", "--greenlet")
    ),
    "asyncio-thread": Mode("AsyncioWebSocket", "behaviour_asyncio", ("--threads", "2")),
    "asyncio-alone": Mode("AsyncioWebSocket", "behaviour_asyncio", ()),
}

# Those that differ in what they do; asyncio-alone differs in uWSGI's part only.
BACKENDS = ("threads", "gevent", "asyncio-engine", "asyncio-thread")

# The bytes of a stack that no thread can have: all that a process has addresses for.
NO_THREAD = 2**47

SHAREDAREA = ("--sharedarea", "1")
