"""An app of Flask-uWSGI-WebSocket for asyncio, but for its imports."""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque

from compat_views import add_views, told
from flask import Blueprint, Flask, request

from flask_uwsgi_ws.compat.flask_uwsgi_websocket import AsyncioWebSocket, coroutine

app = Flask(__name__)
app.config["UWSGI_WEBSOCKET_CLOSE_TIMEOUT"] = 1
ws = AsyncioWebSocket(app, timeout=7)
add_views(app)

users = {}
backlog = deque(maxlen=10)


@ws.route("/echo")
@coroutine
def echo(ws):
    while True:
        msg = yield from ws.receive()
        if msg is not None:
            yield from ws.send(msg)
        else:
            return


@ws.route("/echo-async")
async def echo_async(ws):
    while True:
        await ws.send(await ws.receive())


@ws.route("/echo-generator")
def echo_generator(ws):
    while True:
        msg = yield from ws.a_recv()
        if msg is None:
            return
        yield from asyncio.sleep(0)
        yield from answer(ws, msg)


def answer(ws, msg):
    """A generator that nothing has been done to."""
    msg = yield from double(msg)
    yield from ws.a_send(msg)


@coroutine
def double(msg):
    return msg * 2


@ws.route("/chat")
@coroutine
def chat(ws):
    users[ws.id] = ws

    for msg in list(backlog):
        yield from ws.send(msg)

    while True:
        msg = yield from ws.receive()
        if msg is not None:
            backlog.append(msg)
            for id in list(users):
                if id != ws.id:
                    yield from users[id].send(msg)
        else:
            break

    del users[ws.id]


@app.route("/users")
def who_is_here():
    return str(len(users))


# What the project's example has from Redis.
channels: dict[str, list[asyncio.Queue]] = {}

wschat = Blueprint("wsBlueprint", __name__)


@wschat.route("/<string:channel>")
@coroutine
def subscribe(ws, channel):
    yield from ws.send(f"Welcome to channel <{channel}>")
    asyncio.get_event_loop().create_task(listen(ws, channel))
    while True:
        msg = yield from ws.receive()
        if msg is not None:
            for queue in channels[channel]:
                yield from queue.put(msg.decode("utf-8"))
        else:
            break


ws.register_blueprint(wschat, url_prefix="/websocket")


@coroutine
def listen(ws, channel):
    queue: asyncio.Queue = asyncio.Queue()
    channels.setdefault(channel, []).append(queue)
    while ws.connected:
        message = yield from queue.get()
        yield from ws.send(message.encode("utf-8"))


@ws.route("/tasks")
async def tasks(ws):
    """Wait in the ways of asyncio for what a method gives."""
    got = [await asyncio.create_task(ws.receive())]
    got.append(await asyncio.wait_for(ws.recv(), 10))
    got += await asyncio.gather(ws.receive())
    got.append(await asyncio.ensure_future(ws.receive()))
    try:
        await asyncio.wait_for(ws.receive(), 0.1)
    except asyncio.TimeoutError:
        got.append(b"nothing")
    await ws.send(b" ".join(got))


@ws.route("/kinds")
@coroutine
def kinds(ws):
    for msg in ("text", b"utf-8 \xc3\xa9", b"\xff", bytearray(b"array")):
        yield from ws.send(msg)
        ws.send_nb(msg)
    yield from ws.send_binary("as binary")
    yield from ws.send("as binary", binary=True)
    try:
        yield from ws.send(7)
    except TypeError as error:
        yield from ws.send(type(error).__name__)
    for send in (ws.send, ws.send_nb):
        try:
            result = send("\ud800")
            if result is not None:
                yield from result
        except ValueError as error:
            yield from ws.send(type(error).__name__)


@ws.route("/poll")
@coroutine
def poll(ws):
    msgs = []
    while True:
        msg = ws.recv_nb()
        if msg not in msgs:
            msgs.append(msg)
            if msg is None:
                break
            yield from ws.send(repr(msg))
        yield from asyncio.sleep(0.01)
    for call in (ws.recv_nb, lambda: ws.send_nb("x")):
        try:
            call()
        except ConnectionError as error:
            msgs.append(error.code)
    told.append(f"{request.args['mark']} {msgs}")


@ws.route("/end")
@coroutine
def end(ws):
    seen = []
    for call in (ws.receive, ws.receive, lambda: ws.send("x")):
        try:
            seen.append((yield from call()))
        except OSError as error:
            seen.append([error.code, error.reason])
    told.append(f"{request.args['mark']} {json.dumps([*seen, ws.connected])}")


@ws.route("/close")
@coroutine
def close(ws):
    waiting = asyncio.get_event_loop().create_task(ws.receive())
    yield from asyncio.sleep(0.05)
    ws.close()
    told.append(f"{request.args['mark']} {ws.connected} {(yield from waiting)}")
    ws.close()


@ws.route("/about")
@coroutine
def about(ws):
    about = {
        "class": type(ws).__name__,
        "connected": ws.connected,
        "id": bool(ws.id),
        "fd": os.path.exists(f"/proc/self/fd/{ws.fd}"),
        "timeout": ws.timeout,
        "path": ws.environ["PATH_INFO"],
        "argument": request.args["argument"],
    }
    yield from ws.send(json.dumps(about))
    yield from ws.receive()


@ws.route("/rooms")
async def rooms(ws):
    await ws.join("news")
    await ws.send(json.dumps(sorted(ws.rooms)))
    await ws.receive()


kept = {}


@ws.route("/keep")
@coroutine
def keep(ws):
    """Stay, whatever becomes of the client."""
    kept["ws"] = ws
    yield from ws.send("kept")
    yield from ws.receive()
    told.append(f"{request.args['mark']} gone")
    while "ws" in kept:
        yield from asyncio.sleep(0.01)


@ws.route("/to-kept")
@coroutine
def to_kept(ws):
    while True:
        msg = yield from ws.receive()
        if msg is None:
            return
        yield from kept["ws"].send(msg)
        yield from ws.send(b"sent " + msg)


@app.route("/let-go")
def let_go():
    kept.clear()
    return ""


@app.route("/send-from-view/<word>")
def send_from_view(word):
    kept["ws"].send_nb(word)
    return ""


@ws.route("/push")
@coroutine
def push(ws):
    yield from ws.send("ready")
    try:
        while True:
            yield from ws.send("more")
            yield from asyncio.sleep(0.02)
    finally:
        told.append(f"{request.args['mark']} ended")


class Named(ws.middleware.client):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.name = f"{self.id} {self.connected}"


ws.middleware.client = Named


@ws.route("/named/<word>")
@coroutine
def named(ws, word):
    yield from ws.send(word + str(ws.name == f"{ws.id} True"))


@ws.route("/fails")
@coroutine
def fails(ws):
    yield from ws.send("about to fail")
    raise KeyError("on purpose")


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), **json.loads(os.environ["RUN"]))
