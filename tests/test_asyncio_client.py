"""The asyncio client on a socket pair, for what needs a loop but no server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable

import pytest
from peers import eventually
from wire import frame

from flask_uwsgi_ws import AsyncioWebSocketClient, ConnectionClosed
from flask_uwsgi_ws.loops import UVLOOP, new_event_loop
from flask_uwsgi_ws.settings import Settings


def with_client(
    use: Callable[[AsyncioWebSocketClient, socket.socket], Awaitable[None]],
    **options: int,
) -> None:
    """Run *use* with a client and its peer, and end the connection."""

    async def main() -> None:
        ours, peer = socket.socketpair()
        peer.settimeout(5)
        client = AsyncioWebSocketClient(
            {}, ours, Settings(close_timeout=0.2, send_timeout=0.5, **options)
        )
        client.attach()
        try:
            await use(client, peer)
        finally:
            await client.close()
            await client.settle()
            peer.close()

    asyncio.run(main())


def test_names_of_the_original_api_receive_and_send() -> None:
    async def use(client: AsyncioWebSocketClient, peer: socket.socket) -> None:
        assert await client.recv_nb() == ""
        peer.send(frame(1, b"one") + frame(1, b"two") + frame(2, b"3"))
        assert await client.recv() == "one"
        assert await client.a_recv() == "two"
        assert await client.recv_nb() == b"3"
        await client.a_send("a")
        await client.send_nb("b")
        await asyncio.sleep(0.01)
        assert peer.recv(100) == b"\x81\x01a\x81\x01b"

    with_client(use)


def test_blocking_form_in_the_loops_own_thread_sends_and_does_not_wait() -> None:
    async def use(client: AsyncioWebSocketClient, peer: socket.socket) -> None:
        blocking = client.sync
        assert blocking.sync is blocking
        blocking.timeout = 7
        assert (client.timeout, blocking.timeout) == (7, 7)
        blocking.send("a")
        blocking.send_nb("b")
        blocking.ping(b"c")
        blocking.close(4000, "d")
        await asyncio.sleep(0.01)
        assert peer.recv(100) == b"\x81\x01a\x81\x01b\x89\x01c\x88\x03\x0f\xa0d"
        with pytest.raises(RuntimeError, match="can not wait for itself"):
            blocking.receive()

    with_client(use)


def test_send_nb_raises_where_send_would_wait() -> None:
    async def use(client: AsyncioWebSocketClient, _peer: socket.socket) -> None:
        async def send_much() -> None:
            for _ in range(100):
                await client.send_nb(b"x" * 100_000)
                await asyncio.sleep(0)

        with pytest.raises(BlockingIOError, match="reads too slowly"):
            await send_much()

    with_client(use)


@pytest.mark.parametrize("waiting", [999, 1000, 1001])
@pytest.mark.parametrize("foreign", [False, True])
def test_write_limit_holds_to_the_byte(waiting: int, foreign: bool) -> None:
    async def use(client: AsyncioWebSocketClient, _peer: socket.socket) -> None:
        fill(client.fd)
        await client.send_nb(b"x" * (waiting - 4))
        # Sent as far as it can be: not at all.
        await asyncio.sleep(0.01)

        async def send_one_more() -> None:
            await client.send_nb("one more")

        one_more = asyncio.to_thread(asyncio.run, send_one_more()) if foreign else send_one_more()
        if waiting > 1000:
            with pytest.raises(BlockingIOError, match="1001 bytes are waiting"):
                await one_more
        else:
            await one_more

    with_client(use, write_limit=1000)


def fill(fd: int) -> None:
    """Fill what the kernel keeps for the peer, to the last byte."""
    with socket.socket(fileno=os.dup(fd)) as ours, contextlib.suppress(BlockingIOError):
        while True:
            ours.send(b"\0", socket.MSG_DONTWAIT)


def test_what_other_threads_leave_for_a_busy_loop_is_counted() -> None:
    async def use(client: AsyncioWebSocketClient, _peer: socket.socket) -> None:
        sent = []

        def send_much() -> None:
            for _ in range(100):
                client.sync.send(b"x" * 496)
                sent.append(500)

        sender = threading.Thread(target=send_much)
        sender.start()
        # The loop takes nothing meanwhile.
        assert eventually(lambda: sum(sent) == 1000)
        time.sleep(0.2)
        assert sum(sent) == 1000
        await asyncio.to_thread(sender.join)
        assert len(sent) == 100

    with_client(use, write_limit=1000)


def test_queue_that_is_never_empty_keeps_its_order() -> None:
    async def use(client: AsyncioWebSocketClient, peer: socket.socket) -> None:
        numbers = iter(range(10_000))
        got = []
        for count in (1500, 1000, 1000, 1000):
            peer.sendall(b"".join(frame(1, b"%d" % next(numbers)) for _ in range(count)))
            await asyncio.sleep(0.02)
            got += [await client.recv() for _ in range(1000)]
        assert got == [str(i) for i in range(4000)]

    with_client(use, max_queue=5000)


def test_wrong_ways_to_use_a_coroutine_are_named() -> None:
    async def use(client: AsyncioWebSocketClient, _peer: socket.socket) -> None:
        with pytest.raises(TypeError, match="async for"):
            iter(client)
        with pytest.raises(TypeError, match="await"):
            await client.send(client.receive())  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="await"):
            client.sync.receive()

    with_client(use)


def test_recv_nb_tells_the_end_once() -> None:
    async def use(client: AsyncioWebSocketClient, peer: socket.socket) -> None:
        peer.send(frame(8, b"\x03\xe8"))
        await asyncio.sleep(0.01)
        assert await client.recv_nb() is None
        with pytest.raises(ConnectionClosed):
            await client.recv_nb()

    with_client(use)


def test_client_in_another_thread_may_send_but_not_receive() -> None:
    async def use(client: AsyncioWebSocketClient, peer: socket.socket) -> None:
        async def elsewhere() -> None:
            await client.send("sent")
            await client.ping(b"ping")
            await client.send_nb("at once")
            for call in (client.receive, client.recv_nb):
                with pytest.raises(RuntimeError, match="own loop"):
                    await call()
            peer.send(frame(8, b"\x0f\xa1"))
            await client.close(4001, "elsewhere")

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert client.close_code == 4001
        assert peer.recv(100).startswith(b"\x81\x04sent\x89\x04ping\x81\x07at once")

    with_client(use)


def test_uvloop_can_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UVLOOP, "0")
    loop = new_event_loop()
    assert type(loop).__module__.startswith("asyncio")
    loop.close()
