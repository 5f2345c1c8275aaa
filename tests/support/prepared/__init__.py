"""The ``fraudml`` command in processes that begin with everything imported.

Half of what these tests took was importing the same libraries hundreds of times. So one process for each worker imports
them, and each command is a fork of it: a process of its own with its own arguments, directory, environment and files.
What begins without is tested where it counts: services are started as users do, so is the demo, and the wheel is
installed and run in a clean environment (``scripts/check-wheel``).
"""

from __future__ import annotations

import atexit
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@cache
def command() -> tuple[str, ...]:
    """What to run instead of ``fraudml``; the process behind it lives as long as this one."""
    folder = tempfile.TemporaryDirectory(prefix="fraudml-prepared-")
    address = Path(folder.name) / "socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.prepared.server", str(address)],
        cwd=HERE.parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"

    def end() -> None:
        server.communicate()  # it ends with its standard input
        folder.cleanup()

    atexit.register(end)
    return sys.executable, "-I", "-S", str(HERE / "client.py"), str(address)
