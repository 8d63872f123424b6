"""Bytes that atheris leads to what they have not reached yet in frames.py and connection.py.

    make fuzz SECONDS=600

The first two bytes say what was agreed on, the largest message and how the rest is cut into
reads. The package, uncompiled, has to end as the referee says, and raise nothing. What does not
is saved in ``build/fuzz``; ``make fuzz ARGS=FILE`` runs it again, and prints it as an input of
``make fuzz-differential``.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=[
        f"flask_uwsgi_ws.{name}" for name in ("frames", "masking", "connection", "compression")
    ]
):
    from flask_uwsgi_ws import frames
    from fuzz.differential import AGREEMENTS, LIMITS, Case, Unexplained
    from fuzz.readers import Form

from fuzz.streams import session

HERE = Path("build", "fuzz")
CORPUS = HERE / "corpus"


def case(data: bytes) -> Case:
    agreement = AGREEMENTS[data[0] % len(AGREEMENTS)]
    limit = LIMITS[data[0] // 16 % len(LIMITS)]
    return Case([Form()], data[2:], agreement, limit)


def test_one_input(data: bytes) -> None:
    if len(data) < 3:
        return
    one = case(data)
    try:
        one.by_us(random.Random(data[1]))
    except Exception as error:
        raise Unexplained(f"{error}\nto see it again: {one.options()}") from error


def seeds() -> None:
    """Sessions without a fault, short ones, to begin with."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    source = random.Random(6455)
    for i in range(50):
        place = i % len(AGREEMENTS)
        stream = b"".join(session(source, AGREEMENTS[place], most=4).frames)
        if len(stream) < 300:
            (CORPUS / f"session-{i}").write_bytes(bytes((place, i)) + stream)


def main() -> None:
    assert not frames.COMPILED, "this needs the uncompiled form: run make fuzz"
    seconds, *rest = sys.argv[1:]
    if not rest:
        seeds()
        rest = [str(CORPUS), f"-max_total_time={seconds}"]
    limits = ["-max_len=2000", "-timeout=20", "-rss_limit_mb=2048", f"-artifact_prefix={HERE}/"]
    atheris.Setup([sys.argv[0], *rest, *limits], test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
