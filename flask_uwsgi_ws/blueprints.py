"""Blueprints whose routes are WebSocket routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask


class SocketApp:
    """An app as a blueprint that is registered sees it, whose routes are WebSocket routes.

    A blueprint adds its routes to what it is registered with. This is the app in all but
    that: routes get ``websocket=True``.

    :param app: the app.
    :param check: called with each handler; raises for one that can not be.
    """

    def __init__(self, app: Flask, check: Callable[[Any], None]) -> None:
        object.__setattr__(self, "_app", app)
        object.__setattr__(self, "_check", check)

    @property  # type: ignore[misc]
    def __class__(self) -> type[Flask]:  # type: ignore[override]
        """The app's, for ``isinstance``."""
        return type(object.__getattribute__(self, "_app"))

    def __eq__(self, other: object) -> bool:
        return other is self or other == object.__getattribute__(self, "_app")

    def __hash__(self) -> int:
        return hash(object.__getattribute__(self, "_app"))

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_app"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_app"), name, value)

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view_func: Callable[..., Any] | None = None,
        provide_automatic_options: bool | None = None,
        **options: Any,
    ) -> None:
        """Add a WebSocket route, but for static files and ``websocket=False``."""
        app: Flask = object.__getattribute__(self, "_app")
        is_static = getattr(view_func, "__name__", "") == "send_static_file"
        if not is_static and options.setdefault("websocket", True):
            object.__getattribute__(self, "_check")(view_func)
            provide_automatic_options = False
            # Those of a view; the opening handshake is always GET.
            options.pop("methods", None)
        app.add_url_rule(rule, endpoint, view_func, provide_automatic_options, **options)
