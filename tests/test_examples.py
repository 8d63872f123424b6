"""The examples, each run as its docstring says and used in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, WebSocketRoute, expect, sync_playwright

EXAMPLES = Path(__file__).parent.parent / "examples"

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

expect.set_options(timeout=20_000)


class Example:
    """A running example.

    :param name: of its folder and its script.
    :param log: the file that gets what it prints.
    """

    def __init__(self, name: str, log: Path) -> None:
        self.script = EXAMPLES / name / f"{name}.py"
        self.log = log
        self.port = free_port()
        self.url = f"http://localhost:{self.port}/"
        self.start()

    def start(self) -> None:
        environ = {name: value for name, value in os.environ.items() if "FLASK" not in name}
        with self.log.open("ab") as log:
            # In a group of its own: a killed master leaves its workers behind.
            self.process = subprocess.Popen(
                [sys.executable, str(self.script)],
                env={**environ, "PORT": str(self.port)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while not accepts(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"{self.script} does not start:\n{self.log.read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None or shutil.which(path) is None:
        pytest.fail("no Chromium found: apt-get install chromium, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    example = Example("echo", tmp_path_factory.mktemp("echo") / "log")
    yield example
    example.stop()


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    example = Example("chat", tmp_path_factory.mktemp("chat") / "log")
    yield example
    example.stop()


@pytest.fixture
def chat_alone(tmp_path: Path) -> Iterator[Example]:
    """A chat that a test may kill."""
    example = Example("chat", tmp_path / "log")
    yield example
    example.stop()


Open = Callable[..., Page]


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


def join(page: Page, name: str) -> Page:
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Join").click()
    expect_connected(page)
    return page


def expect_connected(page: Page) -> None:
    expect(page.get_by_text("Connected", exact=True)).to_be_visible()


def composer(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


def say(page: Page, text: str) -> None:
    composer(page).fill(text)
    composer(page).press("Enter")


def said(page: Page, text: str) -> Locator:
    """Find a message that the server has confirmed."""
    pattern = re.compile(re.escape(text))
    return page.locator("#messages").get_by_role("listitem").filter(has_text=pattern)


def people(page: Page) -> Locator:
    return page.locator("#names bdi")


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


def exchange(page: Page, messages: list[Any]) -> list[dict[str, Any]]:
    """Send messages on a WebSocket of their own, each after the answer to the one before.

    A list is sent as a binary message of these bytes, an object as JSON.
    """
    answers: list[dict[str, Any]] = page.evaluate(
        """async (messages) => {
            const socket = new WebSocket(new URL("chat", location.href.replace(/^http/, "ws")));
            await new Promise((resolve) => { socket.onopen = resolve; });
            const answers = [];
            for (const message of messages) {
                const answer = new Promise((resolve, reject) => {
                    socket.onmessage = ({ data }) => resolve(JSON.parse(data));
                    socket.onclose = ({ code }) => reject(new Error(`closed with ${code}`));
                });
                socket.send(Array.isArray(message) ? new Uint8Array(message)
                    : typeof message === "object" ? JSON.stringify(message) : message);
                answers.push(await answer);
            }
            socket.onclose = null;
            socket.close();
            return answers;
        }""",
        messages,
    )
    return answers


def test_echo_sends_text_and_binary_back(echo: Example, open_window: Open) -> None:
    page = open_window(echo.url)
    expect(page.get_by_text("Connected.")).to_be_visible()
    page.get_by_label("Text to send").fill("<b>äöü</b>")
    page.get_by_role("button", name="Send text").click()
    rows = page.locator("#replies tr")
    expect(rows.nth(0).locator("td")).to_have_text(
        ["text", "<b>äöü</b>", re.compile(r"^\d+\.\d ms$")]
    )
    page.get_by_role("button", name="Send 8 random bytes").click()
    eight_bytes = re.compile(r"^[0-9a-f]{2}( [0-9a-f]{2}){7}$")
    expect(rows.nth(0).locator("td")).to_have_text(
        ["binary", eight_bytes, re.compile(r"^\d+\.\d ms$")]
    )
    expect(rows).to_have_count(2)


def test_two_windows_talk_to_each_other(chat: Example, open_window: Open) -> None:
    ada = join(open_window(chat.url), "Ada")
    grace = join(open_window(chat.url), "Grace")
    say(ada, "Is it done?")
    expect(said(grace, "Is it done?").locator(".author")).to_have_text("Ada")
    say(grace, "Since last night.")
    expect(said(ada, "Since last night.")).to_have_count(1)
    expect(said(ada, "Is it done?")).to_have_class(re.compile(r"\bown\b"))
    expect(said(ada, "Since last night.")).not_to_have_class(re.compile(r"\bown\b"))


def test_who_is_here_follows_joining_and_leaving(chat: Example, open_window: Open) -> None:
    ada = join(open_window(chat.url), "Ada")
    expect(people(ada)).to_have_text(["Ada"])
    grace = join(open_window(chat.url), "Grace")
    expect(people(ada)).to_have_text(["Ada", "Grace"])
    expect(people(grace)).to_have_text(["Ada", "Grace"])
    expect(ada.get_by_text("Grace joined")).to_be_visible()
    grace.close()
    expect(people(ada)).to_have_text(["Ada"])
    expect(ada.get_by_text("Grace left")).to_be_visible()


def test_second_person_of_a_name_gets_a_number(chat: Example, open_window: Open) -> None:
    first = join(open_window(chat.url), "edsger")
    second = join(open_window(chat.url), "Edsger")
    expect(people(first)).to_have_text(["edsger", "Edsger 2"])
    expect(second.get_by_text("here you are Edsger 2")).to_be_visible()


def test_others_see_who_is_writing(chat: Example, open_window: Open) -> None:
    ada = join(open_window(chat.url), "Ada")
    grace = join(open_window(chat.url), "Grace")
    composer(ada).press_sequentially("Well")
    expect(grace.get_by_text("Ada is writing…")).to_be_visible()
    composer(ada).press("Enter")
    expect(grace.get_by_text("Ada is writing…")).to_be_hidden()


def test_late_joiner_sees_the_last_100_messages(chat: Example, open_window: Open) -> None:
    page = open_window(chat.url)
    said_before = [
        {"type": "say", "text": f"number {number}.", "key": f"number {number}"}
        for number in range(102)
    ]
    exchange(page, [{"type": "join", "name": "Ada", "session": "a secret"}, *said_before])
    join(page, "Grace")
    expect(page.locator("#messages .message")).to_have_count(100)
    expect(said(page, "number 1.")).to_have_count(0)
    expect(said(page, "number 2.")).to_have_count(1)
    expect(said(page, "number 101.")).to_be_in_viewport()


def test_reload_keeps_the_name_the_draft_and_whose_messages_are_whose(
    chat: Example, open_window: Open
) -> None:
    ada = join(open_window(chat.url), "Ada")
    say(ada, "Before the reload.")
    expect(said(ada, "Before the reload.")).to_have_count(1)
    composer(ada).fill("half a thou")
    ada.reload()
    expect_connected(ada)
    expect(people(ada)).to_have_text(["Ada"])
    expect(composer(ada)).to_have_value("half a thou")
    expect(said(ada, "Before the reload.")).to_have_count(1)
    expect(said(ada, "Before the reload.")).to_have_class(re.compile(r"\bown\b"))


def test_chat_comes_back_by_itself_after_the_server_was_killed(
    chat_alone: Example, open_window: Open
) -> None:
    ada = join(open_window(chat_alone.url), "Ada")
    grace = join(open_window(chat_alone.url), "Grace")
    say(ada, "Before the drop.")
    expect(said(grace, "Before the drop.")).to_have_count(1)
    chat_alone.kill()
    expect(ada.get_by_text("Not connected")).to_be_visible()
    expect(grace.get_by_text("Not connected")).to_be_visible()
    say(ada, "Into the void.")
    expect(ada.get_by_text("waiting for the connection")).to_be_visible()
    composer(grace).fill("half a thou")
    chat_alone.start()
    expect_connected(ada)
    expect_connected(grace)
    expect(said(grace, "Into the void.")).to_have_count(1)
    expect(said(ada, "Into the void.")).to_have_count(1)
    expect(ada.get_by_text("waiting for the connection")).to_have_count(0)
    composer(grace).press("Enter")
    expect(said(ada, "half a thou")).to_have_count(1)
    expect(said(ada, "Before the drop.")).to_have_count(1)
    assert sorted(people(ada).all_inner_texts()) == ["Ada", "Grace"]


def test_page_whose_connection_broke_takes_its_place_and_misses_nothing(
    chat: Example, open_window: Open
) -> None:
    connections: list[WebSocketRoute] = []
    is_broken = False

    def connect(connection: WebSocketRoute) -> None:
        if is_broken:
            connection.close()
        else:
            connection.connect_to_server()
            # The server is not told when the page's side closes.
            connection.on_close(lambda *_: None)
            connections.append(connection)

    ada = open_window(chat.url)
    ada.route_web_socket("**/chat", connect)
    ada.reload()
    join(ada, "Ada")
    grace = join(open_window(chat.url), "Grace")
    say(grace, "Before the tunnel.")
    expect(said(ada, "Before the tunnel.")).to_have_count(1)
    is_broken = True
    connections[0].close()
    expect(ada.get_by_text("Not connected")).to_be_visible()
    say(grace, "In the tunnel.")
    expect(said(grace, "In the tunnel.")).to_have_count(1)
    is_broken = False
    ada.get_by_role("button", name="Try now").click()
    expect_connected(ada)
    say(ada, "After the tunnel.")
    expect(said(grace, "After the tunnel.")).to_have_count(1)
    expect(said(ada, " the tunnel.").locator(".bubble")).to_have_text(
        [re.compile(f"^{word} the tunnel.") for word in ("Before", "In", "After")]
    )
    expect(people(grace)).to_have_text(["Ada", "Grace"])
    expect(grace.get_by_text("Ada left")).to_have_count(0)


def test_html_is_shown_as_text(chat: Example, open_window: Open) -> None:
    markup = "<img src=x onerror=document.title='broken'><b>bold</b>"
    ada = join(open_window(chat.url), "<i>Ada</i>")
    grace = join(open_window(chat.url), "Grace")
    say(ada, markup)
    for page in (ada, grace):
        expect(said(page, markup)).to_be_visible()
        expect(page.locator("#people i, #messages :is(img, b, i)")).to_have_count(0)
        expect(page).to_have_title("Chat")
    expect(people(grace)).to_have_text(["<i>Ada</i>", "Grace"])


def test_message_that_is_too_long_is_kept_and_not_sent(chat: Example, open_window: Open) -> None:
    ada = join(open_window(chat.url), "Ada")
    say(ada, "x" * 1003)
    expect(ada.get_by_text("3 characters too many")).to_be_visible()
    expect(composer(ada)).to_have_value("x" * 1003)
    for _ in range(3):
        composer(ada).press("Backspace")
    composer(ada).press("Enter")
    expect(said(ada, "x" * 1000)).to_have_count(1)
    expect(composer(ada)).to_have_value("")
    expect(ada.get_by_text("The text is too long")).to_have_count(0)


def test_chat_fits_a_phone(chat: Example, open_window: Open) -> None:
    ada = join(open_window(chat.url), "A" * 24)
    phone = open_window(chat.url, viewport={"width": 360, "height": 740}, is_mobile=True)
    assert overhanging(phone, 360) == []
    join(phone, "W" * 24)
    say(ada, "w" * 300)
    expect(said(phone, "w" * 300)).to_be_visible()
    say(phone, "m" * 300)
    expect(said(phone, "m" * 300)).to_be_visible()
    assert overhanging(phone, 360) == []
    phone.get_by_role("button", name="2 here").click()
    expect(phone.get_by_role("heading", name="Who is here")).to_be_visible()
    assert overhanging(phone, 360) == []
    phone.keyboard.press("Escape")
    expect(phone.get_by_role("heading", name="Who is here")).to_be_hidden()


def test_bad_message_gets_an_error_and_costs_nothing_else(chat: Example, open_window: Open) -> None:
    page = join(open_window(chat.url), "Ada")
    bad: list[Any] = [
        "no JSON",
        "[" * 100_000,
        "9" * 10_000,
        list(b'{"type": "ping"}'),
        "null",
        "[]",
        {},
        {"type": ["join"]},
        {"type": "say", "text": "before joining", "key": "1"},
        {"type": "join", "session": "s"},
        {"type": "join", "name": " \u200b ", "session": "s"},
        {"type": "join", "name": "n" * 25, "session": "s"},
        {"type": "join", "name": "Mallory", "session": "s" * 65},
    ]
    bad_inside: list[Any] = [
        {"type": "join", "name": "Mallory", "session": "s"},
        {"type": "say", "text": "t" * 1001, "key": "1"},
        {"type": "say", "text": " ", "key": "1"},
        {"type": "say", "text": 7, "key": "1"},
        {"type": "say", "text": "no key"},
        {"type": "say", "text": "odd key", "key": {"k": 1}},
        "{",
    ]
    welcome = {"type": "join", "name": "Mallory", "session": "s"}
    fine = {"type": "say", "text": "Sorry.", "key": "1"}
    answers = exchange(page, [*bad, welcome, *bad_inside, fine])
    types = [answer["type"] for answer in answers]
    assert types == ["error"] * len(bad) + ["welcome"] + ["error"] * len(bad_inside) + ["message"]
    expect(said(page, "Sorry.")).to_have_count(1)
    expect(people(page)).to_have_text(["Ada"])


def test_message_that_is_sent_again_is_told_once(chat: Example, open_window: Open) -> None:
    page = join(open_window(chat.url), "Ada")
    again = {"type": "say", "text": "Did you get this?", "key": "again"}
    join_request = {"type": "join", "name": "Grace", "session": "a secret"}
    _, first, second = exchange(page, [join_request, again, again])
    assert first == second
    expect(page.get_by_text("Grace left")).to_be_visible()
    expect(said(page, "Did you get this?")).to_have_count(1)
