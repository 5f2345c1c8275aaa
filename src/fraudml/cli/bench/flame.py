"""A flame graph of a server under load."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fraudml.cli.bench.child import Cores, running
from fraudml.errors import FraudmlError
from fraudml.monitoring import profile

RATE = 200  # samples a second


@contextmanager
def recording(pid: int, path: Path, seconds: float, cores: Cores) -> Iterator[None]:
    """Writes the flame graph of a process over these seconds, from the beginning of the block on, to an SVG file.

    Raises FraudmlError when py-spy may not look into the process.
    """
    command = [*profile.command(pid, path, seconds, RATE), "--subprocesses"]
    with running(command, cores, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        yield
        try:
            said = process.communicate(timeout=profile.ENDS_WITHIN_S)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            raise FraudmlError(f"py-spy did not end within {profile.ENDS_WITHIN_S:.0f} s") from None
    if process.returncode or not path.exists():
        raise profile.complain(said, process.returncode)
