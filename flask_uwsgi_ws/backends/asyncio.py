"""The asyncio backend: a task for each connection.

The loop is that of uWSGI's asyncio engine where that runs (``--asyncio 100
--greenlet``). In any other mode of uWSGI it runs in a thread of the worker.
What a handler sees is the same.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import inspect
import logging
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

from werkzeug.wrappers import Response

from ..client import BlockingCalls, Message, Sendable, from_json, sharedarea, to_json
from ..compression import Deflate
from ..connection import OPEN
from ..contexts import ConnectionContext
from ..ending import GOING_AWAY, reason
from ..exceptions import ConnectionClosed
from ..extension import WebSocket
from ..handlerthread import HandlerThread
from ..handshake import Handshake
from ..leaving import pass_interrupt_on
from ..locks import Lock, thread_ident
from ..loops import new_event_loop, task_owner
from ..middleware import NO_THREAD, BaseMiddleware, NoThreadError, Opening
from ..occasions import Occasion
from ..servers import loop_engine, server_hub, threads_run
from ..settings import Settings
from ..unpatched import threads_are_patched
from .evented import TICK, EventedClient, Reactor

_log = logging.getLogger(__name__)

_NOT_IN_LOOP = "receive in the connection's own loop; others can send and close"

_OPEN = OPEN
# Seconds that what comes from the message queue waits for more, while more is being sent.
_LATER = 0.002

Result = TypeVar("Result")


class AsyncioReactor(Reactor):
    """The connections of the running event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        #: The one that the loop runs in, where others of its thread have to wake it.
        in_thread = loop_engine() != "asyncio" and threads_are_patched()
        self.greenlet = _current_greenlet() if in_thread else None
        self._ticks: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self.loop.add_reader(self.poller.fileno(), self.turn)
        self._ticks = self.loop.call_later(TICK, self._tick_again)

    def stop(self) -> None:
        self.loop.remove_reader(self.poller.fileno())
        if self._ticks is not None:
            self._ticks.cancel()

    def _tick_again(self) -> None:
        self._ticks = self.loop.call_later(TICK, self._tick_again)
        self.tick()

    def call_soon(self) -> None:
        self.loop.call_soon(self.send_all)

    def send_later(self) -> None:
        if self._later is None:
            self._later = self.loop.call_later(_LATER, self._send_at_last)

    def _send_at_last(self) -> None:
        self._later = None
        self.send_all()

    def expect(self) -> None:
        """A call is under way after which more may be to send: what is to be sent waits for it."""
        self.expecting += 1

    def expect_no_more(self) -> None:
        """That call has come back, and who made it goes on."""
        self.expecting -= 1
        if self._later is not None and not self.expecting:
            # After the caller, which may make the next one.
            self.loop.call_soon(self._send_unless_expecting)

    def _send_unless_expecting(self) -> None:
        if self._later is not None and not self.expecting:
            self._later.cancel()
            self._send_at_last()

    def call_from_thread(self) -> None:
        self.loop.call_soon_threadsafe(self.take_foreign)


def _current_greenlet() -> Any:
    greenlet = sys.modules.get("greenlet")
    return greenlet.getcurrent() if greenlet is not None else None


_reactor: AsyncioReactor | None = None


def _current_reactor() -> AsyncioReactor:
    global _reactor
    loop = asyncio.get_running_loop()
    # One that was made before a fork is the parent's.
    if _reactor is None or _reactor.pid != os.getpid() or _reactor.loop is not loop:
        _reactor = AsyncioReactor()
    return _reactor


def current_task() -> asyncio.Task[Any] | None:
    """Give the task that runs here, if one does."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    reactor = _reactor
    if (
        task is not None
        and reactor is not None
        and reactor.loop is task.get_loop()
        and reactor.greenlet not in (None, _current_greenlet())
    ):
        # It waits in the way of gevent or eventlet, and is not here.
        return None
    return task


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class AsyncioWebSocketClient(EventedClient):
    """A connection served by a task. See :class:`~..client.BaseClient`.

    The methods that wait are coroutines, for tasks of the loop that serves the
    connection. Everybody else, a view or another thread, has :attr:`sync`.
    """

    def __init__(
        self,
        environ: Mapping[str, Any],
        sock: socket.socket,
        settings: Settings,
        subprotocol: str | None = None,
        deflate: Deflate | None = None,
    ) -> None:
        reactor = _current_reactor()
        self._loop = reactor.loop
        self._greenlet = reactor.greenlet
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] | None = None
        super().__init__(environ, sock, settings, subprotocol, deflate, reactor)

    @property
    def sync(self) -> BlockingClient:
        """This connection with blocking calls, for views and other threads."""
        return BlockingClient(self)

    # Waiting.

    def _is_foreign(self) -> bool:
        if self._greenlet is not None:
            return _current_greenlet() is not self._greenlet
        return bool(thread_ident() != self._reactor.thread)

    def _wake(self, waiter: Any) -> None:
        if not waiter.done():
            waiter.set_result(None)

    async def _block(self, receiving: bool, deadline: float | None) -> None:
        """Wait to be woken, or for *deadline*, of ``time.monotonic()``."""
        waiter = self._loop.create_future()
        self._add_waiter(waiter, receiving)
        timer: asyncio.TimerHandle | None = None
        if deadline is not None:
            seconds = max(deadline - time.monotonic(), 0.0)
            timer = self._loop.call_later(seconds, _wake, waiter)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._remove_waiter(waiter)

    async def _elsewhere(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Await *call* in the loop of the connection, from another one."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))

    # Receiving.

    async def receive(self, timeout: float | None = None) -> Message | None:
        """Wait for the next message.

        :param timeout: seconds to wait; ``None`` waits as :attr:`timeout` says.
        :returns: ``str`` for text, ``bytes`` for binary (:rfc:`6455` section
            5.6), and ``None`` once when the connection has ended.
        :raises ConnectionClosed: after that ``None``.
        :raises TimeoutError: when no message came in time.
        :raises RuntimeError: in another loop or thread.
        """
        if self._is_foreign():
            raise RuntimeError(_NOT_IN_LOOP)
        if timeout is None:
            timeout = self.timeout
        if timeout is not None:
            await self._wait_until(time.monotonic() + max(timeout, 0))
        while not self._has_message():
            if self._connection.state != _OPEN:
                self._end_of_messages()
                return None
            # Not in a coroutine of its own, which would cost as much as all the rest here.
            waiter = self._loop.create_future()
            self._add_waiter(waiter, True)
            try:
                await waiter
            except BaseException:
                self._remove_waiter(waiter)
                raise
        return self._take()

    async def _wait_until(self, deadline: float) -> None:
        """Wait for a message or the end, up to *deadline*, of ``time.monotonic()``.

        :raises TimeoutError: when it has passed.
        """
        while not self._has_message() and self._connection.state == _OPEN:
            await self._block(True, deadline)
            if self._is_too_late(deadline):
                raise TimeoutError("no message came in time")

    async def recv(self, timeout: float | None = None) -> Message | None:
        """The same as :meth:`receive`."""
        return await self.receive(timeout)

    async def a_recv(self) -> Message | None:
        """The same as :meth:`receive`."""
        return await self.receive()

    async def recv_nb(self) -> Message | None:
        """Give the next message if it is here.

        :returns: ``''`` if there is none, ``None`` once when the connection
            has ended.
        :raises ConnectionClosed: after that ``None``.
        """
        if self._is_foreign():
            raise RuntimeError(_NOT_IN_LOOP)
        if self._connection.state == _OPEN and not self._has_message():
            # A loop that asks again and again must not keep us from reading.
            await asyncio.sleep(0)
        return self.poll_message()

    def poll_message(self) -> Message | None:
        """What :meth:`recv_nb` gives, in the loop's thread."""
        if self._has_message():
            return self._take()
        if self._connection.state != _OPEN:
            self._end_of_messages()
            return None
        return ""

    async def receive_json(self, timeout: float | None = None) -> Any:
        """Wait for a message and read it as JSON.

        ``None`` is the end, once, or a ``null``; :attr:`connected` tells which.

        :raises ValueError: if it is not JSON, or nested too deeply; else as :meth:`receive`.
        """
        return from_json(await self.receive(timeout))

    def __iter__(self) -> Any:
        raise TypeError("the messages come with 'async for message in ws'")

    def __aiter__(self) -> AsyncIterator[Message]:
        """Give the messages until the connection ends."""
        return self

    async def __anext__(self) -> Message:
        try:
            message = await self.receive()
        except ConnectionClosed:
            raise StopAsyncIteration from None
        if message is None:
            raise StopAsyncIteration
        return message

    # Sending.

    async def send(self, message: Sendable | None, binary: bool | None = None) -> None:
        """Send a message; from any task, never interleaved with another.

        Waits only while much is waiting to be sent.

        :param message: ``str`` goes as text, bytes as binary. ``None``, which is what
            ``receive`` gives at the end, can not be sent, but ends a loop that tries to.
        :param binary: ``True`` or ``False`` to send as binary or text
            whatever *message* is.
        :raises ConnectionClosed: when the connection has ended, or the client
            takes no bytes for ``send_timeout`` seconds, which ends it.
        :raises TypeError: for what is neither ``str`` nor bytes.
        :raises ValueError: for text that can not be UTF-8.
        """
        frame = self._frame(message, binary)
        if self._is_foreign():
            await self._elsewhere(self._send(frame))
            return
        self._put(frame)
        if self._unsent > self._most_unsent:
            await self._wait_to_send()

    async def _send(self, frame: bytes) -> None:
        # It may have ended on the way from another loop.
        if self._connection.state == _OPEN:
            self._put(frame)
        if self._unsent > self._most_unsent:
            await self._wait_to_send()

    async def _wait_to_send(self) -> None:
        self.send_out()
        if self._unsent <= self._most_unsent:
            # A handler that only sends must let others run.
            await asyncio.sleep(0)
        for deadline in self.catching_up():
            await self._block(False, deadline)

    async def a_send(self, message: Sendable | None, binary: bool | None = None) -> None:
        """The same as :meth:`send`."""
        await self.send(message, binary)

    async def send_nb(self, message: Sendable | None, binary: bool | None = None) -> None:
        """Send a message without waiting.

        :raises BlockingIOError: if much is waiting to be sent; the message is not sent then.
            Else as :meth:`send`.
        """
        self._send_now(message, binary)

    async def send_binary(self, message: Sendable | None) -> None:
        """Send a binary message; raises as :meth:`send` does."""
        await self.send(message, True)

    async def join(
        self, room: str, info: Any = None, *, last: int | None = None, since: str | None = None
    ) -> bool:
        """Enter a room; parameters, result and errors are those of :meth:`.BlockingCalls.join`."""
        call = partial(self.messenger.join, self, room, info, last, since)
        joined: bool = await _elsewhere(self.messenger, "others", call)
        return joined

    async def leave(self, room: str) -> None:
        """Leave a room; does nothing if the client is not in it."""
        self.messenger.leave(self, room)

    async def send_json(self, value: Any) -> None:
        """Send *value* as JSON in a text message.

        :raises TypeError: for what JSON can not say.
        :raises ValueError: for NaN and the infinities, for which it has no words; else as
            :meth:`send`.
        """
        await self.send(to_json(value))

    async def ping(self, data: bytes = b"") -> None:
        """Send a Ping, :rfc:`6455` section 5.5.2; the Pong is dealt with here.

        :param data: at most 125 bytes.
        :raises ConnectionClosed: when the connection has ended.
        :raises TypeError: for what is not bytes.
        :raises ValueError: for more than 125 bytes.
        """
        frame = self._ping_frame(data)
        if self._is_foreign():
            await self._elsewhere(self._send(frame))
        else:
            await self._send(frame)

    async def send_from_sharedarea(self, id: int, pos: int = 0) -> None:
        """Send uWSGI's sharedarea *id* from *pos* to its end as text.

        :param id: which area, in the order of ``--sharedarea``.
        :param pos: the first byte.
        :raises RuntimeError: outside uWSGI.
        :raises ValueError: where there is no such area or position, or no
            UTF-8; else as :meth:`send`.
        """
        await self.send(sharedarea(id, pos), False)

    async def send_binary_from_sharedarea(self, id: int, pos: int = 0) -> None:
        """Send uWSGI's sharedarea *id* from *pos* to its end as binary.

        Parameters and errors are those of :meth:`send_from_sharedarea`.
        """
        await self.send(sharedarea(id, pos), True)

    # Ending.

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Do the closing handshake, :rfc:`6455` section 7.1.2; once is enough.

        Waits for the peer's Close frame, at most ``close_timeout`` seconds.

        :param code: why: 1000 to 1003, 1007 to 1014, 3000 to 4999.
        :param reason: the same for people, at most 123 bytes of UTF-8.
        :raises ValueError: for another code or a longer reason.
        """
        if self._is_foreign():
            await self._elsewhere(self.close(code, reason))
            return
        for deadline in self.closing(code, reason):
            await self._block(False, deadline)

    async def settle(self) -> None:
        """Close the socket, when the handler has returned."""
        try:
            for deadline in self.settling():
                await self._block(False, deadline)
        finally:
            self.give_back()

    # The handler's tasks.

    def own(self, task: asyncio.Task[Any]) -> None:
        """Have *task* end with the handler."""
        if self._tasks is None:
            self._tasks = weakref.WeakSet()
        self._tasks.add(task)

    async def cancel_tasks(self) -> set[asyncio.Task[Any]]:
        """Cancel what the handler has left running, and let it end.

        :returns: those that do not within ``close_timeout``.
        """
        left = [task for task in self._tasks or () if not task.done()]
        if not left:
            return set()
        for task in left:
            task.cancel()
        _, stubborn = await asyncio.wait(left, timeout=self._settings.close_timeout)
        return stubborn

    # For BlockingClient.

    def _send_sync(self, message: Sendable | None, binary: bool | None) -> None:
        if self._is_foreign():
            self._send_foreign(self._frame(message, binary))
        else:
            self._send_now(message, binary)

    def _send_now(self, message: Sendable | None, binary: bool | None) -> None:
        self.check_room()
        self.put_now(self._frame(message, binary))

    def _ping_sync(self, data: bytes) -> None:
        if self._is_foreign():
            self._send_foreign(self._ping_frame(data))
        else:
            self.check_room()
            self._put(self._ping_frame(data))

    def _close_sync(self, code: int, reason: str) -> None:
        if self._is_foreign():
            self._close_foreign(code, reason)
        else:
            self.start_closing(code, reason)

    def _wait_sync(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Wait in this thread for what the loop does.

        :raises RuntimeError: in the loop's own thread, which would wait for itself.
        """
        if not self._is_foreign():
            call.close()
            raise RuntimeError(
                "this is the event loop's own thread, which can not wait for itself: await in "
                "the handler, or start uWSGI with --threads instead of --asyncio"
            )
        return _wait_for(call, self._loop)


def _wait_for(call: Coroutine[Any, Any, Result], loop: asyncio.AbstractEventLoop) -> Result:
    """Await a call in a loop, and wait for it in this thread, which is another."""
    results: list[Result] = []
    errors: list[BaseException] = []
    done = Occasion()

    async def run() -> None:
        try:
            results.append(await call)
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    loop.call_soon_threadsafe(_start, run())
    done.wait()
    if errors:
        raise errors.pop()
    return results.pop()


class BlockingClient(BlockingCalls):
    """An asyncio connection with the blocking calls of the other backends.

    A plain ``def`` handler gets one, and ``ws.sync`` is one, for views and
    other threads. In uWSGI's asyncio engine views run in the loop's own
    thread, where nothing can wait: there ``send`` leaves the message to the
    loop and raises :exc:`BlockingIOError` where it would have to wait,
    ``close`` begins the closing handshake, and ``receive`` raises
    :exc:`RuntimeError`.

    :param client: the connection. All its attributes are here too.
    """

    def __init__(self, client: AsyncioWebSocketClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    @property
    def timeout(self) -> float | None:
        """Seconds that ``receive`` waits when it is not told; ``None`` for ever."""
        timeout: float | None = self._client.timeout
        return timeout

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self._client.timeout = seconds

    @property
    def sync(self) -> BlockingClient:
        """This."""
        return self

    def receive(self, timeout: float | None = None) -> Message | None:
        return self._client._wait_sync(self._client.receive(timeout))

    def recv_nb(self) -> Message | None:
        return self._client._wait_sync(self._client.recv_nb())

    def send(self, message: Sendable | None, binary: bool | None = None) -> None:
        self._client._send_sync(message, binary)

    def send_nb(self, message: Sendable | None, binary: bool | None = None) -> None:
        self._client._send_now(message, binary)

    def ping(self, data: bytes = b"") -> None:
        self._client._ping_sync(data)

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._client._close_sync(code, reason)

    def __repr__(self) -> str:
        return repr(self._client)


class _LoopThread:
    """An event loop in a thread of the worker."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = new_event_loop()
        # The thread runs, or could not be started.
        self.is_decided = threading.Event()

    def start(self) -> None:
        """Start it, or take it back.

        :raises RuntimeError: if there is no thread left.
        """
        global _loop_thread
        # A greenlet, where a server has greenlets for threads.
        thread = threading.Thread(target=self._run, name="flask-uwsgi-ws event loop", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            _loop_thread = None
            self.loop.close()
            raise
        finally:
            self.is_decided.set()

    def _run(self) -> None:
        while True:
            try:
                self.loop.run_forever()
                return
            except BaseException as error:
                # A task called sys.exit(), which leaves through the loop; the others go on.
                if not pass_interrupt_on(error):
                    _log.exception("a task of a WebSocket handler tried to end the program")


_loop_thread: _LoopThread | None = None
_starting = Lock()


def _thread_loop() -> asyncio.AbstractEventLoop:
    """Give the loop of this worker's thread, which is started at the first call."""
    global _loop_thread
    while True:
        with _starting:
            found = _loop_thread
            is_new = found is None or found.pid != os.getpid()
            if found is None or is_new:
                found = _loop_thread = _LoopThread()
        # Without the lock: who starts a greenlet lets others run, which may be here at once.
        if is_new:
            found.start()
        else:
            found.is_decided.wait()
        if found is _loop_thread:
            return found.loop


class _End(Occasion):
    """The end of a connection, for which its request waits."""

    client: AsyncioWebSocketClient | None = None


class AsyncioWebSocketMiddleware(BaseMiddleware):
    """Does the handshake and runs the handler in a task of its own."""

    client = AsyncioWebSocketClient
    awaits = True

    def obstacle(self) -> str | None:
        if loop_engine() == "gevent":
            return (
                "AsyncioWebSocket does not run in the gevent loop; start uWSGI without --gevent, "
                "or use GeventWebSocket"
            )
        if not threads_run():
            return "AsyncioWebSocket needs Python threads; start uWSGI with --enable-threads"
        if threads_are_patched() and loop_engine() != "asyncio" and not server_hub():
            return (
                "AsyncioWebSocket has its loop in a thread, which gevent has made a greenlet "
                "(gevent.monkey); leave that out, or use GeventWebSocket"
            )
        return None

    def prepare_worker(self) -> None:
        super().prepare_worker()
        if loop_engine() != "asyncio":
            _thread_loop()

    def ask_app(
        self, context: ConnectionContext, handshake: Handshake, held: bool
    ) -> Response | None:
        hooks = self.websocket.hooks
        if held or loop_engine() == "asyncio" or not context.asks_app(hooks):
            return super().ask_app(context, handshake, held)
        # What it leaves in variables of its thread is not for the next request of uWSGI's.
        try:
            thread = HandlerThread()
        except RuntimeError as error:
            raise NoThreadError(f"{error}") from error
        try:
            return thread.call(context.open, handshake, hooks)
        finally:
            thread.leave(lambda: None)

    def start(
        self, opening: Opening, handler: Callable[..., Any], arguments: dict[str, Any]
    ) -> None:
        if loop_engine() == "asyncio":
            self._begin(opening, handler, arguments)
            return
        try:
            over = _End() if opening.holds else None
        except OSError:
            self.websocket.clients.expect_no_more()
            raise
        _thread_loop().call_soon_threadsafe(self._begin, opening, handler, arguments, over)
        if over is None:
            return
        try:
            over.wait()
        except BaseException:
            # The pool of gevent's server kills the greenlets of its requests when it stops.
            if over.client is not None:
                over.client.tell_at_last(GOING_AWAY, reason(GOING_AWAY))
            raise

    def _begin(
        self,
        opening: Opening,
        handler: Callable[..., Any],
        arguments: dict[str, Any],
        over: _End | None = None,
    ) -> None:
        """Begin to serve a connection, in the loop's thread; *over* is set at its end."""
        try:
            client = self.make_client(opening)
            try:
                client.attach(opening.early)
            except OSError:
                self.ended(client)
                raise
        except Exception:
            self.app.logger.exception("a WebSocket connection could not be served")
            opening.sock.close()
            opening.context.close()
            if over is not None:
                over.set()
            return
        if over is not None:
            over.client = client
        running = self._run(client, handler, arguments, opening.context)
        # In a copy of the variables: Python 3.10 can not have a task run in the ones it is given.
        task = opening.context.run(_start, running)
        if over is not None:
            task.add_done_callback(lambda _: over.set())

    async def _run(
        self,
        client: Any,
        handler: Callable[..., Any],
        arguments: dict[str, Any],
        context: ConnectionContext,
    ) -> None:
        failure: BaseException | None = None
        try:
            # Before the context has the client, which a signal handler set there would keep.
            self.opened(client)
            task_owner.set(client)
            code, reason, failure = await self._handle(client, handler, arguments, context)
            stubborn = await client.cancel_tasks()
            if stubborn:
                self.app.logger.warning("tasks of %r go on when cancelled: %s", client, stubborn)
            context.close(failure)
            failure = None
            await client.close(code, reason)
        finally:
            context.close(failure)
            try:
                await client.settle()
            finally:
                self.ended(client)

    async def _handle(
        self,
        client: Any,
        handler: Callable[..., Any],
        arguments: dict[str, Any],
        context: ConnectionContext,
    ) -> tuple[int, str, BaseException | None]:
        """Run a handler to its end; gives the close code and reason that follow, and its error."""
        try:
            if _is_coroutine_function(handler):
                await handler(client, **arguments)
            else:
                await self._in_thread(handler, client.sync, arguments, context)
        except ConnectionClosed:
            pass
        except NoThreadError as error:
            self.turned_away(error)
            return *NO_THREAD, None
        except BaseException as error:
            if pass_interrupt_on(error):
                return GOING_AWAY, reason(GOING_AWAY), None
            return *self.ending(client, error), error
        return 1000, "", None

    def is_cancellation(self, error: BaseException) -> bool:
        return isinstance(error, asyncio.CancelledError)

    async def _in_thread(
        self,
        handler: Callable[..., Any],
        client: Any,
        arguments: dict[str, Any],
        contexts: ConnectionContext,
    ) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def run() -> None:
            failure: BaseException | None = None
            try:
                result = handler(client, **arguments)
                if inspect.isawaitable(result):
                    raise TypeError(
                        f"{handler!r} is a plain function that returns an awaitable; "
                        "make it 'async def', or use functools.wraps in its decorator"
                    )
            except StopIteration as error:
                # No future can hold one.
                failure = RuntimeError("the handler raised StopIteration")
                failure.__cause__ = error
                contexts.close(error)
            except BaseException as error:
                # Here, where what the handler has made in its thread can be undone.
                contexts.close(None if isinstance(error, ConnectionClosed) else error)
                failure = error
            else:
                contexts.close()
            # The loop is closed where the program ends.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, done, failure)

        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(run,), name=f"websocket {client.id}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise NoThreadError(f"{error}") from error
        await done


def _settle(done: asyncio.Future[None], failure: BaseException | None) -> None:
    if done.done():
        return
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)


# The loop keeps weak references only.
_running: set[asyncio.Task[None]] = set()


def _start(running: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start a task, in the loop's thread."""
    task = asyncio.get_running_loop().create_task(running)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


def _is_coroutine_function(handler: Callable[..., Any]) -> bool:
    unwrapped = inspect.unwrap(handler)
    return inspect.iscoroutinefunction(unwrapped) or inspect.iscoroutinefunction(
        getattr(unwrapped, "__call__", None)  # noqa: B004
    )


# Threads that ask the message queue, of this process: one for what is sent, so that it keeps its
# order, and some for all else.
_pools: dict[tuple[int, str], concurrent.futures.ThreadPoolExecutor] = {}


def _pool(kind: str) -> concurrent.futures.ThreadPoolExecutor:
    key = os.getpid(), kind
    with _starting:
        if key not in _pools:
            count = 1 if kind == "sends" else 4
            _pools[key] = concurrent.futures.ThreadPoolExecutor(count, f"flask-uwsgi-ws {kind}")
        return _pools[key]


async def _elsewhere(messenger: Any, kind: str, call: Callable[[], Any]) -> Any:
    """Make a call that may wait for the message queue, without having the loop wait."""
    if not messenger.queue().waits:
        return call()
    return await asyncio.get_running_loop().run_in_executor(_pool(kind), call)


class AsyncioWebSocket(WebSocket):
    """WebSocket routes for a Flask app on uWSGI, each connection a task.

    Handlers are ``async def``, or plain functions, which get a thread each. The
    parameters are those of :class:`~..extension.WebSocket`.
    """

    middleware = AsyncioWebSocketMiddleware

    def uwsgi_defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        # The engine does nothing for requests without it.
        super().uwsgi_defaults(options)
        return {"greenlet": True} if options.get("asyncio") and "greenlet" not in options else {}

    def hand_over(self, call: Callable[..., None], *arguments: Any) -> None:
        reactor = _reactor
        if reactor is None or reactor.pid != os.getpid():
            # There has been no client yet.
            return
        if thread_ident() == reactor.thread and reactor.greenlet in (None, _current_greenlet()):
            reactor.catch_up()
            call(*arguments)
        else:
            reactor.leave(call, *arguments)

    def _call(self, call: partial[Any]) -> Any:
        if current_task() is not None:
            return self._await(call)
        if loop_engine() == "asyncio" and self.messenger.queue().waits:
            return self._let_loop_go_on(call)
        return super()._call(call)

    def _let_loop_go_on(self, call: partial[Any]) -> Any:
        """Wait for a call in uWSGI's loop, in the greenlet of a request, while others go on."""
        # Which that loop does not run without.
        import greenlet

        waiting = greenlet.getcurrent()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return call()
        if waiting.parent is None:
            return call()
        future = loop.run_in_executor(_pool(self._pool_of(call)), call)
        future.add_done_callback(lambda _: waiting.switch())
        while not future.done():
            waiting.parent.switch()
        return future.result()

    def _pool_of(self, call: partial[Any]) -> str:
        return "others" if call.func == self.messenger.presence else "sends"

    async def _await(self, call: partial[Any]) -> Any:
        if not self.messenger.queue().waits:
            result = call()
        else:
            result = await self._await_queue(call)
        if self.messenger.rooms.much_was_sent():
            # A handler that only sends must let others run.
            await asyncio.sleep(0)
        return result

    async def _await_queue(self, call: partial[Any]) -> Any:
        loop = asyncio.get_running_loop()
        kind = self._pool_of(call)
        waiting = loop.run_in_executor(_pool(kind), call)
        reactor = _reactor
        if kind != "sends" or reactor is None or reactor.loop is not loop:
            return await waiting
        reactor.expect()
        try:
            return await waiting
        finally:
            reactor.expect_no_more()
