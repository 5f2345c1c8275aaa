"""Latencies: which count, and what is told of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fraudml.cli.bench.load import Plan
from fraudml.cli.bench.record import GOOD, NO_ANSWER, Recorded

PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
TAIL = 10  # a percentile beyond which fewer requests lie is not told: it would be the time of a single one
ALWAYS = ("p50", "max")
MILLISECONDS = 1_000.0


def measured(plan: Plan, recorded: Recorded) -> NDArray[np.bool_]:
    """Which requests began after the warm-up."""
    started = np.frombuffer(recorded.started)
    return (started >= plan.warmup_s) & (started < plan.whole_s)


def timed(plan: Plan, recorded: Recorded) -> NDArray[np.bool_]:
    """Which requests began after the warm-up and got a good answer, or none."""
    status = np.frombuffer(recorded.status, dtype=np.uint16)
    counted: NDArray[np.bool_] = measured(plan, recorded) & ((status == GOOD) | (status == NO_ANSWER))
    return counted


def latencies(plan: Plan, recorded: Recorded) -> NDArray[np.float64]:
    """Seconds of each of them."""
    found: NDArray[np.float64] = np.frombuffer(recorded.latency)[timed(plan, recorded)]
    return found


def percentiles(took: NDArray[np.float64]) -> dict[str, float | None]:
    """Each of :data:`PERCENTILES` that so many values can tell.

    >>> percentiles(np.arange(1, 1_001))
    {'p50': 500.5, 'p95': 950.05, 'p99': 990.01, 'p99.9': None, 'max': 1000.0}
    """
    found: dict[str, float | None] = dict.fromkeys(PERCENTILES)
    for name, share in PERCENTILES.items():
        beyond = round(len(took) * (100 - share) / 100, 6)
        if len(took) and (beyond >= TAIL or name in ALWAYS):
            found[name] = float(np.percentile(took, share))
    return found


def short(value: float | None) -> str:
    """Three digits or more, as a table has room for them; nothing for what is not known.

    >>> short(0.1234), short(12.34), short(1234.5), short(None)
    ('0.12', '12.3', '1,234', '')
    """
    if value is None:
        return ""
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"
