"""The largest or smallest value of any range of positions, by a sparse table (Bender and Farach-Colton, 2000).

Level ``k`` holds the extreme of every stretch of ``2^k`` values; a range is covered by two stretches of the largest
power of two that fits into it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Extremes:
    """Answers for ``values``, float64 ``[n]`` with NaN for missing ones, which never count.

    >>> largest = Extremes(np.array([3.0, 1.0, np.nan, 2.0]), smallest=False)
    >>> largest.of(np.array([0, 1, 2, 2]), np.array([4, 4, 3, 2]))
    array([ 3.,  2., nan, nan])
    """

    def __init__(self, values: Floats, *, smallest: bool) -> None:
        self._sign = -1.0 if smallest else 1.0
        self._levels = [np.where(np.isnan(values), -np.inf, self._sign * values)]

    def of(self, start: Ints, end: Ints) -> Floats:
        """The extreme of the values at positions ``start <= i < end``, int64 ``[m]`` each; NaN where there is none."""
        level = np.frexp((end - start).astype(np.float64))[1] - 1  # the exponent: floor(log2(length))
        found = np.full(len(start), -np.inf)
        for k in np.unique(level[end > start]):
            rows = np.flatnonzero(level == k)
            values = self._level(int(k))
            found[rows] = np.maximum(values[start[rows]], values[end[rows] - (1 << int(k))])
        return np.where(np.isinf(found), np.nan, self._sign * found)

    def _level(self, k: int) -> Floats:
        while len(self._levels) <= k:  # only as far as a window asks for
            below, step = self._levels[-1], 1 << (len(self._levels) - 1)
            self._levels.append(np.maximum(below[:-step], below[step:]))
        return self._levels[k]
