"""Starts a real uWSGI for a test, and says what became of it."""

from __future__ import annotations

import http.client
import os
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

ROOT = Path(__file__).parent.parent
APPS = Path(__file__).parent / "apps"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
    :param env: environment variables besides those of the test.
    """

    def __init__(
        self,
        app: str,
        *options: str,
        kind: str = "uwsgi",
        router: bool = False,
        env: dict[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        command, environment = uwsgi_command(kind)
        listen = ["--http", self.address, "--http-websockets"] if router else []
        self.command = [
            *command,
            *(listen or ["--http-socket", self.address]),
            "--master",
            "--need-app",
            "--disable-logging",
            "--pythonpath",
            str(APPS),
            "--module",
            f"{app}:app",
            *options,
        ]
        self.environment = {**environment, "ADDRESS": self.address, **(env or {})}

    def __enter__(self) -> Server:
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.command, stdout=self._log, stderr=self._log, env=self.environment, cwd=APPS
        )
        try:
            wait_for_port(self.port, self.process)
            self.worker  # noqa: B018
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
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self._kill()
                raise RuntimeError(f"uWSGI did not stop:\n{self.log}") from error
        if kind is not None:
            print(self.log)

    def _kill(self) -> None:
        for pid in [*self.workers(), self.process.pid]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

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
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.worker}/fd"))
