"""A short run of the fuzzing that ``make fuzz-differential`` does at length."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import wire
from fuzz.differential import Case, Run, Unexplained, shortest
from fuzz.readers import Form, by_websockets, by_wsproto
from fuzz.referee import DIFFERENCES, Difference, judge
from fuzz.streams import Agreement

from flask_uwsgi_ws.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT

RSV1 = 0x40

TAKEOVER = Agreement(False, 15)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_and_damaged_sessions_end_as_the_rules_say(seed: int) -> None:
    run = Run([Form()], seed, share=0.2)
    run.until(15_000)
    # Of every fault there was some, or the streams are not what they are meant to be.
    assert {
        "",
        "reserved bit",
        "reserved opcode",
        "no mask",
        "length",
        "control frame in fragments",
        "long control frame",
        "nothing to continue",
        "message in message",
        "not UTF-8",
        "not deflated",
        "too large",
        "too large when inflated",
        "close code",
        "half a close code",
        "RSV1",
    } <= {"" if name in ("Close", "none") else name for name in run.faults}


def deflated(data: bytes) -> bytes:
    """A part of a compressed message, to be followed by others."""
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


def final(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


# For each difference in the table a stream that shows it, so that none stands there for nothing.
SHOWN = {
    Difference.ANY_LENGTH: wire.frame(BINARY, b"a", width=2),
    Difference.WAITS_FOR_FRAME: wire.frame(TEXT, b"ab", rsv=0x20)[:-1],
    Difference.WAITS_FOR_HEADER: b"\x83",
    Difference.HALF_SURROGATE: wire.frame(TEXT, b"\xed\xa0", fin=False),
    Difference.EARLY_RSV1: wire.frame(PING, b"a", rsv=RSV1)[:2],
    Difference.CLOSE_IN_MESSAGE: wire.frame(TEXT, b"a", fin=False) + wire.frame(CLOSE),
    Difference.REASON_FIRST: wire.frame(CLOSE, b"\x03\xe7\xff"),
    Difference.NO_1014: wire.frame(CLOSE, b"\x03\xf6"),
    Difference.DEFLATE_1002: wire.frame(BINARY, b"\xff", rsv=RSV1),
    Difference.INFLATES_FIRST: wire.frame(BINARY, deflated(b"a"), fin=False, rsv=RSV1)
    + wire.frame(BINARY, b"\xff", rsv=RSV1),
    # An uncompressed block that says it is four bytes longer.
    Difference.TAIL_1011: wire.frame(BINARY, b"\0\xfb\x07\x04\xf8" + bytes(2039), rsv=RSV1),
    Difference.STREAM_END: wire.frame(BINARY, final(b"one") + deflated(b"two")[:-4], rsv=RSV1),
    Difference.FLUSHES: wire.frame(BINARY, final(b"one") + b"\0", rsv=RSV1)
    + wire.frame(BINARY, deflated(b"two")[:-4], rsv=RSV1),
    Difference.CONTROL_ENDS: wire.frame(BINARY, deflated(b"a"), fin=False, rsv=RSV1)
    + wire.frame(PING)
    + wire.frame(CONTINUATION, deflated(b"b")[:-4]),
}


@pytest.mark.parametrize(
    ("oracle", "difference"),
    [
        pytest.param(oracle, each, id=f"{oracle}-{each.name}")
        for oracle, differences in DIFFERENCES.items()
        for each in Difference
        if each in differences
    ],
)
def test_difference_is_there(oracle: str, difference: Difference) -> None:
    stream, agreement = SHOWN[difference], TAKEOVER
    ours, _ = Form().read([stream], agreement)
    assert ours == judge(stream, agreement).outcome
    read = by_websockets if oracle == "websockets" else by_wsproto
    expected = judge(stream, agreement, 0, DIFFERENCES[oracle])
    assert difference in expected.made
    assert expected.outcome != ours
    assert read([stream], agreement) == expected.outcome


# The comparison itself.


class Wrong(Form):
    """A form of the package that has a defect."""

    def connect(self, agreement: Agreement | None, limit: int = 0) -> Any:
        return super().connect(agreement, limit + 1 if limit else 0)


def test_comparison_finds_a_limit_that_is_one_too_large() -> None:
    frame = wire.frame(BINARY, bytes(126))
    Case([Form()], frame, None, 125).check()
    with pytest.raises(Unexplained, match=r"referee: .* too large"):
        Case([Wrong()], frame, None, 125).check()


def test_only_what_the_referee_says_is_allowed() -> None:
    verdict = judge(wire.frame(TEXT, b"a"))
    outcome = verdict.outcome
    assert outcome.messages == ["a"]
    assert verdict.allows(outcome)
    for other in (
        outcome._replace(messages=[b"a"]),
        outcome._replace(messages=[]),
        outcome._replace(pings=[b""]),
        outcome._replace(pong=b""),
        outcome._replace(code=1000),
        outcome._replace(reason=""),
    ):
        assert not verdict.allows(other)


def test_input_is_shortened_to_what_matters() -> None:
    data = wire.frame(TEXT, b"hello") * 20
    assert shortest(lambda data: data.count(0x85) >= 2, data) == b"\x85\x85"
