"""``flask uwsgi``: what it serves, shows, finds wrong, and what it says when it can not."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_configs import page
from test_runner import echoes, echoes_soon
from uwsgi_server import ROOT, free_port, wait_for_uwsgi
from werkzeug.serving import make_ssl_devcert

from flask_uwsgi_ws import AsyncioWebSocket, GeventWebSocket, WebSocket
from flask_uwsgi_ws.doctor import Subject, limit_findings, option_findings
from flask_uwsgi_ws.frames import COMPILED
from flask_uwsgi_ws.program import ProgramError, evaluate, examine

FLASK = [sys.executable, "-m", "flask"]
UWSGI = str(Path(sys.executable).parent / "uwsgi")
DEBIAN = "/usr/bin/uwsgi-core"

PROJECT = """
import json, os
from flask import Flask, current_app
from flask_uwsgi_ws import {backend} as Extension

def create_app(name="plain"):
    app = Flask(__name__)
    websocket = Extension(app)

    @app.get("/")
    def state():
        import uwsgi
        loop, workers = uwsgi.loop, uwsgi.numproc
        loop = loop.decode() if isinstance(loop, bytes) else loop
        return f"{{name}} {{loop}} {{workers}} {{app.debug}} {{os.environ.get('GREETING')}}"

    @websocket.route("/echo")
    {define} echo(ws):
        {loop} message in ws:
            {send}(message)

    return app
"""

VARIABLE = "\napp = create_app()\n"


def write(
    folder: Path, backend: str = "WebSocket", name: str = "site_cli.py", end: str = ""
) -> Path:
    words = {"define": "def", "loop": "for", "send": "ws.send"}
    if backend == "AsyncioWebSocket":
        words = {"define": "async def", "loop": "async for", "send": "await ws.send"}
    path = folder / name
    path.write_text(PROJECT.format(backend=backend, **words) + end)
    return path


def flask(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FLASK, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=100,
        check=False,
    )


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Starts ``flask … uwsgi run`` in the test's folder, and gives the port when it listens."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, port: int | None = None, **environment: str) -> int:
        before, after = list(arguments), []
        if "--" in before:
            after = before[before.index("--") :]
            before = before[: before.index("--")]
        if port is None:
            port = free_port()
            before += ["--host", "127.0.0.1", "--port", str(port)]
        with (tmp_path / f"log-{port}").open("wb") as log:
            process = subprocess.Popen(
                [*FLASK, *before, *after],
                cwd=tmp_path,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
        running.append(process)
        wait_for_uwsgi(port, process)
        return port

    yield start
    for path in tmp_path.glob("log-*"):
        print(path.read_text(errors="replace"))
    for process in running:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.fixture
def recorder(tmp_path: Path) -> dict[str, str]:
    """A program in uWSGI's place that prints its command line, and a variable."""
    path = tmp_path / "recorder"
    path.write_text('#!/bin/sh\necho "RUN $*"\necho "FLASK_DEBUG=$FLASK_DEBUG"\n')
    path.chmod(0o755)
    return {"FLASK_UWSGI_BINARY": str(path)}


# flask uwsgi run.


@pytest.mark.parametrize(
    ("backend", "options", "loop"),
    [
        ("WebSocket", ["--threads", "2"], "None"),
        ("GeventWebSocket", ["--gevent", "20"], "gevent"),
        ("GeventWebSocket", [], "gevent"),
        ("AsyncioWebSocket", ["--asyncio", "20"], "asyncio"),
        ("AsyncioWebSocket", ["--processes", "2"], "None"),
    ],
)
def test_each_engine_serves(
    backend: str, options: list[str], loop: str, serve: Callable[..., int], tmp_path: Path
) -> None:
    write(tmp_path, backend, end=VARIABLE)
    port = serve("--app", "site_cli", "uwsgi", "run", *options)
    workers = 2 if "--processes" in options else 1
    assert page(f"http://127.0.0.1:{port}/") == f"plain {loop} {workers} False None"
    assert echoes(f"ws://127.0.0.1:{port}/echo")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("package.site:create_app('made')", "made"),
        ("package/site.py:create_app('made')", "made"),
        # uWSGI would put the host's name and a variable there.
        ("package.site:create_app('@(/etc/hostname)$(HOME)')", "@(/etc/hostname)$(HOME)"),
    ],
)
def test_factory_with_arguments_serves(
    name: str, title: str, serve: Callable[..., int], tmp_path: Path
) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    write(tmp_path / "package", name="site.py")
    port = serve("--app", name, "uwsgi", "run")
    assert page(f"http://127.0.0.1:{port}/").startswith(f"{title} ")
    assert echoes(f"ws://127.0.0.1:{port}/echo")


def test_app_py_needs_no_name(serve: Callable[..., int], tmp_path: Path) -> None:
    write(tmp_path, name="app.py")
    port = serve("uwsgi", "run")
    assert page(f"http://127.0.0.1:{port}/").startswith("plain ")


def test_flaskenv_names_the_app_and_reaches_the_worker(
    serve: Callable[..., int], tmp_path: Path
) -> None:
    write(tmp_path)
    (tmp_path / ".flaskenv").write_text("FLASK_APP=site_cli:create_app('env')\nGREETING=hello\n")
    port = serve("uwsgi", "run")
    assert page(f"http://127.0.0.1:{port}/") == "env None 1 False hello"
    assert echoes(f"ws://127.0.0.1:{port}/echo")
    (tmp_path / "other").write_text("GREETING=other\n")
    port = serve("--env-file", "other", "uwsgi", "run")
    assert page(f"http://127.0.0.1:{port}/") == "env None 1 False other"


def test_options_of_uwsgi_come_after_two_hyphens(serve: Callable[..., int], tmp_path: Path) -> None:
    write(tmp_path, end=VARIABLE)
    port = serve(
        *("--app", "site_cli", "uwsgi", "run", "--processes", "2"),
        *("--", "--env=GREETING=passed", "--no-orphans", "--threads", "2"),
    )
    assert page(f"http://127.0.0.1:{port}/") == "plain None 2 False passed"
    assert echoes(f"ws://127.0.0.1:{port}/echo")


def test_listener_of_a_file_replaces_host_and_port(
    serve: Callable[..., int], tmp_path: Path
) -> None:
    write(tmp_path, end=VARIABLE)
    port = free_port()
    (tmp_path / "my.ini").write_text(f"[uwsgi]\nhttp-socket = 127.0.0.1:{port}\nprocesses = 3\n")
    serve("--app", "site_cli", "uwsgi", "run", "--", "--ini", "my.ini", port=port)
    assert page(f"http://127.0.0.1:{port}/") == "plain None 3 False None"
    assert "--http " not in (tmp_path / f"log-{port}").read_text()


def test_certificate_serves_wss(serve: Callable[..., int], tmp_path: Path) -> None:
    write(tmp_path, end=VARIABLE)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    certificate, key = make_ssl_devcert(str(tmp_path / "own"), host="127.0.0.1")
    port = serve("--app", "site_cli", "uwsgi", "run", "--cert", certificate, "--key", key)
    assert echoes_soon(f"wss://127.0.0.1:{port}/echo", ssl=context)
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    port = serve("--app", "site_cli", "uwsgi", "run", "--ssl", "adhoc", **cache)
    assert echoes_soon(f"wss://127.0.0.1:{port}/echo", ssl=context)


@pytest.mark.parametrize(
    ("before", "after", "environment", "debug"),
    [
        ([], [], {}, False),
        (["--debug"], [], {}, True),
        ([], ["--debug"], {}, True),
        ([], [], {"FLASK_DEBUG": "1"}, True),
        ([], [], {"FLASK_UWSGI_DEBUG": "1"}, True),
        (["--debug"], ["--no-debug"], {"FLASK_UWSGI_DEBUG": "1"}, False),
    ],
)
def test_debug_is_that_of_flask_or_of_run(
    before: list[str],
    after: list[str],
    environment: dict[str, str],
    debug: bool,
    recorder: dict[str, str],
    tmp_path: Path,
) -> None:
    write(tmp_path, end=f"{VARIABLE}print('LOADED', app.debug)\n")
    arguments = [*before, "--app", "site_cli", "uwsgi", "run", *after, "--port", str(free_port())]
    output = flask(*arguments, cwd=tmp_path, **recorder, **environment).stdout
    run = next(line for line in output.splitlines() if line.startswith("RUN"))
    assert ("--env FLASK_UWSGI_DEBUG=1" in run) is debug
    assert ("--py-autoreload 1" in run) is debug
    assert f"FLASK_DEBUG={debug:d}" in output
    assert f"LOADED {debug}" in output


def test_worker_sees_debug(serve: Callable[..., int], tmp_path: Path) -> None:
    write(tmp_path, end=VARIABLE)
    port = serve("--app", "site_cli", "uwsgi", "run", "--debug")
    assert page(f"http://127.0.0.1:{port}/") == "plain None 1 True None"


def test_program_with_a_group_of_its_own(recorder: dict[str, str], tmp_path: Path) -> None:
    end = "\nfrom flask.cli import FlaskGroup\nFlaskGroup(create_app=lambda: app)()\n"
    path = write(tmp_path, end=VARIABLE + end)
    result = subprocess.run(
        [sys.executable, path, "uwsgi", "run", "--port", str(free_port())],
        env={**os.environ, **recorder},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"--wsgi-file {path} --callable app" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--cert", "cert.pem"], "--cert and --key go together"),
        (["--port", "99999"], "is not a port"),
        (["--asyncio", "10", "--threads", "4"], "leave threads out"),
        (["--asyncio", "10", "--", "--threads=4"], "leave threads out"),
        (["--", "--threds", "4"], "did you mean 'threads'"),
        (["--", "--ini", "no.ini"], "no.ini failed: No such file"),
        (["--", "--module", "other"], "module names another app"),
        (["--", "--http", "127.0.0.1:{busy}"], "port {busy} is in use"),
    ],
)
def test_what_can_not_run_is_said(
    arguments: list[str], expected: str, tmp_path: Path, serve: Callable[..., int]
) -> None:
    write(tmp_path, end=VARIABLE)
    busy = ""
    if "{busy}" in expected:
        busy = str(serve("--app", "site_cli", "uwsgi", "run"))
    given = [argument.format(busy=busy) for argument in arguments]
    result = flask("--app", "site_cli", "uwsgi", "run", *given, cwd=tmp_path)
    assert result.returncode != 0
    assert expected.format(busy=busy) in result.stdout
    assert "Traceback" not in result.stdout


def test_app_without_an_extension_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    result = flask("--app", "plain", "uwsgi", "run", cwd=tmp_path)
    assert result.returncode == 1
    assert "websocket = WebSocket(app)" in result.stdout
    assert "Could not locate a Flask" in flask("uwsgi", "run", cwd=tmp_path).stdout


# flask uwsgi routes.

ROUTES = """
from flask import Flask
from flask_uwsgi_ws import WebSocket
app = Flask(__name__, **{flask})
websocket = WebSocket(app)
app.add_url_rule("/page", "page", lambda: "page", **{rule})
websocket.add_url_rule("/z", "second", print, **{rule})
websocket.add_url_rule("/a/<name>", "first", print)
"""


@pytest.mark.parametrize(
    ("options", "rule", "expected"),
    [
        (
            {},
            {},
            ["Endpoint  Rule", "--------  ---------", "first     /a/<name>", "second    /z"],
        ),
        (
            {"host_matching": True, "static_host": "static"},
            {"host": "chat.example"},
            [
                "Endpoint  Host          Rule",
                "--------  ------------  ---------",
                "first                   /a/<name>",
                "second    chat.example  /z",
            ],
        ),
        (
            {"subdomain_matching": True},
            {"subdomain": "chat"},
            [
                "Endpoint  Subdomain  Rule",
                "--------  ---------  ---------",
                "first                /a/<name>",
                "second    chat       /z",
            ],
        ),
    ],
)
def test_routes_are_those_of_websockets(
    options: dict[str, Any], rule: dict[str, str], expected: list[str], tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(ROUTES.format(flask=options, rule=rule))
    assert flask("uwsgi", "routes", cwd=tmp_path).stdout.splitlines() == expected


def test_no_routes_are_said(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    assert "No WebSocket routes" in flask("uwsgi", "routes", cwd=tmp_path).stdout


# flask uwsgi doctor.


def doctor(folder: Path, *arguments: str, app: str = "", **environment: str) -> tuple[int, str]:
    given = ["--app", app] if app else []
    result = flask(*given, "uwsgi", "doctor", *arguments, cwd=folder, **environment)
    levels = {line[:6] for line in result.stdout.splitlines()}
    assert levels <= {"OK    ", "WARN  ", "FAIL  "}, result.stdout
    assert result.returncode == ("FAIL  " in levels), result.stdout
    return result.returncode, result.stdout


def test_good_set_up_has_no_failure(tmp_path: Path) -> None:
    write(tmp_path, "GeventWebSocket", end=VARIABLE)
    status, said = doctor(tmp_path)
    assert status == 0
    assert "no app is named" in said
    assert re.search(rf"^OK    uWSGI 2\.0\.\d+: {UWSGI}$", said, re.MULTILINE)
    assert "OK    SSL is built in" in said
    assert "OK    loop engines: gevent, asyncio" in said
    assert re.search("^OK    Python .* imports the package$", said, re.MULTILINE)
    assert ("OK    compiled: " if COMPILED else "WARN  not compiled: ") in said
    ini = str(ROOT / "uwsgi-configs" / "gevent.ini")
    status, said = doctor(tmp_path, "--ini", ini, app="site_cli")
    assert status == 0
    assert "OK    app: site_cli, with GeventWebSocket" in said
    assert "OK    options: nothing in them is known to be risky" in said


GOOD = "--master --die-on-term --single-interpreter --listen 1024 --http :1 --http-websockets"


@pytest.mark.parametrize(
    ("backend", "options", "level", "expected"),
    [
        (WebSocket, f"{GOOD} --http-keepalive=4", "WARN", "http-keepalive"),
        (WebSocket, f"{GOOD} --https-socket :2,{{cert}},{{key}}", "FAIL", "https-socket: "),
        (WebSocket, "--master --http :1", "FAIL", "http without http-websockets"),
        (WebSocket, f"{GOOD} --gevent 9", "FAIL", "WebSocket is answered 501 with gevent"),
        (AsyncioWebSocket, f"{GOOD} --loop gevent", "FAIL", "is answered 501 with gevent"),
        (GeventWebSocket, GOOD, "FAIL", "GeventWebSocket is answered 501 without gevent"),
        (GeventWebSocket, f"{GOOD} --gevent 9 --threads 4", "FAIL", "leave threads out"),
        (AsyncioWebSocket, f"{GOOD} --asyncio 9", "FAIL", "asyncio without greenlet"),
        (WebSocket, "--master --mount /a=a --mount /b=b", "FAIL", "add single-interpreter"),
        (WebSocket, "--master --socket :1", "FAIL", "carries no WebSockets"),
        (WebSocket, "--http-socket :1", "WARN", "no master"),
        (WebSocket, "--http-socket :1 --master", "WARN", "no die-on-term"),
        (WebSocket, f"{GOOD} --worker-reload-mercy 3", "WARN", "longer --worker-reload-mercy"),
        (WebSocket, f"{GOOD} --listen 100", "WARN", "listen backlog: 100 connections"),
        (WebSocket, f"{GOOD} --listen 1000000000", "FAIL", "net.core.somaxconn=1000000000"),
    ],
)
def test_risky_options_are_named(
    backend: type[WebSocket], options: str, level: str, expected: str, tmp_path: Path
) -> None:
    cert, key = make_ssl_devcert(str(tmp_path / "own"))
    program = examine(UWSGI, shlex.split(options.format(cert=cert, key=key)))
    found = [*option_findings(program, (2, 0, 31), Subject(backend()))]
    found += limit_findings(program.options)
    assert [each.level for each in found if expected in each.text] == [level], found
    # And nothing else is.
    failed = [each for each in found if each.level == "FAIL"]
    assert len(failed) == (level == "FAIL"), failed


def test_good_options_have_nothing_risky() -> None:
    for backend, more in (
        (WebSocket, "--threads 8"),
        (GeventWebSocket, "--gevent 9"),
        (AsyncioWebSocket, "--asyncio 9 --greenlet"),
        (AsyncioWebSocket, ""),
    ):
        program = examine(UWSGI, shlex.split(f"{GOOD} {more}"))
        assert not [*option_findings(program, (2, 0, 31), Subject(backend()))]


def test_emperor_is_not_asked_for_what_its_vassals_need() -> None:
    program = examine(UWSGI, ["--ini", str(ROOT / "uwsgi-configs" / "emperor.ini")])
    (found,) = option_findings(program, (2, 0, 31), Subject())
    assert found.level == "OK"


def test_options_that_uwsgi_does_not_take_are_a_failure(tmp_path: Path) -> None:
    said = doctor(tmp_path, "--", "--no-such-option")[1]
    assert "FAIL  options: uWSGI does not take them" in said
    assert "no-such-option" in said


def test_configuration_is_read_and_not_run(tmp_path: Path) -> None:
    port = free_port()
    lines = {
        "http": f"127.0.0.1:{port}",
        "http-keepalive": "4",
        "daemonize": tmp_path / "daemon.log",
        "logger": f"file:{tmp_path}/logger.log",
        "pidfile": tmp_path / "pid",
        "module": "no.such.app",
    }
    (tmp_path / "my.ini").write_text(
        "[uwsgi]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items())
    )
    said = doctor(tmp_path, "--ini", "my.ini")[1]
    assert "WARN  http-keepalive" in said
    assert "FAIL  http without http-websockets" in said
    assert [path.name for path in tmp_path.iterdir()] == ["my.ini"]
    # A flag that is there and off is not set.
    off = "[uwsgi]\nhttp = :1\nhttp-websockets = false\nmaster = off\n"
    (tmp_path / "my.ini").write_text(off)
    said = doctor(tmp_path, "--ini", "my.ini")[1]
    assert "FAIL  http without http-websockets" in said
    assert "WARN  no master" in said


def test_program_that_is_no_uwsgi_is_named(tmp_path: Path) -> None:
    assert (
        "FAIL  '/no/such/uwsgi' is not a program"
        in (doctor(tmp_path, FLASK_UWSGI_BINARY="/no/such/uwsgi")[1])
    )
    for name in ("true", "ls"):
        said = doctor(tmp_path, FLASK_UWSGI_BINARY=str(shutil.which(name)))[1]
        assert f"FAIL  {shutil.which(name)} is not a uWSGI" in said
        assert "descriptors" in said


def test_missing_uwsgi_is_said_with_how_to_get_one(tmp_path: Path) -> None:
    alone = tmp_path / "bin"
    alone.mkdir()
    (alone / "python").symlink_to(sys.executable)
    site = os.pathsep.join([os.environ.get("PYTHONPATH", str(ROOT)), sysconfig.get_path("purelib")])
    result = subprocess.run(
        [str(alone / "python"), "-m", "flask", "uwsgi", "doctor"],
        env={"PATH": str(alone), "PYTHONPATH": site},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "FAIL  no uWSGI found" in result.stdout
    assert "flask uwsgi install" in result.stdout


def test_pyuwsgi_has_no_ssl_and_one_loop_engine(tmp_path: Path) -> None:
    program = tmp_path / "uwsgi"
    program.write_text(f"#!{sys.executable}\nimport pyuwsgi\npyuwsgi.run()\n")
    program.chmod(0o755)
    folders = [os.environ.get("PYTHONPATH"), str(ROOT / "build" / "pyuwsgi")]
    environment = {
        "FLASK_UWSGI_BINARY": str(program),
        "PYTHONPATH": os.pathsep.join(filter(None, folders)),
    }
    status, said = doctor(tmp_path, **environment)
    assert status == 0
    assert "WARN  SSL is not built in" in said
    assert "WARN  loop engine asyncio is not built in" in said
    assert "imports the package" in said
    said = doctor(tmp_path, "--", "--https", ":1", **environment)[1]
    assert "FAIL  options: " in said


def test_uwsgi_of_another_python_is_named(tmp_path: Path) -> None:
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    other = next(version for version in ("3.12", "3.13") if version != here)
    start = [str(ROOT / "tests" / "python"), other]
    if subprocess.run([*start, "-c", ""], check=False).returncode:
        pytest.skip(f"Python {other} is not here")
    subprocess.run([*start, "-m", "venv", tmp_path / "other"], check=True)
    scripts = tmp_path / "other" / "bin"
    subprocess.run([scripts / "pip", "install", "--quiet", "pyuwsgi"], check=True)
    said = doctor(tmp_path, FLASK_UWSGI_BINARY=str(scripts / "uwsgi"))[1]
    assert f"FAIL  Python {other}" in said
    assert f"the packages here are for {here}: 'flask uwsgi install' builds one" in said


@pytest.mark.skipif(not os.path.exists(DEBIAN), reason="Debian's uWSGI is not here")
def test_old_uwsgi_without_engines_threads_or_python(tmp_path: Path) -> None:
    environment = {"FLASK_UWSGI_BINARY": DEBIAN}
    write(tmp_path, "GeventWebSocket", end=VARIABLE)
    said = doctor(tmp_path, app="site_cli", **environment)[1]
    assert "FAIL  loop engine gevent is not built in" in said
    assert "loop engine asyncio" not in said
    assert "FAIL  no Python in it" in said
    assert "--plugin python3" in said
    said = doctor(tmp_path, "--", "--plugin", "python3", "--master", **environment)[1]
    assert "no Python in it" not in said
    assert "FAIL  uWSGI before 2.0.22 runs no Python threads" in said
    said = doctor(
        tmp_path, "--", "--plugin", "python3", "--master", "--enable-threads", **environment
    )[1]
    assert "2.0.22" not in said


def test_number_that_is_none_is_named(tmp_path: Path) -> None:
    for option in ("max-fd", "listen"):
        status, said = doctor(tmp_path, "--", f"--{option}", "abc")[:2]
        assert f"FAIL  {option} is 'abc': give it a number" in said
        assert status == 1


def test_option_of_uwsgis_is_told_its_place(tmp_path: Path) -> None:
    for command in (["run", "--stats", ":1"], ["doctor", "--gevent", "10"]):
        result = subprocess.run(
            [*FLASK, "uwsgi", *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert "uWSGI's own options come after '--'" in result.stderr


def test_engine_that_answers_501_is_refused(tmp_path: Path) -> None:
    for backend in ("WebSocket", "AsyncioWebSocket"):
        write(tmp_path, backend)
        result = subprocess.run(
            [*FLASK, "--app", "site_cli", "uwsgi", "run", "--gevent", "10"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 1
        assert "leave gevent out, or use GeventWebSocket" in result.stderr


def test_few_descriptors_are_named(tmp_path: Path) -> None:
    for limit, options, expected in (
        (128, "", "FAIL  descriptors: 128,"),
        (1024, "", "WARN  descriptors: 1024,"),
        (128, "-- --max-fd 2000", "OK    descriptors: 2000"),
    ):
        command = f"{shlex.join(FLASK)} uwsgi doctor {options}"
        result = subprocess.run(
            ["sh", "-c", f"ulimit -Sn {limit}; exec {command}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert expected in result.stdout
        assert ("ulimit -n" in result.stdout) is (not options)
        assert result.returncode == expected.startswith("FAIL")


def test_app_that_is_broken_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    (tmp_path / "raises.py").write_text("1 / 0\n")
    (tmp_path / "plain.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    write(tmp_path, end=f"{VARIABLE}app.config['UWSGI_WEBSOCKET_MAX_SIZE'] = 'big'\n")
    for app, expected in (
        ("site_cli", "UWSGI_WEBSOCKET_MAX_SIZE (max_size) is 'big'"),
        ("broken", "no_such_module"),
        ("raises", "ZeroDivisionError"),
        ("nowhere", "Could not import 'nowhere'"),
        ("plain", "has no WebSocket extension"),
    ):
        said = doctor(tmp_path, app=app)[1]
        assert said.startswith("FAIL  ")
        assert expected in said.splitlines()[0]
        assert "uWSGI" in said


# flask uwsgi install, less the build, which test_install.py does.


def test_complete_uwsgi_is_left_alone(tmp_path: Path) -> None:
    result = flask("uwsgi", "install", cwd=tmp_path)
    assert result.returncode == 0
    assert f"{UWSGI} has all loop engines already" in result.stdout


def test_what_the_build_lacks_is_said(tmp_path: Path) -> None:
    arguments = ("uwsgi", "install", "--force")
    result = flask(*arguments, cwd=tmp_path, PATH=str(tmp_path))
    assert result.returncode == 1
    assert "a C compiler" in result.stdout
    assert "apt-get install build-essential" in result.stdout
    hidden = {"CFLAGS": "-nostdinc"}
    result = flask(*arguments, cwd=tmp_path, **hidden)
    assert result.returncode == 1
    assert "apt-get install libssl-dev" in result.stdout
    assert "a C compiler" not in result.stdout


def test_build_that_fails_says_what_pip_said(tmp_path: Path) -> None:
    result = flask("uwsgi", "install", "--force", cwd=tmp_path, PIP_NO_INDEX="1")
    assert result.returncode == 1
    assert "Building uWSGI with Python, gevent, asyncio and greenlet" in result.stdout
    assert "No matching distribution found for uwsgi" in result.stdout
    assert "Traceback" not in result.stdout


def test_python_of_the_system_is_left_alone(tmp_path: Path) -> None:
    site = os.pathsep.join([os.environ.get("PYTHONPATH", str(ROOT)), sysconfig.get_path("purelib")])
    base = Path(sys.base_prefix) / "bin" / Path(sys.executable).resolve().name
    result = subprocess.run(
        [str(base), "-m", "flask", "uwsgi", "install", "--force"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": site},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "is not a virtual environment" in result.stderr
    assert "--yes" in result.stderr


def test_program_that_does_not_run_is_said() -> None:
    with pytest.raises(ProgramError, match="does not run: No such file"):
        evaluate("/no/such/uwsgi", [], "1")
