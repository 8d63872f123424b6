"""RFC 6455 section 4: what a handshake is answered, by a real uWSGI and by the function."""

from __future__ import annotations

import os
import re
import socket
import time
from typing import Any

import pytest
from peers import eventually
from raw import RawClient, frame
from uwsgi_server import Server

from flask_uwsgi_ws.handshake import is_handshake, negotiate
from flask_uwsgi_ws.settings import Settings

WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "no-key": ({"Sec_WebSocket_Key": None}, 400, "missing Sec-WebSocket-Key"),
    "short-key": ({"Sec_WebSocket_Key": "eHh4"}, 400, "invalid Sec-WebSocket-Key"),
    "not-base64": ({"Sec_WebSocket_Key": "!" * 24}, 400, "invalid Sec-WebSocket-Key"),
    "origin": ({"Origin": "http://evil.example"}, 403, "http://evil.example may not connect"),
    "escape": ({"Origin": "http://evil\x1b[31m"}, 400, "the Origin header is broken"),
    "escape-in-subprotocol": (
        {"Sec_WebSocket_Protocol": "chat\x7f"},
        400,
        "the Sec-WebSocket-Protocol header is broken",
    ),
    "post": ({"method": "POST", "Content_Length": "0"}, 405, "GET, not POST"),
    "no-upgrade": ({"Upgrade": None}, 426, "missing Upgrade"),
    "other-upgrade": ({"Upgrade": "h2c"}, 426, "invalid Upgrade"),
    "no-connection": ({"Connection": None}, 426, "missing Connection"),
    "keep-alive": ({"Connection": "keep-alive"}, 426, "invalid Connection"),
    "version-8": ({"Sec_WebSocket_Version": "8"}, 426, "13 is spoken here"),
    "no-version": ({"Sec_WebSocket_Version": None}, 426, "13 is spoken here"),
    "http-1.0": ({"version": "HTTP/1.0"}, 505, "HTTP/1.1"),
}


@pytest.mark.parametrize(("wrong", "status", "fault"), WRONG.values(), ids=WRONG)
def test_bad_handshake_gets_its_status_and_a_body_that_names_the_fault(
    server: Server, wrong: dict[str, Any], status: int, fault: str
) -> None:
    with RawClient(server.port, **wrong) as client:
        assert client.status == status
        body = client.rest().decode()
        assert fault in body
        assert body.startswith("WebSocket handshake refused: ")
        if status == 405:
            assert client.header("Allow") == ["GET"]
        if status == 426:
            assert client.header("Sec-WebSocket-Version") == ["13"]
            assert client.header("Upgrade") == ["websocket"]


def test_refused_handshakes_leave_no_descriptor(plain: Server) -> None:
    counts = []
    for _ in range(3):
        for wrong, _, _ in WRONG.values():
            with RawClient(plain.port, **wrong) as client:
                client.rest()
        counts.append(plain.descriptors())
    # uWSGI closes its own a moment after the client has read the answer.
    assert eventually(lambda: plain.descriptors() <= counts[0])


def test_handshake_that_stops_half_way_harms_nobody(plain: Server) -> None:
    with socket.create_connection(("127.0.0.1", plain.port)) as half:
        half.sendall(b"GET /echo HTTP/1.1\r\nUpgrade: websocket\r\n")
        half.close()
    with RawClient(plain.port) as client:
        client.send(frame(1, b"hi"))
        assert client.receive() == (0x81, b"hi")


def test_origin_of_the_site_itself_is_let_in(server: Server) -> None:
    with RawClient(server.port, Origin=f"http://127.0.0.1:{server.port}") as client:
        assert client.status == 101
    with RawClient(server.port, Host="Example.com:443", Origin="https://example.com") as client:
        assert client.status == 101


def test_refused_origin_is_logged_with_the_option_to_set(plain: Server) -> None:
    with RawClient(plain.port, Origin="http://evil.example") as client:
        assert client.status == 403
    assert "'http://evil.example' is not host" in plain.log
    assert "UWSGI_WEBSOCKET_ORIGINS" in plain.log


def test_unknown_url_gets_the_404_of_flask(server: Server) -> None:
    with RawClient(server.port, "/nowhere") as client:
        assert client.status == 404
        assert b"<title>404 Not Found</title>" in client.rest()


def test_native_handshake_is_used_where_it_can_say_what_must_be_said(plain: Server) -> None:
    with RawClient(plain.port) as client:
        assert b"101 Web Socket Protocol Handshake" in client.head
    with RawClient(plain.port, Sec_WebSocket_Protocol="chat.v1") as client:
        assert b"101 Web Socket Protocol Handshake" in client.head
        assert client.header("Sec-WebSocket-Protocol") == ["chat.v1"]
    with RawClient(plain.port, Sec_WebSocket_Protocol="none.of.ours") as client:
        assert b"101 Switching Protocols" in client.head
        assert client.header("Sec-WebSocket-Protocol") == []


def test_no_descriptor_left_answers_503_and_the_worker_lives() -> None:
    with Server("behaviour", "--enable-threads", "--max-fd", "64") as server:
        worker = server.worker
        clients = []
        while not clients or clients[-1].status == 101:
            clients.append(RawClient(server.port))
            assert len(clients) < 100
        # The last descriptor may have gone to the request itself: then uWSGI could not accept
        # it, and closes it without an answer.
        assert clients[-1].status in {503, 0}
        for client in clients:
            client.socket.close()
        end = time.monotonic() + 10
        while len(os.listdir(f"/proc/{worker}/fd")) > 40 and time.monotonic() < end:
            time.sleep(0.05)
        assert server.worker == worker
        with RawClient(server.port) as client:
            assert client.status == 101


def environ(**headers: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "PATH_INFO": "/",
        "HTTP_HOST": "example.com",
        "HTTP_CONNECTION": "keep-alive, Upgrade",
        "HTTP_UPGRADE": "websocket",
        "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
    }


@pytest.mark.parametrize(
    ("origins", "origin", "accepted"),
    [
        (None, "https://example.com", True),
        (None, "https://example.com:8443", False),
        (None, "https://sub.example.com", False),
        (None, "null", False),
        ("*", "https://anything.example", True),
        (["https://a.example", "https://b.example"], "https://b.example", True),
        (["https://a.example"], "https://example.com", False),
        (["https://*.a.example"], "https://x.a.example", True),
        (["https://*.a.example"], "https://evil/.a.example", False),
        ([re.compile(r"https://[ab]\.example")], "https://b.example", True),
        ([re.compile(r"https://[ab]\.example")], "https://b.example.evil", False),
    ],
)
def test_origins_option(origins: Any, origin: str, accepted: bool) -> None:
    answer = negotiate(environ(origin=origin), Settings(origins=origins))
    assert answer.accepted is accepted
    assert answer.status == (101 if accepted else 403)


def test_no_origin_is_let_in_whatever_the_option() -> None:
    for origins in (None, "*", ("https://a.example",)):
        assert negotiate(environ(), Settings(origins=origins)).accepted


def test_preferred_subprotocol_is_the_servers() -> None:
    settings = Settings(subprotocols=("b", "a"))
    assert negotiate(environ(sec_websocket_protocol="a, b"), settings).subprotocol == "b"
    assert negotiate(environ(sec_websocket_protocol="c"), settings).subprotocol is None
    assert negotiate(environ(sec_websocket_protocol="a,,@"), settings).status == 400


def test_line_breaks_in_a_header_do_not_reach_the_answer() -> None:
    answer = negotiate(environ(origin="http://x\r\nSet-Cookie: a=b"), Settings())
    assert answer.status == 400
    assert answer.body == b"WebSocket handshake refused: the Origin header is broken.\n"
    assert all("\r" not in value and "\n" not in value for _, value in answer.headers)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"HTTP_UPGRADE": "WebSocket"}, True),
        ({"HTTP_SEC_WEBSOCKET_KEY": "x"}, True),
        ({"HTTP_SEC_WEBSOCKET_VERSION": "13"}, True),
        ({"HTTP_UPGRADE": "h2c"}, False),
        ({}, False),
    ],
)
def test_what_counts_as_a_handshake(headers: dict[str, str], expected: bool) -> None:
    assert is_handshake(headers) is expected
