"""A live dashboard of this server's own load: processor, memory, connections, messages.

    python examples/dashboard/dashboard.py

Then open http://localhost:5000/ (``PORT`` in the environment names another
port). What it shows is of its one worker process, and of the machine, as Linux
tells in /proc.

``/samples`` sends a list of samples in JSON: those of the last minutes first,
and then one each second. ``/echo`` is for the page to make some load.
"""

import os
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import gevent
from flask import Flask, render_template

from flask_uwsgi_ws import ConnectionClosed, GeventWebSocket

# Seconds.
SAMPLE_EVERY = 1
HISTORY = 120

app = Flask(__name__)
websocket = GeventWebSocket(app)
history = deque(maxlen=HISTORY // SAMPLE_EVERY)
viewers = set()
samplers = []


@app.route("/")
def index():
    return render_template("dashboard.html", history=HISTORY, pid=os.getpid())


@websocket.route("/samples")
def samples(ws):
    if not samplers:
        # In the worker, since a greenlet made when the app is loaded stays behind in the master.
        samplers.append(gevent.spawn(sample_for_ever))
    # Waits for nothing, so that no sample comes between.
    ws.send_nb(app.json.dumps(list(history)))
    viewers.add(ws)
    try:
        for _ in ws:
            # A ping of the page's, to which the next sample is the answer.
            pass
    finally:
        viewers.discard(ws)


@websocket.route("/echo")
def echo(ws):
    for message in ws:
        ws.send(message)


def sample_for_ever():
    before = read()
    while True:
        gevent.sleep(SAMPLE_EVERY)
        now = read()
        history.append(sample(before, now))
        before = now
        message = app.json.dumps([history[-1]])
        for ws in list(viewers):
            # Who reads too slowly misses a sample.
            with suppress(BlockingIOError, ConnectionClosed):
                ws.send_nb(message)


def read():
    """Read what only grows, and what is so now."""
    # Of all processors, in ticks: user, nice, system, idle, iowait, irq, softirq and steal.
    ticks = [int(each) for each in first_line("/proc/stat").split()[1:9]]
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available, total = (int(memory[name].split()[0]) for name in ("MemAvailable", "MemTotal"))
    return {
        "clock": time.monotonic(),
        "worker": time.process_time(),
        "ticks": sum(ticks),
        "busy": sum(ticks) - ticks[3] - ticks[4],
        "memory": int(first_line("/proc/self/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "used": 100 * (1 - available / total),
        "clients": websocket.clients.snapshot(),
    }


def first_line(path):
    with open(path) as file:
        return file.readline()


def sample(before, now):
    """Give what happened between two readings, in percent, bytes and messages a second."""
    seconds = now["clock"] - before["clock"]
    clients, clients_before = now["clients"], before["clients"]
    return {
        "time": time.time_ns() // 1_000_000,
        "worker": 100 * (now["worker"] - before["worker"]) / seconds,
        "machine": 100 * (now["busy"] - before["busy"]) / max(now["ticks"] - before["ticks"], 1),
        "memory": now["memory"],
        "used": now["used"],
        "open": clients.open,
        "received": (clients.messages_received - clients_before.messages_received) / seconds,
        "sent": (clients.messages_sent - clients_before.messages_sent) / seconds,
    }


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "5000")), gevent=100)
