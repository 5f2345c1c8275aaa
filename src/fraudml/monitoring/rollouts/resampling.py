"""Sums of an arm by random group of entities, and figures of it with bootstrap intervals.

Entities are independent, their transactions are not. So groups of entities are drawn again, with replacement (the
bootstrap of Efron and Tibshirani 1993 over clusters), and every figure is a function of sums over groups: a million
rows cost no more than a thousand.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.monitoring.rollouts.money import false_decline_cost, fraud_loss
from fraudml.monitoring.rollouts.rows import Rows

GROUPS = 512
RESAMPLES = 2_000
LEVEL = 0.95
_CUTS = np.linspace(-12, 12, 1_001)[1:-1]  # of the score's log-odds: 0.024 apart, 1,000 bins
_BINS = len(_CUTS) + 1
ALL, FLAGGED, FRAUDS, CAUGHT, JUDGED, LOSS, FALSE_DECLINES, REVIEWS = range(8)
Resampled = NDArray[np.float64]


class Interval(msgspec.Struct, frozen=True):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, resampled: NDArray[np.float64]) -> Interval | None:
        """From a figure of the data followed by those of the resamples; None where it does not exist."""
        if not np.isfinite(resampled[0]):
            return None
        low, high = np.quantile(resampled[np.isfinite(resampled)][1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(float(resampled[0]), float(low), float(high))


class ArmSums:
    """Weighted sums of one arm's mature decisions, ``[GROUPS, ...]``.

    Every row counts ``1 / share``; where its label matters, times its label weight.
    """

    def __init__(self) -> None:
        self.sums = np.zeros((GROUPS, 8))
        self._scores = np.zeros((2, GROUPS, _BINS))  # all decisions, frauds
        self.decisions = 0
        self.frauds = 0  # labelled, not weighted

    def add(self, rows: Rows, costs: Costs) -> None:
        """Count mature decisions with their labels."""
        weight = 1 / rows.share
        known = weight * rows.label_weight
        flagged = rows.level > 0
        fraud = rows.fraud == 1
        columns = [
            weight,
            weight * flagged,
            known * fraud,
            known * (fraud & flagged),
            known * flagged,
            known * fraud_loss(rows, costs),
            known * false_decline_cost(rows, costs),
            weight * costs.review_cost * (rows.level == 1),
        ]
        group = rows.key % GROUPS
        np.add.at(self.sums, group, np.column_stack(columns))
        score = np.clip(np.nan_to_num(rows.score, nan=1.0), 1e-12, 1 - 1e-12)  # without a score it is reviewed first
        place = np.searchsorted(_CUTS, np.log(score / (1 - score)))
        np.add.at(self._scores[0], (group, place), weight)
        np.add.at(self._scores[1], (group, place), known * fraud)
        self.decisions += len(rows)
        self.frauds += int((fraud & (known > 0)).sum())

    def draw(self, seed: int) -> NDArray[np.float64]:
        """How often each group counts: once in the data (row 0), then as drawn, float64 ``[1 + RESAMPLES, GROUPS]``."""
        random = np.random.default_rng(seed)
        drawn = random.multinomial(GROUPS, np.full(GROUPS, 1 / GROUPS), size=RESAMPLES)
        return np.vstack([np.ones(GROUPS), drawn]).astype(np.float64)

    def figures(self, drawn: NDArray[np.float64]) -> Callable[[int, int], Resampled]:
        """The ratio of two sums, by their places, in the data and each resample; NaN where there is nothing."""
        totals = drawn @ self.sums

        def ratio(numerator: int, denominator: int) -> Resampled:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray(totals[:, numerator] / totals[:, denominator])

        return ratio

    def recall(self, drawn: NDArray[np.float64], rate: float) -> Resampled:
        """Share of the frauds among the ``rate`` highest scores, in the data and each resample."""
        highest = [np.cumsum((drawn @ scores)[:, ::-1], axis=1) for scores in self._scores]
        with np.errstate(invalid="ignore", divide="ignore"):
            taken, found = (sums / sums[:, -1:] for sums in highest)
        rows = (np.interp(rate, [0, *x], [0, *y]) for x, y in zip(taken, found, strict=True))
        return np.fromiter(rows, np.float64, len(drawn))
