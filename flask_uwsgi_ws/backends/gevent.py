"""The gevent backend: a greenlet for each connection, on the hub of uWSGI's gevent loop.

In a server whose requests are threads and last as long as the handler, each has a hub of its own.
"""

from __future__ import annotations

import _thread
import contextlib
import contextvars
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import gevent
from flask import Flask
from gevent._hub_local import get_hub_if_exists
from gevent.hub import get_hub
from greenlet import GreenletExit, greenlet

from ..client import BlockingCalls, Message, Sendable
from ..compression import Deflate
from ..connection import OPEN
from ..contexts import ConnectionContext
from ..ending import worker_end
from ..extension import WebSocket
from ..greenlets import current, switch
from ..locks import Lock, thread_ident
from ..middleware import BaseMiddleware, Environ, Opening
from ..patching import patch
from ..servers import loop_engine, uwsgi_module
from ..settings import Settings
from ..unpatched import unpatched
from .evented import TICK, EventedClient, Reactor

NO_LOOP = (
    "GeventWebSocket needs uWSGI's gevent loop: start uWSGI with --gevent 100, "
    "or use WebSocket, which has a thread for each connection"
)

_NOT_IN_HUB = "receive in the thread of the hub; other threads can send and close"
_IN_HUB = "a callback of gevent's hub can not wait: use gevent.spawn"

_OPEN = OPEN

Result = TypeVar("Result")


class GeventReactor(Reactor):
    """The connections of this thread's hub."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = get_hub()
        #: Whether this is a call of the hub's, from which a greenlet can be switched to.
        self.in_hub = False
        loop = self.hub.loop
        self.call = loop.run_callback
        self.timer = loop.timer
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

    def call_soon(self) -> None:
        self.call(self.send_all)

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

    def turn(self) -> None:
        self.in_hub = True
        try:
            self._turn()
        finally:
            self.in_hub = False


# Of this thread; gevent's own kind of it would be of this greenlet.
_here: Any = unpatched(_thread, "_local")()


def _current_reactor() -> GeventReactor:
    reactor: GeventReactor | None = getattr(_here, "reactor", None)
    # One that was made before a fork is the parent's.
    if reactor is None or reactor.pid != os.getpid():
        reactor = _here.reactor = GeventReactor()
    return reactor


# That of the thread in which uWSGI's gevent loop runs.
_serving: GeventReactor | None = None


def _remember_hub() -> None:
    """Take note of the hub that serves the requests of this worker; in one of them."""
    global _serving
    if (_serving is None or _serving.pid != os.getpid()) and loop_engine() == "gevent":
        _serving = _current_reactor()


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
    reactor: GeventReactor | None = _here.__dict__.pop("reactor", None)
    if reactor is not None:
        reactor.close()
    hub = get_hub_if_exists()
    if hub is not None:
        hub.destroy(destroy_loop=True)
        # Its greenlet waits in a raise that gevent has caught, and would never be freed.
        hub.throw(GreenletExit)


class _Waiter:
    """A greenlet that waits to be woken, once."""

    def __init__(self, waiting: Any) -> None:
        self.greenlet = waiting

    def wake(self) -> None:
        self.switch()

    def switch(self) -> None:
        waiting = self.greenlet
        if waiting is not None:
            self.greenlet = None
            switch(waiting)


class GeventWebSocketClient(EventedClient, BlockingCalls):
    """A connection served by a greenlet. See :class:`~..client.BaseClient`."""

    def __init__(
        self,
        environ: Mapping[str, Any],
        sock: socket.socket,
        settings: Settings,
        subprotocol: str | None = None,
        deflate: Deflate | None = None,
    ) -> None:
        self._hub_reactor = _current_reactor()
        self._most_at_once = settings.write_limit
        super().__init__(environ, sock, settings, subprotocol, deflate, self._hub_reactor)

    # Waiting.

    def _wake(self, waiting: Any) -> None:
        waiter: _Waiter = waiting
        reactor = self._hub_reactor
        if reactor.in_hub:
            reactor.in_hub = False
            waiter.switch()
            reactor.in_hub = True
        else:
            reactor.call(waiter.wake)

    def _block(self, receiving: bool, deadline: float | None) -> None:
        """Wait to be woken, or for *deadline*, of ``time.monotonic()``."""
        reactor = self._hub_reactor
        waiting = current()
        if waiting is reactor.hub:
            raise RuntimeError(_IN_HUB)
        waiter = _Waiter(waiting)
        self._add_waiter(waiter, receiving)
        timer: Any = None
        try:
            if deadline is not None:
                timer = reactor.timer(max(deadline - time.monotonic(), 0.0))
                timer.start(waiter.wake)
            switch(reactor.hub)
        finally:
            waiter.greenlet = None
            if timer is not None:
                timer.stop()
                timer.close()
            self._remove_waiter(waiter)

    # Receiving.

    def receive(self, timeout: float | None = None) -> Message | None:
        if not self._has_message() and not self._wait_for_message(timeout):
            return None
        return self._take()

    def _wait_for_message(self, timeout: float | None) -> bool:
        if self._is_foreign():
            raise RuntimeError(_NOT_IN_HUB)
        if timeout is None:
            timeout = self.timeout
        if timeout is not None:
            self._wait_until(time.monotonic() + max(timeout, 0))
        while not self._has_message():
            if self._connection.state != _OPEN:
                self._end_of_messages()
                return False
            self._park()
        return True

    def _wait_until(self, deadline: float) -> None:
        """Wait for a message or the end, up to *deadline*, of ``time.monotonic()``.

        :raises TimeoutError: when it has passed.
        """
        while not self._has_message() and self._connection.state == _OPEN:
            self._block(True, deadline)
            if self._is_too_late(deadline):
                raise TimeoutError("no message came in time")

    def _park(self) -> None:
        """Wait to be woken.

        Most greenlets are here, each with a copy of its stack: so this has
        none of what :meth:`_block` needs for a deadline.
        """
        waiter = _Waiter(current())
        if waiter.greenlet is self._hub_reactor.hub:
            raise RuntimeError(_IN_HUB)
        self._add_waiter(waiter, True)
        try:
            switch(self._hub_reactor.hub)
        except BaseException:
            waiter.greenlet = None
            self._remove_waiter(waiter)
            raise

    def __next__(self) -> Message:
        # The same as the inherited one, on less of the stack, which is kept for each greenlet.
        if not self._has_message() and (self._end_told or not self._wait_for_message(None)):
            raise StopIteration
        return self._take()

    def recv_nb(self) -> Message | None:
        if self._is_foreign():
            raise RuntimeError(_NOT_IN_HUB)
        if self._has_message():
            return self._take()
        if self._connection.state != _OPEN:
            self._end_of_messages()
            return None
        # A loop that asks again and again must not keep the hub from reading.
        gevent.sleep(0)
        return self._take() if self._has_message() else ""

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

    # Sending.

    def send(self, message: Sendable | None, binary: bool | None = None) -> None:
        if self._unsent > self._most_unsent:
            self._check_hub()
        self._send(self._frame(message, binary))

    def _check_hub(self) -> None:
        """See that a callback of the hub, which can not wait, has not to."""
        if not self._is_foreign() and current() is self._hub_reactor.hub:
            self.check_room()

    def send_nb(self, message: Sendable | None, binary: bool | None = None) -> None:
        self.check_room()
        self.put_now(self._frame(message, binary))

    def ping(self, data: bytes = b"") -> None:
        if self._unsent > self._most_unsent:
            self._check_hub()
        self._send(self._ping_frame(data))

    def _send(self, frame: bytes) -> None:
        if self._is_foreign():
            self._send_foreign(frame)
            return
        self._put(frame)
        if self._unsent > self._most_at_once and current() is not self._hub_reactor.hub:
            self._wait_to_send()

    def send_at_once(self) -> None:
        """Have each message sent before ``send`` returns, and what has come meanwhile be read.

        For a thread whose waiting does not let its hub run, since nothing is patched there.
        """
        self._most_at_once = 0

    def _wait_to_send(self) -> None:
        self.send_out()
        if not self._most_at_once:
            # The hub would go on with its callbacks, of which the next line adds one each time.
            self._hub_reactor._turn()
        if self._unsent <= self._most_unsent:
            # A handler that only sends must let others run.
            gevent.sleep(0)
        for deadline in self.catching_up():
            self._block(False, deadline)

    # Ending.

    def close(self, code: int = 1000, reason: str = "") -> None:
        if self._is_foreign():
            self._close_foreign(code, reason)
        elif current() is self._hub_reactor.hub:
            self.start_closing(code, reason)
        else:
            for deadline in self.closing(code, reason):
                self._block(False, deadline)

    def settle(self) -> None:
        """Close the socket, when the handler has returned."""
        try:
            for deadline in self.settling():
                self._block(False, deadline)
        finally:
            self.give_back()


class GeventWebSocketMiddleware(BaseMiddleware):
    """Does the handshake and runs the handler in a greenlet of its own."""

    client = GeventWebSocketClient

    def obstacle(self) -> str | None:
        if uwsgi_module() is not None and loop_engine() != "gevent":
            return NO_LOOP
        return None

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        _remember_hub()
        return super().__call__(environ, start_response)

    def prepare_worker(self) -> None:
        if loop_engine() == "gevent":
            worker_end().call_in_loop(_current_reactor().leave)
        super().prepare_worker()

    def start(
        self, opening: Opening, handler: Callable[..., Any], arguments: dict[str, Any]
    ) -> None:
        if opening.holds:
            self._hold(opening, handler, arguments)
            return
        client = self._attach(opening)
        # A plain greenlet: gevent's own class keeps a kilobyte about who started it.
        hub = get_hub()
        started = greenlet(self._run, hub)
        started.gr_context = opening.context.variables
        hub.loop.run_callback(started.switch, client, handler, arguments, opening.context)

    def _attach(self, opening: Opening) -> Any:
        client = self.make_client(opening)
        try:
            client.attach(opening.early)
        except OSError:
            self.ended(client)
            raise
        return client

    def _hold(
        self, opening: Opening, handler: Callable[..., Any], arguments: dict[str, Any]
    ) -> None:
        """Run a handler in the request's own greenlet, or thread."""
        had_hub = get_hub_if_exists() is not None
        try:
            client = self._attach(opening)
            client.send_at_once()
            opening.context.run(self._run, client, handler, arguments, opening.context)
        finally:
            if not had_hub:
                _end_hub()

    def _run(
        self,
        client: Any,
        handler: Callable[..., Any],
        arguments: dict[str, Any],
        context: ConnectionContext,
    ) -> None:
        try:
            try:
                self.opened(client)
                self.serve(client, handler, arguments, context)
            finally:
                try:
                    client.settle()
                finally:
                    self.ended(client)
        except GreenletExit:
            # Killed again, in the middle of the closing handshake.
            pass
        except BaseException:
            # In a plain greenlet it would end the hub.
            self.app.logger.exception("could not end %r", client)

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
        return {} if "gevent" in options else {"gevent": 100}

    def _call(self, call: partial[Any]) -> Any:
        reactor = _serving
        if reactor is None or reactor.pid != os.getpid():
            return call()
        if thread_ident() != reactor.thread:
            return _call_in_hub(reactor, call) if self.messenger.queue().waits else call()
        result = call()
        if self.messenger.rooms.much_was_sent() and current() is not reactor.hub:
            # A handler that only sends must let others run.
            gevent.sleep(0)
        return result
