"""The configurations in ``uwsgi-configs``, each started as it says and used by a client."""

from __future__ import annotations

import configparser
import contextlib
import itertools
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from modes import BACKENDS, MODES
from nginx import Nginx
from peers import eventually
from raw import RawClient
from redis_server import Redis
from uwsgi_server import ROOT, free_port, uwsgi_command
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from werkzeug.serving import make_ssl_devcert

from flask_uwsgi_ws.settings import Settings

CONFIGS = ROOT / "uwsgi-configs"


class Config:
    """A uWSGI that runs one of the configurations.

    :param name: of the file.
    :param folder: for what it prints, and for its sockets.
    :param options: uWSGI's, after those of the file.
    :param placeholders: what the file asks for.
    """

    def __init__(
        self, name: str, folder: Path, placeholders: dict[str, object], *options: str
    ) -> None:
        uwsgi, self.env = uwsgi_command("uwsgi")
        settings = (f"--set={key}={value}" for key, value in placeholders.items())
        self.command = [*uwsgi, *settings, "--ini", str(CONFIGS / name), *options]
        self.folder = folder
        self.log = folder / "log"
        self.cwd = ROOT

    def __enter__(self) -> Config:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.env,
                stdout=log,
                stderr=log,
                cwd=self.cwd,
                start_new_session=True,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        print(self.printed())
        try:
            if kind is None:
                self.stop()
        finally:
            # The group: a killed master leaves its workers behind.
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0
        assert not re.search("Traceback|DAMN|rror:", self.printed())

    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def stats(self, name: str = "stats.sock") -> dict[str, list[dict[str, object]]]:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.folder / name))
            with client.makefile() as answer:
                told: dict[str, list[dict[str, object]]] = json.load(answer)
        return told

    def workers(self) -> set[object]:
        """Give the pids of those that serve; one that is stopped before it does is killed late."""
        return {each["pid"] for each in self.stats()["workers"] if each["accepting"]}


def page(url: str, context: ssl.SSLContext | None = None) -> str:
    """Get a page as soon as there is one."""
    found = []

    def there() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=10, context=context) as answer:
                found.append(answer.read().decode())
        except OSError:
            return False
        return True

    assert eventually(there, 30), f"nobody serves {url}"
    return str(found[0])


def echoes(ws: ClientConnection) -> None:
    for message in ("text é€😀", b"\x00\xff", "x" * 70_000):
        ws.send(message)
        assert ws.recv(timeout=10) == message


def talks(ws: ClientConnection) -> None:
    """See that the chat answers."""
    ws.send(json.dumps({"type": "ping"}))
    assert json.loads(ws.recv(timeout=10)) == {"type": "pong"}


def requests(config: Config) -> list[object]:
    """How many each worker has served; uWSGI counts one when its handler runs by itself."""
    return [each["requests"] for each in config.stats()["workers"]]


@pytest.mark.parametrize("backend", ["threads", "gevent", "asyncio"])
def test_backend_serves_tells_its_state_and_stops(backend: str, tmp_path: Path) -> None:
    address = f"localhost:{free_port()}"
    placeholders = {"address": address, "stats": tmp_path / "stats.sock", "example": "echo"}
    with Config(f"{backend}.ini", tmp_path, placeholders) as config:
        assert "<title>Echo</title>" in page(f"http://{address}/")
        with connect(f"ws://{address}/echo", origin=f"http://{address}") as ws:
            echoes(ws)
            assert eventually(lambda: requests(config) == [2])
            assert "cores" not in config.stats()["workers"][0]
            config.process.send_signal(signal.SIGTERM)
            # Whatever the worker says: uWSGI ends its router first.
            with pytest.raises(ConnectionClosed):
                ws.recv(timeout=20)
            assert config.process.wait(30) == 0


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def test_processes_behind_nginx(runtime: Path, tmp_path: Path) -> None:
    with (
        Nginx(tmp_path / "nginx", runtime / "http.sock") as nginx,
        Config("processes.ini", runtime, {"folder": runtime}) as config,
    ):
        address = f"127.0.0.1:{nginx.port}"
        assert "<title>Echo</title>" in page(f"http://{address}/")
        assert (runtime / "http.sock").stat().st_mode & 0o777 == 0o660
        with connect(f"ws://{address}/echo", origin=f"http://{address}") as ws:
            echoes(ws)
        with RawClient(nginx.port, Origin=f"http://127.0.0.1:{nginx.port + 1}") as client:
            assert client.status == 403
        chain_reload(config, address, lambda: (runtime / "fifo").write_text("c"))
    assert not (runtime / "http.sock").exists()


def ask(ws: ClientConnection, type: str, **fields: object) -> None:
    ws.send(json.dumps({"type": type, **fields}))


def hear(ws: ClientConnection, type: str, **fields: object) -> dict[str, Any]:
    """Wait for an event that has these fields."""
    while True:
        event: dict[str, Any] = json.loads(ws.recv(timeout=20))
        if event["type"] == type and event.items() >= fields.items():
            return event


def test_rooms_over_redis_behind_nginx(runtime: Path, tmp_path: Path) -> None:
    with (
        Redis(tmp_path) as server,
        Nginx(tmp_path / "nginx", runtime / "http.sock") as nginx,
        Config("rooms-redis.ini", runtime, {"folder": runtime, "redis": server.url}) as config,
        ExitStack() as stack,
    ):
        address = f"127.0.0.1:{nginx.port}"
        assert "<title>Chat</title>" in page(f"http://{address}/")
        assert eventually(lambda: len(config.workers()) == 4, 30)
        before = config.workers()

        def enter(name: str, **wish: str) -> ClientConnection:
            ws = connect(f"ws://{address}/chat", origin=f"http://{address}", open_timeout=30)
            stack.enter_context(ws)
            ask(ws, "join", name=name, session=name, **wish)
            return ws

        def come_to_all(names: Iterator[str]) -> dict[str, ClientConnection]:
            """Have clients come until each worker has one."""
            clients = {}
            while dict(server.client.pubsub_numsub(talk))[talk] < 4:
                name = next(names)
                clients[name] = enter(name)
                hear(clients[name], "welcome", name=name)
                assert len(clients) < 200
            return clients

        talk = b"chat:room:talk"
        clients = come_to_all(f"guest {number}" for number in itertools.count())
        last = ""
        for name, ws in clients.items():
            ask(ws, "say", text="Here I am.", key=name)
            for other in clients.values():
                last = hear(other, "message", key=name)["id"]
        # Those who have come are there, in whichever process.
        late = enter("late")
        welcome = hear(late, "welcome", name="late")
        assert welcome["people"] == [*clients, "late"]

        (runtime / "fifo").write_text("c")
        for ws in (*clients.values(), late):
            with pytest.raises(ConnectionClosed):
                hear(ws, "never")
            assert ws.close_code == 1012
        assert eventually(lambda: len(config.workers() - before) == 4, 30)
        # What is said meanwhile comes from the history.
        first = enter("first")
        hear(first, "welcome", complete=True)
        ask(first, "say", text="Where are you?", key="meanwhile")
        told = hear(first, "message", key="meanwhile")
        back = enter("guest 0", since=last)
        assert json.loads(back.recv(timeout=20)) == told
        assert hear(back, "welcome")["complete"]
    assert not (runtime / "http.sock").exists()


def chain_reload(config: Config, address: str, reload: Callable[[], object]) -> None:
    """See that a reload tells all clients, replaces all workers, and that some always serve."""
    assert eventually(lambda: len(config.workers()) == 2, 30)
    before = config.workers()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(f"ws://{address}/echo")) for _ in range(8)]
        reload()
        while any(client.close_code is None for client in clients):
            # It may find a worker that is about to end.
            try:
                with connect(f"ws://{address}/echo") as ws, contextlib.suppress(ConnectionClosed):
                    ws.send("Is anybody there?")
                    assert ws.recv(timeout=10) == "Is anybody there?"
            except InvalidStatus as refusal:
                if refusal.response.status_code != 503:
                    raise
    assert [client.close_code for client in clients] == [1012] * 8
    assert eventually(lambda: len(config.workers() - before) == 2, 30)
    with connect(f"ws://{address}/echo") as ws:
        echoes(ws)


@pytest.mark.parametrize("mode", BACKENDS)
def test_proxy_fix_tells_who_connects_over_a_socket_file(mode: str, tmp_path: Path) -> None:
    line = closing_line(mode, tmp_path, {"PROXY_FIX": "1"})
    assert "route='/echo' remote='127.0.0.1' code=1000" in line


def test_connection_over_a_socket_file_is_logged_without_proxy_fix(tmp_path: Path) -> None:
    # uWSGI's idea of an address where there is none.
    assert "route='/echo' remote='0.0.0.0' code=1000" in closing_line("threads", tmp_path, {})


def closing_line(mode: str, folder: Path, env: dict[str, str]) -> str:
    """Give what is logged when a client of nginx's leaves."""
    path = folder / "http.sock"
    env = {"LOG_LEVEL": "INFO", **env}
    with (
        Nginx(folder / "nginx", path) as nginx,
        MODES[mode].serve("--http-socket", str(path), env=env) as server,
    ):
        with connect(f"ws://127.0.0.1:{nginx.port}/echo") as ws:
            echoes(ws)
        assert eventually(lambda: "WebSocket closed" in server.log)
        assert "Traceback" not in server.log
        return next(line for line in server.log.splitlines() if "WebSocket closed" in line)


def certificate(folder: Path) -> tuple[str, str]:
    return make_ssl_devcert(str(folder / "localhost"), host="localhost")


def test_https_serves_wss(tmp_path: Path) -> None:
    address = f"localhost:{free_port()}"
    cert, key = certificate(tmp_path)
    # Trusted, and compared with the name.
    context = ssl.create_default_context(cafile=cert)
    placeholders = {"address": address, "certificate": cert, "key": key}
    placeholders["stats"] = tmp_path / "stats.sock"
    with Config("https.ini", tmp_path, placeholders) as config:
        assert "<title>Chat</title>" in page(f"https://{address}/", context)
        with connect(f"wss://{address}/chat", origin=f"https://{address}", ssl=context) as ws:
            talks(ws)
        assert eventually(lambda: requests(config) == [2])


def test_emperor_runs_its_vassal(tmp_path: Path) -> None:
    address = f"localhost:{free_port()}"
    emperor, stats = tmp_path / "emperor.sock", tmp_path / "stats.sock"
    settings = {"address": address, "stats": stats, "virtualenv": sys.prefix}
    options = [f"--vassal-set={key}={value}" for key, value in settings.items()]
    with Config("emperor.ini", tmp_path, {"emperor-stats": emperor}, *options) as config:
        assert "<title>Chat</title>" in page(f"http://{address}/")
        with connect(f"ws://{address}/chat", origin=f"http://{address}") as ws:
            talks(ws)
        vassals = config.stats("emperor.sock")["vassals"]
        assert [Path(str(each["id"])).name for each in vassals] == ["chat.ini"]
        assert len(config.workers()) == 1
    # The vassal has ended with it.
    with socket.socket(socket.AF_UNIX) as client:
        assert client.connect_ex(str(stats)) != 0


class Unit:
    """The unit for systemd, with the test's folders in the place of its own."""

    def __init__(self, runtime: Path) -> None:
        text = (CONFIGS / "echo.service").read_text()
        for folder, ours in (
            ("/srv/echo/.venv", sys.prefix),
            ("/srv/echo", str(ROOT)),
            ("/run/echo", str(runtime)),
        ):
            assert folder in text
            text = text.replace(folder, ours)
        self.text = text
        self.reloads = [
            shlex.split(command) for command in re.findall("^ExecReload=(.*)", text, re.M)
        ]
        parser = configparser.ConfigParser(strict=False)
        parser.read_string(text)
        self.service = parser["Service"]


def test_systemd_knows_all_of_the_unit(runtime: Path, tmp_path: Path) -> None:
    unit = tmp_path / "echo.service"
    unit.write_text(Unit(runtime).text)
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (told.returncode, told.stderr) == (0, "")


def test_commands_of_the_unit(runtime: Path) -> None:
    unit = Unit(runtime)
    folder = Path(unit.service["WorkingDirectory"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(runtime / "notify"))
        systemd.settimeout(30)
        config = Config("processes.ini", runtime, {})
        program, *options = shlex.split(unit.service["ExecStart"])
        address = f"127.0.0.1:{free_port()}"
        listen = ["--http-socket", address]
        config.command = [program, "--set", f"folder={runtime}", *options, *listen]
        config.env["NOTIFY_SOCKET"] = str(runtime / "notify")
        config.cwd = folder
        with config:
            while b"READY=1" not in systemd.recv(4096):
                pass
            assert "<title>Echo</title>" in page(f"http://{address}/")

            def reload() -> None:
                for command in unit.reloads:
                    subprocess.run(command, cwd=folder, timeout=30, check=True)

            chain_reload(config, address, reload)
            with connect(f"ws://{address}/echo") as ws:
                echoes(ws)
                config.process.send_signal(getattr(signal, unit.service["KillSignal"]))
                with pytest.raises(ConnectionClosed):
                    ws.recv(timeout=20)
            assert ws.close_code == 1001
            assert config.process.wait(int(unit.service["TimeoutStopSec"])) == 0


def test_closing_handshakes_fit_into_what_kills_workers() -> None:
    """A worker has longer than its clients, and the service longer than its workers."""
    common = (CONFIGS / "common.ini").read_text()
    emperor = (CONFIGS / "emperor.ini").read_text()
    unit = (CONFIGS / "echo.service").read_text()
    [mercy] = re.findall(r"^worker-reload-mercy = (\d+)", common, re.M)
    for stop in re.findall(r"^(?:TimeoutStopSec=|reload-mercy = )(\d+)", emperor + unit, re.M):
        # The second is that of the handlers that have something to answer, and of uWSGI's checks.
        assert Settings.close_timeout + Settings.close_window + 1 < int(mercy) < int(stop)


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("*.*")), ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_every_option_has_its_reason(path: Path) -> None:
    """A comment stands before each option, or before the few that belong together."""
    reason = False
    for line in path.read_text().splitlines():
        words = line.strip()
        if words.startswith((";", "#")):
            reason = True
        elif not words:
            reason = False
        elif not re.match(r"\[|if-|endif|set-placeholder|\}|.*\{$", words):
            assert reason, f"{path.name}: {line}"
