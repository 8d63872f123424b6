"""Reads the code blocks of the documentation, and the comments that say how to run them.

A comment stands before the block that it is about, and is not shown to readers::

    .. given: asyncio

       greeting = "hello"

    .. shows:

       with connect("/greet") as ws:
           assert ws.recv(timeout=10) == "hello"

*given* is Python that comes before the block, or around it where a line ``...`` keeps its place;
its word is a backend, or the name of a file that this is. *shows* is Python that talks to what the
block has started. A block with a ``:caption:`` is a file of that name for the blocks that follow on
its page; in README.rst, where Sphinx is not there to know it, ``.. file: echo.py`` says so.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Directives that hold no code.
PROSE = frozenset(
    (
        "attribute",
        "autoattribute",
        "autoclass",
        "autodata",
        "autoexception",
        "autofunction",
        "automethod",
        "automodule",
        "container",
        "currentmodule",
        "figure",
        "image",
        "include",
        "list-table",
        "note",
        "only",
        "raw",
        "rubric",
        "tip",
        "toctree",
        "warning",
    )
)


@dataclass
class Comment:
    """What a comment of ours says after its colon, and the code under it."""

    words: str = ""
    code: str = ""
    line: int = 0


@dataclass
class Block:
    """A block of code on a page.

    :param page: the file.
    :param line: the number of its directive's line.
    :param kind: its language, or ``"literalinclude"``.
    :param code: its text; the path for a ``literalinclude``.
    :param file: the name that it has as a file.
    :param earlier: the blocks before it on its page.
    """

    page: Path
    line: int
    kind: str
    code: str
    file: str | None
    earlier: list[Block] = field(default_factory=list, repr=False)
    comments: dict[str, Comment] = field(default_factory=dict)

    @property
    def given(self) -> Comment:
        return self.comments.get("given", Comment())

    @property
    def files(self) -> list[Comment]:
        """What was given as files, named by their words."""
        return [each for name, each in self.comments.items() if name.startswith("given ")]

    @property
    def shows(self) -> Comment:
        return self.comments.get("shows", Comment())


def read(page: Path) -> list[Block]:
    """Read the blocks of a page.

    :raises ValueError: for what may be code and is not known how to run, naming the line.
    """
    lines = page.read_text().splitlines()
    blocks: list[Block] = []
    comments: dict[str, Comment] = {}
    position = 0
    while position < len(lines):
        line = lines[position]
        where = f"{page.name}:{position + 1}"
        directive = re.fullmatch(r" *\.\. ([a-z:-]+)::(?: (.*))?", line)
        comment = re.fullmatch(r"\.\. ([a-z]+):(?: (.*))?", line)
        if directive is None and comment is None:
            if line.lstrip().startswith(">>>") or line.endswith("::"):
                raise ValueError(f"{where}: say in which language this is, '.. code-block:: …'")
            position += 1
            continue
        body = list(_body(lines, position))
        end = position + 1 + len(body)
        if comment is not None:
            name, words = comment[1], comment[2] or ""
            if name == "given" and "." in words:
                name = f"given {words}"
            if comment[1] not in {"file", "given", "shows"} or name in comments:
                raise ValueError(f"{where}: a comment {name!r} is not known, or there twice")
            start = next((i for i, text in enumerate(body) if text.strip()), 0)
            comments[name] = Comment(words, _code(body), position + 1 + start)
        elif directive is not None and directive[1] in {"code-block", "literalinclude"}:
            included = directive[1] == "literalinclude"
            options = dict(
                re.fullmatch(r" *:([a-z-]+): ?(.*)", text).groups()  # type: ignore[union-attr]
                for text in body[: _options(body)]
            )
            blocks.append(
                Block(
                    page,
                    position + 1,
                    directive[1] if included else directive[2] or "",
                    (directive[2] or "") if included else _code(body[_options(body) :]),
                    options.get("caption") or comments.get("file", Comment()).words or None,
                    list(blocks),
                    comments,
                )
            )
            comments = {}
        elif directive is not None and directive[1] not in PROSE:
            raise ValueError(
                f"{where}: the directive {directive[1]!r} is not known to hold no code"
            )
        elif directive is not None:
            # What is in a note may be code again.
            end = position + 1
        position = end
    if comments:
        raise ValueError(f"{page.name}: comments without a block: {', '.join(comments)}")
    return blocks


def _body(lines: list[str], position: int) -> Iterator[str]:
    """Give the lines under a directive that belong to it."""
    indent = len(lines[position]) - len(lines[position].lstrip())
    for line in lines[position + 1 :]:
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            return
        yield line


def _options(body: list[str]) -> int:
    """Count the lines of a directive's options."""
    return next((i for i, text in enumerate(body) if not text.strip().startswith(":")), len(body))


def _code(body: list[str]) -> str:
    return textwrap.dedent("\n".join(body)).strip("\n") + "\n" if any(body) else ""
