"""The memory of workers, and when it has grown."""

from __future__ import annotations

import time
from pathlib import Path

from uwsgi_server import Server

#: The part by which it may be more than it was.
MOST_GROWTH = 0.05


def rss_of(pid: int) -> int:
    """Bytes of a process's memory that are resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def trimmed(server: Server, workers: int) -> dict[int, int]:
    """Give the memory of each worker, without what the C library keeps for later.

    How much that is is a matter of chance.
    """
    found: dict[int, int] = {}
    end = time.monotonic() + 20
    while len(found) < workers:
        if time.monotonic() > end:
            raise RuntimeError(f"only {found} of {workers} workers answer")
        pid = int(server.get("/trim")[1])
        found[pid] = rss_of(pid)
    return found
