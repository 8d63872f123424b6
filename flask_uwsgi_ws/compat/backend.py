"""Which of the extensions serves an app that does not name one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask

from ..extension import WebSocket
from ..servers import loop_engine, uwsgi_module


def extension_class() -> type[WebSocket]:
    """Give the extension for the server that this runs in.

    :returns: :class:`.GeventWebSocket` in uWSGI's gevent loop, else :class:`.WebSocket`.
    """
    if loop_engine() == "gevent":
        from ..backends.gevent import GeventWebSocket

        return GeventWebSocket
    return WebSocket


class RunsAsFlask(WebSocket):
    """For an extension whose app goes on being started as it was: ``app.run`` stays Flask's own.

    To be mixed in before the one of :func:`extension_class`.
    """

    def uwsgi_defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG002
        # For "flask uwsgi run": another extension is chosen where uWSGI has gevent's loop.
        return {}

    def run(self, app: Flask, *arguments: Any, **options: Any) -> None:
        if uwsgi_module() is None:
            type(app).run(app, *arguments, **options)
