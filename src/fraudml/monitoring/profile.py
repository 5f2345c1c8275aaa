"""Flame graphs of a live process, by py-spy: it samples from outside, so the process need not be prepared.

py-spy stops the process for each sample. The rate is bounded, so that what this costs is, too.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fraudml.errors import ConfigError, FraudmlError, MissingExtra

RATE = 100  # samples a second
MOST_RATE = 250
MOST_S = 120
ENDS_WITHIN_S = 60.0  # py-spy reads symbols and writes the file after its last sample
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


def record(pid: int, path: Path, seconds: int, rate: int = RATE) -> None:
    """Write the flame graph of a process; returns after ``seconds``.

    Raises ``ConfigError`` for what cannot be asked, and ``FraudmlError`` when the process cannot be looked into.
    """
    if not 1 <= seconds <= MOST_S:
        raise ConfigError(f"a profile takes from 1 to {MOST_S} seconds, not {seconds}")
    if not 1 <= rate <= MOST_RATE:
        raise ConfigError(f"a profile has from 1 to {MOST_RATE} samples a second, not {rate}: each stops the process")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        raise ConfigError(f"there is no process {pid}") from None
    except PermissionError:
        pass  # of another user: py-spy says what is needed
    _run(command(pid, path, seconds, rate), path, own=pid == os.getpid(), within_s=seconds + ENDS_WITHIN_S)


def complain(said: str, code: int) -> FraudmlError:
    """The error that py-spy's last line is."""
    reason = said.strip().splitlines()[-1] if said.strip() else f"exit code {code}"
    return FraudmlError(
        f"py-spy could not profile the process: {reason}; it needs the right to trace other processes "
        "(root, or CAP_SYS_PTRACE in a container)"
    )


def _run(asked: list[str], path: Path, *, own: bool, within_s: float) -> None:
    # It starts when it is told to: a process that is to be looked into has to name who may, if that is its own child.
    waiting = ["sh", "-c", 'read -r _; exec "$@"', "sh", *asked]
    pipe = subprocess.PIPE
    with subprocess.Popen(waiting, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as process:  # noqa: S603
        try:
            with _traced_by(process.pid if own else None):
                said = process.communicate(b"\n", within_s)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            raise FraudmlError(f"py-spy did not end within {within_s:.0f} s") from None
        finally:
            if process.poll() is None:
                process.kill()
    if process.returncode or not path.exists():
        raise complain(said, process.returncode)


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
