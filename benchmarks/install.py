"""Builds the load generator and the floor, and installs the servers to compare with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .servers import BUILD, HERE, PEERS

REQUIREMENTS = HERE / "requirements.txt"
INSTALLED = BUILD / "installed"


def build_programs() -> None:
    """Compile wsload.c and floor.c where they are newer than what is built."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in ("wsload", "floor"):
        source, program = HERE / f"{name}.c", BUILD / name
        if not _newer(program, source, HERE / "frame.h"):
            compiler = os.environ.get("CC", "cc")
            subprocess.run([compiler, "-O3", "-o", str(program), str(source)], check=True)


def install_peers() -> None:
    """Make the virtual environment of the servers in requirements.txt and of the picture."""
    if _newer(INSTALLED, REQUIREMENTS):
        return
    print("Installing the servers to compare with, which takes about a minute", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(PEERS.parent)], check=True)
    pip = [str(PEERS / "python"), "-m", "pip", "install", "--quiet", "--upgrade"]
    subprocess.run([*pip, "--requirement", str(REQUIREMENTS)], check=True)
    INSTALLED.touch()


def _newer(product: Path, *sources: Path) -> bool:
    if not product.exists():
        return False
    return all(product.stat().st_mtime > source.stat().st_mtime for source in sources)
