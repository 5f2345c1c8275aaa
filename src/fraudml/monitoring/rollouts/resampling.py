"""Sums of an arm by random group of entities, and figures of it with bootstrap intervals.

Entities are independent, their transactions are not. So groups of entities are drawn again, with replacement (the
bootstrap of Efron and Tibshirani 1993 over clusters), and every figure is a function of sums over groups: a million
rows cost no more than a thousand.

Losses are few and of very different size, where a plain bootstrap interval is too short. Two corrections: quantiles are
moved outwards as far as Student's t for so many entities asks (Hesterberg 2015, "expanded percentile"), and in each
resample the largest loss of the arm counts ``Poisson(1)`` times in place of once, for those that were not seen yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.monitoring.rollouts.money import false_decline_cost, fraud_loss
from fraudml.monitoring.rollouts.rows import Rows

GROUPS = 256
RESAMPLES = 1_000
LEVEL = 0.95
FEWEST_GROUPS = 5
_CUTS = np.linspace(-12, 12, 601)[1:-1]  # of the score's log-odds: 0.04 apart, 600 bins
SCORE_BINS = len(_CUTS) + 1
ALL, FLAGGED, FRAUDS, CAUGHT, JUDGED, LOSS, FALSE_DECLINES, REVIEWS = range(8)
Resampled = NDArray[np.float64]


class Interval(msgspec.Struct, frozen=True):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, resampled: Resampled, groups: int) -> Interval | None:
        """From a figure of the data followed by those of the resamples; ``groups``: of entities it rests on. None with
        fewer than :data:`FEWEST_GROUPS`."""
        if groups < FEWEST_GROUPS:
            return None
        from scipy.special import ndtr, stdtrit

        tail = ndtr(math.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, (1 - LEVEL) / 2))
        low, high = np.quantile(resampled[1:][np.isfinite(resampled[1:])], [tail, 1 - tail])
        return cls(float(resampled[0]), float(low), float(high))


def draw(seed: int) -> NDArray[np.float64]:
    """How often each group counts: once in the data (row 0), then as drawn, float64 ``[1 + RESAMPLES, GROUPS]``."""
    random = np.random.default_rng(seed)
    drawn = random.multinomial(GROUPS, np.full(GROUPS, 1 / GROUPS), size=RESAMPLES)
    return np.vstack([np.ones(GROUPS), drawn]).astype(np.float64)


def unseen(number: int, seed: int) -> NDArray[np.int64]:
    """How many more times the largest loss counts in the data (none) and in each resample, int64 ``[number]``."""
    again = np.random.default_rng(seed).poisson(1, number) - 1
    again[0] = 0
    return again


def score_bin(score: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each score, int64 ``[n]`` below :data:`SCORE_BINS`; without a score it is reviewed first."""
    held = np.clip(np.nan_to_num(score, nan=1.0), 1e-12, 1 - 1e-12)
    return np.searchsorted(_CUTS, np.log(held / (1 - held)))


class ArmSums:
    """Weighted sums of one arm's mature decisions, ``[GROUPS, ...]``.

    Every row counts ``1 / share``; where its label matters, times its label weight.
    """

    def __init__(self) -> None:
        self.sums = np.zeros((GROUPS, 8))
        self._scores = np.zeros((2, GROUPS, SCORE_BINS))  # all decisions, frauds
        self._largest = np.zeros(8)
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
        values = np.column_stack(columns)
        np.add.at(self.sums, group, values)
        self._largest = np.maximum(self._largest, values.max(axis=0, initial=0.0))
        place = score_bin(rows.score)
        np.add.at(self._scores[0], (group, place), weight)
        np.add.at(self._scores[1], (group, place), known * fraud)
        self.decisions += len(rows)
        self.frauds += int((fraud & (known > 0)).sum())

    def figures(self, drawn: NDArray[np.float64]) -> Callable[[int, int], Resampled]:
        """The ratio of two sums, by their places, in the data and each resample; NaN where there is nothing."""
        totals = drawn @ self.sums
        for loss in (LOSS, FALSE_DECLINES):
            totals[:, loss] += unseen(len(drawn), loss) * self._largest[loss]

        def ratio(numerator: int, denominator: int) -> Resampled:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray(totals[:, numerator] / totals[:, denominator])

        return ratio

    def groups(self, kind: int) -> int:
        """Groups of entities with anything in the sum of that place."""
        return int(np.count_nonzero(self.sums[:, kind]))

    def recall(self, drawn: NDArray[np.float64], rate: float) -> Resampled:
        """Share of the frauds among the ``rate`` highest scores, in the data and each resample."""
        # the highest bin first, after an empty one: a curve from (0, 0) to (1, 1)
        curves = [np.cumsum(np.pad((drawn @ scores)[:, ::-1], ((0, 0), (1, 0))), axis=1) for scores in self._scores]
        with np.errstate(invalid="ignore", divide="ignore"):
            taken, found = (curve / curve[:, -1:] for curve in curves)
        rows = (np.interp(rate, x, y) for x, y in zip(taken, found, strict=True))
        return np.fromiter(rows, np.float64, len(drawn))
