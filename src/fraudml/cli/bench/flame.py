"""A flame graph of a server under load, by py-spy: it samples from outside, so that the server need not know."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fraudml.cli.bench.child import Cores, running
from fraudml.errors import FraudmlError, MissingExtra

RATE = 200  # samples a second
ENDS_WITHIN_S = 60.0  # py-spy reads symbols and writes the file after its last sample


def tool() -> str:
    """The path of py-spy; raises MissingExtra where there is none."""
    beside = Path(sys.executable).parent
    found = shutil.which("py-spy", path=str(beside)) or shutil.which("py-spy")
    if found is None:
        raise MissingExtra("bench")
    return found


@contextmanager
def recording(pid: int, path: Path, seconds: float, cores: Cores) -> Iterator[None]:
    """Writes the flame graph of a process over these seconds, from the beginning of the block on, to an SVG file.

    Raises FraudmlError when py-spy may not look into the process.
    """
    # Without --nonblocking: stacks read while they change hold frames that never were, and even values of transactions.
    command = [tool(), "record", "--pid", str(pid), "--output", str(path), "--format", "flamegraph"]
    command += ["--rate", str(RATE), "--duration", str(max(1, round(seconds))), "--subprocesses"]
    with running(command, cores, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        yield
        try:
            said = process.communicate(timeout=ENDS_WITHIN_S)[0].decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            raise FraudmlError(f"py-spy did not end within {ENDS_WITHIN_S:.0f} s") from None
    if process.returncode or not path.exists():
        reason = said.splitlines()[-1] if said else f"exit code {process.returncode}"
        raise FraudmlError(
            f"py-spy could not profile the server: {reason}; it needs the right to trace other processes "
            "(root, or CAP_SYS_PTRACE in a container)"
        )
