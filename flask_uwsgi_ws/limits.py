"""Limits of uWSGI at which a worker should end, which its loops do not look at.

The master asks for an end (``--max-worker-lifetime``, ``--cheaper``) by waking the worker up. The
gevent loop does not see that, and of several threads the one that is woken may be one that does
not look. The asyncio engine does not see the limits of its own requests either
(``--max-requests``, ``--reload-on-rss``, ``--reload-on-as``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .servers import loop_engine, uwsgi_module, uwsgi_options
from .settings import Settings

_BY_MASTER = ("max-worker-lifetime", "cheaper")
_BY_WORKER = ("max-requests", "reload-on-rss", "reload-on-as")

# What uWSGI takes for --min-worker-lifetime and --worker-reload-mercy, seconds.
_LEAST_LIFETIME = 10
_MERCY = 60


def limits_are_set() -> bool:
    """Tell whether there is anything to look at."""
    names = _BY_MASTER + _BY_WORKER if loop_engine() == "asyncio" else _BY_MASTER
    return any(name in uwsgi_options() for name in names)


def limit_is_reached() -> bool:
    """Tell whether uWSGI wants this worker to end."""
    uwsgi: Any = uwsgi_module()
    options = uwsgi_options()
    number = uwsgi.worker_id()
    worker = uwsgi.workers()[number - 1]
    age = time.time() - worker["last_spawn"]
    if worker["status"] in ("cheap", b"cheap"):
        return True
    most = _number(options, "max-worker-lifetime")
    if most and age > most + (number - 1) * _number(options, "max-worker-lifetime-delta"):
        return True
    if loop_engine() != "asyncio" or age < _number(options, "min-worker-lifetime", _LEAST_LIFETIME):
        return False
    requests = _number(options, "max-requests")
    requests += (number - 1) * _number(options, "max-requests-delta") if requests else 0
    return any(
        most and worker[name] >= most
        for name, most in (
            ("delta_requests", requests),
            ("rss", _number(options, "reload-on-rss") * 2**20),
            ("vsz", _number(options, "reload-on-as") * 2**20),
        )
    )


def mercy_warning(settings: Settings) -> str | None:
    """Say what is wrong where uWSGI would kill a worker before its connections have ended."""
    return None if uwsgi_module() is None else short_mercy(settings, uwsgi_options())


def short_mercy(settings: Settings, options: Mapping[str, Any]) -> str | None:
    """Say what is wrong where options of uWSGI would kill a worker too early.

    :param options: uWSGI's.
    """
    mercy = _number(options, "worker-reload-mercy", _MERCY)
    needed = settings.close_window + settings.close_timeout
    if mercy > needed:
        return None
    return (
        f"uWSGI kills a worker {mercy} seconds after it told it to end, but close_window and "
        f"close_timeout add up to {needed:g}: give uWSGI a longer --worker-reload-mercy"
    )


def _number(options: Mapping[str, Any], name: str, default: int = 0) -> int:
    value = options.get(name, default)
    if isinstance(value, list):
        value = value[-1]
    return int(value)
