"""pytest's fixture ``websocket_client``; pytest finds it where this package is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing import WebSocketTestClient


@pytest.fixture
def websocket_client(request: pytest.FixtureRequest) -> WebSocketTestClient:
    """A client of the sockets of the app that the fixture ``app`` gives."""
    # Not with pytest's start, when nobody has asked for it.
    from .extension import EXTENSION

    try:
        app = request.getfixturevalue("app")
    except pytest.FixtureLookupError:
        pytest.fail(
            "websocket_client needs a fixture named 'app' that gives your Flask app; "
            "write one in conftest.py",
            pytrace=False,
        )
    if EXTENSION not in getattr(app, "extensions", {}):
        pytest.fail(
            f"{app!r} has no WebSocket extension; call websocket.init_app(app) before",
            pytrace=False,
        )
    client: WebSocketTestClient = app.extensions[EXTENSION].websocket.test_client(app.test_client())
    return client
