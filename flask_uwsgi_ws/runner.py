"""``app.run`` and ``flask uwsgi run``: find uWSGI, build its command line, become it."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from flask import Flask

from .program import ProgramError, examine
from .servers import has_threads, threads_beside
from .statistics import METRIC_OPTIONS

#: Environment variable that turns the debugger on inside uWSGI.
DEBUG = "FLASK_UWSGI_DEBUG"
#: Environment variable that names the uWSGI to run.
BINARY = "FLASK_UWSGI_BINARY"

# uWSGI options that say where to listen; with one of them HOST:PORT is not used.
_LISTENERS = (
    "http",
    "https",
    "http-socket",
    "http11-socket",
    "https-socket",
    "socket",
    "uwsgi-socket",
    "fastcgi-socket",
    "scgi-socket",
)

# Options that are given unless the caller says otherwise.
_DEFAULTS: Mapping[str, Any] = {
    "master": True,
    # uWSGI before 2.0.22 has no Python threads without it.
    "enable-threads": True,
    # A compiled module loads into one interpreter only.
    "single-interpreter": True,
    # SIGTERM means stop, as it does to everybody else, not reload.
    "die-on-term": True,
    # An app that can not be imported is an error, not an empty server.
    "need-app": True,
}

_PLUGINS = ("plugins-dir", "plugin-dir", "need-plugin", "need-plugins", "plugin", "plugins")

# Options that name an app; there is one already.
_APPS = ("module", "wsgi", "wsgi-file", "file", "paste", "ini-paste", "ini-paste-logged")

# With a bare flag in their place uWSGI would take the next option for the number.
_NEEDS_NUMBER = ("gevent", "asyncio", "async", "threads", "processes", "workers")


class RunError(Exception):
    """uWSGI can not be started; the message is one line that says what to do."""


def run(
    app: Flask,
    debug: bool,
    host: str,
    port: int,
    uwsgi_binary: str | None,
    options: Mapping[str, Any],
    defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> None:
    """Replace this process by uWSGI. The other parameters are those of ``WebSocket.run``.

    :param defaults: ``WebSocket.uwsgi_defaults``.
    :raises SystemExit: with status 1, after a line that says what to do.
    """
    if os.environ.get("FLASK_RUN_FROM_CLI") == "true":
        # "flask run" imports the module and serves the app itself.
        return
    try:
        options = {**options, **defaults(options)}
        become(build_command(app, debug, host, port, uwsgi_binary, options))
    except RunError as error:
        _fail(str(error))


def become(command: list[str]) -> NoReturn:
    """Print a command of uWSGI's and replace this process by it.

    :param command: of :func:`build_command`.
    :raises RunError: if it can not be run.
    """
    print(f" * {shlex.join(command)}", file=sys.stderr, flush=True)
    for scheme in ("http", "https"):
        if f"--{scheme}" in command:
            address = command[command.index(f"--{scheme}") + 1].split(",")[0]
            print(f" * {scheme}://{address}/ (CTRL+C ends it)", file=sys.stderr, flush=True)
    sys.stdout.flush()
    try:
        os.execv(command[0], command)
    except OSError as error:
        raise RunError(
            f"{command[0]} can not be run: {error.strerror}; set {BINARY} to a uWSGI that can"
        ) from None


def build_command(
    app: Flask,
    debug: bool,
    host: str,
    port: int,
    uwsgi_binary: str | None,
    options: Mapping[str, Any],
    arguments: Sequence[str] = (),
    location: Mapping[str, Any] | None = None,
) -> list[str]:
    """Build uWSGI's command line. The other parameters are those of ``WebSocket.run``.

    :param arguments: of a command line of uWSGI's, which come first as they are.
    :param location: the options with which uWSGI finds the app; else those of :func:`locate`.
    :raises RunError: if something in it can not work.
    """
    if isinstance(debug, str):
        raise RunError(f"app.run({debug!r}): the first argument is debug; name it, host={debug!r}")
    if not isinstance(port, int) or not 0 <= port <= 65535:
        raise RunError(f"port {port!r} is not a port: give a number from 1 to 65535")
    debug = debug or debug_wanted()
    wanted = {name.replace("_", "-"): value for name, value in options.items()}
    binary = find_uwsgi(uwsgi_binary)
    given = read_arguments(binary, arguments)
    for name in _APPS:
        if name in given:
            raise RunError(f"{name} names another app than flask does; leave it out, or run uwsgi")
    both = {**{name: values[-1] for name, values in given.items()}, **wanted}
    for engine in ("gevent", "asyncio", "async"):
        if both.get(engine) and has_threads(both):
            raise RunError(threads_beside(engine))
    ssl_context = wanted.pop("ssl-context", None)
    merged: dict[str, Any] = {}
    if not any(both.get(name) for name in _LISTENERS):
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if ssl_context is None:
            merged["http"] = address
        else:
            merged["https"] = ",".join([address, *_certificate(ssl_context, host)])
    elif ssl_context is not None:
        raise RunError("ssl_context goes with host and port; leave the http option out")
    if not any(both.get(name) for name in _LISTENERS if name not in {"http", "https"}):
        merged["http-websockets"] = True
    merged.update(_DEFAULTS)
    if debug:
        merged["env"] = [f"{DEBUG}=1"]
        merged["py-autoreload"] = 1
    if sys.prefix != sys.base_prefix and not {"virtualenv", "venv", "home"} & both.keys():
        merged["virtualenv"] = sys.prefix
    if both.get("enable-metrics"):
        wanted["metric"] = [*METRIC_OPTIONS, *_as_list(wanted.get("metric"))]
    merged = {name: value for name, value in merged.items() if name == "env" or name not in given}
    location = dict(locate(app) if location is None else location)
    environment = merged.get("env", []) + _as_list(wanted.pop("env", None))
    environment += _as_list(location.pop("env", None))
    merged.update(wanted)
    if environment:
        merged["env"] = environment
    # A plugin comes before the options that it brings.
    plugins = {name: merged[name] for name in _PLUGINS if name in merged}
    command = [binary, *arguments, *_arguments({**plugins, **merged, **location})]
    for name in _NEEDS_NUMBER:
        value = merged.get(name)
        if value is True or not (value is None or value is False or str(value).isdigit()):
            raise RunError(f"{name} needs a number, for example {name}=4")
    _check_names(binary, merged, _plugins({**given, **wanted}))
    _check_addresses(given)
    _check_addresses(merged)
    return command


def read_arguments(binary: str, arguments: Sequence[str]) -> dict[str, list[str]]:
    """Give the options of a command line of uWSGI's, those of its files too.

    :param binary: the uWSGI that reads them.
    :raises RunError: for an option that it does not take.
    """
    if not arguments:
        return {}
    try:
        return {name: list(values) for name, values in examine(binary, arguments).options.items()}
    except ProgramError as error:
        known = known_options(binary, [])
        names = (re.match(r"--([\w-]+)", argument) for argument in arguments)
        for name in (match[1] for match in names if match):
            if known and name not in known:
                hint = _hint(binary, name, known)
                raise RunError(f"{binary} has no option {name!r}; {hint}") from None
        raise RunError(f"{binary} does not take {shlex.join(arguments)}: {error}") from None


def debug_wanted() -> bool:
    """Tell whether the environment asks for the debugger."""
    return os.environ.get(DEBUG, "").lower() not in {"", "0", "false", "no", "off"}


def find_uwsgi(binary: str | None = None) -> str:
    """Find the uWSGI to run.

    :param binary: the one to run, if the caller knows.
    :returns: its absolute path.
    :raises RunError: if there is none.
    """
    named = binary or os.environ.get(BINARY)
    if named:
        found = shutil.which(named)
        if found is None:
            raise RunError(f"{named!r} is not a program; set {BINARY} to the path of uWSGI")
        return os.path.abspath(found)
    beside = Path(sys.executable).parent
    found = shutil.which("uwsgi", path=str(beside)) or shutil.which("uwsgi")
    if found is None:
        raise RunError(
            f"no uWSGI found in {beside} or PATH; install it with "
            f"'{sys.executable} -m pip install uwsgi', or set {BINARY} to its path"
        )
    return os.path.abspath(found)


def locate(app: Flask) -> dict[str, str]:
    """Find the variable that holds *app* and say it in uWSGI's options.

    :raises RunError: if no module's variable holds it.
    """
    main = sys.modules.get("__main__")
    if main is not None and (name := _variable(main, app)):
        spec = getattr(main, "__spec__", None)
        if spec is not None:
            # Started with "python -m": a module of a package.
            return {"pythonpath": os.getcwd(), "module": spec.name, "callable": name}
        file = getattr(main, "__file__", None)
        if file is not None:
            path = os.path.abspath(file)
            # The folder of a script is where Python finds its neighbours.
            return {"pythonpath": os.path.dirname(path), "wsgi-file": path, "callable": name}
    for module_name in _likely_modules(app):
        module = sys.modules[module_name]
        if name := _variable(module, app):
            return {"pythonpath": _import_root(module), "module": module_name, "callable": name}
    raise RunError(
        "uWSGI can not find the app: assign it to a variable of a module, "
        "for example 'app = create_app()' at the top level of the script"
    )


def _variable(module: ModuleType, app: Flask) -> str | None:
    return next((name for name, value in vars(module).items() if value is app), None)


def _likely_modules(app: Flask) -> Iterator[str]:
    if app.import_name in sys.modules:
        yield app.import_name
    for name, module in list(sys.modules.items()):
        if name not in {"__main__", app.import_name} and isinstance(module, ModuleType):
            yield name


def _import_root(module: ModuleType) -> str:
    """Give the folder from which a module is imported."""
    file = getattr(module, "__file__", None)
    if file is None:
        return os.getcwd()
    depth = module.__name__.count(".") + (1 if hasattr(module, "__path__") else 0)
    return str(Path(file).resolve().parents[depth])


def _as_list(value: Any) -> list[Any]:
    if value is None or value is False:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _arguments(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        for item in _as_list(value):
            yield f"--{name}"
            if item is not True:
                yield str(item)


def _plugins(options: Mapping[str, Any]) -> list[Any]:
    return _as_list(options.get("plugin")) + _as_list(options.get("plugins"))


def _check_names(binary: str, options: Mapping[str, Any], plugins: list[Any]) -> None:
    known = known_options(binary, plugins)
    if not known:
        # This uWSGI lists none; it will say itself what it does not know.
        return
    if "http-socket" not in known:
        raise RunError(f"{binary} is not a uWSGI; set {BINARY} to the path of one")
    for name in options:
        if name not in known:
            raise RunError(f"{binary} has no option {name!r}; {_hint(binary, name, known)}")


def _hint(binary: str, name: str, known: set[str]) -> str:
    if name in {"asyncio", "greenlet"}:
        return (
            "it was built without the asyncio loop; leave asyncio and greenlet out, and "
            "AsyncioWebSocket has a loop of its own, or build it: flask uwsgi install"
        )
    if name in {"https", "gevent"}:
        lacking = "SSL" if name == "https" else name
        return f"it was built without {lacking}; pip's has it: pip install uwsgi"
    if name == "http":
        return (
            "Debian's has it in a plugin: app.run(plugin=['http', 'python3']), or take another: "
            "pip install uwsgi"
        )
    close = get_close_matches(name, known, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"those it has are listed by '{binary} --help'"


def known_options(binary: str, plugins: list[Any]) -> set[str]:
    """List the options that a uWSGI knows.

    :param binary: its path.
    :param plugins: plugins to load first, which bring options of their own.
    :raises RunError: if it does not run.
    """
    command = [binary, *_arguments({"plugin": plugins}), "--help"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise RunError(f"{binary} does not run: {error}; set {BINARY} to one that does") from None
    return set(re.findall(r"^\s+(?:-\S\|)?--([\w-]+)", result.stdout, re.MULTILINE))


def _check_addresses(options: Mapping[str, Any]) -> None:
    for name in _LISTENERS:
        for value in _as_list(options.get(name)):
            match = re.fullmatch(r"\[?([^\[\],=/]*?)\]?:(\d+)(,.*)?", str(value))
            if match:
                _check_free(match[1], int(match[2]))


def _check_free(host: str, port: int) -> None:
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise RunError(f"host {host!r} is not known: {error.strerror}; give host=") from None
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            # Two may bind with that option; two may not listen.
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise RunError(
                    f"port {port} is in use; end what listens there, or give another, "
                    f"port={port + 1} or --port {port + 1}"
                ) from None
            if error.errno == errno.EACCES:
                raise RunError(f"port {port} needs root; give one above 1023, port=8080") from None
            raise RunError(
                f"can not listen on {host}:{port}: {error.strerror}; give another host="
            ) from None


def _certificate(ssl_context: Any, host: str) -> tuple[str, str]:
    if ssl_context == "adhoc":
        return _adhoc_certificate(host)
    if not isinstance(ssl_context, (tuple, list)) or len(ssl_context) != 2:
        raise RunError("ssl_context is a pair of files, ('cert.pem', 'key.pem'), or 'adhoc'")
    paths = [os.path.abspath(os.fspath(path)) for path in ssl_context]
    for path in paths:
        if not os.access(path, os.R_OK):
            raise RunError(f"ssl_context: {path} can not be read; give (certificate, key)")
    return paths[0], paths[1]


def _adhoc_certificate(host: str) -> tuple[str, str]:
    """Make a self-signed certificate, and keep it so that a browser asks once only."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flask-uwsgi-ws"
    base = cache / re.sub(r"[^\w.-]", "_", host)
    certificate, key = f"{base}.crt", f"{base}.key"
    if not (os.path.exists(certificate) and os.path.exists(key)):
        try:
            from werkzeug.serving import make_ssl_devcert

            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_ssl_devcert(str(base), host=host)
            os.chmod(key, 0o600)
        except (ImportError, TypeError):
            raise RunError(
                "ssl_context='adhoc' needs the cryptography package; "
                f"'{sys.executable} -m pip install cryptography'"
            ) from None
        except OSError as error:
            raise RunError(f"can not keep a certificate in {cache}: {error.strerror}") from None
    return certificate, key


def _fail(message: str) -> NoReturn:
    print(f"app.run: {message}", file=sys.stderr)
    raise SystemExit(1)
