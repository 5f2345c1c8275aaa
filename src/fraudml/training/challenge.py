"""A newly trained model against the champion: the same rows, which neither of them was trained on.

The test period lies after the champion's training, and the challenger that is measured was fitted to what was known
when it began. Of the time since the champion's training the newer half at most is the test, so that the challenger can
have learnt from the older one: what was never trained on is what makes retraining worth it.

The difference in average precision has a 95 % percentile interval of a paired cluster bootstrap (Field and Welsh,
*Bootstrapping clustered data*, 2007): the keys of the schema's first entity are drawn again, with all their rows and
for both models at once, since the transactions of one entity are alike.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.features.spec import FeatureSet
from fraudml.features.stores import OfflineStore
from fraudml.models.bundle import Bundle, Thresholds
from fraudml.training import dataset, evaluate, money, split
from fraudml.training.dataset import Dataset

RESAMPLES = 1_000
LEVEL = 0.95
FEWEST_DEFRAUDED = 20  # entities: with fewer, intervals promise too much (docs/concepts/rollout-statistics.md)

Scores = NDArray[np.float64]


class Difference(msgspec.Struct, frozen=True):
    """Challenger less champion, with its 95 % interval."""

    value: float
    low: float
    high: float


class Figures(msgspec.Struct, frozen=True):
    """Of one model: see ``training.evaluate.metrics`` and ``training.money.summary``, at its own thresholds."""

    metrics: dict[str, Any]
    money: dict[str, float]


class Comparison(msgspec.Struct, frozen=True):
    """Both models on the rows with ``since_us <= event time < until_us``; ``defrauded``: entities with a fraud there.

    ``unknown_declines``: declined transactions of the period without a label, which are in nobody's figures.
    """

    since_us: int
    until_us: int
    rows: int
    frauds: int
    defrauded: int
    unknown_declines: int
    champion: Figures
    challenger: Figures
    average_precision: Difference

    def better(self, margin: float) -> bool:
        """Whether the challenger is: by the margin, and the interval of the difference lies above 0."""
        return self.average_precision.value >= margin and self.average_precision.low > 0

    def words(self, margin: float) -> str:
        """What was found, in one line."""
        found = self.average_precision
        return (
            f"average precision {self.challenger.metrics['average_precision']:.3f}, the champion's "
            f"{self.champion.metrics['average_precision']:.3f}: a difference of {found.value:+.3f} (95 % interval "
            f"{found.low:+.3f} to {found.high:+.3f}), where at least {margin:g} and an interval above 0 are asked for"
        )


def champion_scores(champion: Bundle, data: Dataset, feature_set: FeatureSet, store: OfflineStore) -> Scores:
    """The champion's scores of the rows after its training, float64 ``[n]``; NaN for those before.

    ``data`` are all rows of the ``store``, with the inputs of ``feature_set``; the champion may have others.
    """
    until_us = champion.manifest.training.until_us
    fresh = data.event_time_us >= until_us
    scores = np.full(len(data), np.nan)
    if fresh.any():
        same = champion.feature_set.fingerprint == feature_set.fingerprint
        x = data.x[fresh] if same else dataset.build(store, champion.feature_set, since_us=until_us).x
        scores[fresh] = champion.runtime.score(x)
    return scores


def share_to_hold_back(data: Dataset, champion_until_us: int, most: float) -> float:
    """The share of the labelled rows to hold back: ``most``, or half of those since the champion's training ended."""
    labelled = data.y >= 0
    fresh = labelled & (data.event_time_us >= champion_until_us)
    return min(most, float(fresh.sum() / max(1, labelled.sum()) / 2))


def held_back(data: Dataset, share: float) -> Dataset:
    """The rows that ``split.by_time`` makes the test of."""
    labelled = data.y >= 0
    if not labelled.any() or not share:
        return data.take(slice(0))
    start = split.cut(data.event_time_us[labelled], share)
    return data.take(labelled & (data.event_time_us >= start))


def defrauded(rows: Dataset) -> int:
    """How many entities have a fraud among the rows; a transaction without one stands for itself."""
    return len(np.unique(_clusters(rows)[rows.y == 1]))


def compare(
    rows: Dataset,
    scores: tuple[Scores, Scores],
    thresholds: tuple[Thresholds, Thresholds],
    costs: Costs,
    decimals: int,
    *,
    unknown_declines: int = 0,
    seed: int,
) -> Comparison:
    """The champion and the challenger (first and second of each pair) on the same labelled rows."""
    figures = [
        Figures(evaluate.metrics(rows, each), money.summary(rows, each, limits, costs, decimals, seed=seed))
        for each, limits in zip(scores, thresholds, strict=True)
    ]
    return Comparison(
        since_us=int(rows.event_time_us.min()),
        until_us=int(rows.event_time_us.max()) + 1,
        rows=len(rows),
        frauds=rows.frauds,
        defrauded=defrauded(rows),
        unknown_declines=unknown_declines,
        champion=figures[0],
        challenger=figures[1],
        average_precision=difference(rows, *scores, seed=seed),
    )


def difference(rows: Dataset, champion: Scores, challenger: Scores, *, seed: int) -> Difference:
    """Average precision of the challenger less that of the champion, with its interval."""
    cluster = _clusters(rows)
    rankings = [Ranking(rows.y == 1, scores, cluster) for scores in (champion, challenger)]
    count = int(cluster.max()) + 1
    rng = np.random.default_rng(seed)

    def less(times: NDArray[np.int64]) -> float:
        before, after = (ranking.average_precision(times) for ranking in rankings)
        return after - before

    drawn = [less(np.bincount(rng.integers(0, count, count), minlength=count)) for _ in range(RESAMPLES)]
    value = less(np.ones(count, np.int64))
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Difference(value, float(low), float(high))


class Ranking:
    """Rows sorted once by their scores, to be weighed many times. ``fraud``: bool ``[n]``, one at least; ``scores`` and
    ``cluster``: ``[n]``. Only the cuts at the score of a fraud count, so all rows between two of them are one sum."""

    def __init__(self, fraud: NDArray[np.bool_], scores: Scores, cluster: NDArray[np.int64]) -> None:
        order = np.argsort(-scores, kind="stable")
        ranked, hits = scores[order], np.flatnonzero(fraud[order])
        ends, self._first_hit = np.unique(np.searchsorted(-ranked, -ranked[hits], "right"), return_index=True)
        self._starts = np.concatenate([[0], ends[:-1]])
        self._cluster = cluster[order][: ends[-1]].astype(np.int32)
        self._of_hits = self._cluster[hits]

    def average_precision(self, times: NDArray[np.int64]) -> float:
        """With each row counted so many times as its cluster is, ``times`` by cluster; NaN where no fraud counts.

        >>> ranking = Ranking(np.array([True, False, True]), np.array([0.9, 0.5, 0.4]), np.arange(3))
        >>> round(ranking.average_precision(np.array([1, 1, 1])), 4), ranking.average_precision(np.array([1, 1, 0]))
        (0.8333, 1.0)
        """
        hits = np.add.reduceat(times[self._of_hits], self._first_hit)
        found = np.cumsum(hits)
        if not found[-1]:
            return float("nan")
        flagged = np.cumsum(np.add.reduceat(times[self._cluster], self._starts))
        return float((found / np.maximum(flagged, 1) * hits).sum() / found[-1])


def _clusters(rows: Dataset) -> NDArray[np.int64]:
    """A number from 0 for each row's entity; a row without one is alone."""
    alone = rows.entity < 0
    keys = np.where(alone, -1 - np.arange(len(rows)), rows.entity)
    numbers: NDArray[np.int64] = np.unique(keys, return_inverse=True)[1]
    return numbers
