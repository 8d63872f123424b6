"""Starts the servers that are not uWSGI, with an app of ``tests/apps``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from flask_run import BACKENDS, FlaskRun
from uwsgi_server import APPS, ROOT

#: The last gunicorn that has a worker for eventlet, for what it installs; see the Makefile.
OLD_GUNICORN = ROOT / "build" / "gunicorn-eventlet"


class Kind(NamedTuple):
    """A server, and how a worker of it serves several connections.

    :param options: gunicorn's; none for a program of its own, ``tests/apps/serve_<name>.py``.
    :param hub: whose greenlets its requests are, if they are.
    :param backends: that run on it.
    :param is_old: whether it is a worker that gunicorn has no more.
    """

    options: tuple[str, ...] = ()
    hub: str = ""
    backends: tuple[str, ...] = ("WebSocket", "AsyncioWebSocket")
    is_old: bool = False


_ALL = tuple(BACKENDS)

KINDS: Mapping[str, Kind] = {
    "gunicorn-gthread": Kind(("--threads", "50"), backends=_ALL),
    "gunicorn-gevent": Kind(("-k", "gevent"), "gevent", _ALL),
    "gunicorn-eventlet": Kind(("-k", "eventlet"), "eventlet", is_old=True),
    "pywsgi": Kind(hub="gevent", backends=_ALL),
    "eventlet": Kind(hub="eventlet"),
}


class Elsewhere(FlaskRun):
    """A server that is not uWSGI.

    :param name: one of :data:`KINDS`, or ``werkzeug``.
    :param backend: the name of the extension.
    :param options: more of gunicorn's.
    :param app: one of *folder*; that of the behavioural suite by default.
    """

    def __init__(
        self,
        name: str,
        backend: str = "WebSocket",
        *options: str,
        app: str | None = None,
        env: dict[str, str] | None = None,
        folder: Path = APPS,
    ) -> None:
        self.name, self.kind = name, KINDS.get(name, Kind())
        env = {"BACKEND": backend, "SERVER_HUB": self.kind.hub, **(env or {})}
        if self.kind.is_old:
            folders = [str(OLD_GUNICORN), os.environ.get("PYTHONPATH")]
            env["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
        super().__init__(app or BACKENDS[backend], *options, env=env, folder=folder)

    def _command(self) -> list[str]:
        if self.name == "werkzeug":
            return super()._command()
        if self.name == "waitress":
            run = [sys.executable, "-m", "waitress", "--listen", self.address]
            return [*run, f"{self._app}:app"]
        if not self.name.startswith("gunicorn"):
            return [sys.executable, str(APPS / f"serve_{self.name}.py"), self._app, str(self.port)]
        run = [sys.executable, "-m", "gunicorn", "--bind", self.address, "--graceful-timeout", "8"]
        # Its control socket would be in the home folder.
        logs = ["--access-logfile", "-", "--no-control-socket"]
        return [*run, *logs, *self.kind.options, *self._options, f"{self._app}:app"]

    def interrupt(self) -> None:
        if self.name not in ("eventlet", "pywsgi"):
            super().interrupt()
        else:
            # An interrupt is raised in whichever greenlet runs, and may end that one only.
            self.process.terminate()

    def send(self, number: int) -> None:
        """Send a signal to gunicorn's arbiter, or the server's only process."""
        os.kill(self.process.pid, number)

    def reload(self) -> None:
        self.send(signal.SIGHUP)


#: Each server with each backend that runs on it.
CELLS = [
    *(("werkzeug", backend) for backend in BACKENDS),
    *((name, backend) for name, kind in KINDS.items() for backend in kind.backends),
]
