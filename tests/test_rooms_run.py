"""A short form of "make rooms": many members, and Redis and workers that are killed among them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from uwsgi_server import ROOT


def run(*arguments: str) -> str:
    """Run the program; ends all that it has started, should it not end by itself."""
    folders = [os.environ.get("PYTHONPATH"), str(ROOT / "tests")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "rooms"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        start_new_session=True,
    )
    try:
        told, _ = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        told, _ = process.communicate()
        pytest.fail(f"it does not end: {told}")
    assert process.returncode == 0, told
    return told


# More time to be served again than a machine that is not busy needs.
SHORT = ("--clients", "100", "--rooms", "10", "--rate", "100", "--seconds", "8", "--within", "15")


@pytest.mark.parametrize(("mode", "history"), [("gevent", "yes"), ("asyncio-engine", "no")])
def test_crowd_gets_all_that_it_has_to_while_redis_and_workers_are_killed(
    mode: str, history: str
) -> None:
    told = run("--modes", mode, "--history", history, *SHORT)
    assert "times somebody came back" in told


def test_crowd_that_comes_and_goes_leaves_nothing_behind() -> None:
    churn = ("--churn", "--minutes", "0.2", "--clients", "60", "--rooms", "6", "--rate", "60")
    assert "MiB" in run("--modes", "asyncio-thread", *churn)
