"""What a model family is, and the checks every family makes of its training data.

Shapes: ``X`` is float32 ``[n, k]`` with NaN for missing, ``y`` is bool ``[n]``, a margin is float64 ``[n]``:
the log-odds of fraud as the model believes them, before calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from fraudml.errors import TrainingError

if TYPE_CHECKING:
    import onnx

Matrix = npt.NDArray[np.float32]
Labels = npt.NDArray[np.bool_]
Margins = npt.NDArray[np.float64]
Validation = tuple[npt.NDArray[Any], npt.NDArray[Any]]
Progress = Callable[[int, int], None]  # (steps done, steps in total)

# Infinities are trained on as this; far from the end of float32, so that sums over all rows stay finite.
HUGE = np.float32(1e25)


class FittedModel(Protocol):
    """A trained model. Its attributes are read only."""

    @property
    def params(self) -> dict[str, Any]:
        """The hyper-parameters it was fitted with, defaults included; JSON-serialisable."""

    @property
    def size(self) -> int:
        """Trees kept after early stopping, non-zero coefficients, or numbers learnt by a network."""

    def margin(self, X: Matrix) -> Margins:
        """Log-odds of fraud of each row, uncalibrated and finite, by the training library itself."""

    def to_onnx(self) -> onnx.ModelProto:
        """The same as a graph: ``features`` float32 ``[n, k]`` in, ``margin`` float32 ``[n]`` out."""

    def importance(self) -> dict[str, float]:
        """Share of each feature in the model, most important first; the shares add up to 1 (or are all 0)."""

    def refit(self, X: Matrix, y: npt.ArrayLike, *, progress: Progress | None = None) -> FittedModel:
        """The same settings and size on other rows, without validation; used on all data after evaluation."""


class Family(Protocol):
    """A way to train. ``defaults`` must do well untuned; ``search_space`` is what ``--tune`` draws from."""

    @property
    def name(self) -> str: ...

    @property
    def defaults(self) -> Mapping[str, Any]: ...

    @property
    def search_space(self) -> Mapping[str, Sequence[Any]]: ...

    def fit(  # noqa: PLR0913
        self,
        X: Matrix,
        y: npt.ArrayLike,
        *,
        valid: Validation | None = None,
        feature_names: Sequence[str],
        monotone: Sequence[int] | None = None,
        seed: int = 0,
        threads: int = 1,
        params: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> FittedModel:
        """Train on rows that are all earlier than those of ``valid``, which only early stopping looks at.

        ``monotone`` forces the margin to fall (-1) or rise (+1) with a feature; 0 leaves it free. The same
        arguments give the same model. Raises :class:`TrainingError` when there is nothing to learn from.
        """


@dataclass(frozen=True)
class Setup:
    """What a fit keeps for its refit, besides the hyper-parameters."""

    feature_names: tuple[str, ...]
    monotone: tuple[int, ...]
    seed: int
    threads: int


def make_setup(feature_names: Sequence[str], monotone: Sequence[int] | None, seed: int, threads: int) -> Setup:
    """Checked settings of one fit.

    >>> make_setup(["a", "b"], None, 0, 1).monotone
    (0, 0)
    """
    directions = tuple(monotone) if monotone is not None else (0,) * len(feature_names)
    if len(directions) != len(feature_names) or any(d not in (-1, 0, 1) for d in directions):
        raise TrainingError(
            f"monotone needs one of -1, 0, +1 for each of the {len(feature_names)} features, in their order"
        )
    return Setup(tuple(feature_names), directions, seed, max(1, threads))


def merge_params(family: Family, params: Mapping[str, Any] | None) -> dict[str, Any]:
    """The family's defaults overridden by ``params``; an unknown name is an error, not ignored."""
    unknown = sorted(set(params or {}) - set(family.defaults))
    if unknown:
        raise TrainingError(
            f"{family.name} has no parameter {', '.join(unknown)}; it has: {', '.join(sorted(family.defaults))}"
        )
    return {**family.defaults, **(params or {})}


def check_rows(X: Matrix, y: npt.ArrayLike, feature_names: Sequence[str]) -> tuple[Matrix, Labels]:
    """Training rows fit to learn from: both classes present, NaN the only non-finite value.

    >>> check_rows(np.zeros((3, 1), np.float32), [0, 0, 0], ["amount"])
    Traceback (most recent call last):
    fraudml.errors.TrainingError: none of the 3 training rows is fraud; ...
    """
    X = np.ascontiguousarray(X, dtype=np.float32)
    labels = np.asarray(y)
    if X.ndim != 2 or X.shape[1] != len(feature_names) or labels.shape != X.shape[:1]:
        raise TrainingError(
            f"the training rows have shape {X.shape} and the labels {labels.shape}, "
            f"expected (n, {len(feature_names)}) and (n,): one column per feature, one label per row"
        )
    if not np.isin(labels, (0, 1)).all():
        raise TrainingError("labels must be 0 or 1; leave rows out whose label is not known yet")
    labels = labels.astype(np.bool_)
    positives = int(labels.sum())
    if positives in (0, len(labels)):
        kind = "none" if positives == 0 else "every one"
        raise TrainingError(
            f"{kind} of the {len(labels)} training rows is fraud; a model needs both frauds and genuine "
            "transactions: train on a longer period, or check the label column and the label delay"
        )
    return without_infinities(X), labels


def without_infinities(X: Matrix) -> Matrix:
    """``X`` with infinities (and what is nearly so) brought to +-1e25; copied only if there are any.

    >>> without_infinities(np.array([[np.inf, np.nan, 1.0]], np.float32))
    array([[1.e+25,    nan, 1.e+00]], dtype=float32)
    """
    if X.size and (np.fmax.reduce(X, axis=None) > HUGE or np.fmin.reduce(X, axis=None) < -HUGE):
        return np.clip(X, -HUGE, HUGE)
    return X


def check_validation(valid: Validation | None, feature_names: Sequence[str]) -> tuple[Matrix, Labels] | None:
    """Validation rows, or None if early stopping could learn nothing from them (a class is absent)."""
    if valid is None:
        return None
    labels = np.asarray(valid[1]).astype(np.bool_)
    if labels.all() or not labels.any():
        return None
    return check_rows(valid[0], labels, feature_names)


def keep_all_frauds(
    y: Labels, genuine_per_fraud: float, max_rows: int, seed: int, *, at_least: int = 50_000
) -> npt.NDArray[np.intp]:
    """Sorted indices of the rows to train on: every fraud, and a random sample of the genuine rows.

    Where frauds are rare, nearly all of the information is in them; thinning out the genuine rows costs little
    accuracy and saves most of the time. The sample has ``genuine_per_fraud`` times as many genuine rows as
    frauds, but ``at_least`` so many where there are, and at most ``max_rows`` rows in total.
    :func:`thinning_shift` is what this does to a margin.

    >>> keep_all_frauds(np.array([False, True, False, True]), 1.0, 4, seed=0)
    array([0, 1, 2, 3])
    """
    frauds = np.flatnonzero(y)
    genuine = np.flatnonzero(~y)
    rng = np.random.default_rng(seed)
    if len(frauds) > max_rows // 2:
        frauds = rng.choice(frauds, max_rows // 2, replace=False)
    wanted = genuine_wanted(len(frauds), len(genuine), genuine_per_fraud, at_least=at_least)
    wanted = min(wanted, max(max_rows - len(frauds), 1))
    if wanted < len(genuine):
        genuine = rng.choice(genuine, wanted, replace=False)
    return np.sort(np.concatenate([frauds, genuine]))


def genuine_wanted(frauds: int, genuine: int, genuine_per_fraud: float, *, at_least: int = 50_000) -> int:
    """How many of the genuine rows to train on: ``genuine_per_fraud`` times the frauds, ``at_least`` so many.

    >>> genuine_wanted(10_000, 1_000_000, 30.0), genuine_wanted(10, 1_000_000, 30.0), genuine_wanted(10, 500, 30.0)
    (300000, 50000, 500)
    """
    return min(genuine, max(at_least, int(genuine_per_fraud * frauds)))


def thinning_shift(y: Labels, kept: Labels) -> float:
    """What to add to the margin of a model trained on the labels ``kept`` out of ``y``: the change of base rate.

    >>> round(float(np.exp(thinning_shift(np.arange(101) < 1, np.arange(11) < 1))), 3)
    0.1
    """
    return log_odds(int(y.sum()), len(y)) - log_odds(int(kept.sum()), len(kept))


def log_odds(frauds: int, rows: int) -> float:
    """The log-odds of fraud of a random row.

    >>> round(log_odds(1, 2), 3)
    0.0
    """
    return float(np.log(frauds) - np.log(rows - frauds))


def shares(feature_names: Sequence[str], raw: npt.NDArray[Any]) -> dict[str, float]:
    """Importances as shares of their sum, largest first, ties in feature order.

    >>> shares(["a", "b"], np.array([1.0, 3.0]))
    {'b': 0.75, 'a': 0.25}
    """
    total = float(raw.sum())
    values = raw / total if total > 0 else np.zeros(len(raw))
    order = np.argsort(-values, kind="stable")
    return {feature_names[i]: float(values[i]) for i in order}
