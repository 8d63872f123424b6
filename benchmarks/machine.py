"""Says what was measured on, and in which versions."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from .servers import PEERS

OURS = ("Flask", "gevent", "greenlet", "uvloop", "uWSGI")
THEIRS = (
    *("flask-sock", "simple-websocket", "gunicorn", "gevent", "gevent-websocket"),
    *("websockets", "uvicorn", "starlette", "httptools", "picows", "uvloop"),
)

_ASK = """
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        print(name, version(name), end=", ")
    except PackageNotFoundError:
        print(name, "not installed", end=", ")
"""


def describe(ours: tuple[str, ...] = OURS, theirs: tuple[str, ...] = THEIRS) -> list[str]:
    """Give lines for the head of the report.

    :param ours: packages whose versions are told, of this Python, and of the peers'.
    """
    return [
        f"{_processor()}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}",
        f"ours and native: {_versions(sys.executable, ours)}",
        f"the others: {_versions(str(PEERS / 'python'), theirs)}",
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions(python: str, names: tuple[str, ...]) -> str:
    if not Path(python).exists():
        return "not installed"
    answer = subprocess.run([python, "-c", _ASK, *names], capture_output=True, text=True)
    return answer.stdout.rstrip(", ")
