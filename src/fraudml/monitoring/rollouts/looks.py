"""When a check that is not valid at every moment looks at its data, and the critical values it uses then.

Looks are at geometrically growing sample sizes; look ``k`` may spend ``alpha / (k (k + 1))`` of the false-alarm
probability, which sums to ``alpha`` however long it goes on (alpha spending with a union bound: Lan and DeMets 1983;
Robbins 1970 for the geometric grid). So a check may look for ever, and a reader may look as often as he likes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

from fraudml.monitoring.rollouts.kept import Kept, Kinds

GROWTH = 1.25  # each look waits for a quarter more data: 10 looks until ten times as much


@dataclass
class Looks(Kept):
    """The next look and what it may spend.

    >>> looks = Looks(first=20, alpha=0.002)
    >>> looks.spend(20), looks.size, looks.spend(30), looks.size
    (0.001, 25, 0.000333..., 38)
    """

    KEPT: ClassVar[Kinds] = {"size": int, "_taken": int}

    first: int
    alpha: float
    growth: float = GROWTH

    def __post_init__(self) -> None:
        self.size = self.first
        self._taken = 0

    def spend(self, size: int) -> float:
        """Take a look at so many observations: its false-alarm probability. The next is due at :attr:`size`."""
        self._taken += 1
        self.size = math.ceil(size * self.growth)
        return self.alpha / (self._taken * (self._taken + 1))


def normal_quantile(alpha: float) -> float:
    """What a standard normal exceeds with probability ``alpha``."""
    return -NormalDist().inv_cdf(alpha)


def noncentral_chi2_quantile(alpha: float, freedom: float, noncentrality: float) -> float:
    """What a non-central chi-square exceeds with probability ``alpha``, by Sankaran's approximation (1963).

    It errs on the safe side, by a few percent of ``alpha`` where that matters. SciPy would be exact, but a process
    that scores does not load it.

    >>> round(noncentral_chi2_quantile(0.001, 9, 0.0), 1)  # SciPy: 27.9
    28.1
    """
    mean, double = freedom + noncentrality, freedom + 2 * noncentrality
    h = 1 - 2 / 3 * mean * (freedom + 3 * noncentrality) / double**2
    p = double / mean**2
    m = (h - 1) * (1 - 3 * h)
    centre = 1 + h * p * (h - 1 - 0.5 * (2 - h) * m * p)
    spread = h * math.sqrt(2 * p) * (1 + 0.5 * m * p)
    return float(mean * (centre + normal_quantile(alpha) * spread) ** (1 / h))


def heavy_quantile(alpha: float, variance: float, largest: float) -> float:
    """About what a sum of independent terms with mean 0, total ``variance`` and no term above ``largest`` exceeds with
    probability ``alpha``: a normal quantile with the correction for jumps of Bernstein's inequality (Boucheron, Lugosi
    and Massart 2013, theorem 2.10), whose bound ``exp(-x^2 / 2 (variance + largest x / 3))`` replaces the normal's.

    >>> round(heavy_quantile(0.001, 100.0, 0.0), 1), round(heavy_quantile(0.001, 100.0, 10.0), 1)
    (30.9, 50.7)
    """
    half = normal_quantile(alpha) ** 2 / 2
    jump = half * largest / 3
    return jump + math.sqrt(jump**2 + 2 * variance * half)
