"""A line in the app's log for each connection that opens and closes."""

from __future__ import annotations

import logging
import time
from typing import Any

from flask import Flask


def log_opened(app: Flask, client: Any) -> None:
    """Log that a connection is open, at the level INFO.

    What the line says is in the record's ``websocket`` too, for a handler that writes JSON.
    """
    if app.logger.isEnabledFor(logging.INFO):
        _log(app, "open", {"id": client.id, "route": client.route, "remote": _remote(client)})


def log_closed(app: Flask, client: Any) -> None:
    """Log that a connection has ended, as :func:`log_opened` does."""
    if app.logger.isEnabledFor(logging.INFO):
        fields = {
            "id": client.id,
            "route": client.route,
            "remote": _remote(client),
            "code": client.close_code,
            "seconds": round(time.monotonic() - client.opened_at, 3),
            "received": client.bytes_received,
            "sent": client.bytes_sent,
        }
        if client.dropped:
            fields["dropped"] = client.dropped
        _log(app, "closed", fields)


def _log(app: Flask, what: str, fields: dict[str, Any]) -> None:
    words = " ".join(f"{name}={value!r}" for name, value in fields.items())
    app.logger.info("WebSocket %s %s", what, words, extra={"websocket": fields})


def _remote(client: Any) -> str:
    environ = client.environ
    port = environ.get("REMOTE_PORT")
    address: str = environ.get("REMOTE_ADDR", "")
    return f"{address}:{port}" if port else address
