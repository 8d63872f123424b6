"""``flask uwsgi install``, in an environment that has this package and no uWSGI yet."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from uwsgi_server import ROOT


@pytest.mark.timeout(900)
def test_uwsgi_with_all_loop_engines_is_built(tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    subprocess.run([sys.executable, "-m", "venv", fresh], check=True)
    # What is compiled of the package does not matter here, and takes a minute.
    environment = {**os.environ, "FLASK_UWSGI_WS_COMPILE": "0"}
    environment.pop("PYTHONPATH", None)
    pip = [fresh / "bin" / "pip", "install", "--quiet"]
    subprocess.run([*pip, str(ROOT)], env=environment, check=True)
    flask = [str(fresh / "bin" / "flask"), "uwsgi"]

    # On a terminal the steps are shown as they come.
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*flask, "install"], env=environment, cwd=tmp_path, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    output = read_all(ours)
    assert process.wait() == 0, output
    assert "Installing greenlet" in output
    assert "compiled, core/uwsgi" in output
    for line in ("SSL is built in", "loop engines: gevent, asyncio", "imports the package"):
        assert line in output
    assert "FAIL" not in output

    known = subprocess.run([fresh / "bin" / "uwsgi", "--help"], capture_output=True, text=True)
    assert {"--asyncio", "--greenlet", "--gevent", "--https"} <= set(known.stdout.split())
    again = subprocess.run(
        [*flask, "install"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert again.returncode == 0
    assert "has all loop engines already" in again.stdout


def read_all(descriptor: int) -> str:
    """Read a terminal until all its programs have ended."""
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:
            # How Linux says that nobody has the other side any more.
            break
        if not part:
            break
        parts.append(part)
    os.close(descriptor)
    return b"".join(parts).decode(errors="replace")
