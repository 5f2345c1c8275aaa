"""A small random search for better hyper-parameters; what ``fraudml train --tune`` does.

Random search (Bergstra and Bengio, JMLR 13, 2012) over each family's short lists of sensible values: as good as
anything else at a few dozen trials, reproducible, and no further dependency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fraudml.errors import TrainingError
from fraudml.training.families.base import Family, Matrix, Progress, keep_all_frauds

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


def tune(  # noqa: PLR0913
    family: Family,
    X: Matrix,
    y: npt.ArrayLike,
    event_time_us: npt.ArrayLike,
    *,
    feature_names: Sequence[str],
    monotone: Sequence[int] | None = None,
    label_delay_us: int = 0,
    trials: int = 20,
    seed: int = 0,
    threads: int = 1,
    progress: Progress | None = None,
) -> TuneResult:
    """Try the defaults and ``trials - 1`` random candidates; the highest average precision wins, the earlier on a tie.

    Candidates are fitted on the earlier rows (float32 ``[n, k]``, times int64 ``[n]``) whose labels were known
    when the latest quarter of the time began, and judged on that quarter. Raises :class:`TrainingError` where
    either side has too few frauds to compare by.
    """
    from sklearn.metrics import average_precision_score

    labels = np.asarray(y).astype(np.bool_)
    train, valid = _split(labels, np.asarray(event_time_us, np.int64), label_delay_us)
    train = train[keep_all_frauds(labels[train], GENUINE_PER_FRAUD, MAX_ROWS, seed)]
    held_out = (X[valid], labels[valid])
    done: list[Trial] = []
    candidates = _candidates(family.search_space, trials, seed)
    for params in candidates:
        fitted = family.fit(
            X[train],
            labels[train],
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


def _split(
    y: npt.NDArray[np.bool_], times: npt.NDArray[np.int64], label_delay_us: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Indices to train on and to judge by: every training label was known before the first judged event."""
    if len(times) == 0:
        raise TrainingError("there are no transactions to tune on")
    first, last = int(times.min()), int(times.max())
    boundary = last - int((last - first) * LATEST_SHARE)
    train = np.flatnonzero(times + label_delay_us < boundary)
    valid = np.flatnonzero(times >= boundary)
    frauds = int(y[train].sum()), int(y[valid].sum())
    if min(frauds) < FEWEST_FRAUDS or not (~y[train]).any() or not (~y[valid]).any():
        raise TrainingError(
            f"too few frauds to tune by: {frauds[0]} in the earlier part with known labels, {frauds[1]} in the "
            f"later part; {FEWEST_FRAUDS} are needed in each. Train without tuning, or on a longer period"
        )
    return train, valid


def _candidates(space: Mapping[str, Sequence[Any]], trials: int, seed: int) -> list[dict[str, Any]]:
    """The defaults (nothing overridden), then distinct random points of the space.

    >>> _candidates({"depth": (3, 6)}, 5, seed=0)
    [{}, {'depth': 3}, {'depth': 6}]
    """
    sizes = tuple(len(values) for values in space.values())
    total = math.prod(sizes)
    points = np.random.default_rng(seed).choice(total, min(max(trials - 1, 0), total), replace=False)
    found: list[dict[str, Any]] = [{}]
    for point in points:
        indices = np.unravel_index(int(point), sizes)
        found.append({name: values[int(index)] for (name, values), index in zip(space.items(), indices, strict=True)})
    return found
