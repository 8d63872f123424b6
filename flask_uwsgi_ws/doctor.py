"""``flask uwsgi doctor``: what keeps WebSockets from working here, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Literal

from flask import Flask

from . import runner
from .extension import EXTENSION, WebSocket
from .limits import short_mercy
from .program import Program, ProgramError, ask, evaluate, examine
from .servers import has_threads, is_on, threads_beside
from .settings import Settings

INSTALL = "'flask uwsgi install' builds one that has"

# The engines that this package runs in, and the classes that do.
_ENGINES = {"gevent": "GeventWebSocket", "asyncio": "AsyncioWebSocket"}

_HTTP = {"http", "https", "http-socket", "http11-socket", "https-socket"}

# The first uWSGI that runs Python threads without --enable-threads.
_THREADS_SINCE = (2, 0, 22)
# What uWSGI takes for --listen.
_LISTEN = 100
# What all that is tried again after a restart may need.
_MANY = 1024
# Below it hardly anybody can connect beside what uWSGI has open itself.
_FEW = 256

# Printed from inside uWSGI, so that a failed import can be told from a failed start.
_INSIDE = """
try:
    import flask_uwsgi_ws.connection
    if {gevent}:
        import gevent
except BaseException as error:
    print("INSIDE", type(error).__name__ + ":", error, flush=True)
else:
    print("INSIDE fine", flush=True)
"""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's.

    :param level: ``"FAIL"`` for what does not work.
    :param text: what there is, and what to do unless it is ``"OK"``.
    """

    level: Literal["OK", "WARN", "FAIL"]
    text: str


@dataclass(frozen=True)
class Subject:
    """What is looked at.

    :param websocket: the app's extension, if there is an app.
    :param settings: its options.
    :param arguments: options of uWSGI's, as in its command line.
    """

    websocket: WebSocket | None = None
    settings: Settings = field(default_factory=Settings)
    arguments: Sequence[str] = ()

    @property
    def backend(self) -> str:
        """Give the name of the extension's class that decides; empty without an app."""
        names = [each.__name__ for each in type(self.websocket).__mro__]
        order = ("GeventWebSocket", "AsyncioWebSocket", "WebSocket")
        return next((name for name in order if name in names), "")


def findings(app: Flask | None, arguments: Sequence[str]) -> Iterator[Finding]:
    """Look at everything.

    :param app: the app, if there is one.
    :param arguments: options of uWSGI's, as in its command line.
    """
    subject = Subject(arguments=arguments)
    if app is not None:
        if EXTENSION in app.extensions:
            websocket: WebSocket = app.extensions[EXTENSION].websocket
            subject = Subject(websocket, arguments=arguments)
            try:
                subject = replace(subject, settings=websocket.settings(app))
            except ValueError as error:
                yield Finding("FAIL", f"app: {error}")
            else:
                yield Finding("OK", f"app: {app.name}, with {subject.backend}")
        else:
            yield Finding(
                "FAIL",
                f"app: {app.name} has no WebSocket extension; make one, websocket = WebSocket(app)",
            )
    try:
        binary = runner.find_uwsgi()
    except runner.RunError as error:
        yield Finding("FAIL", f"{error}; or 'flask uwsgi install' builds one")
        options: Mapping[str, Sequence[str]] = {}
    else:
        yield from program_findings(binary, subject)
        options = _options(binary, arguments)
    yield from package_findings()
    yield from limit_findings(options)


def program_findings(binary: str, subject: Subject) -> Iterator[Finding]:
    """Look at a uWSGI and the options it is to be started with.

    :param binary: its path.
    :param subject: what it is to serve.
    """
    try:
        version = ask(binary, ["--version"])
        if not re.match(r"\d+\.\d+", version):
            raise ProgramError(f"it says {version[:60]!r} for --version")
        program = examine(binary)
    except ProgramError as error:
        yield Finding(
            "FAIL", f"{binary} is not a uWSGI that runs ({error}); set {runner.BINARY} to one"
        )
        return
    yield Finding("OK", f"uWSGI {version}: {binary}")
    if subject.arguments:
        try:
            program = examine(binary, subject.arguments)
        except ProgramError as error:
            yield Finding("FAIL", f"options: uWSGI does not take them: {error}")
            subject = Subject(subject.websocket, subject.settings)
    yield _ssl(binary, program)
    yield from _engines(program, subject)
    yield from _python(binary, program, subject)
    if subject.arguments:
        problems = list(option_findings(program, _numbers(version), subject))
        yield from problems or [Finding("OK", "options: nothing in them is known to be risky")]


def package_findings() -> Iterator[Finding]:
    """Look at what of the package is compiled."""
    folder = Path(__file__).parent
    compiled: list[str] = []
    plain: list[str] = []
    for path in sorted(folder.rglob("*.pxd")):
        if path.stem == "__init__" or (path.stem in {"gevent", "greenlets"} and not _has_gevent()):
            continue
        module = ".".join(path.relative_to(folder.parent).with_suffix("").parts)
        spec = importlib.util.find_spec(module)
        origin = (spec and spec.origin) or ""
        name = module.removeprefix(f"{__package__}.")
        (compiled if origin.endswith(tuple(EXTENSION_SUFFIXES)) else plain).append(name)
    if plain:
        yield Finding(
            "WARN",
            f"not compiled: {', '.join(plain)}; it works, more slowly: install a C compiler and "
            "Python's headers (apt-get install build-essential python3-dev), then the package anew",
        )
    else:
        yield Finding("OK", f"compiled: {', '.join(compiled)}")


def limit_findings(options: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Look at the limits of the system.

    :param options: uWSGI's.
    """
    for name in ("max-fd", "listen"):
        if not _last(options, name, "0").isdigit():
            yield Finding("FAIL", f"{name} is {options[name][-1]!r}: give it a number")
            return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    asked = int(_last(options, "max-fd", "0"))
    number = max(soft, asked if os.geteuid() == 0 else min(asked, hard))
    what = f"descriptors: {number}"
    advice = (
        f"{what}, and each WebSocket takes one, behind --http three; raise it with 'ulimit -n', "
        f"systemd's LimitNOFILE or uWSGI's --max-fd 16384 (the hard limit is {hard})"
    )
    if number < _FEW:
        yield Finding("FAIL", advice)
    elif number <= _MANY:
        yield Finding("WARN", advice)
    else:
        yield Finding("OK", what)
    path = Path("/proc/sys/net/core/somaxconn")
    if not path.exists():
        return
    most, listen = int(path.read_text()), int(_last(options, "listen", str(_LISTEN)))
    if listen > most:
        yield Finding(
            "FAIL",
            f"listen backlog: uWSGI does not start with --listen {listen} where the system has "
            f"{most}: sysctl net.core.somaxconn={listen}",
        )
    elif options and listen < min(most, _MANY):
        yield Finding(
            "WARN",
            f"listen backlog: {listen} connections wait to be accepted, and after a restart all "
            f"clients come at once: --listen {min(most, _MANY)}",
        )
    elif most < _MANY:
        yield Finding(
            "WARN", f"listen backlog: {most} at most: sysctl net.core.somaxconn={_MANY}, --listen"
        )
    else:
        yield Finding("OK", f"listen backlog: {listen}; the system allows {most} (--listen)")


def _options(binary: str, arguments: Sequence[str]) -> Mapping[str, Sequence[str]]:
    try:
        return examine(binary, arguments).options
    except ProgramError:
        return {}


def _ssl(binary: str, program: Program) -> Finding:
    plugins = [*program.options.get("plugin", ()), *program.options.get("plugins", ())]
    if "https-socket" in runner.known_options(binary, plugins):
        return Finding("OK", "SSL is built in")
    return Finding(
        "FAIL" if "https" in program.options else "WARN",
        f"SSL is not built in, so there is no --https: {INSTALL} it; or let nginx have it",
    )


def _engines(program: Program, subject: Subject) -> Iterator[Finding]:
    found = [name for name in _ENGINES if name in program.loops]
    if "asyncio" in found and "greenlet" not in program.plugins:
        found.remove("asyncio")
    yield Finding("OK", f"loop engines: {', '.join(found) or 'none'}")
    for name, users in _ENGINES.items():
        if name in found:
            continue
        needed = _engine(program, name) or subject.backend == "GeventWebSocket" == users
        if needed or subject.backend in {"", users}:
            yield Finding(
                "FAIL" if needed else "WARN",
                f"loop engine {name} is not built in, which {users} "
                f"{'needs' if name == 'gevent' else 'can use'}: {INSTALL} it",
            )


def _python(binary: str, program: Program, subject: Subject) -> Iterator[Finding]:
    here = ".".join(map(str, sys.version_info[:2]))
    try:
        version = ask(binary, [*subject.arguments, "--python-version"])
    except ProgramError:
        yield Finding(
            "FAIL", f"no Python in it: Debian's has --plugin python3, and {INSTALL} Python"
        )
        return
    if _numbers(version)[:2] != sys.version_info[:2]:
        yield Finding(
            "FAIL",
            f"Python {version} is in it, and the packages here are for {here}: {INSTALL} {here}",
        )
        return
    problem = _inside(binary, program, subject.backend == "GeventWebSocket")
    if problem:
        yield Finding(
            "FAIL",
            f"Python {version} in it can not import the package: {problem}; {INSTALL} {here}",
        )
    else:
        yield Finding("OK", f"Python {version} in it is the one here, and imports the package")


def _inside(binary: str, program: Program, gevent: bool) -> str | None:
    """Import the package inside uWSGI; give what is wrong if that fails."""
    arguments: list[str] = []
    for name in ("plugins-dir", "plugin-dir", "plugin", "plugins"):
        for value in program.options.get(name, ()):
            arguments += [f"--{name}", value]
    homes = [_last(program.options, name, "") for name in ("virtualenv", "venv", "home")]
    home = next(filter(None, homes), sys.prefix if sys.prefix != sys.base_prefix else "")
    if home:
        arguments += ["--virtualenv", home]
    try:
        printed = evaluate(binary, arguments, _INSIDE.format(gevent=gevent))
    except ProgramError as error:
        return str(error)
    found = re.search("^INSIDE (.*)$", printed, re.MULTILINE)
    if found is None:
        return "it does not start"
    return None if found[1] == "fine" else found[1]


def option_findings(
    program: Program, version: tuple[int, ...], subject: Subject
) -> Iterator[Finding]:
    """Look at options of uWSGI's; give what is risky in them.

    :param program: the uWSGI with its options.
    :param version: its numbers.
    :param subject: what it is to serve.
    """
    options = {name: values for name, values in program.options.items() if is_on(values)}
    if "emperor" in options:
        yield Finding("OK", "options: an emperor's; look at each of its vassals")
        return
    if "http-keepalive" in options:
        yield Finding(
            "WARN", "http-keepalive: it has broken WebSockets behind uWSGI's router; leave it out"
        )
    if "https-socket" in options:
        yield Finding(
            "FAIL",
            "https-socket: WebSockets are answered 501 there, since the connection stays inside "
            "TLS; use https with http-websockets",
        )
    if {"http", "https"} & options.keys() and "http-websockets" not in options:
        yield Finding("FAIL", "http without http-websockets loses every message; add it")
    if {"socket", "uwsgi-socket"} & options.keys() and not (
        _HTTP & options.keys() or _last(options, "protocol", "") == "http"
    ):
        yield Finding(
            "FAIL",
            "socket: its protocol, nginx's uwsgi_pass, carries no WebSockets; use http-socket, and "
            "proxy_pass with the Upgrade headers",
        )
    threads = {"threads": _last(options, "threads", "")}
    for name in ("gevent", "asyncio", "async"):
        if _engine(program, name) and has_threads(threads):
            yield Finding("FAIL", threads_beside(name))
    if "asyncio" in options and "greenlet" not in options:
        yield Finding("FAIL", "asyncio without greenlet serves no requests; add greenlet")
    yield from _engine_mismatch(program, subject.backend)
    if len(options.get("mount", ())) > 1 and "single-interpreter" not in options:
        yield Finding(
            "FAIL",
            "several apps are mounted without single-interpreter, and compiled modules load into "
            "one interpreter; add single-interpreter",
        )
    if version < _THREADS_SINCE and not ("enable-threads" in options or has_threads(threads)):
        yield Finding(
            "FAIL", "uWSGI before 2.0.22 runs no Python threads without it: add enable-threads"
        )
    if "master" not in options:
        yield Finding("WARN", "no master: a worker that dies is not started anew; add master")
    elif not {"die-on-term", "hook-master-start"} & options.keys():
        yield Finding(
            "WARN", "no die-on-term: SIGTERM, with which services are stopped, reloads; add it"
        )
    mercy = short_mercy(subject.settings, {name: each[-1] for name, each in options.items()})
    if mercy:
        yield Finding("WARN", mercy)


def _engine_mismatch(program: Program, backend: str) -> Iterator[Finding]:
    gevent = _engine(program, "gevent")
    if backend == "GeventWebSocket" and not gevent:
        yield Finding("FAIL", "GeventWebSocket is answered 501 without gevent; add gevent = 100")
    elif backend in {"WebSocket", "AsyncioWebSocket"} and gevent:
        yield Finding(
            "FAIL", f"{backend} is answered 501 with gevent; leave it out, or use GeventWebSocket"
        )


def _engine(program: Program, name: str) -> bool:
    """Tell whether the options start an engine."""
    return name in program.options or _last(program.options, "loop", "") == name


def _last(options: Mapping[str, Sequence[str]], name: str, default: str) -> str:
    return options[name][-1] if name in options else default


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))[:3]


def _has_gevent() -> bool:
    return importlib.util.find_spec("gevent") is not None
