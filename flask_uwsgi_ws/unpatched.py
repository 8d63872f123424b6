"""The standard library as it was before gevent's monkey-patching."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


def unpatched(module: ModuleType, name: str) -> Any:
    """Give what *name* is in *module* where gevent has not replaced it.

    :param module: of the standard library.
    :param name: a name in it.
    """
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original(module.__name__, name) if monkey else getattr(module, name)


def threads_are_patched() -> bool:
    """Tell whether gevent has made greenlets of the threads that Python code starts."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))
