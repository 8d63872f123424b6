"""The example ``upload``, as people use it in their browsers."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from example import Example, Open, exchange, expect_connected, overhanging, wait_until
from playwright.sync_api import Locator, Page, WebSocketRoute, expect

PIECE = 64 * 1024


class Uploads(Example):
    """The example, with a folder of its own for the files and little room."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "uploads"
        self.folder.mkdir()
        room = {"FILE_MOST": "30000000", "FOLDER_MOST": "70000000"}
        env = {"UPLOADS": str(self.folder), **room}
        super().__init__("upload", folder / "log", env=env)

    def files(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    def with_end(self, end: str) -> bytes:
        (path,) = self.folder.glob(f"*-{end}")
        return path.read_bytes()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uploads]:
    with Uploads(tmp_path_factory.mktemp("upload")) as example:
        yield example


@pytest.fixture
def upload(shared: Uploads) -> Uploads:
    """The example with nothing uploaded."""
    for path in shared.folder.iterdir():
        path.unlink()
    return shared


class Held:
    """Keeps from a page all but the first answers to its pieces, until it is told not to."""

    def __init__(self, page: Page, pieces: int) -> None:
        self.left = pieces
        self.waiting: list[str] = []
        self.sent = 0
        page.route_web_socket("**/upload", self._connect)
        page.reload()

    def _connect(self, page_side: WebSocketRoute) -> None:
        server_side = page_side.connect_to_server()

        def to_server(message: str | bytes) -> None:
            self.sent += isinstance(message, bytes)
            server_side.send(message)

        def to_page(message: str | bytes) -> None:
            assert isinstance(message, str)
            self.left -= json.loads(message)["type"] == "written"
            if self.left < 0:
                self.waiting.append(message)
            else:
                page_side.send(message)

        self.page_side = page_side
        page_side.on_message(to_server)
        server_side.on_message(to_page)

    def release(self) -> None:
        self.left = 1_000_000
        for message in self.waiting:
            self.page_side.send(message)
        self.waiting.clear()


def choose(page: Page, **files: bytes) -> None:
    expect_connected(page)
    page.locator("#files").set_input_files(
        [
            {"name": name, "mimeType": "application/octet-stream", "buffer": content}
            for name, content in files.items()
        ]
    )


def choose_large(page: Page, path: Path, size: int) -> None:
    """Choose a file of zeros that is too large to go to the browser by way of the test."""
    with path.open("wb") as file:
        file.truncate(size)
    expect_connected(page)
    page.locator("#files").set_input_files(path)


def item(page: Page, name: str) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_text(name, exact=True))


def test_files_arrive_as_they_are_and_both_sides_show_the_same_hash(
    upload: Uploads, open_window: Open
) -> None:
    page = open_window(upload.url)
    files = {"a.bin": os.urandom(3 * PIECE + 17), "b.bin": os.urandom(PIECE), "empty.txt": b""}
    choose(page, **files)
    expect(page.get_by_text("3 of 3 files have arrived.")).to_be_visible()
    for name, content in files.items():
        assert upload.with_end(name) == content
        expect(item(page, name).locator("dd")).to_have_text(
            [hashlib.sha256(content).hexdigest()] * 2
        )
        expect(item(page, name).get_by_role("progressbar")).to_have_js_property("value", 1)


def test_bar_shows_what_the_server_has_written_and_the_page_does_not_run_ahead(
    upload: Uploads, open_window: Open
) -> None:
    page = open_window(upload.url)
    held = Held(page, pieces=5)
    choose(page, **{"a.bin": bytes(40 * PIECE)})
    bar = item(page, "a.bin").get_by_role("progressbar")
    expect(bar).to_have_js_property("value", 5 / 40)
    # Playwright hears of answers while it waits for the page only.
    wait_until(lambda: page.evaluate("1") and len(held.waiting) == 8)
    assert held.sent == 5 + 8
    expect(bar).to_have_js_property("value", 5 / 40)
    held.release()
    expect(bar).to_have_js_property("value", 1)
    assert upload.with_end("a.bin") == bytes(40 * PIECE)


def test_cancelled_files_leave_nothing_and_the_next_goes_on(
    upload: Uploads, open_window: Open
) -> None:
    page = open_window(upload.url)
    held = Held(page, pieces=5)
    choose(page, **{"a.bin": bytes(40 * PIECE), "b.bin": b"never", "c.bin": b"words"})
    expect(item(page, "a.bin").get_by_role("progressbar")).to_have_js_property("value", 5 / 40)
    assert len(upload.files()) == 1
    page.get_by_role("button", name="Cancel b.bin").click()
    page.get_by_role("button", name="Cancel a.bin").click()
    held.release()
    expect(item(page, "c.bin")).to_contain_text("arrived")
    for name in ("a.bin", "b.bin"):
        expect(item(page, name)).to_contain_text("Cancelled")
    assert upload.with_end("c.bin") == b"words"
    assert len(upload.files()) == 1


def test_file_that_has_arrived_when_it_is_cancelled_is_kept(
    upload: Uploads, open_window: Open
) -> None:
    page = open_window(upload.url)
    held = Held(page, pieces=0)
    choose(page, **{"a.bin": b"all of it", "b.bin": b"the next"})
    wait_until(lambda: page.evaluate("1") and len(held.waiting) == 2)
    page.get_by_role("button", name="Cancel a.bin").click()
    held.release()
    expect(page.get_by_text("2 of 2 files have arrived.")).to_be_visible()
    assert upload.with_end("b.bin") == b"the next"


def test_limits_are_told_and_the_next_file_goes_on(
    upload: Uploads, open_window: Open, tmp_path: Path
) -> None:
    page = open_window(upload.url)
    choose_large(page, tmp_path / "large.bin", 30_000_001)
    choose(page, **{"small.bin": b"words"})
    expect(item(page, "large.bin").get_by_role("alert")).to_have_text(
        "The file is too large: 30,000,000 bytes at most."
    )
    expect(item(page, "small.bin")).to_contain_text("arrived")
    with (upload.folder / "others").open("wb") as file:
        file.truncate(69_000_000)
    choose(page, **{"more.bin": bytes(1_000_000)})
    expect(item(page, "more.bin").get_by_role("alert")).to_have_text(
        "The server has no room for the file."
    )
    expect(page.get_by_text("1 of 3 files have arrived.")).to_be_visible()
    assert len(upload.files()) == 2


def test_upload_begins_anew_after_the_server_was_killed(tmp_path: Path, open_window: Open) -> None:
    with Uploads(tmp_path) as upload:
        page = open_window(upload.url)
        held = Held(page, pieces=5)
        content = os.urandom(40 * PIECE)
        choose(page, **{"a.bin": content})
        bar = item(page, "a.bin").get_by_role("progressbar")
        expect(bar).to_have_js_property("value", 5 / 40)
        upload.kill()
        expect(page.get_by_text("Not connected")).to_be_visible()
        expect(item(page, "a.bin")).to_contain_text("waiting")
        (left_behind,) = upload.folder.iterdir()
        left_behind.unlink()
        held.left = 1_000_000
        upload.start()
        expect(page.get_by_text("1 of 1 file has arrived.")).to_be_visible()
        assert upload.with_end("a.bin") == content


def test_page_that_leaves_leaves_no_file(upload: Uploads, open_window: Open) -> None:
    page = open_window(upload.url)
    Held(page, pieces=5)
    choose(page, **{"a.bin": bytes(40 * PIECE)})
    expect(item(page, "a.bin").get_by_role("progressbar")).to_have_js_property("value", 5 / 40)
    assert len(upload.files()) == 1
    page.close()
    wait_until(lambda: upload.files() == [])


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("../../etc/passwd", "-etc_passwd"),
        ("/etc/passwd", "-etc_passwd"),
        ("..", "-file"),
        ("\0\n", "-file"),
        ("日本", "-file"),
        ("a b.txt", "-a_b.txt"),
        ("n" * 5000 + ".txt", "-" + "n" * 96 + ".txt"),
    ],
)
def test_name_stays_in_the_folder(name: str, end: str, upload: Uploads, open_window: Open) -> None:
    page = open_window(upload.url)
    begin = {"type": "begin", "name": name, "size": 1}
    ready, written, done = exchange(page, [begin, [120], None], "upload")
    assert (ready["type"], written["type"], done["type"]) == ("ready", "written", "done")
    assert upload.files() == [done["name"]]
    assert re.fullmatch(r"[\w]+" + re.escape(end), done["name"])


def test_bad_messages_are_refused_and_cost_nothing_else(upload: Uploads, open_window: Open) -> None:
    page = open_window(upload.url)
    begin = {"type": "begin", "name": "a", "size": 2}
    bad = ["no JSON", "[" * 60_000, "7", "null", {"type": "begin"}, {**begin, "size": -1}]
    bad += [{**begin, "size": 0.5}, {**begin, "name": 5}, {"type": "other"}]
    answers = exchange(page, [*bad, {"type": "ping"}], "upload")
    assert [each["type"] for each in answers] == ["refused"] * len(bad) + ["pong"]
    # More than it was said to have, and then nobody's until the next begins.
    answers = exchange(page, [begin, [1, 2, 3], begin, begin, {"type": "cancel"}], "upload")
    assert [each["type"] for each in answers] == [
        "ready",
        "refused",
        "ready",
        "refused",
        "cancelled",
    ]
    assert upload.files() == []


def test_server_holds_no_file_in_memory(upload: Uploads, open_window: Open, tmp_path: Path) -> None:
    def most() -> int:
        status = Path(f"/proc/{upload.worker()}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    page = open_window(upload.url)
    choose(page, **{"small.bin": bytes(PIECE)})
    expect(page.get_by_text("1 of 1 file has arrived.")).to_be_visible()
    before = most()
    choose_large(page, tmp_path / "large.bin", 30_000_000)
    expect(page.get_by_text("2 of 2 files have arrived.")).to_be_visible()
    assert most() - before < 10_000_000


def test_upload_fits_a_phone(upload: Uploads, open_window: Open) -> None:
    phone = open_window(upload.url, viewport={"width": 360, "height": 740}, is_mobile=True)
    choose(phone, **{"w" * 200: b"words"})
    expect(phone.get_by_text("1 of 1 file has arrived.")).to_be_visible()
    assert overhanging(phone, 360) == []
