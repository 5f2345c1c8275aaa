"""Why a transaction got its score: contributions of features that add up to its log-odds.

Shapley values estimated by sampling permutations of the features (Strumbelj and Kononenko 2014), each
permutation walked forward and backward (antithetic pairs, Mitchell et al. 2022) from a typical genuine
transaction of the bundle's background to the transaction explained. Only the ONNX model is asked, so every
family is explained alike; each walk telescopes, so the contributions sum exactly to
``log_odds(transaction) - mean log_odds(background used)``. Permutations are seeded: the same vector always
gets the same explanation.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.features.derive import to_model
from fraudml.features.words import Describer
from fraudml.models.bundle import Bundle, as_matrix

PERMUTATION_PAIRS = 8
ROW_BUDGET = 6_000  # model rows per explanation: wide models get fewer permutations, never fewer than one pair


class Reason(msgspec.Struct, frozen=True):
    """One feature's part in a score. ``value`` and ``typical`` are the feature's values (``None`` missing);
    ``contribution`` is in log-odds: positive raises the risk."""

    feature: str
    value: float | None
    typical: float | None
    contribution: float
    text: str


class Explanation(msgspec.Struct, frozen=True):
    """``base_log_odds`` plus the contributions of all reasons is ``log_odds``; reasons by size, largest first."""

    log_odds: float
    base_log_odds: float
    reasons: list[Reason]


class Explainer:
    """Explains the scores of one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self._runtime = bundle.runtime
        self._features = bundle.feature_set.inputs
        width = len(self._features)
        self._describer = Describer(bundle.feature_set)
        self._background = as_matrix(bundle.manifest.background, width)
        pairs = max(1, min(PERMUTATION_PAIRS, ROW_BUDGET // (2 * (width + 1))))
        rng = np.random.default_rng(0)
        forward = [rng.permutation(width) for _ in range(pairs)]
        self._orders = np.array([order for p in forward for order in (p, p[::-1])])
        # both walks of a pair start from the same background row
        self._starts = np.repeat(np.arange(pairs) % len(self._background), 2)
        self._typical = _typical(self._background)

    def explain(self, vector: NDArray[np.float64]) -> Explanation:
        """The explanation of one feature vector, float64 ``[k]``."""
        target = to_model(vector)
        walks, width = self._orders.shape
        # rows[w, s] is the background row with the first s features of walk w's order taken from the target
        rank = np.empty_like(self._orders)
        np.put_along_axis(rank, self._orders, np.arange(width)[None, :], axis=1)
        taken = rank[:, None, :] < np.arange(width + 1)[None, :, None]
        rows = np.where(taken, target[None, None, :], self._background[self._starts][:, None, :])
        odds = self._runtime.log_odds(rows.reshape(-1, width)).reshape(walks, width + 1)
        gains = np.empty((walks, width))
        np.put_along_axis(gains, self._orders, np.diff(odds, axis=1), axis=1)
        contributions = gains.mean(axis=0)
        order = np.argsort(-np.abs(contributions), kind="stable")
        reasons = [self._reason(int(i), float(vector[i]), float(contributions[i])) for i in order]
        return Explanation(float(odds[0, -1]), float(odds[:, 0].mean()), reasons)

    def _reason(self, index: int, value: float, contribution: float) -> Reason:
        feature = self._features[index]
        shown = None if math.isnan(value) else value
        typical = None if math.isnan(self._typical[index]) else float(self._typical[index])
        text = self._describer.reason(feature, shown, typical, raises=contribution > 0)
        return Reason(feature.name, shown, typical, contribution, text)


def _typical(background: NDArray[np.float32]) -> NDArray[np.float64]:
    """The median of each column without the missing values; NaN where most are missing."""
    ordered = np.sort(background.astype(np.float64), axis=0)  # NaN sorts last
    middle: NDArray[np.float64] = ordered[(len(ordered) - 1) // 2]
    return middle
