"""The example ``whiteboard``, as several people use it in their browsers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from example import Example, Open, close_code, overhanging, wait_until
from playwright.sync_api import Page, expect
from websockets.sync.client import ClientConnection, connect

HELLO, STROKE, CLEAR, FULL = range(4)

Points = list[tuple[float, float]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    with Example("whiteboard", tmp_path_factory.mktemp("whiteboard") / "log") as example:
        yield example


@pytest.fixture
def whiteboard(shared: Example) -> Example:
    """The example with nothing on its board."""
    with connect_to(shared) as board:
        board.send(bytes([CLEAR]))
        while read(board) != bytes([CLEAR]):
            pass
    return shared


def connect_to(example: Example) -> ClientConnection:
    return connect(example.url.replace("http", "ws") + "board", compression=None)


def read(board: ClientConnection) -> bytes:
    message = board.recv(timeout=20)
    assert isinstance(message, bytes)
    return message


def people(message: bytes) -> int:
    """Tell how many are here, if a message says that."""
    return struct.unpack_from("!H", message, 3)[0] if message[0] == HELLO else 0


def wait_for_people(board: ClientConnection, number: int) -> None:
    while people(read(board)) != number:
        pass


def stroke(*points: tuple[int, int], colour: int = 1, width: int = 8, author: int = 0) -> bytes:
    head = struct.pack("!BHBBH", STROKE, author, colour, width, len(points))
    return head + b"".join(struct.pack("!HH", *point) for point in points)


def expect_people(page: Page, number: int) -> None:
    words = "nobody else is here" if number == 1 else f"{number} are here"
    page.get_by_text(f"Connected, {words}", exact=True).wait_for()


def draw(page: Page, points: Points) -> None:
    """Draw with the mouse; the points are parts of the board's width and height."""
    box = page.locator("#board").bounding_box()
    assert box is not None
    for number, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def colour_at(page: Page, x: float, y: float, layer: str = "picture") -> list[int]:
    """Give the red, green, blue and opacity that the board has at a place."""
    colour: list[int] = page.evaluate(
        """([x, y, layer]) => {
            const canvas = document.getElementById(layer);
            const context = canvas.getContext("2d");
            return [...context.getImageData(x * canvas.width, y * canvas.height, 1, 1).data];
        }""",
        [x, y, layer],
    )
    return colour


def picture(page: Page) -> str:
    data: str = page.evaluate("document.getElementById('picture').toDataURL()")
    return data


def wait_for_colour(page: Page, x: float, y: float, colour: list[int]) -> None:
    wait_until(lambda: colour_at(page, x, y) == colour)


NOTHING = [0, 0, 0, 0]
INK = [0x24, 0x29, 0x2B, 255]
RED = [0xC8, 0x37, 0x2D, 255]
BLUE = [0x2B, 0x6C, 0xC4, 255]
PAPER = [255, 255, 255, 255]


def test_what_one_draws_the_other_sees_in_its_colour(
    whiteboard: Example, open_window: Open
) -> None:
    ada = open_window(whiteboard.url)
    grace = open_window(whiteboard.url)
    expect_people(ada, 2)
    expect_people(grace, 2)
    ada.get_by_role("radio", name="Red").check(force=True)
    draw(ada, [(0.2, 0.2), (0.2, 0.8)])
    wait_for_colour(grace, 0.2, 0.5, RED)
    draw(grace, [(0.1, 0.6), (0.9, 0.6)])
    wait_for_colour(ada, 0.2, 0.6, INK)
    assert colour_at(grace, 0.5, 0.3) == NOTHING
    wait_until(lambda: picture(ada) == picture(grace))
    ada.get_by_role("radio", name="Eraser").check(force=True)
    ada.get_by_role("radio", name="Broad").check(force=True)
    draw(ada, [(0.5, 0.6), (0.7, 0.6)])
    wait_for_colour(grace, 0.6, 0.6, PAPER)
    assert colour_at(grace, 0.8, 0.6) == INK


def test_late_joiner_gets_the_picture_so_far(whiteboard: Example, open_window: Open) -> None:
    ada = open_window(whiteboard.url)
    expect_people(ada, 1)
    ada.get_by_role("radio", name="Blue").check(force=True)
    draw(ada, [(0.1, 0.1), (0.5, 0.5), (0.9, 0.1)])
    wait_for_colour(ada, 0.5, 0.5, BLUE)
    grace = open_window(whiteboard.url)
    wait_for_colour(grace, 0.5, 0.5, BLUE)
    assert picture(grace) == picture(ada)


def test_all_have_strokes_over_one_another_in_the_same_order(
    whiteboard: Example, open_window: Open
) -> None:
    pages = [open_window(whiteboard.url) for _ in range(2)]
    for page, colour in zip(pages, ("Red", "Blue"), strict=True):
        expect_people(page, 2)
        page.get_by_role("radio", name=colour).check(force=True)
        page.get_by_role("radio", name="Broad").check(force=True)
    for number in range(10):
        for page in pages:
            draw(page, [(0.1, 0.05 + number / 12), (0.9, 0.06 + number / 12)])
    wait_until(lambda: all(map(is_settled, pages)) and picture(pages[0]) == picture(pages[1]))


def is_settled(page: Page) -> bool:
    """Tell whether all that was drawn here has come back from the server."""
    empty: bool = page.evaluate(
        """() => {
            const canvas = document.getElementById("fresh");
            const context = canvas.getContext("2d");
            const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
            return data.every((each) => each === 0);
        }"""
    )
    return empty


def test_fingers_draw(whiteboard: Example, open_window: Open) -> None:
    phone = open_window(
        whiteboard.url, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True
    )
    expect_people(phone, 1)
    box = phone.locator("#board").bounding_box()
    assert box is not None
    devtools = phone.context.new_cdp_session(phone)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [
            {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": finger}
            for finger, (x, y) in enumerate(places)
        ]
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    # Two at a time.
    touch("touchStart", (0.2, 0.2), (0.8, 0.2))
    touch("touchMove", (0.2, 0.5), (0.8, 0.5))
    touch("touchMove", (0.2, 0.8), (0.8, 0.8))
    touch("touchEnd")
    for x in (0.2, 0.8):
        wait_for_colour(phone, x, 0.4, INK)
    assert colour_at(phone, 0.5, 0.4) == NOTHING
    assert phone.evaluate("scrollY") == 0
    assert overhanging(phone, 360) == []


def test_keys_draw(whiteboard: Example, open_window: Open) -> None:
    page = open_window(whiteboard.url)
    expect_people(page, 1)
    page.get_by_role("application").focus()
    for key in ("ArrowLeft", "Space", "Shift+ArrowDown", "Shift+ArrowDown", "Space", "ArrowRight"):
        page.keyboard.press(key)
    wait_for_colour(page, 0.49, 0.55, INK)
    assert colour_at(page, 0.49, 0.65) == NOTHING
    assert colour_at(page, 0.505, 0.6) == NOTHING


def test_clear_clears_everybodys_board_when_it_is_meant(
    whiteboard: Example, open_window: Open
) -> None:
    ada = open_window(whiteboard.url)
    grace = open_window(whiteboard.url)
    expect_people(grace, 2)
    draw(ada, [(0.1, 0.5), (0.9, 0.5)])
    wait_for_colour(grace, 0.5, 0.5, INK)
    grace.get_by_role("button", name="Clear").click()
    grace.keyboard.press("Escape")
    expect(grace.get_by_role("dialog")).to_be_hidden()
    draw(grace, [(0.1, 0.2), (0.9, 0.2)])
    wait_for_colour(ada, 0.5, 0.2, INK)
    assert colour_at(ada, 0.5, 0.5) == INK
    grace.get_by_role("button", name="Clear").click()
    grace.get_by_role("dialog").get_by_role("button", name="Clear").click()
    for page in (ada, grace):
        wait_for_colour(page, 0.5, 0.5, NOTHING)


def test_board_comes_back_by_itself_with_what_was_drawn_meanwhile(
    tmp_path: Path, open_window: Open
) -> None:
    with Example("whiteboard", tmp_path / "log") as whiteboard:
        ada = open_window(whiteboard.url)
        expect_people(ada, 1)
        whiteboard.kill()
        expect(ada.get_by_text("Not connected")).to_be_visible()
        draw(ada, [(0.1, 0.5), (0.9, 0.5)])
        wait_until(lambda: colour_at(ada, 0.5, 0.5, "fresh") == INK)
        assert colour_at(ada, 0.5, 0.5) == NOTHING
        whiteboard.start()
        grace = open_window(whiteboard.url)
        wait_for_colour(grace, 0.5, 0.5, INK)
        expect_people(ada, 2)
        wait_until(lambda: is_settled(ada) and picture(ada) == picture(grace))


def test_full_board_says_so_until_it_is_cleared(tmp_path: Path, open_window: Open) -> None:
    env = {"PICTURE_MOST": "20"}
    with Example("whiteboard", tmp_path / "log", env=env) as whiteboard:
        page = open_window(whiteboard.url)
        expect_people(page, 1)
        draw(page, [(0.1, 0.5), (0.3, 0.5), (0.5, 0.5), (0.7, 0.5), (0.9, 0.5)])
        draw(page, [(0.1, 0.7), (0.9, 0.7)])
        expect(page.get_by_role("alert")).to_contain_text("The board is full")
        wait_until(lambda: is_settled(page))
        assert colour_at(page, 0.5, 0.7) == NOTHING
        page.get_by_role("button", name="Clear").click()
        page.get_by_role("dialog").get_by_role("button", name="Clear").click()
        expect(page.get_by_role("alert")).to_be_hidden()


def test_saved_picture_has_its_ground(whiteboard: Example, open_window: Open) -> None:
    page = open_window(whiteboard.url)
    expect_people(page, 1)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save").click()
    assert download.value.suggested_filename == "whiteboard.png"
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_slow_reader_holds_nobody_up_and_is_sent_away(tmp_path: Path) -> None:
    # As much waits for a reader at most as twice this.
    env = {"PICTURE_MOST": "100000"}
    long = stroke(*[(1, 2)] * 1000)
    with (
        Example("whiteboard", tmp_path / "log", env=env) as whiteboard,
        connect_to(whiteboard) as ada,
        connect_to(whiteboard) as slow,
    ):
        wait_for_people(ada, 2)
        # Its library reads no more once some messages wait.
        is_alone = False
        while not is_alone:
            ada.send(long)
            ada.send(bytes([CLEAR]))
            while (message := read(ada)) != bytes([CLEAR]):
                is_alone |= people(message) == 1
        # At which the page tries again, see connection.js.
        assert close_code(slow) in (1006, 1013)


@pytest.mark.parametrize(
    "message",
    [
        "text",
        b"",
        bytes([HELLO, 0]),
        bytes([FULL]),
        bytes([9]),
        stroke(),
        stroke((1, 2))[:-1],
        stroke((1, 2)) + b"\0",
        stroke((1, 2))[:4],
    ],
)
def test_what_is_no_stroke_ends_with_1003(whiteboard: Example, message: str | bytes) -> None:
    with connect_to(whiteboard) as board:
        board.send(message)
        assert close_code(board) == 1003


def test_author_is_who_sent_a_stroke_whatever_it_says(whiteboard: Example) -> None:
    with connect_to(whiteboard) as ada, connect_to(whiteboard) as grace:
        hello = read(grace)
        assert read(grace) == bytes([CLEAR])
        grace.send(stroke((1, 2), author=7))
        (number,) = struct.unpack_from("!H", hello, 1)
        expected = stroke((1, 2), author=number)
        assert read(grace) == expected
        while read(ada) != expected:
            pass
    with connect_to(whiteboard) as late:
        read(late)
        assert read(late) == bytes([CLEAR]) + stroke((1, 2))
