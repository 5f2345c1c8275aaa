"""A small random search for better hyper-parameters; what ``fraudml train --tune`` does.

Random search (Bergstra and Bengio, JMLR 13, 2012) over each family's short lists of sensible values: as good as
anything else at a few dozen trials, reproducible, and no further dependency.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraudml.errors import TrainingError
from fraudml.training import split
from fraudml.training.dataset import Dataset
from fraudml.training.families.base import Family, Progress, keep_all_frauds

LATEST_SHARE = 0.25  # of the time covered: the stretch that candidates are judged on
FEWEST_FRAUDS = 10  # on either side of the split; fewer would pick a winner by luck
GENUINE_PER_FRAUD = 50.0
MAX_ROWS = 200_000  # trained on per candidate


@dataclass(frozen=True)
class Trial:
    """Hyper-parameters that were tried (those that differ from the defaults), and how well they ranked frauds."""

    params: dict[str, Any]
    average_precision: float


@dataclass(frozen=True)
class TuneResult:
    """``params`` of the best trial, to be given to ``fit``, and every trial in the order tried."""

    params: dict[str, Any]
    trials: list[Trial]


def tune(
    family: Family,
    data: Dataset,
    *,
    feature_names: Sequence[str],
    monotone: Sequence[int] | None = None,
    trials: int = 20,
    seed: int = 0,
    threads: int = 1,
    progress: Progress | None = None,
) -> TuneResult:
    """Try the defaults and ``trials - 1`` random candidates; the highest average precision wins, the earlier on a tie.

    Candidates are fitted on the earlier rows whose labels were known (:func:`fraudml.training.split.known_by`)
    when the latest quarter of the time began, and judged on that quarter. Raises :class:`TrainingError` where
    either side has too few frauds to compare by.
    """
    from sklearn.metrics import average_precision_score

    train, valid = _split(data)
    train = train[keep_all_frauds(data.y[train] == 1, GENUINE_PER_FRAUD, MAX_ROWS, seed)]
    held_out = (data.x[valid], data.y[valid] == 1)
    done: list[Trial] = []
    candidates = _candidates(family, trials, seed)
    for params in candidates:
        fitted = family.fit(
            data.x[train],
            data.y[train] == 1,
            valid=held_out,
            feature_names=feature_names,
            monotone=monotone,
            seed=seed,
            threads=threads,
            params=params,
        )
        score = float(average_precision_score(held_out[1], fitted.margin(held_out[0])))
        done.append(Trial(params, score))
        if progress is not None:
            progress(len(done), len(candidates))
    best = max(done, key=lambda trial: trial.average_precision)
    return TuneResult(best.params, done)


def _split(data: Dataset) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices to train on and to judge by: every training label was known before the first judged event."""
    times = data.event_time_us
    if len(times) == 0:
        raise TrainingError("there are no transactions to tune on")
    first, last = int(times.min()), int(times.max())
    boundary = last - int((last - first) * LATEST_SHARE)
    train = np.flatnonzero(split.known_by(data, boundary) & (times < boundary))
    valid = np.flatnonzero((data.y >= 0) & (times >= boundary))
    frauds = int((data.y[train] == 1).sum()), int((data.y[valid] == 1).sum())
    if min(frauds) < FEWEST_FRAUDS or not (data.y[train] == 0).any() or not (data.y[valid] == 0).any():
        raise TrainingError(
            f"too few frauds to tune by: {frauds[0]} in the earlier part with known labels, {frauds[1]} in the "
            f"later part; {FEWEST_FRAUDS} are needed in each. Train without tuning, or on a longer period"
        )
    return train, valid


def _candidates(family: Family, trials: int, seed: int) -> list[dict[str, Any]]:
    """The defaults (nothing overridden), then distinct other points of the family's space in random order."""
    space = family.search_space
    sizes = tuple(len(values) for values in space.values())
    found: list[dict[str, Any]] = [{}]
    for point in np.random.default_rng(seed).permutation(math.prod(sizes)):
        if len(found) >= trials:
            break
        indices = np.unravel_index(int(point), sizes)
        params = {name: values[int(index)] for (name, values), index in zip(space.items(), indices, strict=True)}
        if any(family.defaults[name] != value for name, value in params.items()):
            found.append(params)
    return found
