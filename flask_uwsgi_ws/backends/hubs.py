"""What the backends with greenlets share: how a handler waits, in the greenlet that serves it.

A hub is the greenlet in which an event loop runs, gevent's or eventlet's. Whoever waits switches
to it, and it switches back.
"""

from __future__ import annotations

import _thread
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from greenlet import GreenletExit

from ..client import BlockingCalls, Message, Sendable
from ..compression import Deflate
from ..connection import OPEN
from ..contexts import ConnectionContext
from ..greenlets import current, switch
from ..middleware import BaseMiddleware, Opening
from ..settings import Settings
from ..unpatched import unpatched
from .evented import EventedClient, Reactor

_NOT_IN_HUB = "receive in the thread of the hub; other threads can send and close"
_IN_HUB = "a callback of the hub can not wait: spawn a greenlet for it (gevent.spawn)"

_OPEN = OPEN


class HubReactor(Reactor):
    """The connections of a hub. A subclass knows whose it is.

    :param hub: the greenlet in which the loop runs.
    :param call: has the loop call something, soon.
    :param timer: makes one of so many seconds, with ``start(call)``, ``stop()`` and ``close()``.
    :param sleep: lets others run for so many seconds.
    """

    def __init__(
        self,
        hub: Any,
        call: Callable[[Callable[[], object]], object],
        timer: Callable[[float], Any],
        sleep: Callable[[float], object],
    ) -> None:
        super().__init__()
        self.hub = hub
        self.call = call
        self.timer = timer
        self.sleep = sleep
        #: Whether this is a call of the hub's, from which a greenlet can be switched to.
        self.in_hub = False

    def call_soon(self) -> None:
        self.call(self.send_all)

    def turn(self) -> None:
        self.in_hub = True
        try:
            self._turn()
        finally:
            self.in_hub = False


# Of this thread; gevent's and eventlet's own kind of it would be of this greenlet.
_here: Any = unpatched(_thread, "_local")()


def reactor_of_thread(kind: Callable[[], HubReactor]) -> Any:
    """Give the reactor of this thread's hub, which is made at the first call.

    :param kind: makes it.
    """
    reactor: HubReactor | None = getattr(_here, "reactor", None)
    # One that was made before a fork is the parent's.
    if reactor is None or reactor.pid != os.getpid():
        reactor = _here.reactor = kind()
    return reactor


def forget_reactor() -> Any:
    """Give the reactor of this thread away, or ``None`` where there is none."""
    return _here.__dict__.pop("reactor", None)


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


class HubClient(EventedClient, BlockingCalls):
    """A connection served by a greenlet. See :class:`~..client.BaseClient`."""

    def __init__(
        self,
        environ: Mapping[str, Any],
        sock: socket.socket,
        settings: Settings,
        subprotocol: str | None,
        deflate: Deflate | None,
        reactor: HubReactor,
    ) -> None:
        self._hub_reactor = reactor
        self._most_at_once = settings.write_limit
        super().__init__(environ, sock, settings, subprotocol, deflate, reactor)

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
        self._hub_reactor.sleep(0)
        return self._take() if self._has_message() else ""

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
        if self._left:
            # Other threads have sent before.
            self._reactor.catch_up()
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
            self._hub_reactor.sleep(0)
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


def attach(
    middleware: BaseMiddleware, opening: Opening, client_class: type[Any] | None = None
) -> Any:
    """Make the client of a connection and begin to read.

    :param middleware: whose it is.
    :param opening: what it is made of.
    :param client_class: where it is not the middleware's own.
    """
    client = middleware.make_client(opening, client_class)
    try:
        client.attach(opening.early)
    except OSError:
        middleware.ended(client)
        raise
    return client


def serve(
    middleware: BaseMiddleware,
    client: Any,
    handler: Callable[..., Any],
    arguments: dict[str, Any],
    context: ConnectionContext,
) -> None:
    """Run a handler to its end, in this greenlet, and give its connection back."""
    try:
        try:
            middleware.opened(client)
            middleware.serve(client, handler, arguments, context)
        finally:
            try:
                client.settle()
            finally:
                middleware.ended(client)
    except GreenletExit:
        # Killed again, in the middle of the closing handshake.
        pass
    except KeyboardInterrupt:
        # It came while this greenlet was the one that ran, and is for the server.
        raise
    except BaseException:
        # In a plain greenlet it would end the hub.
        middleware.app.logger.exception("could not end %r", client)


def hold(
    middleware: BaseMiddleware,
    opening: Opening,
    handler: Callable[..., Any],
    arguments: dict[str, Any],
    client_class: type[Any] | None = None,
) -> None:
    """Serve a connection in the greenlet of its request, on the hub of the server."""
    client = attach(middleware, opening, client_class)
    interrupts: list[KeyboardInterrupt] = []

    def run(client: Any, **arguments: Any) -> Any:
        try:
            return handler(client, **arguments)
        except KeyboardInterrupt as interrupt:
            interrupts.append(interrupt)
            raise GreenletExit from None

    opening.context.run(serve, middleware, client, run, arguments, opening.context)
    if interrupts:
        raise interrupts.pop()
