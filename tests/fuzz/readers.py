"""The same reads through the package, ``websockets`` and ``wsproto``."""

from __future__ import annotations

import codecs
import importlib
import logging
import sys
import types
from collections.abc import Sequence
from typing import Any

import websockets.frames
import wsproto.events
import wsproto.extensions
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import SERVER, Protocol
from wsproto.connection import Connection as WsprotoConnection
from wsproto.connection import ConnectionState, ConnectionType

from flask_uwsgi_ws.frames import CLOSE, CONTINUATION, PING, PONG, TEXT

from .referee import Message, Outcome
from .streams import Agreement

# websockets logs what it did not expect.
QUIET = logging.getLogger("fuzz.websockets")
QUIET.setLevel(logging.CRITICAL + 1)


class Form:
    """One form of the package: the one that is installed, or the files of a directory.

    :param path: of a ``flask_uwsgi_ws`` to load besides the other.
    """

    def __init__(self, path: str | None = None) -> None:
        name = "flask_uwsgi_ws"
        if path is not None:
            # An empty package with that path: its modules find each other, and nothing else runs.
            name = "second_flask_uwsgi_ws"
            package = types.ModuleType(name)
            package.__path__ = [path]
            sys.modules[name] = package
        self.frames = importlib.import_module(f"{name}.frames")
        self.connection = importlib.import_module(f"{name}.connection")
        self.compression = importlib.import_module(f"{name}.compression")
        self.name = "compiled" if self.frames.COMPILED else "uncompiled"

    def connect(self, agreement: Agreement | None, limit: int = 0) -> Any:
        deflate = agreement and self.compression.Deflate(negotiated(agreement))
        return self.connection.Connection(limit, deflate)

    def read(
        self, reads: Sequence[bytes], agreement: Agreement | None, limit: int = 0
    ) -> tuple[Outcome, int]:
        """Give what became of the reads, and how many it took to end."""
        connection = self.connect(agreement, limit)
        messages: list[Message] = []
        taken = 0
        for data in reads:
            # What comes after the end changes nothing.
            taken += connection.state == 1 and not connection.faulty
            connection.receive_into(data, messages)
        pings = []
        code = None
        farewell = b""
        replies = connection.take_replies()
        if connection.faulty:
            # After messages, which may be answered first, it is for the caller to say so.
            assert messages, "nothing is there to be answered"
            assert connection.state == 1, "a Close frame has gone out"
            replies += connection.close(4999, "the fault goes first")
            assert not connection.faulty
        at = 0
        while at < len(replies):
            # A server's control frame: two bytes, the second of which is the length.
            first, end = replies[at], at + 2 + replies[at + 1]
            payload = replies[at + 2 : end]
            at = end
            if first == 0x80 | PONG:
                pings.append(payload)
            else:
                assert first == 0x80 | CLOSE
                assert at == len(replies), "something follows a Close frame"
                code = int.from_bytes(payload[:2], "big") if payload else 1005
                farewell = payload
        assert code == connection.close_code, "the Close frame says another code"
        assert (code is None) is (connection.state == 1), "a Close frame and the state differ"
        # The peer's code goes back alone; a fault is put in words.
        failed = len(farewell) > 2
        assert connection.state != 2 or failed, "the peer's Close frame ends the connection"
        reason = None if failed or code is None else connection.close_reason
        return Outcome(messages, pings, connection.last_pong, code, reason), taken

    def frames_of(self, stream: bytes, agreement: Agreement | None) -> list[bytes]:
        """Cut a stream where its frames end, as far as the parser follows it."""
        parser = self.frames.FrameParser(0x40 if agreement else 0)
        parser.feed(stream)
        reads = []
        start = 0
        try:
            while (frame := parser.next_frame()) is not None and frame.last:
                size = frame.length
                end = start + 6 + size + (0 if size < 126 else 2 if size < 65536 else 8)
                reads.append(stream[start:end])
                start = end
        except self.frames.ProtocolError:
            pass
        reads.append(stream[start:])
        return reads


def negotiated(agreement: Agreement) -> PerMessageDeflate:
    return PerMessageDeflate(agreement.forgets, True, agreement.bits, 15, {})


def by_wsproto(reads: Sequence[bytes], agreement: Agreement | None = None) -> Outcome:
    extensions: list[wsproto.extensions.Extension] = []
    if agreement is not None:
        deflate = wsproto.extensions.PerMessageDeflate(agreement.forgets, agreement.bits)
        deflate._enabled = True
        extensions.append(deflate)
    connection = WsprotoConnection(ConnectionType.SERVER, extensions)
    messages: list[Message] = []
    pings = []
    pong = None
    parts: list[Any] = []
    for data in reads:
        connection.receive_data(data)
        for event in connection.events():
            if isinstance(event, wsproto.events.Message):
                parts.append(event.data)
                if event.message_finished:
                    messages.append(type(event.data)().join(parts))
                    parts = []
            elif isinstance(event, wsproto.events.Ping):
                pings.append(bytes(event.payload))
            elif isinstance(event, wsproto.events.Pong):
                pong = bytes(event.payload)
            elif isinstance(event, wsproto.events.CloseConnection):
                peers = connection.state is ConnectionState.REMOTE_CLOSING
                reason = (event.reason or "") if peers else None
                return Outcome(messages, pings, pong, int(event.code), reason)
    return Outcome(messages, pings, pong, None, None)


def by_websockets(reads: Sequence[bytes], agreement: Agreement | None = None) -> Outcome:
    protocol = Protocol(SERVER, max_size=None, logger=QUIET)
    if agreement is not None:
        protocol.extensions = [negotiated(agreement)]
    messages: list[Message] = []
    pings = []
    pong = None
    parts: list[Any] = []
    decode = None
    for data in reads:
        protocol.receive_data(data)
        for frame in protocol.events_received():
            assert isinstance(frame, websockets.frames.Frame)
            payload = bytes(frame.data)
            if frame.opcode == PING:
                pings.append(payload)
            elif frame.opcode == PONG:
                pong = payload
            elif frame.opcode == CLOSE:
                assert protocol.close_rcvd is not None
                close = protocol.close_rcvd
                return Outcome(messages, pings, pong, close.code, close.reason)
            else:
                if frame.opcode != CONTINUATION:
                    parts = []
                    decode = None
                    if frame.opcode == TEXT:
                        decode = codecs.getincrementaldecoder("utf-8")().decode
                # This core of websockets leaves text to the shells around it.
                try:
                    parts.append(decode(payload, frame.fin) if decode else payload)
                except UnicodeDecodeError:
                    return Outcome(messages, pings, pong, 1007, None)
                if frame.fin:
                    messages.append("".join(parts) if decode else b"".join(parts))
        if protocol.parser_exc is not None:
            assert protocol.close_sent is not None
            return Outcome(messages, pings, pong, int(protocol.close_sent.code), None)
    return Outcome(messages, pings, pong, None, None)
