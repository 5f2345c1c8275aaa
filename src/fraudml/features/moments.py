"""Means and standard deviations from exact totals, for the fast paths that compute in NumPy."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def std_of_integers(count: Ints, total: Ints, squares: Ints, mean: Floats) -> Floats:
    """Sample standard deviation from the number, the sum and the sum of squares of integers, without cancellation.

    The totals may have wrapped around modulo 2^64 as long as the moments about the mean fit 64 bits.

    Moments about the integer ``c`` nearest to the mean are still exact integers. For integers
    ``sum((x - c)^2) >= |sum(x - c)|``, and ``|sum(x - c)| <= n / 2``, so the correction subtracted at the end is
    at most half of what it is subtracted from.

    >>> std_of_integers(np.array([3, 1]), np.array([7, 5]), np.array([21, 25]), np.array([7 / 3, 5.0])).tolist()
    [1.5275252316519468, nan]
    """
    centre = np.rint(np.where(count > 0, mean, 0.0)).astype(np.int64)
    rest = (total - count * centre).astype(np.float64)
    about = (squares - centre * (2 * total - count * centre)).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance: Floats = (about - rest * rest / count) / (count - 1)
        return np.where(count > 1, np.sqrt(variance), np.nan)


def exact_mean(count: int, total: int) -> float:
    """The mean of integers of any size, rounded once; NaN of none."""
    return total / count if count else np.nan


def exact_std(count: int, total: int, squares: int) -> float:
    """The sample standard deviation of integers of any size; NaN below two.

    >>> exact_std(3, 7, 21)
    1.5275252316519468
    """
    return sqrt((count * squares - total * total) / (count * (count - 1))) if count > 1 else np.nan


def by_row(function: Any, *columns: NDArray[Any]) -> Floats:
    """A function of Python numbers for each row of some columns."""
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return np.array([function(*row) for row in rows], dtype=np.float64)
