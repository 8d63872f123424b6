"""Which of the extensions serves an app that does not name one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..extension import WebSocket
from ..servers import loop_engine, uwsgi_module


class _AnyLoop(WebSocket):
    """Starts uWSGI with whatever loop ``app.run`` is told; there another class may take over."""

    def uwsgi_defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG002
        return {}


def extension_class() -> type[WebSocket]:
    """Give the extension for the server that this runs in.

    :returns: :class:`.GeventWebSocket` in uWSGI's gevent loop, else a :class:`.WebSocket`.
    """
    if loop_engine() == "gevent":
        from ..backends.gevent import GeventWebSocket

        return GeventWebSocket
    return WebSocket if uwsgi_module() is not None else _AnyLoop
