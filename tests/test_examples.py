"""The examples, each run as its docstring says and used in a real browser."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from example import (
    EXAMPLES,
    Example,
    Open,
    exchange,
    expect_connected,
    overhanging,
    try_now,
    wait_until,
)
from playwright.sync_api import Locator, Page, WebSocketRoute, expect
from redis_server import Redis
from uwsgi_server import free_port
from websockets.sync.client import connect

# By the ends of their folders' names.
BACKENDS = {"threads": "", "gevent": "-gevent", "asyncio": "-asyncio"}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def echo(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with Example(f"echo{BACKENDS[backend]}", tmp_path_factory.mktemp("echo") / "log") as example:
        yield example


@pytest.fixture(scope="module")
def chat(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with Example(f"chat{BACKENDS[backend]}", tmp_path_factory.mktemp("chat") / "log") as example:
        yield example


@pytest.fixture(scope="module")
def chat_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    """The chat for what the page and the room do alone, and so the same with each backend."""
    with Example("chat", tmp_path_factory.mktemp("chat") / "log") as example:
        yield example


@pytest.fixture
def chat_alone(backend: str, tmp_path: Path) -> Iterator[Example]:
    """A chat that a test may kill."""
    with Example(f"chat{BACKENDS[backend]}", tmp_path / "log") as example:
        yield example


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def chat_redis(tmp_path: Path) -> Iterator[Redis]:
    """One whose rooms have no history yet."""
    with Redis(tmp_path) as server:
        yield server


@pytest.fixture
def chat_over_redis(backend: str, chat_redis: Redis, tmp_path: Path) -> Iterator[Example]:
    """The chat in four worker processes."""
    env = {"REDIS_URL": chat_redis.url}
    with Example(f"chat{BACKENDS[backend]}", tmp_path / "log", env=env) as example:
        yield example


@pytest.fixture
def pubsub(redis_server: Redis, tmp_path: Path) -> Iterator[Example]:
    """The channels, in two worker processes."""
    env = {"REDIS_URL": redis_server.url}
    with Example("pubsub-asyncio", tmp_path / "log", env=env) as example:
        yield example


# A message that no history has, so that who joins gets none.
FUTURE = f"{10**18}-0"


def join(page: Page, name: str) -> Page:
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Your name").press("Enter")
    expect_connected(page)
    return page


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


def expect_echo(page: Page) -> None:
    expect_connected(page)
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


def test_echo_sends_text_and_binary_back(echo: Example, open_window: Open) -> None:
    page = open_window(echo.url)
    expect_echo(page)
    expect(page.locator("#replies tr")).to_have_count(2)


def test_echo_comes_back_by_itself_after_the_server_was_killed(
    tmp_path: Path, open_window: Open
) -> None:
    with Example("echo", tmp_path / "log") as echo:
        page = open_window(echo.url)
        expect_echo(page)
        echo.kill()
        expect(page.get_by_text("Not connected")).to_be_visible()
        expect(page.get_by_role("button", name="Send text")).to_be_disabled()
        echo.start()
        expect_echo(page)
        expect(page.locator("#replies tr")).to_have_count(4)


def test_echo_fits_a_phone(echo: Example, open_window: Open) -> None:
    phone = open_window(echo.url, viewport={"width": 360, "height": 740}, is_mobile=True)
    expect_connected(phone)
    phone.get_by_label("Text to send").fill("w" * 300)
    phone.get_by_role("button", name="Send text").click()
    expect(phone.get_by_text("w" * 300)).to_be_visible()
    assert overhanging(phone, 360) == []


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


def test_second_person_of_a_name_gets_a_number(chat_page: Example, open_window: Open) -> None:
    first = join(open_window(chat_page.url), "edsger")
    second = join(open_window(chat_page.url), "Edsger")
    expect(people(first)).to_have_text(["edsger", "Edsger 2"])
    expect(second.get_by_text("here you are Edsger 2")).to_be_visible()


def test_others_see_who_is_writing(chat_page: Example, open_window: Open) -> None:
    ada = join(open_window(chat_page.url), "Ada")
    grace = join(open_window(chat_page.url), "Grace")
    composer(ada).press_sequentially("Well")
    expect(grace.get_by_text("Ada is writing…")).to_be_visible()
    assert not ada.get_by_text("Ada is writing…").is_visible()
    composer(ada).press("Enter")
    expect(grace.get_by_text("Ada is writing…")).to_be_hidden()


def test_late_joiner_sees_the_last_100_messages(chat_page: Example, open_window: Open) -> None:
    page = open_window(chat_page.url)
    said_before = [
        {"type": "say", "text": f"number {number}.", "key": f"number {number}"}
        for number in range(102)
    ]
    ada = {"type": "join", "name": "Ada", "session": "a secret", "since": FUTURE}
    exchange(page, [ada, *said_before])
    # What matters at its moment only takes no place there.
    with connect(f"ws://localhost:{chat_page.port}/chat", proxy=None) as other:
        for request in (ada, *[{"type": "typing"}] * 150, {"type": "ping"}):
            other.send(json.dumps(request))
        while json.loads(other.recv(timeout=10)) != {"type": "pong"}:
            pass
    join(page, "Grace")
    expect(page.locator("#messages .message")).to_have_count(100)
    expect(said(page, "number 1.")).to_have_count(0)
    expect(said(page, "number 2.")).to_have_count(1)
    expect(said(page, "number 101.")).to_be_in_viewport()


def test_reload_keeps_the_name_the_draft_and_whose_messages_are_whose(
    chat_page: Example, open_window: Open
) -> None:
    ada = join(open_window(chat_page.url), "Ada")
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


class Line:
    """The way of a chat's page to its server, which can be cut."""

    def __init__(self, page: Page) -> None:
        self._connections: list[WebSocketRoute] = []
        self._is_cut = False
        page.route_web_socket("**/chat", self._connect)
        page.reload()

    def _connect(self, connection: WebSocketRoute) -> None:
        if self._is_cut:
            connection.close(code=1012)
            return
        connection.connect_to_server()
        # The server is not told when the page's side closes.
        connection.on_close(lambda *_: None)
        self._connections.append(connection)

    def cut(self) -> None:
        self._is_cut = True
        self._connections[-1].close(code=1012)

    def mend(self) -> None:
        self._is_cut = False


def test_page_whose_connection_broke_takes_its_place_and_misses_nothing(
    chat: Example, open_window: Open
) -> None:
    ada = open_window(chat.url)
    line = Line(ada)
    join(ada, "Ada")
    grace = join(open_window(chat.url), "Grace")
    say(grace, "Before the tunnel.")
    expect(said(ada, "Before the tunnel.")).to_have_count(1)
    line.cut()
    expect(ada.get_by_text("Not connected")).to_be_visible()
    say(grace, "In the tunnel.")
    expect(said(grace, "In the tunnel.")).to_have_count(1)
    line.mend()
    try_now(ada)
    expect_connected(ada)
    say(ada, "After the tunnel.")
    expect(said(grace, "After the tunnel.")).to_have_count(1)
    expect(said(ada, " the tunnel.").locator(".bubble")).to_have_text(
        [re.compile(f"^{word} the tunnel.") for word in ("Before", "In", "After")]
    )
    expect(people(grace)).to_have_text(["Ada", "Grace"])
    expect(grace.get_by_text("Ada left")).to_have_count(0)
    expect(ada.get_by_text("may be missing")).to_have_count(0)


def test_page_that_has_missed_more_than_the_history_says_so(
    chat_page: Example, open_window: Open
) -> None:
    ada = open_window(chat_page.url)
    line = Line(ada)
    join(ada, "Ada")
    say(ada, "The last that I know.")
    expect(said(ada, "The last that I know.")).to_have_count(1)
    line.cut()
    expect(ada.get_by_text("Not connected")).to_be_visible()
    other = open_window(chat_page.url)
    grace = {"type": "join", "name": "Grace", "session": "another", "since": FUTURE}
    told = [
        {"type": "say", "text": f"then {number}.", "key": f"then {number}"} for number in range(101)
    ]
    exchange(other, [grace, *told])
    line.mend()
    try_now(ada)
    expect_connected(ada)
    last_known = ada.locator("#messages > li", has_text="The last that I know.")
    expect(last_known.locator("+ li")).to_have_text("Some messages in between may be missing.")
    expect(said(ada, "then 0.")).to_have_count(0)
    expect(said(ada, "then 100.")).to_have_count(1)


# Keeps what the pages say of their connections, however short it is to be seen.
KEEP_STATES = """() => {
    window.states = [];
    const state = document.querySelector("[role=status]");
    new MutationObserver(() => states.push(state.textContent)).observe(state, { childList: true });
}"""


def test_pages_come_back_by_themselves_after_a_reload(
    echo: Example, chat: Example, open_window: Open
) -> None:
    echo_page = open_window(echo.url)
    expect_echo(echo_page)
    ada = join(open_window(chat.url), "Ada")
    for page in (echo_page, ada):
        page.evaluate(KEEP_STATES)
    before = chat.worker()
    for example in (echo, chat):
        os.kill(example.worker(), signal.SIGHUP)
    ada.wait_for_function("states.length > 0")
    say(ada, "Meanwhile.")
    for page in (echo_page, ada):
        page.wait_for_function("states.at(-1) === 'Connected'")
        assert "Not connected" in page.evaluate("states[0]")
    wait_until(lambda: chat.worker() != before)
    expect_echo(echo_page)
    expect(said(ada, "Meanwhile.")).to_have_count(1)


# Counts attempts and their ends, and takes the chance out of what comes between.
COUNT_ATTEMPTS = """
    Math.random = () => 1;
    window.attempts = window.ends = 0;
    window.WebSocket = class extends WebSocket {
        constructor(address) {
            super(address);
            attempts += 1;
            this.addEventListener("close", () => { ends += 1; });
        }
    };
"""


def test_page_tries_again_more_and_more_rarely(tmp_path: Path, open_window: Open) -> None:
    with Example("echo", tmp_path / "log") as echo:
        page = open_window("about:blank")
        page.clock.install(time=datetime.now())
        page.add_init_script(COUNT_ATTEMPTS)
        page.goto(echo.url)
        expect_connected(page)
        # From here on the page's time goes on when it is told to.
        page.clock.pause_at(datetime.now() + timedelta(hours=1))
        echo.kill()
        for number, delay in enumerate((0.5, 1, 2, 4, 8, 10, 10), 1):
            wait_until(lambda: page.evaluate("ends") == number)  # noqa: B023
            page.clock.run_for(int(delay * 1000) - 1)
            assert page.evaluate("attempts") == number
            page.clock.run_for(1)
            assert page.evaluate("attempts") == number + 1
        wait_until(lambda: page.evaluate("ends") == 8)
        echo.start()
        page.clock.run_for(10_000)
        expect_connected(page)
        # Once that has lasted, the next outage is a new one.
        page.clock.run_for(3_000)
        echo.kill()
        wait_until(lambda: page.evaluate("ends") == 9)
        page.clock.run_for(500)
        assert page.evaluate("attempts") == 10


@pytest.mark.parametrize("code", [1000, 1008, 3000])
def test_page_that_is_sent_away_does_not_come_back(
    code: int, chat_page: Example, open_window: Open
) -> None:
    page = open_window("about:blank")
    page.clock.install()
    page.route_web_socket("**/chat", lambda socket: socket.close(code=code, reason="log in first"))
    page.add_init_script(COUNT_ATTEMPTS)
    page.goto(chat_page.url)
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Your name").press("Enter")
    expect(page.get_by_text("The server has ended the connection: log in first.")).to_be_visible()
    say(page, "Kept.")
    expect(page.get_by_text("waiting for the connection")).to_be_visible()
    page.clock.run_for(60_000)
    assert page.evaluate("attempts") == 1
    page.get_by_role("button", name="Try now").click()
    assert page.evaluate("attempts") == 2


def test_html_is_shown_as_text(chat_page: Example, open_window: Open) -> None:
    markup = "<img src=x onerror=document.title='broken'><b>bold</b>"
    ada = join(open_window(chat_page.url), "<i>Ada</i>")
    grace = join(open_window(chat_page.url), "Grace")
    say(ada, markup)
    for page in (ada, grace):
        expect(said(page, markup)).to_be_visible()
        expect(page.locator("#people i, #messages :is(img, b, i)")).to_have_count(0)
        expect(page).to_have_title("Chat")
    expect(people(grace)).to_have_text(["<i>Ada</i>", "Grace"])


def test_message_that_is_too_long_is_kept_and_not_sent(
    chat_page: Example, open_window: Open
) -> None:
    ada = join(open_window(chat_page.url), "Ada")
    say(ada, "x" * 1003)
    expect(ada.get_by_text("3 characters too many")).to_be_visible()
    expect(composer(ada)).to_have_value("x" * 1003)
    for _ in range(3):
        composer(ada).press("Backspace")
    composer(ada).press("Enter")
    expect(said(ada, "x" * 1000)).to_have_count(1)
    expect(composer(ada)).to_have_value("")
    expect(ada.get_by_text("The text is too long")).to_have_count(0)


def test_chat_fits_a_phone(chat_page: Example, open_window: Open) -> None:
    ada = join(open_window(chat_page.url), "A" * 24)
    phone = open_window(chat_page.url, viewport={"width": 360, "height": 740}, is_mobile=True)
    assert overhanging(phone, 360) == []
    phone.get_by_label("Your name").fill("W" * 24)
    phone.get_by_role("button", name="Join").click()
    expect_connected(phone)
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
        {"type": "join", "name": "Mallory", "session": "s", "since": "yesterday"},
        {"type": "join", "name": "Mallory", "session": "s", "since": 7},
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
    welcome = {"type": "join", "name": "Mallory", "session": "s", "since": FUTURE}
    fine = {"type": "say", "text": "Sorry.", "key": "1"}
    answers = exchange(page, [*bad, welcome, *bad_inside, fine])
    types = [answer["type"] for answer in answers]
    assert types == ["error"] * len(bad) + ["welcome"] + ["error"] * len(bad_inside) + ["message"]
    expect(said(page, "Sorry.")).to_have_count(1)
    expect(people(page)).to_have_text(["Ada"])


def test_message_that_is_sent_again_is_told_once(chat_page: Example, open_window: Open) -> None:
    page = join(open_window(chat_page.url), "Ada")
    again = {"type": "say", "text": "Did you get this?", "key": "again"}
    join_request = {"type": "join", "name": "Grace", "session": "a secret", "since": FUTURE}
    _, first, second = exchange(page, [join_request, again, again])
    assert first["key"] == second["key"]
    expect(page.get_by_text("Grace left")).to_be_visible()
    expect(said(page, "Did you get this?")).to_have_count(1)
    late = join(open_window(chat_page.url), "Edsger")
    expect(said(late, "Did you get this?")).to_have_count(1)


def test_who_comes_while_another_is_told_who_is_there_is_told_of_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / "chat"))
    websocket = importlib.import_module("chat").websocket
    presence, looks = websocket.presence, itertools.count(1)

    def looked(room: str) -> Any:
        found = presence(room)
        if next(looks) == 2:
            # Ada has joined and looked who is there, and has not been told.
            grace.send_json({"type": "join", "name": "Grace", "session": "g", "since": FUTURE})
            assert grace.receive_json()["people"] == ["Ada", "Grace"]
            grace.send_json({"type": "ping"})
            assert grace.receive_json() == {"type": "pong"}
        return found

    monkeypatch.setattr(websocket, "presence", looked)
    client = websocket.test_client()
    with client.connect("/chat") as ada, client.connect("/chat") as grace:
        ada.send_json({"type": "join", "name": "Ada", "session": "a", "since": FUTURE})
        events = [ada.receive_json() for _ in range(3)]
        told = [(event["type"], event["people"]) for event in events]
        both = ["Ada", "Grace"]
        assert told == [("joined", both), ("welcome", ["Ada"]), ("people", both)]


def test_windows_of_different_workers_chat(chat_over_redis: Example, open_window: Open) -> None:
    def workers() -> list[int]:
        spawned = r"spawned uWSGI worker \d \(pid: (\d+)"
        return [int(pid) for pid in re.findall(spawned, chat_over_redis.printed())]

    wait_until(lambda: len(workers()) == 4)
    first, *rest = workers()
    with ExitStack() as stack:
        for pid in rest:
            stack.enter_context(asleep(pid))
        ada = join(open_window(chat_over_redis.url), "Ada")
    with asleep(first):
        grace = join(open_window(chat_over_redis.url), "ada")
    for page in (ada, grace):
        expect(people(page)).to_have_text(["Ada", "ada 2"])
    composer(ada).press_sequentially("Well")
    expect(grace.get_by_text("Ada is writing…")).to_be_visible()
    assert not ada.get_by_text("Ada is writing…").is_visible()
    composer(ada).press("Enter")
    expect(said(grace, "Well")).to_have_count(1)
    say(grace, "What?")
    expect(said(ada, "What?")).to_have_count(1)
    late = join(open_window(chat_over_redis.url), "Late")
    expect(said(late, "Well")).to_have_count(1)
    late.close()
    for page in (ada, grace):
        expect(page.get_by_text("Late left")).to_be_visible()
        expect(people(page)).to_have_text(["Ada", "ada 2"])


def test_chat_whose_redis_is_killed_keeps_what_was_not_sent(
    chat_over_redis: Example, chat_redis: Redis, open_window: Open
) -> None:
    ada = join(open_window(chat_over_redis.url), "Ada")
    chat_redis.kill()
    say(ada, "Is anybody there?")
    expect(ada.get_by_text("This was not sent.")).to_be_visible()
    expect(composer(ada)).to_have_value("Is anybody there?")
    chat_redis.start()
    ada.reload()
    expect_connected(ada)
    expect(composer(ada)).to_have_value("Is anybody there?")
    composer(ada).press("Enter")
    expect(said(ada, "Is anybody there?")).to_have_count(1)


def test_chat_leaves_no_thread_behind(chat_page: Example, open_window: Open) -> None:
    page = open_window(chat_page.url)
    master = chat_page.process.pid
    workers = Path(f"/proc/{master}/task/{master}/children").read_text().split()

    def threads() -> int:
        return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in workers)

    idle = threads()
    for _ in range(5):
        exchange(page, [{"type": "ping"}])
    # The package has one of its own from the first connection on.
    wait_until(lambda: threads() <= idle + 1)


@contextmanager
def asleep(pid: int) -> Iterator[None]:
    """Keep a process from doing anything, so that another one has to."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def worker_of(page: Page) -> int:
    """Give the worker process that a window with channels is connected to."""
    state = page.get_by_text("Connected to worker process")
    state.wait_for()
    return int(state.inner_text().split()[-1])


def listen(page: Page, channel: str) -> None:
    page.get_by_label("Channel to listen to").fill(channel)
    page.get_by_role("button", name="Listen", exact=True).click()


def publish(page: Page, channel: str, text: str) -> None:
    page.get_by_label("Publish on").fill(channel)
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Publish").click()


def heard(page: Page) -> Locator:
    return page.locator("#messages .words")


def test_windows_of_two_workers_hear_each_other(
    pubsub: Example, redis_server: Redis, open_window: Open
) -> None:
    first = open_window(pubsub.url)
    with asleep(worker_of(first)):
        second = open_window(pubsub.url)
        assert worker_of(second) != worker_of(first)
    listen(first, "sport")
    wait_until(lambda: redis_server.channels("pubsub:room:") == {"news", "sport"})
    publish(first, "news", "<b>Rain</b>")
    expect(heard(second)).to_have_text(["<b>Rain</b>"])
    publish(second, "sport", "Two to one")
    expect(second.get_by_text("to which this window does not listen")).to_be_visible()
    publish(second, "news", "Sunshine")
    expect(heard(first)).to_have_text(["<b>Rain</b>", "Two to one", "Sunshine"])
    expect(heard(second)).to_have_text(["<b>Rain</b>", "Sunshine"])

    # The connection to Redis is not that of the window that came first.
    with asleep(worker_of(second)):
        third = open_window(pubsub.url)
        assert worker_of(third) == worker_of(first)
    first.close()
    wait_until(lambda: redis_server.channels("pubsub:room:") == {"news"})
    publish(second, "news", "Snow")
    expect(heard(third)).to_have_text(["Snow"])


def test_worker_has_one_subscription_connection_for_what_its_windows_listen_to(
    pubsub: Example, redis_server: Redis, open_window: Open
) -> None:
    windows = [open_window(pubsub.url) for _ in range(3)]
    for number, window in enumerate(windows):
        worker_of(window)
        listen(window, f"channel {number}")
    wait_until(
        lambda: (
            redis_server.channels("pubsub:room:") == {"news", "channel 0", "channel 1", "channel 2"}
        )
    )
    workers = {worker_of(window) for window in windows}
    # Those of an example that stops may still be there.
    wait_until(lambda: len(redis_server.client.client_list(_type="pubsub")) == len(workers))
    windows[0].get_by_role("button", name="Do not listen to channel 0").click()
    wait_until(lambda: redis_server.channels("pubsub:room:") == {"news", "channel 1", "channel 2"})
    windows[0].get_by_role("button", name="Do not listen to news").click()
    windows[1].close()
    wait_until(lambda: redis_server.channels("pubsub:room:") == {"news", "channel 2"})
    windows[2].close()
    wait_until(lambda: redis_server.channels("pubsub:room:") == set())


def publish_when_redis_is_back(page: Page) -> None:
    """Publish what was refused, as soon as the server has Redis again."""
    published = page.get_by_text(re.compile("^Published on"))
    while not published.is_visible():
        page.get_by_role("button", name="Publish").click()
        expect(published.or_(page.get_by_text("Not published:"))).to_be_visible()


def test_redis_that_is_killed_and_comes_back(
    pubsub: Example, redis_server: Redis, open_window: Open
) -> None:
    first = open_window(pubsub.url)
    with asleep(worker_of(first)):
        second = open_window(pubsub.url)
        workers = {worker_of(first), worker_of(second)}
    assert len(workers) == 2
    redis_server.kill()
    publish(first, "news", "Is anybody there?")
    expect(first.get_by_text("Not published: Redis is not there.")).to_be_visible()
    expect(first.get_by_label("Message", exact=True)).to_have_value("Is anybody there?")
    listen(second, "sport")
    redis_server.start()
    wait_until(lambda: redis_server.channels("pubsub:room:") == {"news", "sport"})
    subscribers = redis_server.client.pubsub_numsub
    wait_until(lambda: subscribers("pubsub:room:news") == [(b"pubsub:room:news", 2)])
    publish_when_redis_is_back(first)
    expect(heard(second)).to_have_text(["Is anybody there?"])
    expect(first.get_by_label("Message", exact=True)).to_have_value("")
    assert {worker_of(first), worker_of(second)} == workers
    assert pubsub.printed().count("Redis is lost") == 2
    wait_until(lambda: pubsub.printed().count("Redis is back") == 2)


def test_command_publishes(pubsub: Example, redis_server: Redis, open_window: Open) -> None:
    page = open_window(pubsub.url)
    worker_of(page)
    wait_until(lambda: redis_server.channels("pubsub:room:") == {"news"})
    script = pubsub.command[-1]
    command = [sys.executable, "-m", "flask", "--app", script, "publish", "news", "Hello."]
    subprocess.run(command, env=pubsub.env, check=True, timeout=30)
    expect(heard(page)).to_have_text(["Hello."])


def test_channels_come_back_after_the_server_was_killed(
    pubsub: Example, redis_server: Redis, open_window: Open
) -> None:
    page = open_window(pubsub.url)
    listen(page, "sport")
    worker_of(page)
    pubsub.kill()
    expect(page.get_by_text("Connection lost.")).to_be_visible()
    expect(page.get_by_role("button", name="Publish")).to_be_disabled()
    pubsub.start()
    try_now(page)
    worker_of(page)
    wait_until(lambda: redis_server.channels("pubsub:room:") == {"news", "sport"})
    publish(page, "sport", "We are back")
    expect(heard(page)).to_have_text(["We are back"])


def test_channels_fit_a_phone(pubsub: Example, open_window: Open) -> None:
    phone = open_window(pubsub.url, viewport={"width": 360, "height": 740}, is_mobile=True)
    worker_of(phone)
    listen(phone, "w" * 40)
    publish(phone, "w" * 40, "m" * 300)
    expect(heard(phone)).to_have_text(["m" * 300])
    assert overhanging(phone, 360) == []


def test_bad_message_to_the_channels_gets_an_error(pubsub: Example, open_window: Open) -> None:
    page = open_window(pubsub.url)
    bad: list[Any] = [
        "no JSON",
        "[" * 100_000,
        list(b"\xff"),
        "null",
        {"type": "subscribe"},
        {"type": "subscribe", "channel": 7},
        {"type": "subscribe", "channel": ""},
        {"type": "subscribe", "channel": "c" * 41},
        {"type": "subscribe", "channel": "half of a pair: \ud800"},
        {"type": "unsubscribe", "channel": ""},
        {"type": "publish", "channel": "news", "text": ""},
        {"type": "publish", "channel": "news", "text": "t" * 1001},
    ]
    many = [{"type": "subscribe", "channel": f"{number}"} for number in range(21)]
    fine = [
        {"type": "unsubscribe", "channel": "never heard of"},
        {"type": "publish", "channel": "news", "text": "half of a pair: \ud800"},
        {"type": "ping"},
    ]
    # The welcome comes first, and counts as the answer to the first of these.
    welcome, *answers = exchange(page, [{"type": "ping"}, *bad, *many, *fine], "pubsub")
    types = [answer["type"] for answer in answers]
    assert welcome["type"] == "welcome"
    assert types == [
        "pong",
        *["error"] * len(bad),
        *["subscribed"] * 20,
        "error",
        "unsubscribed",
        "published",
    ]


def test_channels_without_redis_end_with_one_line(tmp_path: Path) -> None:
    env = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    example = Example("pubsub-asyncio", tmp_path / "log", env=env)
    ended = subprocess.run(
        example.command, env=example.env, capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 1
    assert re.fullmatch(r"no Redis: .*REDIS_URL.*\n", ended.stderr)


@pytest.mark.parametrize(
    ("config", "name", "kind"),
    [
        ("threads.ini", "chat", "uwsgi"),
        ("gevent.ini", "echo", "uwsgi"),
        ("gevent.ini", "chat", "uwsgi"),
        ("asyncio.ini", "echo", "uwsgi"),
        ("asyncio.ini", "chat", "uwsgi"),
        # Without uWSGI's asyncio engine.
        ("asyncio.ini", "chat", "pyuwsgi"),
    ],
)
def test_config_runs_the_examples(
    config: str, name: str, kind: str, tmp_path: Path, open_window: Open
) -> None:
    with Example(name, tmp_path / "log", config=config, kind=kind) as example:
        page = open_window(example.url)
        if name == "echo":
            expect_echo(page)
        else:
            say(join(page, "Ada"), "Hello.")
            expect(said(page, "Hello.")).to_have_count(1)
    assert "WARNING in" not in example.printed()


def test_config_runs_the_channels_and_waits_for_redis(tmp_path: Path, open_window: Open) -> None:
    server = Redis(tmp_path)
    env = {"REDIS_URL": server.url}
    config = "asyncio.ini"
    with Example("pubsub-asyncio", tmp_path / "log", config=config, env=env) as example:
        page = open_window(example.url)
        publish(page, "news", "Hello.")
        expect(page.get_by_text("Not published: Redis is not there.")).to_be_visible()
        with server:
            publish_when_redis_is_back(page)
            expect(heard(page)).to_have_text(["Hello."])
            assert example.printed().count("Redis is lost") == 1
