"""The registry of clients, its log lines and the page for Prometheus, without a server."""

from __future__ import annotations

import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from flask_uwsgi_ws import WebSocket
from flask_uwsgi_ws.clients import Clients
from flask_uwsgi_ws.library import add_to_metric
from flask_uwsgi_ws.logs import log_closed, log_opened
from flask_uwsgi_ws.prometheus import prometheus_page
from flask_uwsgi_ws.settings import Settings
from flask_uwsgi_ws.statistics import COUNTS


class Client(SimpleNamespace):
    """What the registry and the log look at."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__  # type: ignore[assignment]


def client(**attributes: object) -> Any:
    return Client(
        **{
            "id": "abc",
            "route": "/echo",
            "environ": {"REMOTE_ADDR": "192.0.2.1", "REMOTE_PORT": "5000"},
            "opened_at": 0.0,
            "close_code": None,
            "dropped": "",
            "messages_received": 1,
            "messages_sent": 2,
            "bytes_received": 3,
            "bytes_sent": 4,
            "unsent": 5,
            **attributes,
        }
    )


def test_clients_come_and_go_once() -> None:
    clients = Clients()
    one, other = client(), client(close_code=4000, dropped="slow")
    clients.add(one)
    clients.add(other)
    assert repr(clients) == "<2 clients>"
    assert one in clients
    # A handler that is a plain function has the blocking form of an asyncio client.
    assert SimpleNamespace(_client=one) in clients
    assert client() not in clients
    for each in clients:
        assert clients.remove(each)
    assert not clients.remove(one)
    counted = clients.snapshot()
    assert (counted.open, counted.opened, counted.slow_clients) == (0, 2, 1)
    assert counted.closed == {1006: 1, 4000: 1}
    assert (counted.messages_received, counted.bytes_sent) == (2, 8)


def test_expected_clients_are_counted() -> None:
    clients = Clients()
    clients.expect(Settings(close_timeout=3, close_window=2))
    assert (clients.expected, clients.close_timeout, clients.close_window) == (1, 3, 2)
    clients.expect_no_more()
    assert clients.expected == 0


def test_log_says_where_from_and_why_not_longer(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("log")
    app.logger.setLevel(logging.INFO)
    app.logger.propagate = True
    log_opened(app, client())
    log_closed(app, client(close_code=1008, dropped="slow", environ={"REMOTE_ADDR": "192.0.2.7"}))
    opened, closed = caplog.records
    assert opened.getMessage() == "WebSocket open id='abc' route='/echo' remote='192.0.2.1:5000'"
    fields: dict[str, Any] = closed.__dict__["websocket"]
    assert (fields["code"], fields["dropped"], fields["remote"]) == (1008, "slow", "192.0.2.7")


def test_page_for_prometheus_outside_uwsgi_tells_of_this_process() -> None:
    app = Flask("page")
    websocket = WebSocket(app)
    app.add_url_rule("/metrics", view_func=prometheus_page(websocket))
    websocket.clients.add(client())
    text = app.test_client().get("/metrics").text
    assert 'websocket_connections{worker="0"} 1.0' in text
    assert 'websocket_connections_opened_total{worker="0"} 1.0' in text
    assert set(websocket.statistics().workers()[0]) == set(COUNTS)


def test_page_without_prometheus_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match="pip install prometheus-client"):
        prometheus_page(WebSocket(Flask("none")))


def test_metric_of_no_uwsgi_is_passed_over() -> None:
    add_to_metric("websocket.open", 1)


FORKS = """
import os, sys, threading
from flask_uwsgi_ws.client import worker_token

tokens = {worker_token()}
for _ in range(50):
    read, write = os.pipe()
    if not os.fork():
        start = threading.Barrier(4)
        found = []
        threads = [
            threading.Thread(target=lambda: (start.wait(), found.append(worker_token())))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.write(write, " ".join({*found, worker_token()}).encode())
        os._exit(0)
    os.wait()
    tokens.add(os.read(read, 1000).decode())
sys.exit(0 if len(tokens) == 51 and all(len(each) == 16 for each in tokens) else str(tokens))
"""


def test_all_threads_of_a_new_process_have_the_same_token_and_no_other_has_it() -> None:
    result = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
