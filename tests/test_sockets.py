"""The poller and the socket below every connection, alone and with what goes wrong there."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Iterator

import pytest

from flask_uwsgi_ws.frames import COMPILED
from flask_uwsgi_ws.masking import Payload, unmask
from flask_uwsgi_ws.poller import Poller
from flask_uwsgi_ws.sockets import AT_ONCE, RawSocket


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@pytest.fixture
def poller() -> Iterator[Poller]:
    made = Poller()
    yield made
    made.close()


def test_read_waits_for_what_comes(pair: tuple[socket.socket, socket.socket]) -> None:
    raw = RawSocket(pair[0])
    for size in (16, 4096, 4097, 100_000):
        later = threading.Timer(0.05, pair[1].send, [b"x" * min(size, 5000)])
        later.start()
        assert raw.recv(size) == b"x" * min(size, 5000)
        later.join()
    pair[1].close()
    assert raw.recv(16) == b""


def test_read_without_waiting(pair: tuple[socket.socket, socket.socket]) -> None:
    raw = RawSocket(pair[0])
    with pytest.raises(BlockingIOError):
        raw.recv(16, socket.MSG_DONTWAIT)
    assert raw.recv_now() is None
    pair[1].send(b"here")
    assert raw.recv_now() == b"here"
    pair[1].close()
    assert raw.recv_now() == b""
    with pytest.raises(ValueError, match=r"negative|0 or more"):
        raw.recv(-1)


def test_read_of_a_connection_that_was_reset_is_its_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        mine, _ = server.accept()
    with mine:
        mine.send(b"never read")
        # With bytes unread this is a reset.
        peer.close()
        raw = RawSocket(mine)
        assert raw.recv_now() == b""


def test_write_takes_what_the_kernel_takes(pair: tuple[socket.socket, socket.socket]) -> None:
    raw = RawSocket(pair[0])
    data = bytes(range(256)) * 40_000
    sent = raw.send_now(data)
    assert 0 < sent < len(data)
    assert raw.send_now(data, sent) == 0
    received = b""
    while len(received) < len(data):
        received += pair[1].recv(AT_ONCE)
        sent += raw.send_now(data, sent)
    assert received == data
    pair[1].close()
    assert raw.send_now(b"nobody") == -1


def test_poller_tells_which_and_for_what(
    poller: Poller, pair: tuple[socket.socket, socket.socket]
) -> None:
    fd = pair[0].fileno()
    poller.watch(fd, True, False)
    poller.watch(fd, True, False)
    assert poller.wait() == 0
    pair[1].send(b"x")
    assert poller.wait() == 1
    assert (poller.fd(0), poller.readable(0), poller.writable(0)) == (fd, True, False)
    pair[0].recv(1)
    poller.watch(fd, False, True)
    assert poller.wait() == 1
    assert (poller.readable(0), poller.writable(0), poller.ended(0)) == (False, True, False)
    poller.watch(fd, False, False)
    poller.watch(fd, False, False)
    poller.watch_again(fd)
    assert poller.wait() == 0


def test_poller_takes_any_descriptor(
    poller: Poller, pair: tuple[socket.socket, socket.socket]
) -> None:
    high = os.dup2(pair[0].fileno(), 500)
    try:
        poller.watch(high, True, False)
        pair[1].send(b"x")
        assert (poller.wait(), poller.fd(0)) == (1, 500)
        poller.watch(high, False, False)
    finally:
        os.close(high)


def test_poller_refuses_what_the_kernel_can_not_watch(poller: Poller) -> None:
    with pytest.raises(ValueError, match="descriptor"):
        poller.watch(-1, True, False)
    with open(__file__) as file, pytest.raises(PermissionError):
        poller.watch(file.fileno(), True, False)
    assert poller.wait() == 0


def test_poller_without_a_descriptor_left_says_so() -> None:
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Descriptors up to here are open.
    probe = os.open(os.devnull, os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, most))
    try:
        with pytest.raises(OSError, match="open files"):
            Poller()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))


def test_closed_poller_can_be_closed_again() -> None:
    poller = Poller()
    fd = poller.fileno()
    poller.close()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)
    poller.close()


def test_masking_stays_inside_its_data() -> None:
    assert unmask(b"abc", 1, 2, 0, 0) == b"b"
    with pytest.raises(ValueError, match="part"):
        unmask(b"abc", 2, 4, 0, 0)
    if COMPILED:
        with pytest.raises(ValueError, match="large"):
            Payload(1)
