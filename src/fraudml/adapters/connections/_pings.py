"""How long a server takes to answer, and how far its clock is from ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

PINGS = 7


class Pings(NamedTuple):
    """Milliseconds; see :class:`fraudml.decisions.servers.ServerFacts`."""

    latency_ms: float
    ahead_ms: float
    unsure_ms: float


def ping(now_s: Callable[[], float], clock: Callable[[], float] = time.time) -> Pings:
    """Ask a server several times what time it is (in seconds since 1970).

    Its answer is from somewhere between question and receipt, so the quickest round trip tells its clock best.

    >>> found = ping(lambda: time.time() + 2)
    >>> 1_900 < found.ahead_ms < 2_100
    True
    """
    rounds = []
    for _ in range(PINGS):
        asked, started = clock(), time.perf_counter()
        told = now_s()
        took = time.perf_counter() - started
        rounds.append((took, told - asked - took / 2))
    quickest, ahead = min(rounds)
    return Pings(median(took for took, _ in rounds) * 1e3, ahead * 1e3, quickest / 2 * 1e3)
