"""Builds the compiled modules; everything else is in pyproject.toml.

What a message passes through is plain Python with C types in the ``.pxd``
files beside it. ``FLASK_UWSGI_WS_COMPILE=0`` leaves them as they
are, ``FLASK_UWSGI_WS_COMPILE=trace`` compiles them so that coverage can see
their lines, and ``FLASK_UWSGI_WS_COMPILE=quick`` in a sixth of the time, for
what is not fast. Where there is no C compiler the install goes on without.
"""

from __future__ import annotations

import os
import sys

from setuptools import Extension, setup

COMPILED = (
    "masking.pyx",
    "frames.py",
    "connection.py",
    "rooms.py",
    "client.py",
    "backends/threads.py",
    "backends/evented.py",
    "backends/asyncio.py",
    "locks.pyx",
    "sockets.pyx",
    "poller.pyx",
    "texts.pyx",
)
GREENLETS = ("greenlets.pyx", "backends/hubs.py", "backends/gevent.py")


def extensions() -> list[Extension]:
    wanted = os.environ.get("FLASK_UWSGI_WS_COMPILE", "1")
    # The poller is Linux's.
    if wanted == "0" or not sys.platform.startswith("linux"):
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        print("Cython is not here: installing without compiled frames")
        return []
    paths = COMPILED
    include = []
    try:
        import greenlet
    except ImportError:
        print("greenlet is not here: installing without the compiled backend for greenlets")
    else:
        paths += GREENLETS
        include.append(os.path.dirname(os.path.dirname(greenlet.__file__)))
    trace = wanted == "trace"
    modules = [
        Extension(
            "flask_uwsgi_ws." + path.split(".")[0].replace("/", "."),
            [f"flask_uwsgi_ws/{path}"],
            extra_compile_args=["-O0" if trace or wanted == "quick" else "-O3"],
            include_dirs=include,
            define_macros=[("CYTHON_TRACE_NOGIL", "1")] if trace else [],
            # No compiler is no reason to fail: the Python files serve as well.
            optional=not trace,
        )
        for path in paths
    ]
    return cythonize(
        modules,
        # Coverage looks for the C beside the Python.
        build_dir=None if trace else "build/cython",
        # It does not notice that these directives have changed.
        force=True,
        compiler_directives={
            "language_level": 3,
            # The types are those of the .pxd; an annotation is for mypy, and
            # must not make the compiled form refuse what the other takes.
            "annotation_typing": False,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            # A half-made client raises; it does not end the process.
            "nonecheck": True,
            "linetrace": trace,
        },
    )


setup(
    ext_modules=extensions(),
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
