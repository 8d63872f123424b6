"""What the servers are measured with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """One thing to measure.

    :param load: arguments of ``wsload`` in which ``{port}`` and ``{seconds}``
        are replaced.
    :param connections: how many are open at a time.
    :param unit: of the figure, and :param counted: what CPU time is divided by.
    """

    name: str
    title: str
    load: Sequence[str]
    connections: int
    unit: str = "messages/s"
    counted: str = "message"

    @property
    def is_memory(self) -> bool:
        return self.unit.startswith("KiB")


def _echo(name: str, connections: int, size: int, in_flight: int, kind: str = "text") -> Workload:
    length = f"{size} bytes" if size < 1024 else f"{size // 1024} KiB"
    several = f"{connections} connection{'s' if connections > 1 else ''}"
    load = ["echo", "{port}", str(connections), str(size), str(in_flight), "{seconds}", kind]
    return Workload(name, f"echo, {several}, {length}, {in_flight} in flight", load, connections)


WORKLOADS = [
    _echo("1x32", 1, 32, 1),
    _echo("50x32", 50, 32, 1),
    _echo("1000x32", 1000, 32, 1),
    _echo("5000x32", 5000, 32, 1),
    _echo("50x32x16", 50, 32, 16),
    _echo("10x16K", 10, 16 * 1024, 1),
    _echo("10x1M", 10, 2**20, 1, "binary"),
    Workload(
        "connect",
        "handshake, Close and end of the connection, 16 at once",
        ["connect", "{port}", "16", "{seconds}"],
        16,
        "connections/s",
        "connection",
    ),
    Workload(
        "broadcast",
        "broadcast of 32 bytes to 1000 clients",
        ["broadcast", "{port}", "1000", "32", "{seconds}"],
        1000,
        "deliveries/s",
        "delivery",
    ),
    Workload(
        "memory",
        "memory of an idle connection, of 3000 (lower is better)",
        ["hold", "{port}", "3000", "32"],
        3000,
        "KiB/connection",
        "connection",
    ),
]

# Opened and closed before memory is measured, so that late imports do not count.
WARM_UP = ["hold", "{port}", "100", "32"]
