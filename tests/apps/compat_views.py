"""What the servers of the tests are asked for, for apps that have an extension of their own."""

from __future__ import annotations

import os
import sys
from collections import deque

from flask import Flask

#: What handlers told.
told: deque[str] = deque(maxlen=1000)


def add_views(app: Flask) -> None:
    @app.get("/pid")
    def pid() -> str:
        return str(os.getpid())

    @app.get("/told")
    def what_handlers_told() -> list[str]:
        return list(told)

    @app.get("/open")
    def open_connections() -> str:
        """Count those whose handlers have not ended, or are being looked at for an error."""
        return str(len(app.extensions["uwsgi_websocket"].websocket.clients))

    @app.get("/save-coverage")
    def save_coverage() -> str:
        measured = sys.modules["coverage"].Coverage.current()
        measured.stop()
        measured.save()
        measured.start()
        return "saved"
