"""Every code block of README.rst and docs/, run as the comments before it say; see ``blocks``."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
from blocks import Block, read
from nginx import MAIN
from peers import eventually
from redis_server import Redis
from uwsgi_server import ROOT, free_port, uwsgi_command, wait_for_port, wait_for_uwsgi
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

PAGES = [ROOT / "README.rst", ROOT / "CHANGES.rst"]
PAGES += [page for name in ("docs", "examples") for page in sorted((ROOT / name).rglob("*.rst"))]
BLOCKS = [block for page in PAGES for block in read(page)]

BIN = Path(sys.executable).parent

#: What a fragment may take for granted, when it does not make an app itself.
PREAMBLE = """\
import asyncio, contextlib, contextvars, functools, json, queue, threading, time
import flask_uwsgi_ws
from flask import (
    Blueprint, Flask, abort, current_app, flash, g, jsonify, redirect, render_template, request,
    session, url_for,
)
from flask_uwsgi_ws import {backend}, ConnectionClosed

app = Flask(__name__)
app.secret_key = "secret"
websocket = {backend}(app)

"""

MODES = {
    "WebSocket": ("--threads", "4"),
    "AsyncioWebSocket": ("--threads", "4"),
    "GeventWebSocket": ("--gevent", "100"),
}

#: Of the commands of Flask's, ours, and an example's.
ACTIONS = ("run", "routes", "doctor", "install", "publish")

#: Ports that the pages name.
PORTS = re.compile(r"(?<![\w.])(?:localhost|127\.0\.0\.1|0\.0\.0\.0)?:(5000|8000|8080|9191)\b")

#: The Redis that they name.
REDIS = "redis://localhost:6379"

PROJECT = "Flask-uWSGI-WS"


def label(block: Block) -> str:
    return f"{os.path.relpath(block.page, ROOT)}:{block.line}"


@pytest.mark.parametrize("block", BLOCKS, ids=label)
def test_block(block: Block, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run(block, tmp_path, request)


def run(block: Block, folder: Path, request: pytest.FixtureRequest) -> None:
    """Run a block in a folder that has the files of its page, as they are there."""
    assert block.kind in KINDS, f"{label(block)}: nobody knows how to run {block.kind!r} here"
    with contextlib.ExitStack() as stack:
        if any(REDIS in text for each in (block, *block.earlier) for text in texts_of(each)):
            redis = stack.enter_context(Redis(folder))
            block = with_redis(block, redis.url)
            block.earlier = [with_redis(each, redis.url) for each in block.earlier]
        run_here(block, folder, request)


def texts_of(block: Block) -> list[str]:
    return [block.code, *(comment.code for comment in block.comments.values())]


def with_redis(block: Block, url: str) -> Block:
    """Put a Redis of the test's own in the place of the one that the page names."""
    comments = {
        name: replace(each, code=each.code.replace(REDIS, url))
        for name, each in block.comments.items()
    }
    return replace(block, code=block.code.replace(REDIS, url), comments=comments)


def run_here(block: Block, folder: Path, request: pytest.FixtureRequest) -> None:
    for earlier in block.earlier:
        if earlier.file is not None and earlier.kind != "literalinclude":
            write(folder, earlier.file, text_of(earlier))
    for file in block.files:
        write(folder, file.words, file.code)
    KINDS[block.kind](block, Runner(block, folder, request))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (".. code-block:: python\n\n    1 / 0\n", "ZeroDivisionError"),
        (".. code-block:: python\n\n    @websocket.route('/x')\n    def x(ws): ...\n", "shows"),
        (".. code-block:: console\n\n    $ fortune\n", "nobody knows how to try 'fortune'"),
        (".. code-block:: cobol\n\n    STOP RUN.\n", "nobody knows how to run 'cobol'"),
        (".. code-block:: console\n\n    $ pip install nosuchpackage\n", "nosuchpackage"),
        (".. code-block:: nginx\n\n    nonsense on;\n", "nonsense"),
    ],
    ids=["python", "socket", "console", "kind", "pip", "nginx"],
)
def test_block_without_a_word_is_run_and_can_fail(
    text: str, fault: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    page = tmp_path / "page.rst"
    page.write_text(text)
    [block] = read(page)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=fault):
        run(block, tmp_path, request)


@pytest.mark.parametrize(
    "text",
    ["So::\n\n    import this\n", ".. code::\n\n    x\n", ".. shows:\n\n    x\n", ">>> x\n"],
)
def test_code_that_is_no_block_is_an_error(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.rst"
    page.write_text(text)
    with pytest.raises(ValueError, match=r"page\.rst"):
        read(page)


def test_figures_are_those_of_the_report() -> None:
    """What a page quotes from ``docs/benchmarks.txt`` is there."""
    report = set(re.findall(r"[\d.]+", (ROOT / "docs" / "benchmarks.txt").read_text()))
    table = (ROOT / "docs" / "backends.rst").read_text().split(":class: figures")[1]
    cells = re.findall(r"^ {6}- ([\d .]+?)(?: KiB| µs)?$", table.split("\n\nCompression")[0], re.M)
    assert len(cells) == 7 * 4
    assert not [cell for cell in cells if cell.replace(" ", "") not in report]


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# The programs of a page.


def side(diff: str, sign: str) -> str:
    """Give the text before (``-``) or after (``+``) a change."""
    kept = (line for line in diff.splitlines() if line[:1] in {"", " ", sign})
    return "".join(f"{line[1:]}\n" for line in kept)


def text_of(block: Block) -> str:
    """Give what the file of a block contains."""
    if block.kind == "diff":
        return side(block.code, "+")
    return program(block) if block.kind == "python" else block.code


def backend(code: str, words: str = "") -> str:
    """Name the class that a program, or a fragment, is for."""
    named = re.search(r"\b(Gevent|Asyncio)WebSocket\(", code)
    prefix = named[1] if named else words.capitalize()
    if prefix not in {"Gevent", "Asyncio"}:
        prefix = "Asyncio" if re.search(r"\b(await|async def|async for)\b", code) else ""
    return f"{prefix}WebSocket"


def program(block: Block) -> str:
    """Make a whole program of a block of Python."""
    given = block.given.code
    code = block.code
    place = re.search(r"^( *)\.\.\.\n", given, re.M)
    if place:
        whole = given[: place.start()] + textwrap.indent(code, place[1]) + given[place.end() :]
    else:
        whole = given + code
    if "Flask(" in whole or has_tests(code):
        return whole
    return PREAMBLE.format(backend=backend(whole, block.given.words)) + whole


def has_tests(code: str) -> bool:
    return re.search(r"^def test_", code, re.M) is not None


def serves(code: str) -> bool:
    """Whether a program has a socket or a server, of which its page has to say what it does."""
    return re.search(r"\.run\(|websocket\.(route|add_url_rule)|websocket=True", code) is not None


class Runner:
    """Runs the programs of one block in a folder of their own."""

    def __init__(self, block: Block, folder: Path, request: pytest.FixtureRequest) -> None:
        self.block, self.folder, self._request = block, folder, request
        self.port = free_port()
        self._ports = iter([self.port])
        self._moved: dict[str, int] = {}
        self.log = folder / "log"
        self.env = {key: value for key, value in os.environ.items() if "FLASK" not in key}
        # The programs of the environment, as after "source .venv/bin/activate".
        self.env["PATH"] = f"{BIN}{os.pathsep}{self.env['PATH']}"
        self.env["VIRTUAL_ENV"] = sys.prefix
        self.env["FLASK_RUN_PORT"] = self.env["FLASK_UWSGI_RUN_PORT"] = str(self.port)

    def moved(self, text: str) -> str:
        """Put free ports in the place of those that a page names."""

        def free(match: re.Match[str]) -> str:
            if match[1] not in self._moved:
                # uWSGI's stats server is not what a client talks to.
                own = 0 if match[1] == "9191" else next(self._ports, 0)
                self._moved[match[1]] = own or free_port()
            return f"127.0.0.1:{self._moved[match[1]]}"

        return PORTS.sub(free, text)

    def finishes(self, command: list[str], seconds: float = 90) -> str:
        """Run a command to its end, which has to be a good one; gives what it printed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(command)}:\n{done.stdout}"
        return done.stdout

    @contextlib.contextmanager
    def running(
        self,
        command: list[str],
        wait: Callable[[int, subprocess.Popen[bytes]], None] = wait_for_port,
    ) -> Iterator[None]:
        """Have a command run that serves."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait(self.port, process)
            yield
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(30)
        finally:
            # The group: a killed master leaves its workers behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            print(self.printed())
        assert not re.search("Traceback|never retrieved|never awaited", self.printed())

    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def shows(self, **names: Any) -> None:
        """Do what the page's comment says a client sees."""
        shows = self.block.shows
        if not shows.code:
            pytest.fail(
                f"{label(self.block)}: say what it does, in a comment '.. shows:' before it"
            )
        # Lines as in the page, for tracebacks.
        code = compile("\n" * (shows.line - 1) + shows.code, str(self.block.page), "exec")
        known = {
            "connect": self.connect,
            "refused": self.refused,
            "get": self.get,
            "cookies": self.cookies,
            "post": lambda path, body="", **headers: self.get(path, body=body, **headers),
            "open_page": self.open_page,
            "printed": self.printed,
            "url": f"http://127.0.0.1:{self.port}",
            "folder": self.folder,
            "eventually": eventually,
            "json": json,
            "pytest": pytest,
            "re": re,
            "ConnectionClosed": ConnectionClosed,
            **names,
        }
        exec(code, known)

    def connect(self, path: str, **options: Any) -> ClientConnection:
        options = {"open_timeout": 30, "proxy": None, **options}
        return connect(f"ws://127.0.0.1:{self.port}{path}", **options)

    def refused(self, path: str, **options: Any) -> Any:
        """Give the response to a handshake that is refused."""
        with pytest.raises(InvalidStatus) as refusal, self.connect(path, **options):
            pass
        return refusal.value.response

    def get(self, path: str, body: str | None = None, **headers: str) -> tuple[int, str]:
        """Ask for a page; gives its status and text."""
        asking = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(asking):
            asking.request("GET" if body is None else "POST", path, body, headers)
            answer = asking.getresponse()
            return answer.status, answer.read().decode()

    def cookies(self, path: str) -> str:
        """Ask for a page that sets cookies; gives them as a browser sends them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            set_by_it = answer.headers.get_all("Set-Cookie")
        return "; ".join(each.split(";")[0] for each in set_by_it)

    def open_page(self, path: str = "/") -> Any:
        """Open a page in Chromium."""
        page = self._request.getfixturevalue("browser").new_page()
        self._request.addfinalizer(page.close)
        page.goto(f"http://127.0.0.1:{self.port}{path}")
        return page


# A function for each kind of block.


def run_python(block: Block, runner: Runner) -> None:
    serve_python(text_of(block), block, runner)


def serve_python(code: str, block: Block, runner: Runner, **names: Any) -> None:
    name = block.file if block.file and block.file.endswith(".py") else "block.py"
    starts = re.sub(r"\bapp\.run\(", f"app.run(port={runner.port}, ", code)
    write(runner.folder, name, starts)
    path = str(runner.folder / name)
    if has_tests(code):
        told = runner.finishes([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", path])
        assert re.search(r"\d+ passed", told), told
    elif starts != code:
        with runner.running([sys.executable, path], wait_for_uwsgi):
            runner.shows(**names)
    elif serves(code) or block.shows.code:
        uwsgi, env = uwsgi_command("uwsgi")
        del env
        options = ["--master", "--need-app", "--single-interpreter", "--callable", "app"]
        listen = ["--http-socket", f"127.0.0.1:{runner.port}"]
        mode = MODES[backend(code)]
        with runner.running([*uwsgi, *listen, *options, *mode, "--wsgi-file", path]):
            runner.shows(**names)
    else:
        runner.finishes([sys.executable, path])


def run_diff(block: Block, runner: Runner) -> None:
    """Run what a change leads to; that it starts from has to be Python."""
    compile(side(block.code, "-"), label(block), "exec")
    serve_python(side(block.code, "+"), block, runner)


def run_script(block: Block, runner: Runner) -> None:
    """Run JavaScript, or a page, in Chromium, with what was given as its server."""
    page = block.code if block.kind == "html" else "<!doctype html><title>JavaScript</title>"
    server = block.given.code
    if "Flask(" not in server:
        server = PREAMBLE.format(backend=backend(server, block.given.words)) + server
    write(runner.folder, "page.html", page)
    server += '\n@app.route("/")\ndef page():\n    return open("page.html").read()\n'
    # What the page does is known to the comment alone, which has to have it run.
    serve_python(server, block, runner, script=block.code)


def run_text(block: Block, runner: Runner) -> None:
    """Compare what a page shows with what comes, where words with digits and a ``…`` differ."""
    parts = re.split(r"(…|[\w.]*\d[\w.]*)", block.code.strip())
    pattern = "".join(
        re.escape(part) if i % 2 == 0 else ".*?" if part == "…" else r"[\w.]+"
        for i, part in enumerate(parts)
    )
    server = PREAMBLE.format(backend="WebSocket") + block.given.code
    serve_python(server, block, runner, pattern=pattern)


def run_nginx(block: Block, runner: Runner) -> None:
    folder = runner.folder
    code = block.code
    if "map " not in code:
        code = "map $http_upgrade $connection_upgrade { default upgrade; '' close; }\n" + (
            code if "server {" in code else f"server {{ listen 8080;\n{code}}}\n"
        )
    site = PORTS.sub(lambda _: f"127.0.0.1:{free_port()}", code)
    site = re.sub(r"listen (\d+)", lambda _: f"listen 127.0.0.1:{free_port()}", site)
    write(folder, "site.conf", site)
    user = "user root;" if os.geteuid() == 0 else ""
    write(folder, "nginx.conf", MAIN.format(folder=folder, user=user, directives=""))
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "no nginx found: apt-get install nginx-light"
    log = str(folder / "error.log")
    runner.finishes([program, "-t", "-e", log, "-c", str(folder / "nginx.conf")])


def run_ini(block: Block, runner: Runner) -> None:
    """Start uWSGI with a configuration, in the folder of the page's files."""
    assert block.file, f"{label(block)}: give it a :caption:, the name of its file"
    write(runner.folder, block.file, runner.moved(block.code))
    uwsgi, env = uwsgi_command("uwsgi")
    del env
    with runner.running([*uwsgi, "--ini", block.file]):
        runner.shows()


def run_include(block: Block, runner: Runner) -> None:  # noqa: ARG001
    """What is included is not written twice, and others start it."""
    path = (block.page.parent / block.code).resolve()
    assert path.is_file(), f"{label(block)}: {path} is not there"
    # The configurations are started by test_configs; what else there is are reports.
    assert path.is_relative_to(ROOT / "uwsgi-configs") or path.suffix == ".txt"


# The lines of a console.


def commands(code: str) -> Iterator[str]:
    """Give the commands of a block, each on one line."""
    whole = re.sub(r"\\\n\s*", "", code)
    for line in whole.splitlines():
        assert line.startswith("$ "), f"{line!r} is not a command: begin it with '$ '"
        yield line[2:]


def run_console(block: Block, runner: Runner) -> None:
    for name in ("uwsgi-configs", "examples"):
        (runner.folder / name).symlink_to(ROOT / name)
    for command in commands(block.code):
        words = shlex.split(command)
        while re.fullmatch(r"\w+=.*", words[0]):
            words.pop(0)
        # What makes a process another's comes before what it does.
        words = words[1:] if words[0] == "sudo" else words
        run = PROGRAMS.get(words[0])
        assert run is not None, f"{label(block)}: nobody knows how to try {words[0]!r}"
        run(words, command, runner)


def try_uwsgi(words: list[str], command: str, runner: Runner) -> None:
    del command
    found = [runner.moved(word) for word in words[1:]]
    for name in re.findall(r"--touch-[\w-]*reload (\S+)", " ".join(found)):
        write(runner.folder, name, "")
    if "--ini" in found:
        address = [f"address=127.0.0.1:{runner.port}", f"stats={runner.folder / 'stats.sock'}"]
        found = [part for each in address for part in ("--set", each)] + found
    uwsgi, env = uwsgi_command("uwsgi")
    del env
    with runner.running([*uwsgi, *found]):
        runner.shows()


def try_python(words: list[str], command: str, runner: Runner) -> None:
    del command
    if words[1:3] == ["-m", "venv"]:
        runner.finishes([sys.executable, "-m", "venv", "--without-pip", words[3]])
        return
    script = runner.folder / words[1]
    code = script.read_text()
    script.write_text(re.sub(r"\bapp\.run\(", f"app.run(port={runner.port}, ", code))
    with runner.running([sys.executable, *words[1:]], wait_for_uwsgi):
        runner.shows()


def try_flask(words: list[str], command: str, runner: Runner) -> None:
    del command
    arguments = [runner.moved(word) for word in words[1:]]
    # Its group's own options may come first.
    action = next(word for word in arguments if word in ACTIONS)
    flask = [sys.executable, "-m", "flask", *arguments]
    if action == "install":
        # It builds for some fifteen seconds; tests of its own do that.
        assert "install" in runner.finishes([*flask, "--help"])
    elif action == "publish":
        # What becomes of it is tested with the example.
        with Redis(runner.folder) as redis:
            runner.env["REDIS_URL"] = redis.url
            runner.finishes(flask)
    elif action == "run":
        wait = wait_for_uwsgi if "uwsgi" in arguments else wait_for_port
        with runner.running(flask, wait):
            runner.shows()
    else:
        print(runner.finishes(flask))


def try_pytest(words: list[str], command: str, runner: Runner) -> None:
    del command
    told = runner.finishes([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words[1:]])
    assert re.search(r"\d+ passed", told), told


def try_pip(words: list[str], command: str, runner: Runner) -> None:
    """See that what a line installs is what the project knows."""
    del command, runner
    assert words[1] == "install", words
    told = metadata(PROJECT)
    extras = set(told.get_all("Provides-Extra") or ())
    known = set(re.findall(r'"([a-z-]+)[">=]', (ROOT / "pyproject.toml").read_text().lower()))
    values = {words[i + 1] for i, word in enumerate(words[:-1]) if word == "--no-binary"}
    for word in words[2:]:
        if word.startswith("-") or word in values:
            continue
        match = re.fullmatch(r"([\w.-]+)(?:\[([\w,]+)\])?", word)
        assert match, word
        if match[1] in {".", PROJECT}:
            assert set(filter(None, (match[2] or "").split(","))) <= extras, word
        else:
            assert match[1].lower() in known, word


def try_apt(words: list[str], command: str, runner: Runner) -> None:
    """See that CI installs the same, but for what its machine has already."""
    del command, runner
    assert words[1] == "install", words
    listed = re.search(r"packages=\(([^)]*)\)", (ROOT / ".ci" / "run").read_text())
    assert listed
    ci = set(listed[1].split())
    wanted = set(words[2:])
    assert wanted <= ci | {"python3-dev", "python3-venv"}
    if "build-essential" in wanted and len(wanted) > 5:
        assert wanted >= ci, "CI installs more"


def try_make(words: list[str], command: str, runner: Runner) -> None:
    """See that there is such a target; what the targets do is tested as they are used."""
    del command, runner
    subprocess.run(["make", "-C", str(ROOT), "-n", *words[1:]], check=True, capture_output=True)
    for word in words[1:]:
        if word.startswith("EXAMPLE="):
            assert (ROOT / "examples" / word.removeprefix("EXAMPLE=")).is_dir()


def try_systemctl(words: list[str], command: str, runner: Runner) -> None:
    """See that the unit is one of ours, which ``test_configs`` starts and reloads."""
    del command, runner
    assert words[1] in {"enable", "reload", "restart", "status", "stop"}, words
    assert (ROOT / "uwsgi-configs" / f"{words[-1]}.service").is_file()


def try_copy(words: list[str], command: str, runner: Runner) -> None:
    """See that what goes into a folder of the system is there."""
    del command, runner
    for word in words[1:-1]:
        assert (ROOT / word).is_file(), word


def try_redis(words: list[str], command: str, runner: Runner) -> None:
    """Start it on a port of its own; what needs it is tested with its example."""
    del command
    words = [word for word in words if word != "&"]
    with runner.running([*words, "--port", str(runner.port), "--bind", "127.0.0.1", "--save", ""]):
        pass


def try_shell(words: list[str], command: str, runner: Runner) -> None:
    """Run what touches the folder of the test alone."""
    del words
    runner.finishes(["sh", "-ec", command])


def try_activate(words: list[str], command: str, runner: Runner) -> None:
    """The environment of the test stands for it."""
    del command, runner
    assert words[1:] == [".venv/bin/activate"], words


PROGRAMS: dict[str, Callable[[list[str], str, Runner], None]] = {
    "apt-get": try_apt,
    "cp": try_copy,
    "flask": try_flask,
    "make": try_make,
    "mkdir": try_shell,
    "openssl": try_shell,
    "pip": try_pip,
    "pytest": try_pytest,
    "python": try_python,
    "python3": try_python,
    "redis-server": try_redis,
    "source": try_activate,
    "systemctl": try_systemctl,
    "uwsgi": try_uwsgi,
}

KINDS: dict[str, Callable[[Block, Runner], None]] = {
    "console": run_console,
    "diff": run_diff,
    "html": run_script,
    "ini": run_ini,
    "javascript": run_script,
    "literalinclude": run_include,
    "nginx": run_nginx,
    "python": run_python,
    "text": run_text,
}
