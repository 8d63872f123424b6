"""Peers that break the protocol: what is still answered, and who ends the connection when."""

from __future__ import annotations

import pytest
from raw import RawClient, frame
from uwsgi_server import Server

RESERVED = frame(3, b"")

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("count", [1, 10])
def test_messages_before_a_fault_are_answered(plain: Server, count: int, together: bool) -> None:
    messages = [frame(1, b"%d" % i) for i in range(count)]
    with RawClient(plain.port) as client:
        if together:
            client.send(b"".join([*messages, RESERVED]))
        else:
            for each in [*messages, RESERVED]:
                client.send(each)
        for i in range(count):
            assert client.receive() == (0x81, b"%d" % i)
        first, payload = client.receive()
        assert (first, payload[:2]) == (0x88, b"\x03\xea")
        client.send(frame(8, payload[:2]))
        assert client.rest() == b""


def test_busy_handler_does_not_keep_a_fault_from_the_peer(plain: Server) -> None:
    with RawClient(plain.port, "/begin/fault") as client:
        client.send(frame(1, b"waits") + RESERVED)
        first, payload = client.receive()
        assert (first, payload[:2]) == (0x88, b"\x03\xea")
        plain.get("/release/fault")


def test_handler_that_receives_with_a_timeout_does_not_keep_a_fault_from_the_peer(
    plain: Server,
) -> None:
    with RawClient(plain.port, "/wait") as client:
        for expected in (b"timeout", b"own timeout", b"nothing ''"):
            assert client.receive() == (0x81, expected)
        client.send(frame(1, b"message") + RESERVED)
        assert client.receive()[0] == 0x81
        while client.receive()[0] != 0x88:
            pass


def test_answer_is_not_awaited_after_a_broken_close_frame(patient: Server) -> None:
    for broken in (b"\x03", b"\x00\x00", b"\x03\xe8\xff"):
        with RawClient(patient.port) as client:
            client.send(frame(8, broken))
            assert client.receive()[0] == 0x88
            assert client.rest() == b""


def test_answer_that_came_while_the_handler_was_busy_is_not_awaited_again(
    patient: Server,
) -> None:
    with RawClient(patient.port, "/answer-slowly?0.5") as client:
        client.send(frame(1, b"message"))
        assert client.receive() == (0x81, b"message")
        client.send(RESERVED)
        assert client.receive()[0] == 0x88
        client.send(frame(8, b"\x03\xea"))
        assert client.rest() == b""
