"""Random forest by scikit-learn: robust without tuning, a second opinion beside boosted trees.

Method: Breiman, *Random Forests*, Machine Learning 45 (2001). A missing value is smaller than any number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fraudml.training.families import _onnx, base

if TYPE_CHECKING:
    import onnx
    from sklearn.ensemble import RandomForestClassifier

MISSING = -3 * base.HUGE  # below every training value
STEPS = 20  # progress is reported this often
CHUNK = 65_536  # rows scored at a time


class RandomForestFamily:
    """Every fraud and a sample of the genuine rows: the time to train follows the frauds, not the traffic.

    Without class weights, which cost a twentieth of the average precision on card data.
    """

    name = "random_forest"
    defaults: Mapping[str, Any] = {
        "n_estimators": 100,
        "min_samples_leaf": 5,
        "max_features": "auto",  # see _features_per_split
        "max_depth": 20,
        "max_samples": 0.3,  # of the rows, drawn anew for each tree; the time is in proportion
        "genuine_per_fraud": 10.0,
        "min_genuine": 10_000,
        "max_rows": 100_000,
    }
    search_space: Mapping[str, Sequence[Any]] = {
        "min_samples_leaf": (1, 3, 5, 10, 20),
        "max_features": ("auto", "sqrt", 0.5),
        "max_depth": (8, 12, 16, 20),
        "genuine_per_fraud": (5.0, 10.0, 20.0),
    }

    def fit(  # noqa: PLR0913
        self,
        X: base.Matrix,
        y: npt.ArrayLike,
        *,
        valid: base.Validation | None = None,
        feature_names: Sequence[str],
        monotone: Sequence[int] | None = None,
        seed: int = 0,
        threads: int = 1,
        params: Mapping[str, Any] | None = None,
        progress: base.Progress | None = None,
    ) -> FittedRandomForest:
        """See :class:`fraudml.training.families.base.Family`; there is nothing to stop early."""
        setup = base.make_setup(feature_names, monotone, seed, threads)
        return _fit(X, y, setup, base.merge_params(self, params), progress)


FAMILY = RandomForestFamily()


@dataclass(frozen=True)
class FittedRandomForest:
    """The trees' mean fraud rate as log-odds, as if one more tree had voted the base rate everywhere.

    That vote keeps the margin finite where all trees agree.
    """

    forest: RandomForestClassifier
    base_rate: float
    shift: float  # see base.thinning_shift
    params: dict[str, Any]
    setup: base.Setup

    @property
    def size(self) -> int:
        """Number of trees."""
        return len(self.forest.estimators_)

    def margin(self, X: base.Matrix) -> base.Margins:
        """Log-odds of fraud of each row, before calibration."""
        margins = np.empty(len(X))
        for start in range(0, len(X), CHUNK):
            rows = _missing_is_lowest(X[start : start + CHUNK])
            votes = self.forest.predict_proba(rows)[:, 1] * self.size + self.base_rate
            margins[start : start + CHUNK] = np.log(votes) - np.log(self.size + 1 - votes) + self.shift
        return margins

    def to_onnx(self) -> onnx.ModelProto:
        """The sum of the leaves' fraud rates, then its log-odds."""
        from onnx import helper

        trees = [_onnx.constant_tree(self.base_rate), *(_tree(tree) for tree in self.forest.estimators_)]
        nodes = [
            _onnx.tree_sum_node(trees, ">", "votes"),
            helper.make_node("Sub", ["all_votes", "votes"], ["against"]),
            helper.make_node("Log", ["votes"], ["log_votes"]),
            helper.make_node("Log", ["against"], ["log_against"]),
            helper.make_node("Sub", ["log_votes", "log_against"], ["log_odds"]),
            helper.make_node("Add", ["log_odds", "shift"], ["sum"]),
        ]
        constants: dict[str, npt.ArrayLike] = {"all_votes": self.size + 1.0, "shift": self.shift}
        return _onnx.margin_model(nodes, constants, len(self.setup.feature_names))

    def importance(self) -> dict[str, float]:
        """Share of each feature in the total impurity reduction of all splits."""
        return base.shares(self.setup.feature_names, self.forest.feature_importances_)

    def refit(self, X: base.Matrix, y: npt.ArrayLike, *, progress: base.Progress | None = None) -> FittedRandomForest:
        """The same settings on other rows."""
        return _fit(X, y, self.setup, self.params, progress)


def _missing_is_lowest(X: base.Matrix) -> base.Matrix:
    """``X`` as scikit-learn takes it, finite; no training value lies outside of +-HUGE, so no threshold does."""
    return np.where(np.isnan(X), MISSING, np.clip(X, MISSING, -MISSING))


def _fit(
    X: base.Matrix,
    y: npt.ArrayLike,
    setup: base.Setup,
    params: dict[str, Any],
    progress: base.Progress | None,
) -> FittedRandomForest:
    from sklearn.ensemble import RandomForestClassifier

    X, y = base.check_rows(X, y, setup.feature_names)
    rows = base.keep_all_frauds(
        y, params["genuine_per_fraud"], params["max_rows"], setup.seed, at_least=params["min_genuine"]
    )
    shift = base.thinning_shift(y, y[rows])
    X, y = _missing_is_lowest(X[rows]), y[rows]
    total = params["n_estimators"]
    forest = RandomForestClassifier(
        n_estimators=0,
        min_samples_leaf=params["min_samples_leaf"],
        max_features=_features_per_split(params["max_features"], X.shape[1]),
        max_depth=params["max_depth"],
        max_samples=params["max_samples"],
        monotonic_cst=list(setup.monotone) if any(setup.monotone) else None,
        warm_start=True,
        random_state=setup.seed,
        n_jobs=setup.threads,
    )
    step = max(1, -(-total // STEPS))
    for trees in [*range(step, total, step), total]:
        forest.set_params(n_estimators=trees)
        forest.fit(X, y)
        if progress is not None:
            progress(trees, total)
    return FittedRandomForest(forest, float(np.float32(y.mean())), shift, params, setup)


def _features_per_split(setting: Any, k: int) -> Any:
    """For "auto" a third of the columns, but no more than 12 or, of wide data, the square root.

    On card data a third gives a twentieth more average precision than the usual square root; the cap keeps
    the time to train on hundreds of columns within reason.

    >>> [_features_per_split("auto", k) for k in (2, 33, 400)]
    [1, 11, 20]
    """
    return max(1, math.isqrt(k), min(k // 3, 12)) if setting == "auto" else setting


def _tree(estimator: Any) -> _onnx.Tree:
    """scikit-learn goes left for ``x <= threshold``; written as "right for >", a missing value goes left too."""
    tree = estimator.tree_
    return _onnx.Tree(
        feature=tree.feature.astype(np.int64),
        threshold=_round_down(tree.threshold),
        if_true=tree.children_right.astype(np.int64),
        if_false=tree.children_left.astype(np.int64),
        missing_is_true=np.zeros(tree.node_count, np.bool_),
        value=tree.value[:, 0, 1].astype(np.float32),
    )


def _round_down(thresholds: npt.NDArray[np.float64]) -> base.Matrix:
    """The largest float32 not above each threshold: a float32 is above one exactly if it is above the other.

    >>> _round_down(np.array([0.1, 0.5])).astype(float) <= [0.1, 0.5]
    array([ True,  True])
    """
    rounded = thresholds.astype(np.float32)
    return np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded)
