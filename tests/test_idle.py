"""Idle connections behind proxies with little patience; ``make idle`` has those with their own."""

from __future__ import annotations

import time
from contextlib import ExitStack

from idle import NO_PINGS, Front
from modes import BACKENDS
from peers import eventually

PINGS = {"PING_INTERVAL": "0.5"}


def test_pings_keep_idle_connections_behind_a_proxy() -> None:
    with ExitStack() as stack:
        fronts = [
            Front("nginx", directives="proxy_read_timeout 6s; proxy_send_timeout 6s;"),
            Front("http", options=("--http-timeout", "6")),
        ]
        pinged, silent, receiving = [], [], []
        for front in map(stack.enter_context, fronts):
            one, other = front.open("threads", NO_PINGS, "no Pings")
            silent.append(one)
            receiving.append(other)
            for mode in BACKENDS:
                pinged += front.open(mode, PINGS, "Pings")
        time.sleep(9)
        assert [client.name for client in pinged if not client.alive()] == []
        # What it receives keeps a connection; without that or a Ping the proxy ends it.
        assert [client.name for client in receiving if not client.alive()] == []
        assert eventually(lambda: all(client.lasted is not None for client in silent), 30)
