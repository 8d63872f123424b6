"""pytest's fixture ``websocket_client``; pytest finds it where this package is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flask import Flask

    from .testing import WebSocketTestClient


@pytest.fixture
def websocket_client(app: Flask) -> WebSocketTestClient:
    """A client of the sockets of the app that your fixture ``app`` gives."""
    # Not with pytest's start, when nobody has asked for it.
    from .extension import EXTENSION

    if EXTENSION not in getattr(app, "extensions", {}):
        pytest.fail(
            f"{app!r} has no WebSocket extension; call websocket.init_app(app) before",
            pytrace=False,
        )
    client: WebSocketTestClient = app.extensions[EXTENSION].websocket.test_client(app.test_client())
    return client
