"""Serves an app of this folder with gevent's server: ``serve_pywsgi.py app port``."""

import os

from gevent import monkey

if os.environ.get("PATCH") != "0":
    monkey.patch_all()

import importlib
import sys

from gevent.pywsgi import WSGIServer

sys.path.append(".")
app = importlib.import_module(sys.argv[1]).app
WSGIServer(("127.0.0.1", int(sys.argv[2])), app).serve_forever()
