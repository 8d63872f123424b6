"""Servers that several tests use, each started once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from uwsgi_server import Server

import flask_uwsgi_ws.frames


def pytest_sessionstart() -> None:
    wanted = os.environ.get("FRAMES_COMPILED", "1") == "1"
    if wanted != flask_uwsgi_ws.frames.COMPILED:
        raise pytest.UsageError(
            f"frames.COMPILED is {not wanted}: these tests are for the other form; run make test"
        )


def pytest_report_header() -> str:
    form = "compiled" if flask_uwsgi_ws.frames.COMPILED else "uncompiled"
    return f"frames: {form}, {flask_uwsgi_ws.frames.__file__}"


CELLS = {
    "http-socket": Server("behaviour", "--enable-threads", "--sharedarea", "1"),
    "http": Server("behaviour", "--enable-threads", "--sharedarea", "1", router=True),
    "pyuwsgi-http-socket": Server("behaviour", "--sharedarea", "1", kind="pyuwsgi"),
    "pyuwsgi-http": Server("behaviour", "--sharedarea", "1", kind="pyuwsgi", router=True),
    "threads": Server("behaviour", "--threads", "2", "--sharedarea", "1"),
}


@pytest.fixture(params=CELLS, scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The app of the behavioural suite, on each way to run it."""
    with CELLS[request.param] as running:
        yield running


@pytest.fixture(scope="session")
def plain() -> Iterator[Server]:
    """The same app on one way, for what does not depend on it."""
    with Server("behaviour", "--enable-threads", "--sharedarea", "1") as running:
        yield running
