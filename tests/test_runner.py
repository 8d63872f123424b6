"""``app.run``: what it becomes, and what it says when it can not."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from uwsgi_server import free_port, wait_for_uwsgi
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from flask_uwsgi_ws import runner
from flask_uwsgi_ws.runner import RunError, build_command, find_uwsgi, known_options, locate

app = Flask(__name__)
UWSGI = str(Path(sys.executable).parent / "uwsgi")

SCRIPT = """
from flask import Flask
from flask_uwsgi_ws import WebSocket

{name} = Flask(__name__)
websocket = WebSocket({name})

@{name}.get("/")
def index():
    return "page"

@{name}.get("/fail")
def fail():
    raise RuntimeError("seen in the debugger")

@websocket.route("/echo")
def echo(ws):
    for message in ws:
        ws.send(message)
"""


def command(options: dict[str, Any] | None = None, **given: Any) -> list[str]:
    given.setdefault("debug", False)
    given.setdefault("host", "localhost")
    given.setdefault("uwsgi_binary", None)
    if "port" not in given:
        given["port"] = free_port()
    return build_command(app, **given, options=options or {})


def pairs(arguments: list[str]) -> list[tuple[str, str | bool]]:
    """Read a command line as uWSGI does: each option and its value."""
    found: list[tuple[str, str | bool]] = []
    for argument in arguments[1:]:
        if argument.startswith("--"):
            found.append((argument, True))
        else:
            found[-1] = (found[-1][0], argument)
    return found


@pytest.fixture
def run_script() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts Python as a user does, and ends what it became."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            print(process.communicate(timeout=15)[0].decode(errors="replace"))
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def script(folder: Path, run: str, name: str = "app") -> Path:
    path = folder / "my app.py"
    path.write_text(SCRIPT.format(name=name) + run)
    return path


def echoes(url: str, **options: Any) -> bool:
    """Talk to a server, whose app may still be loaded."""
    with connect(url, proxy=None, **{"open_timeout": 30, **options}) as ws:
        ws.send("hi")
        return ws.recv(timeout=10) == "hi"


def echoes_soon(url: str, **options: Any) -> bool:
    """Talk to a TLS router that has just been started.

    On a busy machine its very first connection was left without an answer now and then.
    """
    for _ in range(2):
        with contextlib.suppress(TimeoutError, ConnectionError):
            return echoes(url, **{"open_timeout": 10, **options})
    return echoes(url, **options)


# The command line.


def test_command_line_has_router_websockets_master_and_the_app() -> None:
    port = free_port()
    arguments = command(port=port)
    assert arguments[0] == UWSGI
    assert {
        ("--http", f"localhost:{port}"),
        ("--http-websockets", True),
        ("--master", True),
        ("--single-interpreter", True),
        ("--callable", "app"),
        ("--module", "test_runner"),
        ("--virtualenv", sys.prefix),
    } <= set(pairs(arguments))


def test_options_are_uwsgis_own() -> None:
    arguments = command(
        {
            "gevent": 100,
            "buffer_size": 8192,
            "no-orphans": True,
            "master": False,
            "threads": None,
            "env": ["A=1", "B=2"],
            "set_ph": ("x=1", "y=2"),
            "enable_threads": False,
        }
    )
    found = pairs(arguments)
    for expected in (
        ("--gevent", "100"),
        ("--buffer-size", "8192"),
        ("--no-orphans", True),
        ("--env", "A=1"),
        ("--env", "B=2"),
        ("--set-ph", "x=1"),
        ("--set-ph", "y=2"),
    ):
        assert expected in found
    assert not {"--master", "--threads", "--enable-threads"} & set(arguments)


def test_own_listener_replaces_host_and_port() -> None:
    arguments = command({"http_socket": f"127.0.0.1:{free_port()}"})
    assert "--http" not in arguments
    assert "--http-websockets" not in arguments
    assert "--http-websockets" in command({"http": f":{free_port()}"})


def test_ipv6_host_is_put_in_brackets() -> None:
    port = free_port()
    assert ("--http", f"[::1]:{port}") in pairs(command(host="::1", port=port))


def test_debug_sets_the_environment_and_reloads(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {("--env", "FLASK_UWSGI_DEBUG=1"), ("--py-autoreload", "1")}
    assert expected <= set(pairs(command(debug=True)))
    assert not expected & set(pairs(command()))
    monkeypatch.setenv("FLASK_UWSGI_DEBUG", "1")
    assert expected <= set(pairs(command()))
    monkeypatch.setenv("FLASK_UWSGI_DEBUG", "0")
    assert not expected & set(pairs(command()))


def test_metrics_are_named_to_uwsgi_where_they_are_enabled() -> None:
    given = pairs(command({"enable_metrics": True, "metric": "name=my.own"}))
    assert ("--metric", "name=websocket.open,type=gauge") in given
    assert ("--metric", "name=my.own") in given
    assert "--metric" not in dict(pairs(command()))


def test_uwsgi_is_found_in_argument_environment_neighbourhood_then_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = tmp_path / "named-uwsgi"
    named.write_text("#!/bin/sh\n")
    named.chmod(0o755)
    assert find_uwsgi() == UWSGI
    assert find_uwsgi(str(named)) == str(named)
    monkeypatch.setenv("FLASK_UWSGI_BINARY", str(named))
    assert find_uwsgi() == str(named)
    monkeypatch.delenv("FLASK_UWSGI_BINARY")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    named.rename(tmp_path / "uwsgi")
    assert find_uwsgi() == str(tmp_path / "uwsgi")
    (tmp_path / "uwsgi").unlink()
    with pytest.raises(RunError, match="pip install uwsgi"):
        find_uwsgi()


def test_app_that_no_variable_holds_can_not_be_located() -> None:
    with pytest.raises(RunError, match="assign it to a variable"):
        locate(Flask("nowhere"))


def test_every_option_of_uwsgi_is_known() -> None:
    known = known_options(UWSGI, [])
    assert {"http", "http-websockets", "gevent", "s", "processes", "py-autoreload"} - known == {"s"}
    assert len(known) > 500


# What can not work is said in one line.


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"options": {"thread": 2}}, "did you mean 'threads'"),
        ({"options": {"qqqqqqqq": 2}}, "--help"),
        ({"options": {"ssl_context": "cert.pem"}}, "pair of files"),
        ({"options": {"ssl_context": ("no.pem", "no.key")}}, "can not be read"),
        ({"options": {"ssl_context": "adhoc", "http": ":1"}}, "leave the http option out"),
        ({"options": {"gevent": 100, "threads": 4}}, "leave threads out"),
        ({"options": {"asyncio": "9", "greenlet": True, "threads": "2"}}, "leave threads out"),
        ({"debug": "0.0.0.0"}, "host='0.0.0.0'"),
        ({"port": "5000"}, "is not a port"),
        ({"port": 70000}, "is not a port"),
        ({"host": "no.such.host.invalid"}, "is not known"),
        ({"host": "192.0.2.1"}, "can not listen"),
        ({"uwsgi_binary": "/no/such/uwsgi"}, "is not a program"),
        ({"uwsgi_binary": shutil.which("ls")}, "is not a uWSGI"),
    ],
)
def test_what_can_not_work_is_said(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(RunError) as error:
        command(given.pop("options", None), **given)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_port_in_use_is_said_with_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(RunError, match=rf"port {port} is in use.*port={port + 1}"):
            command(port=port, host="127.0.0.1")
        with pytest.raises(RunError, match="in use"):
            command({"http_socket": f"127.0.0.1:{port}"})
    monkeypatch.setattr(socket.socket, "bind", _refuse)
    with pytest.raises(RunError, match="port=8080"):
        command(port=80, host="127.0.0.1")


def _refuse(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_uwsgi_without_an_option_of_ours_is_named(tmp_path: Path) -> None:
    poor = tmp_path / "uwsgi"
    options = [
        "http",
        "http-socket",
        "http-websockets",
        "callable",
        "module",
        "pythonpath",
        "virtualenv",
    ]
    options += ["master", "enable-threads", "single-interpreter", "die-on-term", "need-app"]
    poor.write_text("#!/bin/sh\n" + "".join(f"echo '    --{name}  x'\n" for name in options))
    poor.chmod(0o755)
    assert command(uwsgi_binary=str(poor))[0] == str(poor)
    with pytest.raises(RunError, match="built without SSL"):
        command({"ssl_context": "adhoc"}, uwsgi_binary=str(poor))
    with pytest.raises(RunError, match="built without the asyncio loop"):
        command({"asyncio": 10}, uwsgi_binary=str(poor))


def test_debians_uwsgi_without_its_http_plugin_is_told_of() -> None:
    uwsgi = "/usr/bin/uwsgi-core"
    if not os.path.exists(uwsgi):
        pytest.skip("Debian's uWSGI is not here")
    with pytest.raises(RunError, match=r"no option 'http'.*plugin=\['http', 'python3'\]"):
        command(uwsgi_binary=uwsgi)
    plugins = {"plugin": ["http", "python3"]}
    assert command(plugins, uwsgi_binary=uwsgi)[0] == uwsgi


def test_uwsgi_that_lists_no_options_is_run_all_the_same(tmp_path: Path) -> None:
    silent = tmp_path / "uwsgi"
    silent.write_text("#!/bin/sh\n")
    silent.chmod(0o755)
    assert command({"anything": 1}, uwsgi_binary=str(silent))[0] == str(silent)


def test_adhoc_certificate_that_can_not_be_made_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "flask-uwsgi-ws").write_text("in the way")
    with pytest.raises(RunError, match="can not keep a certificate"):
        command({"ssl_context": "adhoc"})
    (tmp_path / "flask-uwsgi-ws").unlink()
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(RunError, match="pip install cryptography"):
        command({"ssl_context": "adhoc"})


def test_module_without_a_file_is_looked_for_in_the_working_folder() -> None:
    module = types.ModuleType("made_up")
    module.made_up_app = made_up_app = Flask("made_up")  # type: ignore[attr-defined]
    sys.modules["made_up"] = module
    try:
        found = {"pythonpath": os.getcwd(), "module": "made_up", "callable": "made_up_app"}
        assert locate(made_up_app) == found
    finally:
        del sys.modules["made_up"]


def test_failure_exits_with_1_and_one_line(
    run_script: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    path = script(tmp_path, "app.run(thread=2)\n")
    process = run_script(str(path))
    output = process.communicate(timeout=30)[0].decode()
    assert process.returncode == 1
    assert re.fullmatch(r"app\.run: .*did you mean 'threads'\?\n", output)


def test_factory_that_keeps_its_app_to_itself_is_told_what_to_do(
    run_script: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    body = SCRIPT.format(name="app").replace("\n", "\n    ")
    path = tmp_path / "factory.py"
    path.write_text(f"def create_app():{body}\n    return app\n\ncreate_app().run()\n")
    process = run_script(str(path))
    output = process.communicate(timeout=30)[0].decode()
    assert process.returncode == 1
    assert "app = create_app()" in output


# Real runs.


def test_script_becomes_uwsgi_whatever_its_variable_is_called(
    run_script: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    port = free_port()
    run = f"my_site.run(host='127.0.0.1', port={port}, threads=2)\n"
    process = run_script(str(script(tmp_path, run, name="my_site")), cwd="/")
    wait_for_uwsgi(port, process)
    assert echoes(f"ws://127.0.0.1:{port}/echo")
    assert Path(f"/proc/{process.pid}/exe").resolve() == Path(UWSGI).resolve()


def test_module_of_a_package_becomes_uwsgi(
    run_script: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    port = free_port()
    package = tmp_path / "site_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "near.py").write_text(f"PORT = {port}\n")
    run = "if __name__ == '__main__':\n    app.run(host='127.0.0.1', port=PORT)\n"
    (package / "web.py").write_text("from .near import PORT\n" + SCRIPT.format(name="app") + run)
    process = run_script("-m", "site_package.web", cwd=tmp_path)
    wait_for_uwsgi(port, process)
    assert echoes(f"ws://127.0.0.1:{port}/echo")


def test_app_of_another_module_becomes_uwsgi(
    run_script: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    (tmp_path / "site_module.py").write_text(SCRIPT.format(name="app"))
    port = free_port()
    (tmp_path / "start.py").write_text(
        f"import site_module\nsite_module.app.run(host='127.0.0.1', port={port})\n"
    )
    process = run_script(str(tmp_path / "start.py"), cwd="/")
    wait_for_uwsgi(port, process)
    assert echoes(f"ws://127.0.0.1:{port}/echo")


def test_printed_command_can_be_pasted(
    run_script: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    port = free_port()
    process = run_script(str(script(tmp_path, f"app.run(host='127.0.0.1', port={port})\n")))
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    wait_for_uwsgi(port, process)
    # The router listens before the app is loaded, and uWSGI takes no signals until then.
    assert echoes(f"ws://127.0.0.1:{port}/echo")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    pasted = line.removeprefix(" * ").strip()
    again = run_script("-c", f"import os; os.execv('/bin/sh', ['sh', '-c', {'exec ' + pasted!r}])")
    wait_for_uwsgi(port, again)
    assert echoes(f"ws://127.0.0.1:{port}/echo")
    assert shlex.split(pasted)[0] == UWSGI


def test_sigterm_stops_the_server(
    run_script: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    port = free_port()
    process = run_script(str(script(tmp_path, f"app.run(host='127.0.0.1', port={port})\n")))
    wait_for_uwsgi(port, process)
    with connect(f"ws://127.0.0.1:{port}/echo", proxy=None, open_timeout=30):
        process.terminate()
        process.communicate(timeout=15)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_debug_shows_the_debugger_and_reloads_on_change(
    run_script: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    port = free_port()
    path = script(tmp_path, f"app.run(True, host='127.0.0.1', port={port})\n")
    process = run_script(str(path))
    wait_for_uwsgi(port, process)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/fail", timeout=30)
    page = error.value.read().decode()
    assert "seen in the debugger" in page
    assert "EVALEX = true" in page
    assert echoes(f"ws://127.0.0.1:{port}/echo")
    # uWSGI looks at times in whole seconds.
    time.sleep(1.1)
    path.write_text(path.read_text().replace('"page"', '"changed page"'))
    assert eventually_serves(port, "changed page")
    assert echoes(f"ws://127.0.0.1:{port}/echo")


def eventually_serves(port: int, text: str) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
                if response.read().decode() == text:
                    return True
        except OSError:
            pass
        time.sleep(0.1)
    return False


def test_ssl_context_serves_wss(
    run_script: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    adhoc, own = free_port(), free_port()
    run = f"app.run(host='127.0.0.1', port={adhoc}, ssl_context='adhoc')\n"
    process = run_script(str(script(tmp_path, run)), env=environment)
    wait_for_uwsgi(adhoc, process)
    assert echoes_soon(f"wss://127.0.0.1:{adhoc}/echo", ssl=context)
    files = sorted((tmp_path / "flask-uwsgi-ws").iterdir())
    assert [file.name for file in files] == ["127.0.0.1.crt", "127.0.0.1.key"]
    assert files[1].stat().st_mode & 0o077 == 0
    run = f"app.run(host='127.0.0.1', port={own}, ssl_context={tuple(map(str, files))})\n"
    process = run_script(str(script(tmp_path, run)), env=environment)
    wait_for_uwsgi(own, process)
    assert echoes_soon(f"wss://127.0.0.1:{own}/echo", ssl=context)


def test_https_socket_is_refused_with_what_to_use(
    run_script: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    certificate = runner._adhoc_certificate("127.0.0.1")
    listen = f"127.0.0.1:{port},{certificate[0]},{certificate[1]}"
    process = run_script(str(script(tmp_path, f"app.run(https_socket={listen!r})\n")))
    wait_for_uwsgi(port, process)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(InvalidStatus) as error:
        echoes(f"wss://127.0.0.1:{port}/echo", ssl=context)
    assert error.value.response.status_code == 501
    assert b"use --https" in error.value.response.body


def test_uwsgi_that_does_not_run_is_named(
    run_script: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    broken = tmp_path / "uwsgi"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    path = script(tmp_path, f"app.run(uwsgi_binary={str(broken)!r})\n")
    process = run_script(str(path))
    output = process.communicate(timeout=30)[0].decode()
    assert process.returncode == 1
    assert output.count("\n") == 1
    assert "does not run" in output
    assert "FLASK_UWSGI_BINARY" in output


@pytest.mark.parametrize("line", ["app.run()", "app.run(debug=True, host='0.0.0.0')"])
def test_inside_uwsgi_run_does_nothing(
    line: str, run_script: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    path = script(tmp_path, f"{line}\nafter = 'reached'\n")
    port = free_port()
    arguments = [UWSGI, "--http-socket", f"127.0.0.1:{port}", "--master", "--need-app"]
    arguments += ["--virtualenv", sys.prefix, "--wsgi-file", str(path), "--callable", "app"]
    process = run_script("-c", f"import os; os.execv({UWSGI!r}, {arguments!r})")
    wait_for_uwsgi(port, process)
    assert echoes(f"ws://127.0.0.1:{port}/echo")


@pytest.mark.parametrize("example", ["chat", "echo"])
def test_configuration_file_runs_the_examples(
    example: str, run_script: Callable[..., subprocess.Popen[bytes]]
) -> None:
    port = free_port()
    ini = Path(__file__).parent.parent / "uwsgi-configs" / "threads.ini"
    arguments = [UWSGI, "--set", f"example={example}", "--set", f"address=127.0.0.1:{port}"]
    # The stats server's port too is one that no other test has at the same time.
    arguments += ["--stats", f"127.0.0.1:{free_port()}"]
    arguments += ["--virtualenv", sys.prefix, "--ini", str(ini)]
    process = run_script("-c", f"import os; os.execv({UWSGI!r}, {arguments!r})")
    wait_for_uwsgi(port, process)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as response:
        assert f"<title>{example}".encode() in response.read().lower()
    with connect(f"ws://127.0.0.1:{port}/{example}", proxy=None, open_timeout=30) as ws:
        assert ws.ping().wait(10)


@pytest.mark.parametrize("line", ["", "http-websockets = false"], ids=["not-there", "false"])
def test_router_without_websockets_is_refused_with_the_option(
    line: str, run_script: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    port = free_port()
    ini = tmp_path / "more.ini"
    ini.write_text(f"[uwsgi]\n{line}\n")
    options = f"http_websockets=False, ini={str(ini)!r}"
    run = f"app.run(host='127.0.0.1', port={port}, {options})\n"
    process = run_script(str(script(tmp_path, run)))
    wait_for_uwsgi(port, process)
    with pytest.raises(InvalidStatus) as error:
        echoes(f"ws://127.0.0.1:{port}/echo")
    assert error.value.response.status_code == 501
    assert b"--http-websockets" in error.value.response.body


def test_plain_command_line_of_the_readme_works(
    run_script: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    shutil.copy(script(tmp_path, ""), tmp_path / "echo.py")
    port = free_port()
    line = f"--master --http :{port} --http-websockets --wsgi echo:app --processes 2 --threads 2"
    arguments = [UWSGI, *line.split(), "--virtualenv", sys.prefix]
    process = run_script("-c", f"import os; os.execv({UWSGI!r}, {arguments!r})", cwd=tmp_path)
    wait_for_uwsgi(port, process)
    assert all(echoes(f"ws://127.0.0.1:{port}/echo") for _ in range(10))


def test_program_that_can_not_be_run_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "uwsgi"
    program.write_text("no program")
    program.chmod(0o755)
    with pytest.raises(RunError, match=r"uwsgi can not be run: Exec format error; set FLASK_UWSGI"):
        runner.become([str(program), "--http", "127.0.0.1:5000,extra", "--master"])
    said = capsys.readouterr().err
    assert f" * {program} --http" in said
    assert " * http://127.0.0.1:5000/ (CTRL+C ends it)" in said
