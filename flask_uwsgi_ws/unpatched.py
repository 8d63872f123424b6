"""The standard library as it was before gevent's or eventlet's monkey-patching."""

from __future__ import annotations

import importlib.util
import selectors
import sys
from functools import cache
from types import ModuleType
from typing import Any


def unpatched(module: ModuleType, name: str) -> Any:
    """Give what *name* is in *module* where nobody has replaced it.

    :param module: of the standard library.
    :param name: a name in it.
    """
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.already_patched:
        original = _fresh_selectors() if module is selectors else patcher.original(module.__name__)
        return getattr(original, name)
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original(module.__name__, name) if monkey else getattr(module, name)


@cache
def _fresh_selectors() -> ModuleType:
    """Import ``selectors`` anew with the ``select`` that eventlet has replaced.

    eventlet keeps none that has ``EpollSelector``.
    """
    spec: Any = importlib.util.find_spec("selectors")
    module = importlib.util.module_from_spec(spec)
    patched = sys.modules["select"]
    sys.modules["select"] = sys.modules["eventlet.patcher"].original("select")
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules["select"] = patched
    return module


def threads_are_patched() -> bool:
    """Tell whether the threads that Python code starts are greenlets, gevent's or eventlet's."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        return True
    patcher = sys.modules.get("eventlet.patcher")
    return patcher is not None and bool(patcher.is_monkey_patched("thread"))
