"""Serves an app of this folder with gevent's server: ``serve_pywsgi.py app port``."""

from gevent import monkey

monkey.patch_all()

import importlib  # noqa: E402
import sys  # noqa: E402

from gevent.pywsgi import WSGIServer  # noqa: E402

sys.path.append(".")
app = importlib.import_module(sys.argv[1]).app
WSGIServer(("127.0.0.1", int(sys.argv[2])), app).serve_forever()
