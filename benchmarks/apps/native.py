"""Echo on uWSGI's own WebSocket functions, in threads or gevent greenlets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import uwsgi


def app(environ: dict[str, Any], _start_response: Callable[..., Any]) -> list[bytes]:
    uwsgi.websocket_handshake(environ["HTTP_SEC_WEBSOCKET_KEY"], environ.get("HTTP_ORIGIN", ""))
    while True:
        try:
            message = uwsgi.websocket_recv()
        except OSError:
            return []
        # uWSGI does not say which of the two a message was; here the large ones are binary.
        if len(message) >= 2**20:
            uwsgi.websocket_send_binary(message)
        else:
            uwsgi.websocket_send(message)
