"""Runs an example as its docstring says, and looks at its page in a real browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from playwright.sync_api import Page, TimeoutError, expect
from uwsgi_server import ROOT, free_port, uwsgi_command, wait_for_port, wait_for_uwsgi
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection

EXAMPLES = ROOT / "examples"
CONFIGS = ROOT / "uwsgi-configs"

# Opens windows, see the fixture.
Open = Callable[..., Page]

expect.set_options(timeout=20_000)


class Example:
    """A running example.

    :param name: of its folder, which begins with that of its script.
    :param log: the file that gets what it prints.
    :param config: the file in ``uwsgi-configs`` to run it with; else it runs itself.
    :param kind: the uWSGI to do so, see :func:`uwsgi_server.uwsgi_command`.
    :param env: environment variables besides those of the test.
    """

    # Those that were told to, which need not be waited for one by one.
    _stopping: ClassVar[list[Example]] = []

    def __init__(
        self,
        name: str,
        log: Path,
        config: str | None = None,
        kind: str = "uwsgi",
        env: dict[str, str] | None = None,
    ) -> None:
        program = name.split("-")[0]
        self.log = log
        self.port = free_port()
        self.url = f"http://localhost:{self.port}/"
        self.env = {key: value for key, value in os.environ.items() if "FLASK" not in key}
        self.command = [sys.executable, str(EXAMPLES / name / f"{program}.py")]
        self.runs_itself = config is None
        if config is not None:
            uwsgi, env_of_uwsgi = uwsgi_command(kind)
            address = f"address=localhost:{self.port}"
            stats = f"stats={log.parent / 'stats.sock'}"
            settings = ["--set", address, "--set", stats, "--set", f"example={program}"]
            self.command = [*uwsgi, *settings, "--ini", str(CONFIGS / config)]
            self.env |= {key: value for key, value in env_of_uwsgi.items() if "FLASK" not in key}
        self.env |= {"PORT": str(self.port), **(env or {})}

    def __enter__(self) -> Example:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            Example._stopping.append(self)
        # Shown if the test has failed.
        print(self.printed())
        assert not re.search("Traceback|never retrieved", self.printed())

    def start(self) -> None:
        with self.log.open("ab") as log:
            # In a group of its own: a killed master leaves its workers behind.
            self.process = subprocess.Popen(
                self.command, env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        try:
            (wait_for_uwsgi if self.runs_itself else wait_for_port)(self.port, self.process)
        except RuntimeError as error:
            self.kill()
            pytest.fail(f"{self.command} does not start: {error}\n{self.printed()}")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def worker(self) -> int:
        """Give the pid of its one worker process."""
        return int(re.findall(r"uWSGI worker 1 \((?:new )?pid: (\d+)", self.printed())[-1])

    @classmethod
    def wait_for_the_stopped(cls) -> None:
        """See that all the examples that tests are done with have ended.

        :raises RuntimeError: naming those that have not; they are killed.
        """
        late = []
        for example in cls._stopping:
            try:
                example.process.wait(15)
            except subprocess.TimeoutExpired:
                example.kill()
                late.append(f"{example.command} did not stop:\n{example.printed()}")
        cls._stopping.clear()
        if late:
            raise RuntimeError("\n".join(late))


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def expect_connected(page: Page) -> None:
    # Looks again sooner than expect does.
    page.get_by_text("Connected", exact=True).wait_for()


def try_now(page: Page) -> None:
    # The page may have come back by itself, and then there is no such button any more.
    with suppress(TimeoutError):
        page.get_by_role("button", name="Try now").click(timeout=2000)


def overhanging(page: Page, width: int) -> list[str]:
    """Find what does not fit in a width, and so would make the page scroll sideways."""
    found: list[str] = page.evaluate(
        """(width) => [...document.querySelectorAll(":root, body, body *")]
            .filter((each) => each.checkVisibility())
            .filter((each) => each.getBoundingClientRect().right > width
                || each.matches(":root, body, #log") && each.scrollWidth > width)
            .map((each) => each.cloneNode(false).outerHTML)""",
        width,
    )
    return found


def exchange(page: Page, messages: list[Any], path: str = "chat") -> list[dict[str, Any]]:
    """Send messages on a WebSocket of their own, each after the answer to the one before.

    A list is sent as a binary message of these bytes, an object as JSON; for ``None`` nothing is
    sent, but another answer waited for.
    """
    answers: list[dict[str, Any]] = page.evaluate(
        """async ([messages, path]) => {
            const socket = new WebSocket(new URL(path, location.href.replace(/^http/, "ws")));
            await new Promise((resolve) => { socket.onopen = resolve; });
            const answers = [];
            let wake = () => {};
            socket.onmessage = ({ data }) => { answers.push(JSON.parse(data)); wake(); };
            let wanted = 0;
            for (const message of messages) {
                wanted += 1;
                const answer = new Promise((resolve, reject) => {
                    wake = () => { if (answers.length >= wanted) resolve(); };
                    socket.onclose = ({ code }) => reject(new Error(`closed with ${code}`));
                });
                if (message !== null) {
                    socket.send(Array.isArray(message) ? new Uint8Array(message)
                        : typeof message === "object" ? JSON.stringify(message) : message);
                }
                wake();
                await answer;
            }
            socket.onclose = null;
            socket.close();
            return answers;
        }""",
        [messages, path],
    )
    return answers


def close_code(client: ClientConnection) -> int | None:
    """Read to the end, and give the code it has."""
    with suppress(ConnectionClosedError):
        for _ in client:
            pass
    return client.close_code
