"""Servers that several tests use, each started once."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import hypothesis
import pytest
from endings import Reloading, serve_all_modes
from example import Example, Open
from modes import BACKENDS, MODES, SHAREDAREA, Mode
from playwright.sync_api import Browser, Page, sync_playwright
from uwsgi_server import Server

import flask_uwsgi_ws.frames

# Before the modules of the tests make settings of their own, which inherit from the profile. No
# example may fail for being slow: that would say more of the machine.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize="CI" in os.environ,
    print_blob=True,
)
hypothesis.settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "smoke: what has to hold on every version of Python")
    config.addinivalue_line(
        "markers", "fronts: the same again behind uWSGI's router, or in pyuwsgi"
    )


def pytest_sessionstart() -> None:
    # Ignored where the tests run in the background of a shell; the servers would ignore it too.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    wanted = os.environ.get("FRAMES_COMPILED", "1") == "1"
    if wanted != flask_uwsgi_ws.frames.COMPILED:
        raise pytest.UsageError(
            f"frames.COMPILED is {not wanted}: these tests are for the other form; run make test"
        )


def pytest_report_header() -> str:
    form = "compiled" if flask_uwsgi_ws.frames.COMPILED else "uncompiled"
    return f"frames: {form}, {flask_uwsgi_ws.frames.__file__}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of uWSGI's log with a test that failed."""
    report = yield
    if report.failed:
        servers = (each for each in item.funcargs.values() if isinstance(each, Server))
        report.sections.extend(("uWSGI's log", server.log[-4000:]) for server in servers)
    return report


@pytest.fixture(scope="session", autouse=True)
def _every_server_stops() -> Iterator[None]:
    yield
    Server.wait_for_the_stopped()
    Example.wait_for_the_stopped()


CELLS = {
    f"{name}-{front}": partial(mode.serve, *SHAREDAREA, router=front == "http")
    for name, mode in MODES.items()
    for front in ("http-socket", "http")
}
# The wheel, which has no SSL: there the handshake is answered by ourselves.
for name, front in (
    ("threads", "http-socket"),
    ("threads", "http"),
    ("gevent", "http"),
    ("asyncio-thread", "http-socket"),
):
    CELLS[f"pyuwsgi-{name}-{front}"] = partial(
        MODES[name].serve, *SHAREDAREA, kind="pyuwsgi", router=front == "http"
    )

PAIRS = {
    f"{name}-{front}": partial(mode.serve, "--processes", "2", router=front == "http")
    for name, mode in MODES.items()
    for front in ("http-socket", "http")
}


SMOKE = [f"{name}-http-socket" for name in BACKENDS]


FRONTS = [each for each in CELLS if each.startswith("pyuwsgi") or each.endswith("-http")]


def cells(names: Iterable[str]) -> list[Any]:
    """Mark what is enough for another Python, and what is the same again behind other fronts."""
    return [
        pytest.param(
            each,
            marks=[pytest.mark.smoke] * (each in SMOKE) + [pytest.mark.fronts] * (each in FRONTS),
        )
        for each in names
    ]


@pytest.fixture(params=cells(CELLS), scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The app of the behavioural suite, on each way to run it."""
    with CELLS[request.param]() as running:
        yield running


@pytest.fixture(params=cells(PAIRS), scope="session")
def pair(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The same app in two worker processes."""
    with PAIRS[request.param]() as running:
        yield running


@pytest.fixture(params=BACKENDS, scope="session")
def mode(request: pytest.FixtureRequest) -> Mode:
    """Each backend on one way to run it, for what does not depend on that."""
    return MODES[request.param]


@pytest.fixture(scope="session")
def plain(mode: Mode) -> Iterator[Server]:
    """The same app, for each backend."""
    with mode.serve(*SHAREDAREA) as running:
        yield running


@pytest.fixture(scope="session")
def limited(mode: Mode) -> Iterator[Server]:
    """The same app with little patience and room."""
    env = {"SEND_TIMEOUT": "0.5", "MAX_QUEUE": "16", "MAX_SIZE": "100000"}
    with mode.serve(env=env) as running:
        yield running


@pytest.fixture(scope="session")
def pinging(mode: Mode) -> Iterator[Server]:
    """The same app with Pings after a short silence."""
    with mode.serve(env={"PING_INTERVAL": "0.3", "PING_TIMEOUT": "2"}) as running:
        yield running


@pytest.fixture(scope="session")
def patient(mode: Mode) -> Iterator[Server]:
    """The same app with time for its peers' answers to a close."""
    with mode.serve(env={"CLOSE_TIMEOUT": "60"}) as running:
        yield running


TOUCHES = ("reload", "workers-reload", "chain-reload")


@pytest.fixture(scope="session")
def reloading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Reloading]]:
    """A server in each mode that can be told to reload in all ways."""
    folders = {mode: tmp_path_factory.mktemp(mode) for mode in MODES}

    def options(mode: str) -> tuple[str, ...]:
        files = {name: folders[mode] / name for name in TOUCHES}
        for path in files.values():
            path.touch()
        touches = [(f"--touch-{name}", str(path)) for name, path in files.items()]
        return ("--harakiri", "6", *itertools.chain(*touches))

    with ExitStack() as stack:
        servers = serve_all_modes(stack, options, WRITE_LIMIT="10000000")
        yield {mode: Reloading(server, folders[mode]) for mode, server in servers.items()}


CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; not for the whole session, since it has an event loop in the tests' thread."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None or shutil.which(path) is None:
        pytest.fail("no Chromium found: apt-get install chromium, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_window(browser: Browser) -> Iterator[Open]:
    """Opens windows of people who share nothing, and sees that no script fails in them."""
    contexts = []
    errors: list[str] = []

    def open_window(url: str, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        return page

    yield open_window
    for context in contexts:
        context.close()
    assert not errors
