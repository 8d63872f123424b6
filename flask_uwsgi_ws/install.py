"""``flask uwsgi install``: one uWSGI with Python and all loop engines, built into this environment.

uWSGI's own build takes what it is to contain from environment variables, and pip what to build
from source; greenlet's header has to be there before.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections import deque
from collections.abc import Callable
from pathlib import Path

from .program import ProgramError, examine

_COMPILING = re.compile(r"\[(?:thread \d+\]\[)?[^\]]+\] (\S+)\.o$")


class BuildError(Exception):
    """uWSGI could not be built; the message ends with what the build said last."""


def binary() -> str:
    """Give the path of this environment's uWSGI, whether it is there or not."""
    return os.path.join(sysconfig.get_path("scripts"), "uwsgi")


def is_complete(program: str) -> bool:
    """Tell whether a uWSGI has all that :func:`build` builds.

    :param program: its path.
    """
    try:
        found = examine(program)
    except ProgramError:
        return False
    return {"gevent", "asyncio"} <= found.loops and {"python", "greenlet"} <= found.plugins


def in_environment() -> bool:
    """Tell whether this Python is that of a virtual environment."""
    return sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ


def missing(allow_no_ssl: bool = False) -> list[str]:
    """Say what the build lacks, each with the command that brings it.

    :param allow_no_ssl: whether OpenSSL's headers may be missing.
    """
    lacking = []
    compiler = _compiler()
    if shutil.which(compiler[0]) is None:
        lacking.append(f"a C compiler ({compiler[0]}): apt-get install build-essential")
    include = sysconfig.get_path("include")
    if not os.path.exists(os.path.join(include, "Python.h")):
        version = ".".join(map(str, sys.version_info[:2]))
        lacking.append(
            f"Python's headers ({include}/Python.h): apt-get install python{version}-dev"
        )
    if not allow_no_ssl and not _has_header(compiler, "openssl/ssl.h"):
        lacking.append(
            "OpenSSL's headers (openssl/ssl.h): apt-get install libssl-dev; or build without "
            "--https, with --allow-no-ssl"
        )
    if importlib.util.find_spec("pip") is None:
        lacking.append(f"pip: {sys.executable} -m ensurepip")
    return lacking


def build(progress: Callable[[str], None]) -> None:
    """Build uWSGI and install it.

    :param progress: called with each step; one within another begins with spaces.
    :raises BuildError: if that fails.
    """
    if importlib.util.find_spec("greenlet") is None:
        progress("Installing greenlet, whose header uWSGI needs")
        _pip(["greenlet"], {}, lambda _: None)
        importlib.invalidate_caches()
    spec = importlib.util.find_spec("greenlet")
    assert spec is not None
    assert spec.origin is not None
    headers = Path(spec.origin).parent.parent
    environment = {
        "CFLAGS": f"-I{shlex.quote(str(headers))} {os.environ.get('CFLAGS', '')}".strip(),
        "UWSGI_EMBED_PLUGINS": "asyncio,greenlet",
    }
    progress("Building uWSGI with Python, gevent, asyncio and greenlet")
    compiled = 0

    def look(line: str) -> None:
        nonlocal compiled
        if found := _COMPILING.search(line):
            compiled += 1
            progress(f"  {compiled:3} compiled, {found[1]}")

    # The same version may be there without the engines.
    options = ["--verbose", "--no-cache-dir", "--force-reinstall", "--no-deps"]
    _pip([*options, "--no-binary", "uwsgi", "uwsgi"], environment, look)


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "gcc")


def _has_header(compiler: list[str], header: str) -> bool:
    if shutil.which(compiler[0]) is None:
        return Path("/usr/include", header).exists()
    command = [*compiler, *shlex.split(os.environ.get("CFLAGS", "")), "-E", "-x", "c", "-"]
    source = f"#include <{header}>\n"
    result = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
    return result.returncode == 0


def _pip(arguments: list[str], environment: dict[str, str], look: Callable[[str], None]) -> None:
    last: deque[str] = deque(maxlen=30)
    process = subprocess.Popen(
        [sys.executable, "-m", "pip", "install", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    for line in process.stdout:
        last.append(line.rstrip())
        look(last[-1])
    if process.wait():
        raise BuildError("\n".join(["pip could not build it; it said last:", *last]))
