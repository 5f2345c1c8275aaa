"""Flame graphs of a live process, by py-spy: it samples from outside, so the process need not be prepared.

py-spy stops the process for each sample. The rate is bounded, so that what this costs is, too.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fraudml.errors import ConfigError, FraudmlError, MissingExtra

RATE = 50  # samples a second; what they cost is in docs/howto/profile-a-live-service.md
MOST_RATE = 250
MOST_S = 120
ENDS_WITHIN_S = 60.0  # py-spy reads symbols and writes the file after its last sample
NOTICES_S = 0.1  # how soon a recording that nobody waits for any more is ended
_SET_PTRACER = 0x59616D61  # prctl(2): Yama's PR_SET_PTRACER


def tool() -> str:
    """The path of py-spy; raises MissingExtra where there is none."""
    beside = Path(sys.executable).parent
    found = shutil.which("py-spy", path=str(beside)) or shutil.which("py-spy")
    if found is None:
        raise MissingExtra("profile")
    return found


def command(pid: int, path: Path, seconds: float, rate: int = RATE) -> list[str]:
    """What writes the flame graph of a process over these seconds to an SVG file."""
    # Without --nonblocking: stacks read while they change hold frames that never were, and even values of transactions.
    asked = [tool(), "record", "--pid", str(pid), "--output", str(path), "--format", "flamegraph"]
    return [*asked, "--rate", str(rate), "--duration", str(max(1, round(seconds)))]


def record(pid: int, path: Path, seconds: int, rate: int = RATE, ending: threading.Event | None = None) -> None:
    """Write the flame graph of a process; returns after ``seconds``, or soon after ``ending`` is set.

    Raises ``ConfigError`` for what cannot be asked, and ``FraudmlError`` when the process cannot be looked into.
    """
    if not 1 <= seconds <= MOST_S:
        raise ConfigError(f"a profile takes from 1 to {MOST_S} seconds, not {seconds}")
    if not 1 <= rate <= MOST_RATE:
        raise ConfigError(f"a profile has from 1 to {MOST_RATE} samples a second, not {rate}: each stops the process")
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigError(f"no file can be written at {path}")
    try:
        if pid < 1:  # to kill(2) those are groups of processes
            raise ProcessLookupError
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        raise ConfigError(f"there is no process {pid}") from None
    except PermissionError:
        pass  # of another user: py-spy says what is needed
    asked = command(pid, path, seconds, rate)
    _run(asked, path, own=pid == os.getpid(), within_s=seconds + ENDS_WITHIN_S, ending=ending or threading.Event())


def complain(said: str, code: int) -> FraudmlError:
    """The error that py-spy's last line is, with what to do.

    >>> print(complain("Error: No such process (os error 3)", 1))
    the process cannot be looked into: No such process (os error 3). It has ended
    """
    reason = said.strip().splitlines()[-1].removeprefix("Error: ") if said.strip() else f"py-spy ended with {code}"
    lower = reason.lower()
    if "permission" in lower or "not permitted" in lower:
        advice = "Do it as root, or in a container with CAP_SYS_PTRACE"
    elif "no such process" in lower or "no such file" in lower:
        advice = "It has ended"
    else:
        advice = "Is it a process of Python that runs?"
    return FraudmlError(f"the process cannot be looked into: {reason.rstrip('.')}. {advice}")


def _run(asked: list[str], path: Path, *, own: bool, within_s: float, ending: threading.Event) -> None:
    # It starts when it is told to: a process that is to be looked into has to name who may, if that is its own child.
    waiting = ["sh", "-c", 'read -r _; exec "$@"', "sh", *asked]
    pipe = subprocess.PIPE
    with subprocess.Popen(waiting, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as process:  # noqa: S603
        try:
            with _traced_by(process.pid if own else None):
                said = _said(process, time.monotonic() + within_s, ending)
        finally:
            if process.poll() is None:
                process.kill()
    if process.returncode or not path.exists():
        raise complain(said, process.returncode)


def _said(process: subprocess.Popen[bytes], until_s: float, ending: threading.Event) -> str:
    """What it said until it ended."""
    begin: bytes | None = b"\n"
    told = False
    while True:
        try:
            return process.communicate(begin, NOTICES_S)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            if time.monotonic() > until_s:
                raise FraudmlError("py-spy does not end") from None
        begin = None
        if ending.is_set() and not told:
            # Not killed: it may be between stopping the other process and letting it go on.
            process.send_signal(signal.SIGINT)
            told = True


@contextmanager
def _traced_by(pid: int | None) -> Iterator[None]:
    """Inside, this process may be traced by another one, and by no other, where the kernel asks for that (Yama)."""
    if pid is None or not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None)
    libc.prctl(_SET_PTRACER, pid, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_SET_PTRACER, 0, 0, 0, 0)
