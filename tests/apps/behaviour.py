"""The app of the behavioural suite: each route is one way of using a client."""

from __future__ import annotations

import os
import threading
import time

from flask import Flask, url_for

import flask_uwsgi_ws
from flask_uwsgi_ws import ConnectionClosed, WebSocketClient

app = Flask(__name__)
app.config["UWSGI_WEBSOCKET_MAX_SIZE"] = int(os.environ.get("MAX_SIZE", 32 * 2**20))
app.config["UWSGI_WEBSOCKET_SUBPROTOCOLS"] = ["chat.v2", "chat.v1"]
app.config["UWSGI_WEBSOCKET_CLOSE_TIMEOUT"] = 1
for name in ("PING_INTERVAL", "PING_TIMEOUT", "SEND_TIMEOUT"):
    if name in os.environ:
        app.config["UWSGI_WEBSOCKET_" + name] = float(os.environ[name])
websocket = getattr(flask_uwsgi_ws, os.environ.get("BACKEND", "WebSocket"))(app)

clients: dict[str, WebSocketClient] = {}
ends: list[str] = []


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


@app.get("/ends")
def how_handlers_ended() -> list[str]:
    return ends


@app.get("/threads")
def threads() -> str:
    return str(threading.active_count())


@app.get("/url")
def url() -> str:
    return url_for("echo")


@app.get("/both")
def both_page() -> str:
    return "page"


@websocket.route("/both", endpoint="both_socket")
def both_socket(ws: WebSocketClient) -> None:
    ws.send("socket")


@websocket.route("/echo")
def echo(ws: WebSocketClient) -> None:
    while True:
        msg = ws.receive()
        ws.send(msg)


@websocket.route("/iterate")
def iterate(ws: WebSocketClient) -> None:
    for message in ws:
        ws.send(message)
    ends.append(f"iterate {ws.close_code} {ws.close_reason}")


@websocket.route("/hello/<name>/<int:times>")
def hello(ws: WebSocketClient, name: str, times: int) -> None:
    for _ in range(times):
        ws.send(f"hello {name}")


@websocket.route("/greeting", defaults={"word": "good day"})
def greeting(ws: WebSocketClient, word: str) -> None:
    ws.send(word)


@websocket.route("/about")
def about(ws: WebSocketClient) -> None:
    ws.send_json(
        {
            "connected": ws.connected,
            "closed": ws.closed,
            "close_code": ws.close_code,
            "subprotocol": ws.subprotocol,
            "id": ws.id,
            "fd": ws.fd,
            "timeout": ws.timeout,
            "path": ws.environ["PATH_INFO"],
            "query": ws.environ["QUERY_STRING"],
            "compiled": flask_uwsgi_ws.frames.COMPILED,
            "repr": repr(ws),
        }
    )


@websocket.route("/close/<int:code>/<reason>")
def close(ws: WebSocketClient, code: int, reason: str) -> None:
    ws.close(code, reason)
    ws.close(code, reason)
    ends.append(f"close {ws.close_code} {ws.close_reason}")


@websocket.route("/fail")
def fail(_ws: WebSocketClient) -> None:
    raise (SystemExit if _ws.environ["QUERY_STRING"] else RuntimeError)("on purpose")


@websocket.route("/end")
def end(ws: WebSocketClient) -> None:
    """What receive gives at the end: None once, then ConnectionClosed, and from send at once."""
    told: list[str] = []
    message = ws.receive()
    while message is not None:
        message = ws.receive()
    told.append("none")
    for call in (ws.receive, ws.recv_nb, lambda: ws.send("x"), lambda: ws.send(object()), ws.ping):
        try:
            call()
        except ConnectionClosed as error:
            told.append(f"{error.code}")
    ends.append("end " + " ".join(told))


@websocket.route("/push")
def push(ws: WebSocketClient) -> None:
    """Only sends; how long it goes on after the client left is for the test to see."""
    while True:
        ws.send("tick")
        time.sleep(0.05)


@websocket.route("/sleep")
def sleep(ws: WebSocketClient) -> None:
    time.sleep(float(ws.environ["QUERY_STRING"]))


@websocket.route("/wait")
def wait(ws: WebSocketClient) -> None:
    """Receives with a timeout, and without waiting."""
    try:
        ws.receive(timeout=0.1)
    except TimeoutError:
        ws.send("timeout")
    ws.timeout = 0.1
    try:
        ws.recv()
    except TimeoutError:
        ws.send("own timeout")
    ws.send(f"nothing {ws.recv_nb()!r}")
    ws.timeout = None
    ws.send(f"then {ws.receive(timeout=5)!r}")
    message = ""
    while message == "":
        message = ws.recv_nb()
    ws.send(f"and {message!r}")


@websocket.route("/types")
def types(ws: WebSocketClient) -> None:
    """Sends what can be sent, then what can not, and tells of the errors."""
    ws.send("text")
    ws.send(b"bytes")
    ws.send(bytearray(b"bytearray"))
    ws.send(memoryview(b"memoryview"))
    ws.send("as binary", binary=True)
    ws.send(b"as text", binary=False)
    ws.send_binary("binary")
    ws.send("")
    ws.send(b"")
    ws.send_json({"a": [1, None]})
    for bad in (5, None, ["x"], "\ud800", object()):
        try:
            ws.send(bad)
        except (TypeError, ValueError) as error:
            ws.send(f"{type(error).__name__}: {error}")
    for call in (
        lambda: ws.send(b"\xff", binary=False),
        lambda: ws.ping(b"x" * 126),
        lambda: ws.close(1005),
        lambda: ws.close(1000, "x" * 124),
        lambda: ws.send_from_sharedarea(7, 0),
        lambda: ws.send_from_sharedarea(-1, 0),
    ):
        try:
            call()
        except ValueError as error:
            ws.send(f"ValueError: {error}")


@websocket.route("/json")
def json_route(ws: WebSocketClient) -> None:
    ws.send_json(ws.receive_json())
    for _ in range(2):
        try:
            ws.receive_json()
        except ValueError as error:
            ws.send(f"not JSON: {error}")
    try:
        ws.send_json(float("nan"))
    except ValueError:
        ws.send("no NaN")


@websocket.route("/sharedarea/<int:position>")
def sharedarea(ws: WebSocketClient, position: int) -> None:
    ws.send_from_sharedarea(0, position)
    ws.send_binary_from_sharedarea(0, position)


@websocket.route("/register/<name>")
def register(ws: WebSocketClient, name: str) -> None:
    clients[name] = ws
    for message in ws:
        ws.send(message)


@app.get("/send/<name>/<int:count>")
def send(name: str, count: int) -> str:
    """Sends from a view, and from threads of its own at once."""
    client = clients[name]

    def many(mark: int) -> None:
        for number in range(count):
            client.send(f"{mark} {number} " + "x" * 2000)

    workers = [threading.Thread(target=many, args=(mark,)) for mark in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return "sent"


@app.get("/close-client/<name>")
def close_client(name: str) -> str:
    clients[name].close(4000, "from a view")
    return str(clients[name].close_code)


@app.get("/flood/<name>")
def flood(name: str) -> str:
    """Sends to a client that does not read."""
    try:
        for _ in range(1000):
            clients[name].send(b"x" * 100_000)
    except ConnectionClosed as error:
        return str(error)
    return "it took all"
