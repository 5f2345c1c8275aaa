"""Processes beside this one: on cores of their own, and gone when the block ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

ENDS_WITHIN_S = 20.0

Cores = frozenset[int] | None


@dataclass(frozen=True)
class Places:
    """The cores for the server and for everything else; ``None``: wherever the system likes."""

    server: Cores = None
    load: Cores = None


def places(*, pin: bool) -> Places:
    """One core for the server and the others for the load, where there are two and the system can pin."""
    if not pin or not hasattr(os, "sched_getaffinity"):
        return Places()
    first, *others = sorted(os.sched_getaffinity(0))
    return Places(frozenset({first}), frozenset(others)) if others else Places()


@contextmanager
def on(cores: Cores) -> Iterator[None]:
    """Inside, this thread and what it starts (threads, processes) run on these cores."""
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(command: Sequence[str], cores: Cores = None, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process on these cores; at the end of the block it is told to end, and made to if it does not.

    It leads a group of its own: Ctrl-C reaches only us, and what it started and left behind ends with it.
    """
    with on(cores):
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process in order, or by force when that takes long."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        pass  # what follows ends it
    finally:
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):  # nobody is left
                os.killpg(process.pid, signal.SIGKILL)
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
