"""Debian's uWSGI, which is older and runs no Python threads unless told: handlers in requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from peers import close_of, eventually, open_client
from raw import RawClient, frame
from uwsgi_server import Server


@pytest.fixture(scope="module")
def debian() -> Iterator[Server]:
    with Server("behaviour", kind="debian") as server:
        yield server


def test_handler_runs_in_the_request_and_a_warning_says_what_to_do(debian: Server) -> None:
    with open_client(debian, "/echo") as first:
        first.send("one")
        assert first.recv(timeout=10) == "one"
        answers: list[str] = []
        page = threading.Thread(target=lambda: answers.append(debian.get("/pid")[1]))
        page.start()
        # The worker is busy with the socket: the page is answered when that has ended.
        first.send("two")
        assert first.recv(timeout=10) == "two"
        assert answers == []
    page.join(10)
    assert len(answers) == 1
    assert "start uWSGI with --enable-threads" in debian.log


def test_one_client_after_the_other_is_served(debian: Server) -> None:
    for message in ("a", b"b", "c" * 70000):
        with open_client(debian, "/echo") as ws:
            ws.send(message)
            assert ws.recv(timeout=10) == message


def test_handler_that_sleeps_answers_pings(debian: Server) -> None:
    with RawClient(debian.port, "/sleep?5") as client:
        client.send(frame(9, b"there?"))
        assert client.receive() == (0x8A, b"there?")


def test_protocol_error_closes_and_the_next_client_is_served(debian: Server) -> None:
    worker = debian.worker
    assert close_of(debian, "/echo", frame(0, b"x"))[0] == 1002
    assert debian.worker == worker


def test_no_descriptor_is_left(debian: Server) -> None:
    before = debian.descriptors()
    for _ in range(5):
        with open_client(debian, "/echo") as ws:
            ws.send("x")
    assert eventually(lambda: debian.descriptors() <= before)
