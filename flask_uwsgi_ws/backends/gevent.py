"""The gevent backend: a greenlet for each connection, on the hub of uWSGI's gevent loop.

Other servers with gevent have the greenlet of the request for it. In a server whose requests are
threads and last as long as the handler, each has a hub of its own.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import gevent
from flask import Flask
from gevent._hub_local import get_hub_if_exists
from gevent.hub import get_hub
from greenlet import GreenletExit, greenlet

from ..compression import Deflate
from ..ending import worker_end
from ..extension import WebSocket
from ..greenlets import current
from ..locks import Lock, thread_ident
from ..loops import need_descriptors
from ..middleware import BaseMiddleware, Environ, Opening
from ..patching import patch
from ..runner import RunError
from ..servers import has_threads, loop_engine, server_hub, uwsgi_module
from ..settings import Settings
from .evented import TICK
from .hubs import (
    HubClient,
    HubReactor,
    attach,
    forget_reactor,
    hold,
    reactor_of_thread,
    serve,
)

NO_LOOP = (
    "GeventWebSocket needs uWSGI's gevent loop: start uWSGI with --gevent 100, "
    "or use WebSocket, which has a thread for each connection"
)

# Descriptors of a hub and a reactor, and some more.
_HUBS = 10

_EVENTLET = "GeventWebSocket does not run on eventlet; use WebSocket, which does"

Result = TypeVar("Result")


class GeventReactor(HubReactor):
    """The connections of this thread's hub."""

    def __init__(self) -> None:
        hub = get_hub()
        loop = hub.loop
        super().__init__(hub, loop.run_callback, loop.timer, gevent.sleep)
        self._io = loop.io(self.poller.fileno(), 1)
        self._ticks = loop.timer(TICK, TICK, ref=False)
        self._async = loop.async_(ref=False)
        self._async.start(self.take_foreign)

    def start(self) -> None:
        self._io.start(self.turn)
        self._ticks.start(self.tick)

    def stop(self) -> None:
        self._io.stop()
        self._ticks.stop()

    def call_from_thread(self) -> None:
        # The hub is gone where a request held its thread, and has ended.
        with contextlib.suppress(ValueError):
            self._async.send()

    def close(self) -> None:
        """Give all back, when there are no connections any more."""
        for watcher in (self._io, self._ticks, self._async):
            watcher.stop()
            watcher.close()
        self.poller.close()


# That of the thread in which uWSGI's gevent loop runs.
_serving: GeventReactor | None = None


def _remember_hub() -> None:
    """Take note of the hub that serves the requests of this worker; in one of them."""
    global _serving
    if (_serving is None or _serving.pid != os.getpid()) and loop_engine() == "gevent":
        _serving = reactor_of_thread(GeventReactor)


def _call_in_hub(reactor: GeventReactor, call: Callable[[], Result]) -> Result:
    """Make a call in a greenlet of a hub, and wait for it in this thread, which is another.

    What gevent has made of locks and sockets is not for several hubs.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    done = Lock()
    done.acquire()

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            done.release()

    reactor.leave(gevent.spawn, contextvars.copy_context().run, run)
    done.acquire()
    if errors:
        raise errors[0]
    return results[0]


def _end_hub() -> None:
    """Give this thread's hub back, and its reactor."""
    reactor: GeventReactor | None = forget_reactor()
    if reactor is not None:
        reactor.close()
    hub = get_hub_if_exists()
    if hub is not None:
        hub.destroy(destroy_loop=True)
        # Its greenlet waits in a raise that gevent has caught, and would never be freed.
        hub.throw(GreenletExit)


class GeventWebSocketClient(HubClient):
    """A connection served by a greenlet of gevent's. See :class:`~..client.BaseClient`."""

    def __init__(
        self,
        environ: Mapping[str, Any],
        sock: socket.socket,
        settings: Settings,
        subprotocol: str | None = None,
        deflate: Deflate | None = None,
    ) -> None:
        reactor = reactor_of_thread(GeventReactor)
        super().__init__(environ, sock, settings, subprotocol, deflate, reactor)

    # Rooms.

    def join(
        self, room: str, info: Any = None, *, last: int | None = None, since: str | None = None
    ) -> bool:
        call = partial(self.messenger.join, self, room, info, last, since)
        joined: bool = self._call_queue(call)
        return joined

    def leave(self, room: str) -> None:
        self._call_queue(partial(self.messenger.leave, self, room))

    def _call_queue(self, call: Callable[[], Result]) -> Result:
        if self._is_foreign() and self._hub_reactor is _serving and self.messenger.queue().waits:
            return _call_in_hub(self._hub_reactor, call)
        return call()


class GeventWebSocketMiddleware(BaseMiddleware):
    """Does the handshake and runs the handler in a greenlet of its own."""

    client = GeventWebSocketClient

    def obstacle(self) -> str | None:
        if server_hub() == "eventlet":
            return _EVENTLET
        if uwsgi_module() is not None and loop_engine() != "gevent":
            return NO_LOOP
        return None

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        _remember_hub()
        return super().__call__(environ, start_response)

    def prepare_worker(self) -> None:
        if get_hub_if_exists() is None:
            # One is made for this request's thread, and libev ends the process without them.
            need_descriptors(_HUBS)
        if loop_engine() == "gevent":
            worker_end().call_in_loop(reactor_of_thread(GeventReactor).leave)
        super().prepare_worker()

    def start(
        self, opening: Opening, handler: Callable[..., Any], arguments: dict[str, Any]
    ) -> None:
        if opening.holds and server_hub() == "gevent":
            hold(self, opening, handler, arguments)
            return
        if opening.holds:
            self._hold(opening, handler, arguments)
            return
        client = attach(self, opening)
        # A plain greenlet: gevent's own class keeps a kilobyte about who started it.
        hub = get_hub()
        started = greenlet(serve, hub)
        started.gr_context = opening.context.variables
        arguments_of_serve = self, client, handler, arguments, opening.context
        hub.loop.run_callback(started.switch, *arguments_of_serve)

    def _hold(
        self, opening: Opening, handler: Callable[..., Any], arguments: dict[str, Any]
    ) -> None:
        """Serve a connection in the request's own thread, which has a hub for that time."""
        had_hub = get_hub_if_exists() is not None
        try:
            client = attach(self, opening)
            client.send_at_once()
            opening.context.run(serve, self, client, handler, arguments, opening.context)
        finally:
            if not had_hub:
                _end_hub()

    def is_cancellation(self, error: BaseException) -> bool:
        return isinstance(error, GreenletExit)


class GeventWebSocket(WebSocket):
    """WebSocket routes for a Flask app on uWSGI, each connection a greenlet.

    For uWSGI's gevent loop (``--gevent 100``), where this lets gevent replace
    what waits in the standard library (``gevent.monkey``). The parameters are
    those of :class:`~..extension.WebSocket`.
    """

    middleware = GeventWebSocketMiddleware

    def prepare(self, app: Flask) -> None:
        super().prepare(app)
        engine = loop_engine()
        if engine == "gevent":
            aggressive = self._options.get("aggressive_patch")
            if aggressive is None:
                aggressive = app.config.get("UWSGI_WEBSOCKET_AGGRESSIVE_PATCH", True)
            warning = patch(bool(aggressive))
            if warning:
                app.logger.warning(warning)
        elif uwsgi_module() is not None:
            app.logger.error(NO_LOOP)

    def uwsgi_defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        if "gevent" in options:
            return {}
        if has_threads(options):
            raise RunError(
                "GeventWebSocket needs gevent, which does not go with threads: leave threads out, "
                "or use WebSocket"
            )
        return {"gevent": 100}

    def _call(self, call: partial[Any]) -> Any:
        reactor = _serving
        if reactor is None or reactor.pid != os.getpid():
            return super()._call(call)
        if thread_ident() != reactor.thread:
            return _call_in_hub(reactor, call) if self.messenger.queue().waits else call()
        result = call()
        if self.messenger.rooms.much_was_sent() and current() is not reactor.hub:
            # A handler that only sends must let others run.
            gevent.sleep(0)
        return result
