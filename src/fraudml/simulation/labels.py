"""When the truth comes out: the time at which each transaction's label became known."""

from __future__ import annotations

import numpy as np

from fraudml.simulation.campaigns import Pattern
from fraudml.simulation.config import LabelDelays
from fraudml.simulation.rows import DAY_MS, IntArray, Rows


def reported_at_ms(rng: np.random.Generator, rows: Rows, delays: LabelDelays, patterns: list[Pattern]) -> IntArray:
    """Milliseconds since 1970 UTC at which each label became known; always after the transaction.

    Frauds: log-normal delays, short if the customer noticed, long if a chargeback brought it up; the share
    of either is the pattern's. Genuine: ``delays.maturity`` after the transaction.
    """
    known = rows.time_ms + round(delays.maturity * DAY_MS)
    fraud = np.flatnonzero(rows.pattern >= 0)
    if not len(fraud):
        return known
    by_customer = np.array([pattern.found_by_customer for pattern in patterns])[rows.pattern[fraud]]
    noticed = rng.random(len(fraud)) < by_customer
    normal = rng.standard_normal(len(fraud))
    short = np.log(delays.customer_median) + delays.customer_sigma * normal
    long = np.log(delays.chargeback_median) + delays.chargeback_sigma * normal
    days = np.minimum(np.exp(np.where(noticed, short, long)), delays.maturity)
    known[fraud] = rows.time_ms[fraud] + np.maximum((days * DAY_MS).astype(np.int64), 1)
    return known
