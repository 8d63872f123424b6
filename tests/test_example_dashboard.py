"""The example ``dashboard``, in browsers that look at it and make it work."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from example import Example, Open, expect_connected, overhanging, wait_until
from playwright.sync_api import Page, expect
from websockets.sync.client import ClientConnection, connect


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with Example("dashboard", tmp_path_factory.mktemp("dashboard") / "log") as example:
        yield example


def connect_to(example: Example) -> ClientConnection:
    return connect(example.url.replace("http", "ws") + "samples", compression=None)


def value(page: Page, field: str) -> float:
    """Give what the page shows of the last sample; -1 before the first."""
    text = page.locator(f"dd[data-field={field}]").inner_text()
    return float(text.split()[0].replace(",", "")) if text[0].isdigit() else -1


def make_load(page: Page, sockets: int) -> None:
    page.get_by_label("Make some load").fill(str(sockets))


def lines(page: Page) -> int:
    """Count the pieces of the line of open connections."""
    return page.locator("#connections .line").count()


def test_two_windows_see_the_load_that_one_of_them_makes(
    dashboard: Example, open_window: Open
) -> None:
    ada = open_window(dashboard.url)
    grace = open_window(dashboard.url)
    for page in (ada, grace):
        expect_connected(page)
        wait_until(lambda page=page: value(page, "open") == 2)
    make_load(ada, 10)
    for page in (ada, grace):
        wait_until(lambda page=page: value(page, "open") == 12)
        wait_until(lambda page=page: value(page, "received") > 2 and value(page, "sent") > 2)
    make_load(ada, 3)
    wait_until(lambda: value(grace, "open") == 5)
    ada.close()
    wait_until(lambda: value(grace, "open") == 1)


def test_values_are_those_that_linux_tells(dashboard: Example, open_window: Open) -> None:
    page = open_window(dashboard.url)
    expect_connected(page)

    def memory() -> float:
        statm = Path(f"/proc/{dashboard.worker()}/statm").read_text()
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    wait_until(lambda: value(page, "memory") == pytest.approx(memory(), abs=0.2))
    assert 0 <= value(page, "worker") <= 110
    assert 0 <= value(page, "machine") <= 100
    expect(page.get_by_text(f"Worker process {dashboard.worker()};")).to_be_visible()
    expect(page.locator("#used")).to_have_text(re.compile(r"^\d+(\.\d)? %$"))


def test_who_comes_late_gets_what_was_before(dashboard: Example) -> None:
    with connect_to(dashboard) as early:
        seen = [json.loads(early.recv(timeout=20)) for _ in range(3)]
        with connect_to(dashboard) as late:
            history = json.loads(late.recv(timeout=20))
    expected = seen[1] + seen[2]
    place = history.index(expected[0])
    assert history[place : place + 2] == expected


def test_keys_and_pointer_show_the_values_of_a_moment(
    dashboard: Example, open_window: Open
) -> None:
    page = open_window(dashboard.url)
    expect_connected(page)
    wait_until(lambda: page.evaluate("document.querySelector('#connections .line')") is not None)
    moment = page.locator("#moment")
    chart = page.get_by_role("img", name="Connections")
    chart.focus()
    page.keyboard.press("ArrowLeft")
    expect(moment).to_have_text(re.compile(r"\d:\d\d:\d\d"))
    expect(page.locator(".cursor")).to_have_count(4)
    page.keyboard.press("Escape")
    expect(moment).to_have_text("Now")
    chart.hover()
    expect(moment).to_have_text(re.compile(r"\d:\d\d:\d\d"))
    page.mouse.move(0, 0)
    expect(moment).to_have_text("Now")
    expect(page.locator(".cursor")).to_have_count(0)


def test_outage_is_a_gap_in_the_lines(tmp_path: Path, open_window: Open) -> None:
    with Example("dashboard", tmp_path / "log") as dashboard:
        page = open_window(dashboard.url)
        expect_connected(page)
        make_load(page, 3)
        wait_until(lambda: value(page, "open") == 4)
        assert lines(page) == 1
        dashboard.kill()
        expect(page.get_by_text("Not connected")).to_be_visible()
        # Longer than a sample may be late, see GAP in dashboard.js.
        page.wait_for_timeout(3_000)
        dashboard.start()
        expect_connected(page)
        wait_until(lambda: lines(page) == 2)
        # The load comes back with the page.
        wait_until(lambda: value(page, "open") == 4)


def test_dashboard_fits_a_phone(dashboard: Example, open_window: Open) -> None:
    phone = open_window(dashboard.url, viewport={"width": 360, "height": 740}, is_mobile=True)
    expect_connected(phone)
    make_load(phone, 50)
    wait_until(lambda: value(phone, "open") >= 51)
    assert overhanging(phone, 360) == []
