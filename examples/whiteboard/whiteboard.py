"""A whiteboard that everybody draws on, with strokes as packed binary messages.

    python examples/whiteboard/whiteboard.py

Then open http://localhost:5000/ in two windows (``PORT`` in the environment
names another port). The picture lives in the memory of its process, so run one
worker process, as ``app.run`` does: a second one would be a second board.

A message holds records one after the other, numbers in network byte order:

======  =================================================================
HELLO   type (1 byte), the reader's own number (2), how many are here (2)
STROKE  type, author's number (2), colour (1), width in thousandths of
        the board's (1), how many points (2), and x and y (2 each) of each
CLEAR   type
FULL    type; a stroke of the reader's was not taken
======  =================================================================

A page sends one at a time: HELLO without numbers as a ping, STROKE, in which
the author does not matter, and CLEAR.
"""

import itertools
import os
import struct

from flask import Flask, render_template

from flask_uwsgi_ws import AsyncioWebSocket, ConnectionClosed

HELLO, STROKE, CLEAR, FULL = range(4)
HEAD = struct.Struct("!BHBBH")
POINT = struct.Struct("!HH")
# Bytes; PICTURE_MOST is about half a million points.
MESSAGE_MOST = 4096
PICTURE_MOST = int(os.environ.get("PICTURE_MOST", 2 * 1024**2))

app = Flask(__name__)
# The whole picture may wait for a newcomer, and what is drawn while it is on its way.
websocket = AsyncioWebSocket(app, max_size=MESSAGE_MOST, write_limit=2 * PICTURE_MOST)

# All handlers run in one event loop, so that none of these needs a lock.
picture = bytearray()
guests = {}
# An author of the picture is 0, nobody who is here.
numbers = itertools.cycle(range(1, 2**16))


@app.route("/")
def index():
    points_most = (MESSAGE_MOST - HEAD.size) // POINT.size
    return render_template("whiteboard.html", points_most=points_most)


@websocket.route("/board")
async def board(ws):
    guests[ws] = next(numbers)
    try:
        greet(guests)
        send([ws], bytes([CLEAR]) + picture)
        async for message in ws:
            if not take(ws, message):
                await ws.close(1003, "the board takes strokes")
    finally:
        del guests[ws]
        greet(guests)


def take(ws, message):
    """Do what a message asks for, and tell whether it asks for anything."""
    match message:
        case b"\x00":
            greet([ws])
        case b"\x02":
            picture.clear()
            send(guests, message)
        case bytes() if is_stroke(message):
            if len(picture) + len(message) > PICTURE_MOST:
                send([ws], bytes([FULL]))
            else:
                picture.extend(with_author(message, 0))
                # To its author too: so all have the strokes in the same order.
                send(guests, with_author(message, guests[ws]))
        case _:
            return False
    return True


def is_stroke(message):
    if len(message) < HEAD.size or message[0] != STROKE:
        return False
    count = HEAD.unpack_from(message)[-1]
    return count > 0 and len(message) == HEAD.size + count * POINT.size


def with_author(stroke, number):
    return stroke[:1] + number.to_bytes(2, "big") + stroke[3:]


def greet(those):
    for ws in list(those):
        send([ws], struct.pack("!BHH", HELLO, guests[ws], len(guests)))


def send(those, message):
    for ws in list(those):
        try:
            ws.sync.send_nb(message)
        except BlockingIOError:
            # Nobody waits for a slow reader, whose page comes again and gets the whole picture.
            ws.begin_close(1013, "too slow")
        except ConnectionClosed:
            pass


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")))
