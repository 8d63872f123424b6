"""A Redis server of a test's own, which it may hold up, kill and start again."""

from __future__ import annotations

import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from peers import eventually
from uwsgi_server import free_port, wait_for_port


class Redis:
    """A Redis that keeps nothing on the disk, unless its options say so.

    :param folder: of its own.
    :param options: of ``redis-server``, besides those for its port and folder.
    :param sentinel: whether it is one; its options are in its file then.
    """

    def __init__(
        self, folder: Path, *options: str, sentinel: bool = False, port: int | None = None
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._options, self._is_sentinel = list(options), sentinel

    def __enter__(self) -> Redis:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.fail("no redis-server found: apt-get install redis-server")
        own = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        options = [*self._options, "--sentinel"] if self._is_sentinel else own + self._options
        self.process = subprocess.Popen(
            [program, *options], cwd=self.folder, stdout=subprocess.DEVNULL
        )
        wait_for_port(self.port, self.process)
        self.client: Any = redis.Redis(port=self.port)

    def kill(self) -> None:
        """End it, without a chance to say so."""
        self.process.kill()
        self.process.wait(10)

    def keep(self) -> None:
        """Have it find, when it is started again, what it has written to its append-only file."""
        self._options += ["--appendonly", "yes"]

    def stop(self) -> None:
        """Hold it up: it takes connections, and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def channels(self, prefix: str = "pubsub:") -> set[str]:
        """Name those that somebody is subscribed to, without their prefix."""
        return {
            name.decode().removeprefix(prefix) for name in self.client.pubsub_channels(f"{prefix}*")
        }


class Cluster:
    """A Redis Cluster of three masters, each of which has a third of the keys.

    :param folder: of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.nodes: list[Redis] = []

    def __enter__(self) -> Cluster:
        with ExitStack() as stack:
            for number in range(3):
                folder = self._folder / f"{number}"
                folder.mkdir()
                # The bus has a port of its own, which is 10000 more by default.
                options = ["--cluster-enabled", "yes", "--cluster-port", f"{free_port()}"]
                options += ["--cluster-node-timeout", "1000"]
                self.nodes.append(stack.enter_context(Redis(folder, *options)))
            hosts = [f"127.0.0.1:{node.port}" for node in self.nodes]
            self.url = f"redis+cluster://{','.join(hosts)}"
            self._cli("--cluster", "create", *hosts, "--cluster-yes")
            assert self.is_in_state("ok")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def is_in_state(self, state: str) -> bool:
        """Wait until all nodes that run say *state*, ``ok`` or ``fail``."""
        running = [node for node in self.nodes if node.process.poll() is None]

        def agree() -> bool:
            answers = [self._cli("-p", f"{node.port}", "cluster", "info") for node in running]
            return all(f"cluster_state:{state}" in answer for answer in answers)

        return eventually(agree, 30)

    @staticmethod
    def _cli(*arguments: str) -> str:
        program = shutil.which("redis-cli")
        assert program is not None
        run = subprocess.run([program, *arguments], check=True, capture_output=True, timeout=60)
        return run.stdout.decode()
