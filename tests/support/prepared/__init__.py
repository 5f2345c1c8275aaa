"""The ``fraudml`` command in processes that begin with everything imported.

Half of what these tests took was importing the same libraries hundreds of times. So one process for each worker imports
them, and each command is a fork of it: a process of its own with its own arguments, directory, environment and files.
It gets the signals that ask it to end. What it starts itself begins like that, too, and MLflow's empty file is a copy.
What begins without is tested where it counts: services that are killed under load begin as users start them, one demo
is all real, a registry is made in ``tests/conformance``, and the wheel is installed and run in a clean environment
(``scripts/check-wheel``).
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
SHARED = "PREPARED_COMMANDS"  # tells a test's own child processes where the prepared one is


@cache
def command() -> tuple[str, ...]:
    """What to run instead of ``fraudml``; the process behind it lives as long as the first one that asked."""
    client = (sys.executable, "-I", "-S", str(HERE / "client.py"))
    if SHARED in os.environ:
        return *client, os.environ[SHARED]
    folder = tempfile.TemporaryDirectory(prefix="fraudml-prepared-")
    address = str(Path(folder.name) / "socket")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.prepared.server", address, *client, address],
        cwd=HERE.parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    os.environ[SHARED] = address

    def end() -> None:
        server.communicate()  # it ends with its standard input
        folder.cleanup()

    atexit.register(end)
    return *client, address
