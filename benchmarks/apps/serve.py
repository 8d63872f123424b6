"""Serves an app of this folder: ``serve.py pywsgi|eventlet module port``."""

import importlib
import sys

kind, module, port = sys.argv[1:]
if kind == "pywsgi":
    from gevent import monkey

    monkey.patch_all()
    from gevent.pywsgi import WSGIServer

    app = importlib.import_module(module).app
    WSGIServer(("127.0.0.1", int(port)), app, log=None).serve_forever()
else:
    import eventlet

    eventlet.monkey_patch()
    from eventlet import wsgi

    app = importlib.import_module(module).app
    wsgi.server(eventlet.listen(("127.0.0.1", int(port))), app, log_output=False)
