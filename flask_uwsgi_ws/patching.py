"""gevent's monkey-patching, and a word on who was there before it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from gevent import monkey

# What a module may have taken for itself with "from ... import".
_PATCHED: Mapping[str, tuple[str, ...]] = {
    "socket": ("socket", "create_connection", "getaddrinfo"),
    "ssl": ("SSLContext", "SSLSocket"),
    "threading": ("Event", "Lock", "RLock", "Thread", "local"),
    "time": ("sleep",),
}

# Who may have: the standard library is patched from within, and Flask and what it stands on,
# which are always here first, never hold a lock while they wait.
_TRUSTED = sys.stdlib_module_names | {
    "blinker", "click", "flask", "flask_uwsgi_ws", "gevent", "itsdangerous", "jinja2",
    "markupsafe", "werkzeug",
}  # fmt: skip


def patch(aggressive: bool = True) -> str | None:
    """Let gevent replace what waits in the standard library.

    :param aggressive: see :func:`gevent.monkey.patch_socket`: whether names that
        no cooperative version exists of are taken away.
    :returns: a warning that names those who have taken the old ones already.
    """
    if monkey.is_module_patched("socket") and monkey.is_module_patched("threading"):
        return None
    before = {
        id(getattr(sys.modules[module], name)): f"{module}.{name}"
        for module, names in _PATCHED.items()
        if module in sys.modules
        for name in names
    }
    with warnings.catch_warnings():
        # What gevent warns of is found, and named, below.
        warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)
        monkey.patch_all(aggressive=aggressive)
    late = sorted(set(_holders(before)))
    if not late:
        return None
    return (
        "gevent could not patch what was taken before it, which will block all connections: "
        f"{', '.join(late)}; make the GeventWebSocket before these imports, or start uWSGI with "
        "--gevent-early-monkey-patch"
    )


def _holders(taken: Mapping[int, str]) -> Iterator[str]:
    """Name what others hold of *taken*, and where."""
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] not in _TRUSTED and isinstance(module, ModuleType):
            for attribute in list(vars(module).values()):
                name = taken.get(id(attribute))
                if name is not None and _is_patched_away(name, attribute):
                    yield f"{name} in {module_name}"


def _is_patched_away(name: str, value: Any) -> bool:
    module, attribute = name.split(".")
    return getattr(sys.modules[module], attribute) is not value
