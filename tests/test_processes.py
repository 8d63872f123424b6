"""Two worker processes: each serves its own sockets, and a new one steps in for a dead one."""

from __future__ import annotations

import os
import signal

from peers import eventually, open_client
from raw import RawClient, frame
from uwsgi_server import Server


def test_messages_of_any_kind_come_back(pair: Server) -> None:
    for message in ("text é€😀", b"\x00\xff", "", "x" * 70_000, os.urandom(2**20)):
        with open_client(pair, "/echo") as ws:
            ws.send(message)
            assert ws.recv(timeout=10) == message


def test_each_worker_serves_and_a_new_one_after_a_dead_one(pair: Server) -> None:
    found: dict[int, RawClient] = {}
    clients = []

    def both_serve() -> bool:
        clients.append(RawClient(pair.port, "/worker"))
        clients[-1].send(frame(1, b"which?"))
        found.setdefault(int(clients[-1].receive()[1]), clients[-1])
        return len(found) == 2

    try:
        assert eventually(both_serve, 30), found
        dead, alive = found
        os.kill(dead, signal.SIGKILL)
        found[dead].rest()
        found[alive].send(frame(1, b"still there?"))
        assert found[alive].receive() == (0x81, b"%d" % alive)
        del found[dead]
        assert eventually(both_serve, 30), found
        assert dead not in found
    finally:
        for client in clients:
            client.socket.close()
