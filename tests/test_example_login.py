"""The example ``login``, as people who have a password use it, and those who have none."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example import Example, Open, close_code, overhanging
from playwright.sync_api import BrowserContext, Locator, Page, expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    """The example for tests that do not mind each other's logins."""
    with Example("login", tmp_path_factory.mktemp("login") / "log") as example:
        yield example


@pytest.fixture
def login(tmp_path: Path) -> Iterator[Example]:
    """The example with nobody logged in, and no notes."""
    with Example("login", tmp_path / "log") as example:
        yield example


PASSWORDS = {"Ada": "lovelace", "Grace": "hopper"}


def log_in(page: Page, name: str, password: str | None = None) -> Page:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password or PASSWORDS[name])
    page.get_by_role("button", name="Log in").click()
    return page


def expect_windows(page: Page, number: int) -> None:
    words = "in this window only" if number == 1 else f"in {number} windows"
    page.get_by_text(f"Connected, {words}", exact=True).wait_for()


def write(page: Page, text: str) -> None:
    page.get_by_label("Note").fill(text)
    page.get_by_role("button", name="Add").click()


def notes(page: Page) -> Locator:
    return page.get_by_role("listitem")


def another_window(page: Page) -> Page:
    """Open a window of the same browser, with the same cookies."""
    context: BrowserContext = page.context
    other = context.new_page()
    other.goto(page.url)
    return other


def expect_login_form(page: Page) -> None:
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def refusal(example: Example, cookie: str = "") -> int:
    """Give the status that refuses a handshake."""
    address = example.url.replace("http", "ws") + "notes"
    headers = {"Cookie": cookie} if cookie else {}
    with pytest.raises(InvalidStatus) as refused, connect(address, additional_headers=headers):
        pass
    return refused.value.response.status_code


def cookie_of(page: Page) -> str:
    (session,) = page.context.cookies()
    return f"{session.get('name')}={session.get('value')}"


def test_socket_knows_whose_it_is(login: Example, open_window: Open) -> None:
    ada = log_in(open_window(login.url), "Ada")
    grace = log_in(open_window(login.url), "Grace")
    expect(ada.get_by_role("heading", name="Notes of Ada")).to_be_visible()
    expect(grace.get_by_role("heading", name="Notes of Grace")).to_be_visible()
    # Another browser of hers.
    ada_too = log_in(open_window(login.url), "Ada")
    expect_windows(ada, 2)
    write(ada, "Ask Charles.")
    write(grace, "Find the moth.")
    expect(notes(ada_too)).to_have_text(["Ask Charles."])
    write(ada_too, "<b>Note G</b>")
    expect(notes(ada)).to_have_text(["<b>Note G</b>", "Ask Charles."])
    expect(notes(grace)).to_have_text(["Find the moth."])
    ada_too.close()
    expect_windows(ada, 1)


def test_nobody_without_a_login_gets_a_page_or_a_socket(shared: Example, open_window: Open) -> None:
    page = open_window(shared.url)
    expect_login_form(page)
    assert page.url.endswith("/login")
    assert refusal(shared) == 401
    assert refusal(shared, "session=made-up") == 401
    # A browser's own socket does not open either.
    opened = page.evaluate(
        """() => new Promise((resolve) => {
            const socket = new WebSocket(new URL("notes", location.href.replace(/^http/, "ws")));
            socket.onopen = () => resolve("opened");
            socket.onclose = ({ code }) => resolve(code);
        })"""
    )
    assert opened == 1006


@pytest.mark.parametrize(("name", "password"), [("Ada", "hopper"), ("Nobody", "lovelace")])
def test_wrong_name_or_password_is_told(
    name: str, password: str, shared: Example, open_window: Open
) -> None:
    page = log_in(open_window(shared.url), name, password)
    expect(page.get_by_role("alert")).to_have_text("There is nobody with that name and password.")
    expect(page.get_by_label("Name")).to_have_value(name)
    assert refusal(shared) == 401


def test_log_out_closes_the_sockets_and_ends_the_sessions_of_the_user(
    login: Example, open_window: Open
) -> None:
    ada = log_in(open_window(login.url), "Ada")
    beside = another_window(ada)
    elsewhere = log_in(open_window(login.url), "Ada")
    grace = log_in(open_window(login.url), "Grace")
    expect_windows(ada, 3)
    write(ada, "A secret.")
    expect(notes(elsewhere)).to_have_count(1)
    cookies = [cookie_of(page) for page in (ada, elsewhere)]
    ada.get_by_role("button", name="Log out").click()
    expect_login_form(ada)
    for page in (beside, elsewhere):
        expect(page.get_by_text("You have been logged out.")).to_be_visible()
        expect(notes(page)).to_have_count(0)
    assert [refusal(login, cookie) for cookie in cookies] == [401, 401]
    elsewhere.reload()
    expect_login_form(elsewhere)
    # Others stay.
    write(grace, "Still here.")
    expect(notes(grace)).to_have_text(["Still here."])
    beside.get_by_role("link", name="Log in").click()
    log_in(beside, "Ada")
    expect_windows(beside, 1)
    expect(notes(beside)).to_have_text(["A secret."])


def test_page_comes_back_by_itself_while_its_session_is_good(
    login: Example, open_window: Open
) -> None:
    page = log_in(open_window(login.url), "Ada")
    expect_windows(page, 1)
    page.evaluate(
        """() => {
            window.states = [];
            new MutationObserver(() => states.push(document.getElementById("page").dataset.state))
                .observe(document.getElementById("page"), { attributes: true });
        }"""
    )
    # Its master, which has what was there when the app was loaded, starts another.
    os.kill(login.worker(), signal.SIGKILL)
    page.wait_for_function("states.includes('lost') && states.at(-1) === 'connected'")
    write(page, "Here again.")
    expect(notes(page)).to_have_text(["Here again."])


def test_page_whose_session_is_over_when_it_comes_back_goes_to_the_login(
    login: Example, open_window: Open
) -> None:
    page = log_in(open_window(login.url), "Ada")
    expect_windows(page, 1)
    login.kill()
    expect(page.get_by_text("Not connected")).to_be_visible()
    login.start()
    expect_login_form(page)


def test_form_of_another_site_logs_nobody_out(shared: Example, open_window: Open) -> None:
    page = log_in(open_window(shared.url), "Ada")
    expect_windows(page, 1)
    (session,) = page.context.cookies()
    assert (session.get("sameSite"), session.get("httpOnly")) == ("Lax", True)
    connection = http.client.HTTPConnection("localhost", shared.port, timeout=20)
    connection.request("POST", "/logout")
    assert connection.getresponse().getheader("Location") == "/login"
    connection.close()
    write(page, "Still here.")
    expect(notes(page)).to_have_text(["Still here."])


def test_notes_are_cut_and_what_is_too_large_ends(login: Example, open_window: Open) -> None:
    page = log_in(open_window(login.url), "Ada")
    expect_windows(page, 1)
    address = login.url.replace("http", "ws") + "notes"
    with connect(address, additional_headers={"Cookie": cookie_of(page)}) as ws:

        def state() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(ws.recv(timeout=20))
            return found

        assert state() == {"name": "Ada", "windows": 2, "notes": []}
        for message in ("", b"bytes", "  "):
            ws.send(message)
            assert state()["notes"] == []
        ws.send("x" * 600)
        assert state()["notes"] == ["x" * 500]
        ws.send("x" * 2001)
        assert close_code(ws) == 1009


def test_login_fits_a_phone(shared: Example, open_window: Open) -> None:
    phone = open_window(shared.url, viewport={"width": 360, "height": 740}, is_mobile=True)
    assert overhanging(phone, 360) == []
    log_in(phone, "Ada")
    write(phone, "w" * 500)
    expect(notes(phone).first).to_have_text("w" * 500)
    assert overhanging(phone, 360) == []
