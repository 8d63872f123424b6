"""Serves an app of this folder with gevent's server: ``serve_pywsgi.py app port``."""

import os

from gevent import monkey

if os.environ.get("PATCH") != "0":
    monkey.patch_all()

import importlib
import signal
import sys

import gevent
from gevent.pywsgi import WSGIServer

sys.path.append(".")
app = importlib.import_module(sys.argv[1]).app
pool = os.environ.get("POOL")
options = {"spawn": int(pool) if pool else "default"}
if "HANDLER_OF_GEVENT_WEBSOCKET" in os.environ:
    options["handler_class"] = importlib.import_module("geventwebsocket.handler").WebSocketHandler
server = WSGIServer(("127.0.0.1", int(sys.argv[2])), app, **options)
if pool:
    gevent.signal_handler(signal.SIGTERM, server.stop, 1)
server.serve_forever()
