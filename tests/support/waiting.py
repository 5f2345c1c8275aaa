"""Waiting for what other threads, processes and servers do."""

from __future__ import annotations

import threading
from collections.abc import Callable

WITHIN_S = 60.0  # on a busy machine
PAUSE_S = 0.01


def until(fact: Callable[[], object], otherwise: str = "it never became so", every_s: float = PAUSE_S) -> None:
    """Ask again until it is so."""
    pause = threading.Event()
    for _ in range(round(WITHIN_S / every_s)):
        if fact():
            return
        pause.wait(every_s)
    raise AssertionError(otherwise)
