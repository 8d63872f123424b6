"""Serves an app of this folder with eventlet's server: ``serve_eventlet.py app port``."""

import eventlet

eventlet.monkey_patch()

import importlib  # noqa: E402
import sys  # noqa: E402

from eventlet import wsgi  # noqa: E402

sys.path.append(".")
app = importlib.import_module(sys.argv[1]).app
wsgi.server(eventlet.listen(("127.0.0.1", int(sys.argv[2]))), app)
