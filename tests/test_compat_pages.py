"""Apps of the other packages with another import, as people use their pages in Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from example import Open
from modes import MODES
from playwright.sync_api import Locator, Page, expect
from uwsgi_server import Server

SERVED = [
    (app, mode)
    for app in (
        "flask_sock",
        "flask_sockets",
        "flask_threaded_sockets",
        "flask_uwsgi_websocket",
    )
    for mode in ("threads", "gevent")
]
SERVED.append(("flask_uwsgi_websocket_asyncio", "asyncio-engine"))


@pytest.fixture(params=SERVED, ids="-".join, scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    app, mode = request.param
    # Behind uWSGI's router, as Flask-uWSGI-WebSocket starts its apps.
    with MODES[mode].serve(app=f"compat_pages.{app}", router=True) as running:
        yield running


def open_page(open_window: Open, server: Server, name: str) -> Page:
    page = open_window(f"http://{server.address}/?name={name}")
    for label in ("Echo", "Chat", "Shout"):
        expect(state(page, label)).to_have_text("open")
    return page


def section(page: Page, label: str) -> Locator:
    return page.get_by_role("region", name=label)


def state(page: Page, label: str) -> Locator:
    return section(page, label).get_by_role("status")


def log(page: Page, label: str) -> Locator:
    return section(page, label).get_by_role("listitem")


def send(page: Page, label: str, message: str) -> None:
    section(page, label).get_by_label("Message").fill(message)
    # Not a click, which may miss a button that moves: the logs above it grow.
    section(page, label).get_by_label("Message").press("Enter")


def test_each_socket_of_a_page_answers_it(server: Server, open_window: Open) -> None:
    page = open_page(open_window, server, "Ada")
    messages = ["hello", "é€😀", "<b>bold</b>", "x" * 500]
    for message in messages:
        send(page, "Echo", message)
        send(page, "Shout", message[:10])
    expect(log(page, "Echo")).to_have_text(messages)
    expect(log(page, "Shout")).to_have_text(["HELLO", "É€😀", "<B>BOLD</B", "X" * 10])
    # Its handler returns then.
    send(page, "Echo", "bye")
    expect(state(page, "Echo")).to_have_text("closed with 1000")
    expect(log(page, "Echo")).to_have_count(len(messages))
    send(page, "Shout", "still here")
    expect(log(page, "Shout").last).to_have_text("STILL HERE")
    section(page, "Shout").get_by_role("button", name="Leave").click()
    # The answer to a close without a code.
    expect(state(page, "Shout")).to_have_text("closed with 1005")
    expect(state(page, "Chat")).to_have_text("open")


def test_two_windows_chat_until_one_is_closed(server: Server, open_window: Open) -> None:
    ada = open_page(open_window, server, "Ada")
    expect(log(ada, "Chat")).to_have_text(["Ada is here"])
    grace = open_page(open_window, server, "Grace")
    expect(log(ada, "Chat")).to_have_text(["Ada is here", "Grace is here"])
    send(ada, "Chat", "Good day, é€😀")
    expect(log(grace, "Chat")).to_have_text(["Grace is here", "Ada: Good day, é€😀"])
    send(grace, "Chat", "And to you")
    said = ["Grace is here", "Ada: Good day, é€😀", "Grace: And to you"]
    expect(log(grace, "Chat")).to_have_text(said)
    send(grace, "Echo", "for me alone")
    expect(log(grace, "Echo")).to_have_text(["for me alone"])
    grace.close()
    said = ["Ada is here", *said, "Grace has left"]
    expect(log(ada, "Chat")).to_have_text(said)
    send(ada, "Chat", "Alone")
    expect(log(ada, "Chat")).to_have_text([*said, "Ada: Alone"])
    expect(log(ada, "Echo")).to_have_count(0)
    assert "Traceback" not in server.log
