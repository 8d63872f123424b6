"""The files beside the examples' code: what they tell of it, and what they share."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from example import EXAMPLES
from uwsgi_server import ROOT

NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.name != "shared")


@pytest.mark.parametrize("name", NAMES)
def test_readme_says_how_to_run_the_example_and_shows_it(name: str) -> None:
    folder = EXAMPLES / name
    text = (folder / "README.rst").read_text()
    assert re.search(rf"^    \$ make run EXAMPLE={name}$", text, re.MULTILINE)
    (picture,) = re.findall(r"^\.\. image:: (\S+)$", text, re.MULTILINE)
    content = (folder / picture).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 150 * 1024
    assert "   :alt: " in text
    # Where "make run" looks for it.
    assert (folder / f"{name.split('-')[0]}.py").exists()


@pytest.mark.parametrize("name", NAMES)
def test_readme_of_the_project_names_the_example(name: str) -> None:
    text = (ROOT / "README.rst").read_text()
    assert re.search(rf"(``|EXAMPLE=){name}\b", text)


@pytest.mark.parametrize("shared", ["connection.js", "page.css"])
def test_what_pages_share_is_there_once(shared: str) -> None:
    copies = list(EXAMPLES.glob(f"*/static/{shared}"))
    assert len(copies) > 3
    assert {path.resolve() for path in copies} == {Path(EXAMPLES / "shared" / shared)}


def test_pages_take_nothing_from_elsewhere() -> None:
    for path in EXAMPLES.rglob("*"):
        if path.suffix in {".html", ".css", ".js", ".svg"}:
            found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", path.read_text())
            assert [each for each in found if "www.w3.org" not in each] == [], path
