"""Functions of uWSGI's that its Python module has too, for threads that are not uWSGI's.

Under ``--gevent`` and ``--asyncio`` the module's versions take the thread that calls them for
one of uWSGI's when they let other threads run, and end the process with a segmentation fault
where it is not. ctypes lets others run in the way of Python.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from .servers import uwsgi_module


def add_to_metric(name: str, count: int) -> None:
    """Add to one of uWSGI's metrics; to none, where it was not told of it (``--metric``).

    :param name: the metric's.
    :param count: what to add, which may be negative.
    """
    add = _function("uwsgi_metric_inc")
    if add is not None:
        add(name.encode(), None, ctypes.c_int64(count))


def read_sharedarea(area: int, position: int) -> bytes:
    """Copy a part of uWSGI's sharedarea, from *position* to its end, under the area's lock.

    :raises ValueError: where there is no such area or position.
    """
    uwsgi: Any = uwsgi_module()
    read = _function("uwsgi_sharedarea_read")
    if read is None:
        return bytes(uwsgi.sharedarea_read(area, position))
    try:
        with uwsgi.sharedarea_memoryview(area) as view:
            size = len(view) - position
    except ValueError:
        size = 0
    if size <= 0:
        raise ValueError(f"there is no byte {position} in a sharedarea {area}")
    data = ctypes.create_string_buffer(size)
    count = read(area, ctypes.c_uint64(position), data, ctypes.c_uint64(size))
    if count < 0:
        raise ValueError(f"sharedarea {area} can not be read from byte {position}")
    return data.raw[:count]


@cache
def _function(name: str) -> Any:
    for path in _paths():
        try:
            function = getattr(ctypes.CDLL(path), name)
        except (AttributeError, OSError):
            continue
        function.restype = ctypes.c_int64
        return function
    return None


def _paths() -> Iterator[str | None]:
    # The program itself, or the module that it is in.
    yield None
    pyuwsgi = sys.modules.get("pyuwsgi")
    if pyuwsgi is not None:
        yield pyuwsgi.__file__
