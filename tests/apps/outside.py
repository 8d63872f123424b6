"""The app of the rooms, with senders that are neither views nor handlers: what uWSGI runs."""

from __future__ import annotations

import time
from typing import Any

import uwsgi
from rooms import app as app
from rooms import websocket


def send(sender: str) -> None:
    websocket.send_to("a", f"from the {sender}")


def go_on() -> None:
    """The mule's program."""
    while True:
        send("mule")
        time.sleep(0.2)


def spool(_: dict[bytes, bytes]) -> Any:
    send("spooler")
    return uwsgi.SPOOL_OK


def tick(_: int) -> None:
    send("timer")


@app.get("/spool")
def spool_view() -> str:
    uwsgi.spool({b"what": b"anything"})
    return ""


uwsgi.spooler = spool
uwsgi.register_signal(1, "worker", tick)
uwsgi.add_timer(1, 1)
