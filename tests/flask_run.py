"""Starts ``flask run`` for a test, which serves an app on Werkzeug and without uWSGI."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from uwsgi_server import APPS, Server, free_port, wait_for_port

#: What is never in the log of a server that is well.
NOISE = ("Traceback", "Broken pipe", "Exception", "Error")

#: The app of the behavioural suite for each backend.
BACKENDS = {
    "WebSocket": "behaviour",
    "GeventWebSocket": "behaviour",
    "AsyncioWebSocket": "behaviour_asyncio",
}


class FlaskRun(Server):
    """A ``flask run`` that serves an app.

    :param app: what ``--app`` names, in *folder*.
    :param options: those of ``flask run``.
    :param env: environment variables besides those of the test.
    :param folder: where it runs.
    """

    def __init__(
        self,
        app: str,
        *options: str,
        env: dict[str, str] | None = None,
        folder: Path = APPS,
    ) -> None:
        super().__init__(app, *options, master=False, env=env)
        self._folder = folder

    def __enter__(self) -> FlaskRun:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.command = self._command()
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.command,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **self._env},
            cwd=self._folder,
            # A reloader has a child, which is told of Ctrl-C by the terminal too.
            start_new_session=True,
        )
        try:
            wait_for_port(self.port, self.process)
        except BaseException:
            print(self.log)
            self.interrupt()
            raise
        return self

    def _command(self) -> list[str]:
        run = [sys.executable, "-m", "flask", "--app", self._app, "run"]
        return [*run, "--port", str(self.port), *self._options]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            print(self.log)
        if self.process.poll() is None:
            if "COVERAGE_RUN" in os.environ:
                with contextlib.suppress(OSError):
                    self.get("/save-coverage")
            self.interrupt()
            Server._stopping.append(self)

    def interrupt(self) -> None:
        """Do what Ctrl-C does in a terminal."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)

    def noise(self) -> list[str]:
        """Give the lines of the log that tell of trouble."""
        return [line for line in self.log.splitlines() if any(word in line for word in NOISE)]
