"""What compression is judged by: size, latency, and detection on rows that the model was not trained on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraudml.models.bundle import Thresholds, TrainingRecord
from fraudml.models.runtime import Runtime
from fraudml.training.dataset import Dataset
from fraudml.training.families.base import Matrix
from fraudml.training.money import NEVER
from fraudml.training.split import MIN_FRAUDS, Split

BATCHES = (1, 256)  # rows in a call: a device that scores as it goes, a busy service
ROUNDS = 15
CALLS_S = 0.02  # of a round


@dataclass(frozen=True)
class Figures:
    """``us_per_row``: microseconds by rows in a call; ``metrics`` and ``money``: see training.evaluate and .money."""

    size_bytes: int
    us_per_row: dict[int, float]
    metrics: dict[str, Any]
    money: dict[str, float]


def latencies(runtimes: Sequence[Runtime], inputs: Sequence[Matrix]) -> list[dict[int, float]]:
    """Microseconds per row of each runtime over its own inputs, by rows in a call (:data:`BATCHES`).

    Calls of all take turns, and the fastest round counts: whatever else the machine does can only add time.
    """
    found: list[dict[int, float]] = [{} for _ in runtimes]
    for batch in BATCHES:
        batches = [np.resize(rows, (batch, rows.shape[1])) for rows in inputs]
        for _ in range(ROUNDS):
            for runtime, rows, best in zip(runtimes, batches, found, strict=True):
                best[batch] = min(best.get(batch, np.inf), _us_per_call(runtime, rows) / batch)
    return found


def _us_per_call(runtime: Runtime, rows: Matrix) -> float:
    calls, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < CALLS_S:
        runtime.score(rows)
        calls += 1
    return spent / calls * 1e6


def unseen(data: Dataset, parts: Split, record: TrainingRecord) -> tuple[NDArray[np.bool_], bool]:
    """The rows of the held-back period that a model was not trained on, and True; where they hold too few frauds
    or genuine rows to measure anything, all of the period, and False: figures on them flatter the model.

    A model that was refitted has seen most of the period, but not its end, whose labels were not known then.
    """
    times = data.event_time_us
    fresh = parts.test & ((times < record.since_us) | (times >= record.until_us))
    labels = data.y[fresh]
    if min((labels == 1).sum(), (labels == 0).sum()) >= MIN_FRAUDS:
        return fresh, True
    return parts.test, False


def same_shares(thresholds: Thresholds, before: NDArray[np.float64], after: NDArray[np.float64]) -> Thresholds:
    """Thresholds that as many rows reach by their scores ``after`` as did ``before``, float64 ``[n]`` each.

    A threshold that they still reach stays as it is. They are not chosen anew by cost: a refitted model has been
    trained on the rows at hand, and on those its scores promise too much.

    >>> same_shares(Thresholds(0.2, 0.9), np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.1, 0.3])).review
    0.1
    """
    decline = _same_share(thresholds.decline, before, after)
    return Thresholds(min(_same_share(thresholds.review, before, after), decline), decline)


def _same_share(threshold: float, before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    count = int((before >= threshold).sum())
    if int((after >= threshold).sum()) == count:
        return threshold
    ranked = np.concatenate([[NEVER], -np.sort(-after), [0.0]])
    upper, lower = float(ranked[count]), float(ranked[count + 1])
    return min(max(threshold, float(np.nextafter(lower, NEVER))), upper)  # the nearest one
