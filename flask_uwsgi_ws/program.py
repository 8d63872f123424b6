"""What a uWSGI program is, and what its options come to, as it says itself.

It is asked to show what it has read and then to take a clock that there is none of, at which
uWSGI ends before it listens, starts a process or loads an app. What options tell it to run as soon
as possible (``--exec-asap``, ``--hook-asap``) is run.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_END = ("--clock", "none-to-end-here")
_TIMEOUT = 30


class ProgramError(Exception):
    """A program can not be asked; the message is what it printed last."""


@dataclass(frozen=True)
class Program:
    """A uWSGI together with options for it.

    :param options: each with its values in order, from files that are named too; ``"true"`` for
        a bare flag.
    :param plugins: those that are built in or loaded, in lower case.
    :param loops: the engines that ``--loop`` can start.
    """

    options: Mapping[str, Sequence[str]]
    plugins: frozenset[str]
    loops: frozenset[str]


def examine(binary: str, arguments: Sequence[str] = ()) -> Program:
    """Ask a uWSGI what it has and what options come to.

    :param binary: its path.
    :param arguments: of its command line; the files that they name are read.
    :raises ProgramError: if it does not run or does not take the options.
    """
    daemonize = ask(binary, [*arguments, "--get", "daemonize"])
    shown = ["--show-config", "--plugins-list", "--loop-list"]
    # What uWSGI prints goes here, not to the log that the options may name.
    shown += ["--logto", "/dev/stderr", "--daemonize2", "/dev/null"]
    if daemonize:
        shown += ["--daemonize", "/dev/stderr"]
    printed = _run(binary, [*arguments, *shown, *_END])[1]
    configuration = _part(printed, ";uWSGI instance configuration", ";end of configuration")
    if configuration is None:
        raise ProgramError(_last_line(printed) or "it prints nothing, so it is not a uWSGI")
    options: dict[str, list[str]] = {}
    for line in configuration.splitlines():
        name, equals, value = line.partition(" = ")
        if equals:
            options.setdefault(name, []).append(value)
    for name in shown + list(_END):
        if name.startswith("--") and options.get(name[2:]):
            options[name[2:]].pop()
    plugins = _part(printed, "*** uWSGI loaded generic plugins ***", "--- end of plugins") or ""
    loops = _part(printed, "*** uWSGI loaded loop engines ***", "--- end of loop") or ""
    return Program(
        {name: values for name, values in options.items() if values},
        frozenset(re.findall(r"^(?:\d+: )?(\w+)$", plugins.lower(), re.MULTILINE)),
        frozenset(loops.split()),
    )


def ask(binary: str, arguments: Sequence[str]) -> str:
    """Give what a uWSGI prints for an option that ends it, such as ``--version``.

    :param binary: its path.
    :param arguments: the option, after those that it needs.
    :raises ProgramError: if it does not run or refuses.
    """
    status, printed, answer = _run(binary, arguments)
    if status:
        raise ProgramError(_last_line(printed) or f"it ended with {status}")
    return answer.strip()


def evaluate(binary: str, arguments: Sequence[str], code: str) -> str:
    """Run Python code inside a uWSGI that serves nothing.

    :param binary: its path.
    :param arguments: options that the code needs.
    :param code: the code.
    :returns: what was printed, by uWSGI too.
    :raises ProgramError: if it does not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        # uWSGI does not start without a socket.
        serves_nothing = ["--socket", f"{folder}/socket", "--no-server", "--single-interpreter"]
        return _run(binary, [*arguments, *serves_nothing, "--eval", code])[1]


def _run(binary: str, arguments: Sequence[str]) -> tuple[int, str, str]:
    """Give the status, all that was printed on standard error, and on standard output."""
    try:
        result = subprocess.run(
            [binary, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProgramError(f"it has not ended after {_TIMEOUT} s") from None
    except OSError as error:
        raise ProgramError(f"it does not run: {error.strerror}") from None
    return result.returncode, result.stdout + result.stderr, result.stdout


def _part(text: str, begin: str, end: str) -> str | None:
    found = re.search(f"{re.escape(begin)}(.*?){re.escape(end)}", text, re.DOTALL)
    return found[1] if found else None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # After the line that says which option it is.
    return next(
        (line for line in reversed(lines) if line != "getopt_long() error"),
        "",
    )
