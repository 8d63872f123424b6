"""Class-based handlers, as Flask has class-based views."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar


class WebSocketView:
    """A class whose instances are handlers: each connection has one of its own.

    A subclass defines :meth:`dispatch_request`. The class goes to a route by way of
    :meth:`as_view`, as :class:`flask.views.View` does.
    """

    #: Decorators that are applied to the handler, the innermost first.
    decorators: ClassVar[Sequence[Callable[[Any], Any]]] = ()

    #: Whether each connection has an instance of its own; ``False`` for one for all.
    init_every_request: ClassVar[bool] = True

    def dispatch_request(self, ws: Any, **arguments: Any) -> Any:
        """Serve a connection; ``async def`` with :class:`AsyncioWebSocket`.

        :param ws: the client.
        :param arguments: from the URL.
        """
        raise NotImplementedError

    @classmethod
    def as_view(cls, name: str, *class_args: Any, **class_kwargs: Any) -> Callable[..., Any]:
        """Make a handler for ``websocket.add_url_rule``.

        :param name: of the handler, which is its endpoint by default.
        :param class_args: for the class, when an instance is made.
        :param class_kwargs: the same.
        """
        shared = None if cls.init_every_request else cls(*class_args, **class_kwargs)

        def instance() -> WebSocketView:
            return cls(*class_args, **class_kwargs) if shared is None else shared

        handler: Any
        if inspect.iscoroutinefunction(cls.dispatch_request):

            async def handler(ws: Any, **arguments: Any) -> Any:
                return await instance().dispatch_request(ws, **arguments)

        else:

            def handler(ws: Any, **arguments: Any) -> Any:
                return instance().dispatch_request(ws, **arguments)

        handler.__name__ = name
        handler.__module__ = cls.__module__
        handler.__doc__ = cls.__doc__
        for decorator in cls.decorators:
            handler = decorator(handler)
        handler.view_class = cls
        return handler  # type: ignore[no-any-return]
