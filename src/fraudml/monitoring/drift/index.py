"""The population stability index, and how large it is without any change.

Siddiqi, *Credit Risk Scorecards*, 2006; its distribution: Yurdakul 2018. By Siddiqi's rule of thumb less than 0.1 is no
change and more than 0.25 a large one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

BINS = 10
Values = NDArray[np.float64]


def edges_of(reference: Values, bins: int = BINS) -> Values:
    """Where bins of about equal count end, of values ``[n]`` without missing ones: ascending, ``[k]``.

    A value is in the first bin whose end it does not exceed. The first bin and the last are for what lies outside of
    the reference, so a feature with one value has a bin for it, one below and one above.

    >>> edges_of(np.full(5, 3.0)).round(6).tolist()
    [3.0, 3.0]
    """
    inner = np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1])
    ends = [np.nextafter(reference.min(), -math.inf), *inner, reference.max()]
    return np.unique(np.array(ends, np.float64))


def counts_of(values: Values, edges: Values) -> NDArray[np.int64]:
    """How many values are in each bin, and how many are missing (NaN) at the end: int64 ``[len(edges) + 2]``."""
    missing = np.isnan(values)
    counted = np.bincount(np.searchsorted(edges, values[~missing]), minlength=len(edges) + 1)
    return np.append(counted, missing.sum()).astype(np.int64)


def psi_of_counts(reference: NDArray[np.int64], current: NDArray[np.int64]) -> float:
    """The index of two rows of counts over the same bins; half a row is added to every bin, for those that are empty.

    >>> psi_of_counts(np.array([50, 50]), np.array([500, 500]))
    0.0
    """
    used = (reference + current) > 0  # a bin that nobody is in says nothing
    before, now = (each[used] + 0.5 for each in (reference, current))
    before, now = before / before.sum(), now / now.sum()
    return float(((now - before) * np.log(now / before)).sum())


def noise_of(reference: NDArray[np.int64], current: NDArray[np.int64]) -> float:
    """What the index hardly exceeds without any change: its mean and three standard deviations, from a chi-square.

    >>> round(noise_of(np.full(10, 100), np.full(10, 100)), 3)
    0.043
    """
    n, m = int(reference.sum()), int(current.sum())
    if not n or not m:
        return math.inf
    free = max(int(((reference + current) > 0).sum()) - 1, 1)
    return (1 / n + 1 / m) * (free + 3 * math.sqrt(2 * free))


def psi(first: Values, latest: Values) -> float:
    """The index of scores ``[n]`` and ``[m]`` on ten bins of equal count of the first ones.

    >>> scores = np.linspace(0, 1, 2_000)
    >>> psi(scores, scores), round(psi(scores, scores**2), 2)
    (0.0, 0.38)
    """
    edges = np.unique(np.quantile(first, np.linspace(0, 1, BINS + 1)[1:-1]))
    return psi_of_counts(*(counts_of(each, edges)[:-1] for each in (first, latest)))
