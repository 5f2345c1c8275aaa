"""The ``fraudml`` command in processes that begin with everything imported.

Half of what these tests took was importing the same libraries hundreds of times. So one process for all workers imports
them, and each command is a fork of it: a process of its own with its own arguments, directory, environment and files.
It gets the signals that ask it to end. What it starts itself begins like that, too, and MLflow's empty file is a copy.
What begins without is tested where it counts: services that are killed under load begin as users start them, one demo
is all real, a registry is made in ``tests/conformance``, and the wheel is installed and run in a clean environment
(``scripts/check-wheel``).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
SHARED = "PREPARED_COMMANDS"  # tells a test's own child processes where the prepared one is


@cache
def command() -> tuple[str, ...]:
    """What to run instead of ``fraudml``; the process behind it lives as long as the tests do."""
    client = (sys.executable, "-I", "-S", str(HERE / "client.py"))
    if SHARED in os.environ:
        return *client, os.environ[SHARED]
    folder, runs = _folder()
    address = str(folder / "socket")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first worker that asks starts it, others wait for that
        if not Path(address).exists():
            server = subprocess.Popen(
                [sys.executable, "-m", "tests.support.prepared.server", str(runs), address, *client, address],
                cwd=HERE.parents[2],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C ends the tests, and those end it
            )
            assert server.stdout is not None
            with server.stdout:
                assert server.stdout.readline() == b"ready\n"
            server.returncode = 0  # nobody waits for it: it may outlive this worker
    os.environ[SHARED] = address
    return *client, address


def empty_registry(home: Path) -> Path:
    """Give a home MLflow's file as it is when nothing was registered: a copy, as making it takes seconds."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(command()[-1]).with_name("registry.db"), home / "registry.db")
    return home


def _folder() -> tuple[Path, int]:
    """Where it listens, and the process that runs the tests: that of pytest-xdist's workers, or this one."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return Path(tempfile.mkdtemp(prefix="fraudml-prepared-")), os.getpid()
    folder = Path(tempfile.gettempdir()) / f"fraudml-prepared-{run}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder, os.getppid()
