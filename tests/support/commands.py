"""The ``fraudml`` command as a subprocess that begins with everything imported (:mod:`tests.support.prepared`)."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tests.support import prepared

TIMEOUT_S = 600  # only against hanging: a training took four minutes on a machine with ten times too much to do


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON: nothing else may be on it."""
        return msgspec.json.decode(self.out)


def fraudml(*arguments: str, cwd: Path, within_s: float = TIMEOUT_S) -> Done:
    """Run a command to its end in a directory; never raises for a failed one."""
    done = subprocess.run(
        [*prepared.command(), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def well(*arguments: str, cwd: Path, within_s: float = TIMEOUT_S) -> Done:
    """The same for a command that has to succeed."""
    done = fraudml(*arguments, cwd=cwd, within_s=within_s)
    assert done.code == 0, f"fraudml {' '.join(arguments)} ended with {done.code}:\n{done.out}\n{done.err}"
    return done


def refused(*arguments: str, cwd: Path) -> str:
    """The one line in which a command says why it refuses; steps shown before it do not count."""
    done = fraudml(*arguments, cwd=cwd)
    assert done.code == 2, f"exit code {done.code}:\n{done.out}\n{done.err}"
    assert "Traceback" not in done.out + done.err
    said = [line for line in done.err.splitlines() if line.startswith("fraudml: ")]
    assert len(said) == 1, f"not one line that says why:\n{done.err}"
    assert done.err.rstrip().endswith(said[0]), f"something follows the error:\n{done.err}"
    return said[0]
