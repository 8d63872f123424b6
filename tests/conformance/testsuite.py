"""Installs the Autobahn testsuite, which runs on Python 2.7 only, and runs its fuzzing client."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from uwsgi_server import ROOT

BUILD = ROOT / "build" / "autobahn"
VERSION = "25.10.1"

#: Seconds without news from the testsuite after which it hangs; its longest case gives up at 1000.
MOST_SILENCE = 1200

_INSTALLED = BUILD / f"installed-{VERSION}"
_PYTHON = BUILD / "python2.7" / "bin" / "python"
_NO_PYTHON = """There is no Python 2.7, which the Autobahn testsuite needs.
Put python2.7, with pip, in PATH, or install it by pyenv: pyenv install 2.7.18"""
_NOT_INSTALLED = """{output}
The Autobahn testsuite could not be installed; above is what failed. It takes a package index
that is within reach, a C compiler and the headers of Python 2.7, which pyenv installs with it."""


class Failed(Exception):
    """The testsuite can not be installed, or did not run to its end."""


def reports_of(server: str) -> Path:
    return BUILD / "reports" / server


def install() -> None:
    """Install the testsuite in build/autobahn, unless it is there.

    :raises Failed: saying what to do.
    """
    if _INSTALLED.exists():
        return
    python = [str(ROOT / "tests" / "python"), "2.7"]
    if subprocess.run([*python, "-c", ""], capture_output=True).returncode != 0:
        raise Failed(_NO_PYTHON)
    print("Installing the Autobahn testsuite, which takes about a minute", flush=True)
    shutil.rmtree(BUILD, ignore_errors=True)
    tools = BUILD / "virtualenv"
    pip = ("-m", "pip", "--disable-pip-version-check", "install")
    for command, path in (
        ((*python, *pip, "--target", str(tools), "virtualenv"), ""),
        ((*python, "-m", "virtualenv", str(_PYTHON.parent.parent)), str(tools)),
        ((str(_PYTHON), *pip, f"autobahntestsuite=={VERSION}"), ""),
    ):
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            raise Failed(_NOT_INSTALLED.format(output=done.stdout[-2000:]))
    _INSTALLED.touch()


class Run:
    """The testsuite at work on one server, until the end of the ``with`` block.

    :param name: the server's, for the reports.
    :param url: where it is.
    :param cases: patterns of the cases.
    """

    def __init__(self, name: str, url: str, cases: Sequence[str]) -> None:
        self.name, self.reports = name, reports_of(name)
        self._log = self.reports / "log.txt"
        self._spec = {
            "outdir": str(self.reports),
            "servers": [{"agent": name, "url": url}],
            "cases": list(cases),
        }

    def __enter__(self) -> Run:
        shutil.rmtree(self.reports, ignore_errors=True)
        self.reports.mkdir(parents=True)
        spec = self.reports / "spec.json"
        spec.write_text(json.dumps(self._spec))
        with open(self._log, "w") as log:
            # wstest's own exit code says nothing of the cases; -u shows them as they are run.
            self._process = subprocess.Popen(
                [_PYTHON, "-Eu", _PYTHON.with_name("wstest"), "-m", "fuzzingclient", "-s", spec],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.reports,
            )
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()

    def over(self) -> bool:
        """Whether it has ended.

        :raises Failed: when it hangs.
        """
        if self._process.poll() is not None:
            return True
        if time.time() - self._log.stat().st_mtime > MOST_SILENCE:
            raise Failed(f"{self.name}: no case ended for {MOST_SILENCE} seconds: {self._log}")
        return False

    def progress(self) -> tuple[int, int]:
        """Give the number of cases begun, and of all."""
        return self._log.read_text().count("\nRunning test case"), len(self.cases())

    def cases(self) -> list[str]:
        """Give the cases that it set out to run."""
        for line in self._log.read_text().splitlines():
            if line.startswith("Cases = "):
                with contextlib.suppress(SyntaxError):  # Half a line, yet.
                    cases: list[str] = ast.literal_eval(line.removeprefix("Cases = "))
                    return cases
        return []

    def results(self) -> dict[str, dict[str, str]]:
        """Give what it found, by case.

        :raises Failed: where cases are missing.
        """
        index = self.reports / "index.json"
        found: dict[str, dict[str, str]] = {}
        if index.exists():
            found = json.loads(index.read_text()).get(self.name, {})
        missing = [case for case in self.cases() if case not in found]
        if missing or not found:
            names = ", ".join(missing[:10]) or "any case"
            tail = self._log.read_text()[-1000:]
            raise Failed(f"{self.name}: did not run {names}:\n{tail}\nThe whole: {self._log}")
        return found
