"""Starts a real uWSGI for a test, and says what became of it."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import ClassVar

ROOT = Path(__file__).parent.parent
APPS = Path(__file__).parent / "apps"


# Of each of the processes that run tests at the same time, and never those that the kernel gives
# to clients: nobody takes a port between its choice and its use.
_FIRST = 10_000 + 2000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ports = itertools.cycle(range(_FIRST, _FIRST + 2000))


def free_port() -> int:
    for port in itertools.islice(_ports, 2000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def wait_for_port(port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}")


def wait_for_uwsgi(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a program that calls ``app.run`` has become uWSGI and listens.

    Before that it listens for a moment, to see that the port is free; who connects then is reset.
    """
    assert isinstance(process.args, list)
    begun_as = b"".join(os.fsencode(argument) + b"\0" for argument in process.args)
    command = Path(f"/proc/{process.pid}/cmdline")
    end = time.monotonic() + 30
    # Empty for a moment, while one program takes the other's place.
    while command.read_bytes() in (b"", begun_as):
        if time.monotonic() > end:
            raise RuntimeError(f"{process.args} does not become uWSGI")
        time.sleep(0.02)
    wait_for_port(port, process)


def uwsgi_command(kind: str) -> tuple[list[str], dict[str, str]]:
    """Give the command of a uWSGI: ours from source, pyuwsgi's wheel, or Debian's."""
    env = dict(os.environ)
    if kind == "uwsgi":
        return [str(Path(sys.executable).parent / "uwsgi"), "--virtualenv", sys.prefix], env
    if kind == "pyuwsgi":
        folder = ROOT / "build" / "pyuwsgi"
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), str(folder)]))
        start = "import pyuwsgi; pyuwsgi.run()"
        return [sys.executable, "-c", start, "--virtualenv", sys.prefix], env
    binary = shutil.which("uwsgi-core", path="/usr/bin")
    if binary is None:
        raise RuntimeError("run: apt-get install uwsgi-core uwsgi-plugin-python3")
    folders = [env.get("PYTHONPATH"), str(ROOT / "tests" / "debian")]
    env["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    env["VENV_PACKAGES"] = sysconfig.get_path("purelib")
    return [binary, "--plugin", "python3"], env


class Server:
    """A uWSGI that serves one of ``tests/apps``.

    :param app: the name of the file there.
    :param options: uWSGI's.
    :param kind: see :func:`uwsgi_command`.
    :param router: whether ``--http`` stands in front (else ``--http-socket``).
    :param master: whether a master process starts workers anew.
    :param env: environment variables besides those of the test.
    """

    _stopping: ClassVar[list[Server]] = []

    def __init__(
        self,
        app: str,
        *options: str,
        kind: str = "uwsgi",
        router: bool = False,
        master: bool = True,
        env: dict[str, str] | None = None,
    ) -> None:
        self._app, self._options, self._kind, self._router = app, options, kind, router
        self._master = ["--master"] if master else []
        self._env = env or {}

    def __enter__(self) -> Server:
        # Chosen now: a port that was free long ago may be a client's by the time it is used.
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        command, environment = uwsgi_command(self._kind)
        listen = ["--http", self.address, "--http-websockets"] if self._router else []
        self.command = [
            *command,
            *(listen or ["--http-socket", self.address]),
            *self._master,
            "--need-app",
            "--disable-logging",
            "--pythonpath",
            str(APPS),
            "--module",
            f"{self._app}:app",
            *self._options,
        ]
        self.environment = {**environment, "ADDRESS": self.address, **self._env}
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.command, stdout=self._log, stderr=self._log, env=self.environment, cwd=APPS
        )
        try:
            wait_for_port(self.port, self.process)
            self.worker  # noqa: B018
            self.settle()
        except BaseException:
            print(self.log)
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            print(self.log)
        # uWSGI takes a second or two over it, which need not be waited for.
        if self.process.poll() is None:
            if "COVERAGE_RUN" in os.environ:
                with contextlib.suppress(OSError):
                    self.get("/save-coverage")
            self.settle()
            self.process.send_signal(signal.SIGINT)
            Server._stopping.append(self)

    def settle(self) -> None:
        """Wait until the master, if there is one, takes signals and knows all its children.

        Its worker may answer before the master has come so far. A signal then is lost; one between
        its fork and its note of the pid does not reach the new worker, for which uWSGI then waits
        without end.
        """
        end = time.monotonic() + 10
        while self._master and time.monotonic() < end:
            # Nothing where the log goes elsewhere.
            known = {int(pid) for pid in re.findall(r"spawned .*pid:? (\d+)", self.log, re.I)}
            if (not known or known >= set(self.workers())) and self._takes_signals():
                return
            time.sleep(0.02)

    def _takes_signals(self) -> bool:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = int(status.split("SigCgt:")[1].split()[0], 16)
        return bool(caught >> (signal.SIGHUP - 1) & 1)

    @classmethod
    def wait_for_the_stopped(cls) -> None:
        """See that all the servers that tests are done with have ended.

        :raises RuntimeError: naming those that have not; they are killed.
        """
        failed = []
        for server in cls._stopping:
            try:
                server.process.wait(15)
            except subprocess.TimeoutExpired:
                failed.append(f"{' '.join(server.command)} did not stop:\n{server.log}")
                server._kill()
        cls._stopping.clear()
        if failed:
            raise RuntimeError("\n".join(failed))

    def _kill(self) -> None:
        for pid in [*self.workers(), self.process.pid]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    @property
    def log(self) -> str:
        # Without a seek, which would move the place where the server writes.
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    @property
    def ws(self) -> str:
        return f"ws://{self.address}"

    def workers(self) -> list[int]:
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return [int(pid) for pid in Path(path).read_text().split()]

    @property
    def worker(self) -> int:
        """The pid of the process that answers requests."""
        return int(self.get("/pid")[1])

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def ends(self) -> list[str]:
        """What handlers told of how they ended."""
        lines: list[str] = json.loads(self.get("/ends")[1])
        return lines

    def left(self) -> dict[str, int]:
        """What the worker holds: descriptors, threads, greenlets, tasks, clients."""
        return {"descriptors": self.descriptors(), **json.loads(self.get("/left")[1])}

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.worker}/fd"))

    def memory(self) -> int:
        """Bytes of memory that the worker has, or had at its most."""
        status = Path(f"/proc/{self.worker}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
