"""Makes the pictures of the examples' READMEs, each from the running example.

``make screenshots`` makes all, ``make screenshots ARGS="chat login"`` some.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from conftest import CHROMIUM_FLAGS
from example import EXAMPLES, Example, Open
from playwright.sync_api import Page, sync_playwright
from redis_server import Redis
from test_example_upload import Held, choose, item
from test_examples import join, listen, publish, said, say
from uwsgi_server import wait_for_port

Points = list[tuple[float, float]]


def echo(open_window: Open, url: str) -> Page:
    page = open_window(url)
    page.set_viewport_size({"width": 1200, "height": 560})
    for words in ("Hello", "Grüße aus Köln", "Witaj"):
        page.get_by_label("Text to send").fill(words)
        page.get_by_role("button", name="Send text").click()
        page.locator("#replies").get_by_text(words).wait_for()
    page.get_by_role("button", name="Send 8 random bytes").click()
    page.locator("#replies .binary").wait_for()
    return page


def chat(open_window: Open, url: str) -> Page:
    ada, grace = (join(open_window(url), name) for name in ("Ada", "Grace"))
    join(open_window(url), "Edsger")
    for page, words in (
        (grace, "The relay in panel F was stuck again."),
        (grace, "This time it was a moth."),
        (ada, "A real one?"),
        (grace, "It is in the logbook now, under a strip of tape."),
        (ada, "Then nobody can say that there are no bugs in it."),
    ):
        say(page, words)
        said(ada, words).wait_for()
    return ada


def pubsub(open_window: Open, url: str) -> Page:
    page = open_window(url)
    page.get_by_text("Connected to worker process").wait_for()
    for channel in ("weather", "trains"):
        listen(page, channel)
    for channel, words in (
        ("news", "The new bridge opens on Saturday."),
        ("weather", "Rain from the west, clearing by noon."),
        ("trains", "The 14:32 leaves from platform 5 today."),
        ("news", "The library is open until ten this week."),
    ):
        publish(page, channel, words)
        page.locator("#messages").get_by_text(words).wait_for()
    return page


def login(open_window: Open, url: str) -> Page:
    page = open_window(url)
    page.set_viewport_size({"width": 1200, "height": 400})
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("lovelace")
    page.get_by_role("button", name="Log in").click()
    other = page.context.new_page()
    other.goto(page.url)
    page.get_by_text("in 2 windows").wait_for()
    for words in (
        "Ask Charles how many cards are left.",
        "Check the seventh number once more, by hand.",
        "Tea with Mary on Thursday.",
    ):
        page.get_by_label("Note").fill(words)
        page.get_by_role("button", name="Add").click()
        page.get_by_text(words).wait_for()
    return page


def dashboard(open_window: Open, url: str) -> Page:
    page = open_window(url)
    for sockets, seconds in ((0, 15), (10, 15), (25, 20), (50, 15), (15, 20), (30, 25), (5, 15)):
        page.get_by_label("Make some load").fill(str(sockets))
        page.wait_for_timeout(1000 * seconds)
    return page


def whiteboard(open_window: Open, url: str) -> Page:
    page, other = open_window(url), open_window(url)
    page.get_by_text("2 are here").wait_for()

    def draw(colour: str, width: str, *lines: Points) -> None:
        for name in (colour, width):
            page.get_by_role("radio", name=name, exact=True).check(force=True)
        box = page.locator("#board").bounding_box()
        assert box is not None
        for line in lines:
            for number, (x, y) in enumerate(line):
                page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
                if number == 0:
                    page.mouse.down()
            page.mouse.up()

    def arc(x: float, y: float, radius: float, begin: int, end: int) -> Points:
        angles = [math.radians(begin + (end - begin) * part / 24) for part in range(25)]
        return [
            (x + radius * math.cos(each), y + 4 / 3 * radius * math.sin(each)) for each in angles
        ]

    draw("Green", "Broad", [(part / 40, 0.8 + 0.05 * math.sin(part / 6)) for part in range(1, 40)])
    draw("Orange", "Broad", arc(0.8, 0.2, 0.05, 0, 360))
    rays = range(0, 360, 45)
    draw(
        "Orange",
        "Medium",
        *[arc(0.8, 0.2, 0.085, k, k)[:1] + arc(0.8, 0.2, 0.115, k, k)[:1] for k in rays],
    )
    draw("Ink", "Medium", [(0.22, 0.76), (0.22, 0.48)], [(0.5, 0.48), (0.5, 0.77)])
    draw("Ink", "Medium", [(0.18, 0.52), (0.36, 0.28), (0.54, 0.52)])
    draw("Red", "Medium", [(0.31, 0.77), (0.31, 0.6), (0.39, 0.6), (0.39, 0.77)])
    for x in (0.25, 0.43):
        draw("Blue", "Medium", [(x, 0.5), (x + 0.05, 0.5), (x + 0.05, 0.57), (x, 0.57), (x, 0.5)])
    draw("Ink", "Fine", [(0.41, 0.34), (0.41, 0.22), (0.45, 0.22), (0.45, 0.4)])
    draw(
        "Ink",
        "Fine",
        *[arc(0.44 + k / 50, 0.17 - k / 25, 0.012 + k / 250, 0, 360) for k in range(3)],
    )
    for x, y in ((0.6, 0.25), (0.67, 0.33), (0.59, 0.38)):
        draw(
            "Violet", "Fine", arc(x - 0.02, y, 0.022, 200, 340) + arc(x + 0.022, y, 0.022, 200, 340)
        )
    page.get_by_role("radio", name="Medium").check(force=True)
    other.wait_for_function("!!document.getElementById('picture').width")
    return page


def upload(open_window: Open, url: str) -> Page:
    page = open_window(url)
    # A file of 122 pieces stays on its way, as it would on a slow line.
    Held(page, pieces=72)
    sizes = {"Notes of Tuesday.txt": 2345, "disk.img": 9_000_000, "Concert.flac": 7_900_000}
    choose(
        page, **{name: os.urandom(size) for name, size in sizes.items()}, **{"Slides.pdf": b"%PDF"}
    )
    item(page, "Concert.flac").get_by_text("4.7 MB of 7.9 MB").wait_for()
    return page


SCENES: dict[str, Callable[[Open, str], Page]] = {
    "chat": chat,
    "dashboard": dashboard,
    "echo": echo,
    "login": login,
    "pubsub-asyncio": pubsub,
    "upload": upload,
    "whiteboard": whiteboard,
}


def main(names: list[str]) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Redis(Path(folder)) as redis,
        sync_playwright() as playwright,
    ):
        wait_for_port(redis.port)
        path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)

        def open_window(url: str) -> Page:
            page = browser.new_context(viewport={"width": 1200, "height": 750}).new_page()
            page.goto(url)
            return page

        env = {"REDIS_URL": redis.url, "FILE_MOST": "8000000"}
        for name in names or SCENES:
            with Example(name, Path(folder) / f"{name}.log", env=env) as example:
                picture = EXAMPLES / name / "screenshot.png"
                SCENES[name](open_window, example.url).screenshot(path=picture, full_page=True)
                print(f"{picture}: {picture.stat().st_size // 1024} KiB", file=sys.stderr)
        browser.close()
    Example.wait_for_the_stopped()


if __name__ == "__main__":
    main(sys.argv[1:])
