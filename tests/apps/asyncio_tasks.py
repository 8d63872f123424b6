"""The app of the asyncio tests: tasks, cancellation, and the way in for other threads."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from typing import Any

from common import app as app
from common import clients, ends, tell_close, tell_end, url_of, websocket

name_of_client: contextvars.ContextVar[str] = contextvars.ContextVar("name_of_client")
loop: asyncio.AbstractEventLoop | None = None
loop_thread: int | None = None


@websocket.route("/loop")
async def tell_loop(ws: Any) -> None:
    await ws.send(type(asyncio.get_running_loop()).__module__)


@websocket.route("/exit-in-task")
async def exit_in_task(ws: Any) -> None:
    """A task that tries to end the program."""
    asyncio.create_task(_exit())  # noqa: RUF006
    # It runs now, and not after a message that may be here already and ends this handler.
    await asyncio.sleep(0)
    await ws.receive()


async def _exit() -> None:
    sys.exit(3)


@websocket.route("/stop-iteration")
def stop_iteration(_ws: Any) -> None:
    """A plain function that lets out what no coroutine may raise."""
    next(iter([]))


# Cancellation.


@websocket.route("/impatient/<how>")
async def impatient(ws: Any, how: str) -> None:
    """Gives up waiting again and again; must not lose a message by that."""
    while ws.connected:
        try:
            if how == "wait_for":
                message = await asyncio.wait_for(ws.receive(), 0.002)
            elif how == "timeout":
                async with asyncio.timeout(0.002):
                    message = await ws.receive()
            else:
                message = await ws.receive(timeout=0.002)
        except (TimeoutError, asyncio.TimeoutError):
            continue
        if message is not None:
            await ws.send(message)


@websocket.route("/cancel-receive")
async def cancel_receive(ws: Any) -> None:
    waiting = asyncio.create_task(ws.receive())
    await asyncio.sleep(0.05)
    waiting.cancel()
    try:
        await waiting
    except asyncio.CancelledError:
        await ws.send("cancelled")
    await ws.send(f"then {await ws.receive()}")


@websocket.route("/cancel-late/<int:count>")
async def cancel_late(ws: Any, count: int) -> None:
    """Cancels a receiver in the turn of the loop in which its message comes."""
    await ws.send("ready")
    got: list[str] = []

    async def receive() -> None:
        got.append(await ws.receive())

    while len(got) < count:
        waiting = asyncio.create_task(receive())
        while not waiting.done():
            await asyncio.sleep(0)
            waiting.cancel()
    await ws.send(" ".join(got))


@websocket.route("/cancel-handler")
async def cancel_handler(ws: Any) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await ws.receive()


# Several tasks of one handler.


@websocket.route("/gather")
async def gather(ws: Any) -> None:
    messages = await asyncio.gather(*(ws.receive() for _ in range(3)))
    await asyncio.gather(*(ws.send(message) for message in messages))
    await asyncio.gather(*(ws.send(f"{number} " + "x" * 50_000) for number in range(20)))


@websocket.route("/receive-and-send")
async def receive_and_send(ws: Any) -> None:
    async def tick() -> None:
        while True:
            await ws.send("tick")
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    async for message in ws:
        await ws.send(f"got {message}")
    await asyncio.gather(ticking, return_exceptions=True)
    tell_end(ws, type(ticking.exception()).__name__)


@websocket.route("/first-completed")
async def first_completed(ws: Any) -> None:
    receiving = asyncio.create_task(ws.receive())
    ticks = 0
    resting = asyncio.create_task(asyncio.sleep(0.001))
    while True:
        await asyncio.wait({receiving, resting}, return_when=asyncio.FIRST_COMPLETED)
        if receiving.done():
            message = receiving.result()
            if message is None:
                break
            await ws.send(message)
            receiving = asyncio.create_task(ws.receive())
        if resting.done():
            ticks += 1
            resting = asyncio.create_task(asyncio.sleep(0.001))
    tell_end(ws, "ticked" if ticks else "did not tick")


@websocket.route("/leave-tasks")
async def leave_tasks(ws: Any) -> None:
    """Returns while a task, and one that the task has made, are in the middle of things."""

    async def rest(name: str, inner: bool) -> None:
        if inner:
            tasks.append(asyncio.create_task(rest("inner", False)))
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.01)
            tell_end(ws, name)

    tasks = [asyncio.create_task(rest("outer", True))]
    await asyncio.sleep(0.05)
    await ws.receive()


@websocket.route("/leave-receiver")
async def leave_receiver(ws: Any) -> None:
    """Returns while a task waits for a message."""
    task = asyncio.create_task(ws.receive())
    await asyncio.sleep(0.01)
    assert not task.done()


@websocket.route("/name/<name>")
async def name_in_context(ws: Any, name: str) -> None:
    """A context variable, which every handler and its tasks have for themselves."""

    async def tell() -> None:
        await ws.send(name_of_client.get("nobody"))

    before = name_of_client.get("nobody")
    name_of_client.set(name)
    await ws.send(f"{before} then {name_of_client.get()}")
    async for _ in ws:
        await asyncio.create_task(tell())


@app.get("/name")
def name_in_view() -> str:
    return name_of_client.get("nobody")


# Plain functions, threads and views.


@websocket.route("/plain")
def plain(ws: Any) -> None:
    """A plain function may block: it has a thread of its own."""
    ws.send("in the loop" if threading.get_ident() == loop_thread else "in a thread")
    try:
        ws.receive(timeout=0.05)
    except TimeoutError:
        ws.send("timeout")
    for message in ws:
        if message == "meet":
            meeting.wait(20)
        ws.send(message)
    tell_close(ws)


#: Of five threads.
meeting = threading.Barrier(5)


@websocket.route("/plain-fail")
def plain_fail(_ws: Any) -> None:
    raise RuntimeError("on purpose, in a thread")


@websocket.route("/plain-close/<int:code>/<reason>")
def plain_close(ws: Any, code: int, reason: str) -> None:
    ws.close(code, reason)
    tell_end(ws, "handshake done" if ws.closed else "open")


@websocket.route("/in-thread")
async def in_thread(ws: Any) -> None:
    """Has a thread of its own use the connection."""

    def use(blocking: Any) -> None:
        blocking.send("begin")
        blocking.send(blocking.receive(timeout=5))
        blocking.timeout = 0.05
        for call in (blocking.receive, lambda: blocking.receive(timeout=0.05)):
            try:
                call()
            except TimeoutError:
                blocking.send("timeout")
        blocking.timeout = None
        blocking.send(f"nothing {blocking.recv_nb()!r}")
        blocking.send_json(blocking.receive_json())
        for message in blocking:
            blocking.send(message)
        tell_end(ws, blocking.close_code)

    await asyncio.get_running_loop().run_in_executor(None, use, ws.sync)


@websocket.route("/sync-in-handler")
async def sync_in_handler(ws: Any) -> None:
    """In the loop's own thread: send does not wait, receive would for ever."""
    ws.sync.send("sent")
    try:
        ws.sync.receive(timeout=5)
    except RuntimeError as error:
        ws.sync.send(f"RuntimeError: {error}")
    ws.sync.close(4000, "begun")
    tell_end(ws, ws.close_code, ws.connected)


@websocket.route("/register/<name>")
async def register(ws: Any, name: str) -> None:
    global loop, loop_thread
    loop, loop_thread = asyncio.get_running_loop(), threading.get_ident()
    clients[name] = ws
    async for message in ws:
        await ws.send(message)
    del clients[name]


@app.get("/receive/<name>")
def receive_in_view(name: str) -> str:
    try:
        return str(clients[name].sync.receive(timeout=0.1))
    except (RuntimeError, TimeoutError) as error:
        return type(error).__name__


@app.get("/coroutine-in-thread/<name>")
def coroutine_in_thread(name: str) -> str:
    """Let a thread use the coroutines, in the way of asyncio."""
    client = clients[name]
    assert loop is not None

    def use() -> None:
        for number in range(20):
            sending = asyncio.run_coroutine_threadsafe(client.send(f"message {number}"), loop)
            sending.result(5)
        asyncio.run_coroutine_threadsafe(client.close(4003, "from a thread"), loop).result(5)
        ends.append(f"{url_of(client)} thread done")

    threading.Thread(target=use).start()
    return "begun"


@app.get("/own-loop/<name>")
def own_loop(name: str) -> str:
    """Let a thread with a loop of its own use the coroutines as they are."""
    client = clients[name]

    async def use() -> None:
        await client.send("from another loop")
        for number in range(5):
            await client.send_nb(f"at once {number}")
        try:
            await client.receive(timeout=5)
        except RuntimeError as error:
            await client.send(str(error))

    threading.Thread(target=lambda: asyncio.run(use())).start()
    return "begun"
