"""Random and damaged sessions, read by the package and by others, and compared.

    make fuzz-differential ARGS='--frames 1000000 --seed 1'

Each stream goes through the package twice, in random reads and a frame at a time, and both have
to end as the referee says, exactly. ``websockets`` and ``wsproto`` may differ where
``referee.DIFFERENCES`` says how. Anything else ends the program with status 1 and the shortest
input found for it, which ``ARGS='--input HEX'`` runs again.
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import websockets.version
import wsproto

from fuzz.readers import Form, by_websockets, by_wsproto
from fuzz.referee import DIFFERENCES, Difference, Outcome, Verdict, judge
from fuzz.streams import Agreement, Session, cut, damaged, session

AGREEMENTS = (None, None, Agreement(False, 15), Agreement(True, 15), Agreement(False, 9))

# What is made of one session before another takes its place.
DAMAGES = 12

# Bytes of the largest message, where there is such a limit.
LIMITS = (0, 0, 0, 125, 200)


class Unexplained(Exception):
    """A difference that is not in the table."""


class Case:
    """One stream, and everything that is compared about it.

    :param forms: of the package.
    """

    def __init__(
        self, forms: Sequence[Form], stream: bytes, agreement: Agreement | None, limit: int = 0
    ) -> None:
        self.forms = forms
        self.stream = stream
        self.agreement = agreement
        self.limit = limit
        self.left_window = False

    def by_us(self, source: random.Random) -> tuple[Verdict, int]:
        """Compare the forms with the referee; also give how many frames were taken."""
        verdict = judge(self.stream, self.agreement, self.limit)
        taken = 0
        for form in self.forms:
            reads = form.frames_of(self.stream, self.agreement)
            outcome, count = form.read(reads, self.agreement, self.limit)
            self.same(f"{form.name}, frame by frame", outcome, verdict)
            # The last read is what the parser made no frame of, unless nothing is left there.
            taken = count - (count == len(reads))
            outcome, _ = form.read(cut(source, self.stream), self.agreement, self.limit)
            self.same(f"{form.name}, cut anywhere", outcome, verdict)
        return verdict, taken

    def same(self, name: str, outcome: Outcome, verdict: Verdict) -> None:
        if not verdict.allows(outcome) and not self.leaves_window(outcome, frozenset()):
            raise Unexplained(f"{name}: {outcome}\nreferee: {verdict.outcome} {verdict.fault}")

    def by_others(self, source: random.Random, verdict: Verdict) -> list[set[Difference]]:
        """Compare websockets and wsproto with us; give the differences that there are."""
        found = []
        for name, read in (("websockets", by_websockets), ("wsproto", by_wsproto)):
            theirs = read(cut(source, self.stream), self.agreement)
            if theirs == verdict.outcome:
                found.append(set[Difference]())
                continue
            expected = judge(self.stream, self.agreement, 0, DIFFERENCES[name])
            if (
                not expected.allows(theirs)
                and not self.leaves_window(theirs, DIFFERENCES[name])
                and not self.made_in_part(expected.made, theirs)
            ):
                raise Unexplained(
                    f"{name}: {theirs}\nours: {verdict.outcome} {verdict.fault}\n"
                    f"expected: {expected.outcome} {expected.fault} {expected.made}"
                )
            found.append(expected.made)
        return found

    def leaves_window(self, outcome: Outcome, differences: frozenset[Difference]) -> bool:
        """Whether the reads decide what becomes of the stream; ``ends_at_window`` tells why."""
        if self.agreement is None or self.agreement.bits == 15:
            return False
        verdict = judge(self.stream, self.agreement, self.limit, differences, windows=True)
        if verdict.ends_at_window and verdict.allows(outcome):
            self.left_window = True
            return True
        return False

    def made_in_part(self, differences: set[Difference], theirs: Outcome) -> bool:
        """Whether another version of a server makes only some of these differences."""
        return any(
            judge(self.stream, self.agreement, 0, frozenset(some)).allows(theirs)
            for count in range(len(differences))
            for some in itertools.combinations(differences, count)
        )

    def options(self) -> str:
        """What has this program run the case again."""
        options = f"--input {self.stream.hex()}"
        if self.agreement:
            options += f" --bits {self.agreement.bits}" + " --forgets" * self.agreement.forgets
        return options + (f" --limit {self.limit}" if self.limit else "")

    def check(self) -> None:
        """Compare everything, with several ways to cut the stream."""
        for seed in range(8):
            verdict, _ = self.by_us(random.Random(seed))
            if not self.limit:
                self.by_others(random.Random(seed), verdict)


def shortest(fails: Callable[[bytes], bool], stream: bytes, seconds: float = 60) -> bytes:
    """Leave out what *stream* fails without, as far as there is time."""
    end = time.monotonic() + seconds
    size = len(stream) // 2
    while size:
        at = 0
        while at < len(stream) and time.monotonic() < end:
            shorter = stream[:at] + stream[at + size :]
            if fails(shorter):
                stream = shorter
            else:
                at += size
        size //= 2
    return stream


def difference(case: Case) -> str:
    try:
        case.check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def report(case: Case, first: str) -> str:
    """Say what differs, with the least input found for it."""

    def fails(stream: bytes) -> bool:
        return bool(difference(Case(case.forms, stream, case.agreement, case.limit)))

    stream = shortest(fails, case.stream) if fails(case.stream) else case.stream
    shorter = Case(case.forms, stream, case.agreement, case.limit)
    return f"{difference(shorter) or first}\nto see it again: {shorter.options()}"


class Run:
    """Streams of one seed, until there were enough frames or minutes.

    :param share: of the streams, for the others to read.
    """

    def __init__(self, forms: Sequence[Form], seed: int, share: float = 1.0) -> None:
        self.forms = forms
        self.source = random.Random(seed)
        self.share = share
        self.frames = 0
        self.streams = 0
        self.bytes = 0
        #: Streams that left the agreed window, and were not read alike because of that.
        self.windows = 0
        #: Streams and frames that were read by the others.
        self.shared = Counter[str]()
        self.known: Counter[tuple[str, Difference | None]] = Counter()
        self.faults: Counter[str] = Counter()

    def until(self, frames: int, seconds: float = float("inf")) -> None:
        end = time.monotonic() + seconds
        other: Session | None = None
        while self.frames < frames and time.monotonic() < end:
            agreement = self.source.choice(AGREEMENTS)
            one = session(self.source, agreement)
            self.undamaged(one)
            for _ in range(DAMAGES):
                self.one(damaged(self.source, one, other or one), agreement)
            other = one

    def undamaged(self, one: Session) -> None:
        verdict = self.one(b"".join(one.frames), one.agreement, limit=0)
        # A Close frame may be there and wrong; nothing else is.
        if verdict.messages != one.messages:
            raise Unexplained(f"sent {one.messages}, read {verdict.messages}")

    def one(self, stream: bytes, agreement: Agreement | None, limit: int | None = None) -> Verdict:
        limit = self.source.choice(LIMITS) if limit is None else limit
        case = Case(self.forms, stream, agreement, limit)
        try:
            verdict, taken = case.by_us(self.source)
            if not limit and self.source.random() < self.share:
                others = case.by_others(self.source, verdict)
                for oracle, made in zip(DIFFERENCES, others, strict=True):
                    for each in made or (None,):
                        self.known[oracle, each] += 1
                self.shared["streams"] += 1
                self.shared["frames"] += taken
        except Exception as error:
            raise Unexplained(report(case, f"{type(error).__name__}: {error}")) from error
        self.windows += case.left_window
        self.frames += taken
        self.streams += 1
        self.bytes += len(stream)
        self.faults[verdict.fault or ("Close" if verdict.code else "none")] += 1
        return verdict


def memory() -> int:
    """The most memory that this process has had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def summary(run: Run) -> list[str]:
    lines = [
        f"frames           {run.frames:>12,}",
        f"streams          {run.streams:>12,}",
        f"bytes            {run.bytes:>12,}",
        "",
        "How the streams ended:",
        *(f"{count:>12,}  {name}" for name, count in run.faults.most_common()),
        f"{run.windows:>12,}  of them by a distance out of the agreed window, or not, as they were"
        " cut (RFC 7692 section 7.1.2)",
        "",
        f"Read by websockets and wsproto: {run.shared['streams']:,} streams,"
        f" {run.shared['frames']:,} frames",
    ]
    for oracle, differences in DIFFERENCES.items():
        lines.append(f"{run.known[oracle, None]:>12,}  {oracle} agrees")
        for each in sorted(differences, key=lambda each: -run.known[oracle, each]):
            lines.append(f"{run.known[oracle, each]:>12,}  {oracle} {each.does}")
            lines.append(f"{'':14}({each.decided})")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--share", type=float, default=1.0, help="of streams for the others too")
    parser.add_argument("--uncompiled", metavar="PATH", help="compare that form as well")
    parser.add_argument("--input", metavar="HEX", help="compare one stream")
    parser.add_argument("--bits", type=int, help="the input's client_max_window_bits")
    parser.add_argument("--forgets", action="store_true", help="... client_no_context_takeover")
    parser.add_argument("--limit", type=int, default=0, help="... largest message")
    options = parser.parse_args()

    forms = [Form()]
    if options.uncompiled:
        forms.append(Form(str(Path(options.uncompiled, "flask_uwsgi_ws"))))
    if options.input is not None:
        agreement = Agreement(options.forgets, options.bits) if options.bits else None
        said = difference(Case(forms, bytes.fromhex(options.input), agreement, options.limit))
        print(said or "no difference")
        return bool(said)

    print(f"forms: {', '.join(form.name for form in forms)}; seed {options.seed}")
    print(f"Python {sys.version.split()[0]}, websockets {websockets.version.version},", end=" ")
    print(f"wsproto {wsproto.__version__}", flush=True)
    run = Run(forms, options.seed, options.share)
    started = time.monotonic()
    try:
        run.until(options.frames // 20, options.minutes * 60)
        early = memory()
        run.until(options.frames, options.minutes * 60 - (time.monotonic() - started))
    except Unexplained as found:
        print(found)
        return 1
    print("\n".join(summary(run)))
    print(f"\npeak memory: {early:,} KiB after a twentieth, {memory():,} KiB at the end")
    print(f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
