"""Gradient-boosted trees by XGBoost: usually the most accurate family on tabular fraud data.

Method: Chen and Guestrin, *XGBoost: A Scalable Tree Boosting System*, KDD 2016. Missing values take the branch
that training found best for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fraudml.training.families import _onnx, base

if TYPE_CHECKING:
    import onnx
    import xgboost

CELLS_PER_THREAD = 1_000_000
BOOSTER_PARAMS = (
    "learning_rate",
    "max_depth",
    "min_child_weight",
    "subsample",
    "colsample_bytree",
    "reg_lambda",
    "reg_alpha",
    "gamma",
    "max_bin",
)  # those that go to XGBoost as they are


class XGBoostFamily:
    """Boosted trees; where the validation rows hold enough frauds, their log loss decides how many.

    With few frauds that curve is noise (on one file it stopped after nine trees, on another after 390), and a
    plain 150 trees ranked as well as the best stopping rule, so that is what small data gets.

    Trained on every fraud and 30 times as many genuine rows: on card data as accurate as on all, in a quarter of
    the time. No class weights (``scale_pos_weight``): they lose average precision and mislead early stopping.
    """

    name = "xgboost"
    defaults: Mapping[str, Any] = {
        "n_estimators": 600,  # at most
        "few_frauds_estimators": 150,  # without early stopping, for want of validation frauds
        "early_stopping_rounds": 50,
        "early_stopping_frauds": 300,  # among the validation rows, from which on early stopping is used
        "learning_rate": 0.05,
        "max_depth": 4,
        "min_child_weight": 5.0,
        "subsample": 0.7,
        "colsample_bytree": 0.5,
        "reg_lambda": 5.0,
        "reg_alpha": 0.0,
        "gamma": 0.0,
        "max_bin": 256,
        "genuine_per_fraud": 30.0,
        "max_rows": 500_000,
    }
    search_space: Mapping[str, Sequence[Any]] = {
        "learning_rate": (0.03, 0.05, 0.1),
        "few_frauds_estimators": (75, 150, 300),
        "max_depth": (3, 4, 5, 6, 8),
        "min_child_weight": (1.0, 5.0, 20.0),
        "subsample": (0.5, 0.7, 0.9),
        "colsample_bytree": (0.3, 0.5, 0.8),
        "reg_lambda": (1.0, 5.0, 20.0),
        "gamma": (0.0, 0.5, 2.0),
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
    ) -> FittedXGBoost:
        """See :class:`fraudml.training.families.base.Family`."""
        setup = base.make_setup(feature_names, monotone, seed, threads)
        chosen = base.merge_params(self, params)
        rows = base.check_rows(X, y, feature_names)
        held_out = base.check_validation(valid, feature_names)
        if held_out is not None and held_out[1].sum() < chosen["early_stopping_frauds"]:
            return _fit(
                rows, None, setup, chosen, min(chosen["few_frauds_estimators"], chosen["n_estimators"]), progress
            )
        return _fit(rows, held_out, setup, chosen, chosen["n_estimators"], progress)


FAMILY = XGBoostFamily()


@dataclass(frozen=True)
class FittedXGBoost:
    """Boosted trees cut back to the best iteration; see :class:`fraudml.training.families.base.FittedModel`."""

    booster: xgboost.Booster
    base_margin: float  # what every row's margin starts from, in the booster
    shift: float  # see base.thinning_shift
    params: dict[str, Any]
    setup: base.Setup

    @property
    def size(self) -> int:
        """Trees kept."""
        return int(self.booster.num_boosted_rounds())

    def margin(self, X: base.Matrix) -> base.Margins:
        """Log-odds of fraud of each row, before calibration."""
        X = np.ascontiguousarray(X, np.float32)
        if len(X) == 0:
            return np.zeros(0)
        scores = self.booster.inplace_predict(X, predict_type="margin")
        return np.asarray(scores, dtype=np.float64) + self.shift

    def to_onnx(self) -> onnx.ModelProto:
        """The sum of all leaves, with what every row starts from as one more tree."""
        trees = [_onnx.constant_tree(self.base_margin + self.shift), *_trees(self.booster)]
        node = _onnx.tree_sum_node(trees, "<", "sum")
        return _onnx.margin_model([node], {}, len(self.setup.feature_names))

    def importance(self) -> dict[str, float]:
        """Share of each feature in the total loss reduction ("gain") of all splits."""
        gains = self.booster.get_score(importance_type="total_gain")
        raw = np.array([gains.get(f"f{i}", 0.0) for i in range(len(self.setup.feature_names))])
        return base.shares(self.setup.feature_names, raw)

    def refit(self, X: base.Matrix, y: npt.ArrayLike, *, progress: base.Progress | None = None) -> FittedXGBoost:
        """The same settings and number of trees on other rows."""
        rows = base.check_rows(X, y, self.setup.feature_names)
        return _fit(rows, None, self.setup, self.params, self.size, progress)


def _fit(
    rows: tuple[base.Matrix, base.Labels],
    valid: tuple[base.Matrix, base.Labels] | None,
    setup: base.Setup,
    params: dict[str, Any],
    n_trees: int,
    progress: base.Progress | None,
) -> FittedXGBoost:
    import xgboost as xgb

    (X, y), shift = _thinned(rows, params, setup.seed)
    # On small data threads only wait for each other, for minutes where other programs use the same cores.
    threads = min(setup.threads, 1 + X.size // CELLS_PER_THREAD)
    base_rate = float(np.float32(y.mean()))
    options = booster_options(params, setup, base_rate, int(y.sum())) | {"nthread": threads}
    train = xgb.QuantileDMatrix(X, y, max_bin=params["max_bin"], nthread=threads)
    callbacks: list[xgb.callback.TrainingCallback] = []
    evals = []
    if valid is not None:
        # Thinned alike, so that its base rate, which log loss sees, is that of the training rows.
        (X_valid, y_valid), _ = _thinned(valid, params, setup.seed)
        held_out = xgb.QuantileDMatrix(X_valid, y_valid, ref=train, max_bin=params["max_bin"], nthread=threads)
        evals = [(held_out, "valid")]
        callbacks.append(xgb.callback.EarlyStopping(rounds=params["early_stopping_rounds"], save_best=True))
    if progress is not None:
        callbacks.append(_report_to(progress, n_trees))
    booster = xgb.train(options, train, num_boost_round=n_trees, evals=evals, callbacks=callbacks, verbose_eval=False)
    largest = np.where(np.isnan(X).all(axis=0), 0, np.fmax.reduce(X, axis=0))
    return fitted(booster, largest, base_rate, shift, params, setup)


def booster_options(params: Mapping[str, Any], setup: base.Setup, base_rate: float, frauds: int) -> dict[str, Any]:
    """XGBoost's own settings, whoever trains; ``base_rate`` is the share of ``frauds`` among the rows trained on.

    It is stated, not left to XGBoost's estimate, because the exported graph needs the same number.
    """
    return {name: params[name] for name in BOOSTER_PARAMS} | {
        # A leaf of w frauds' worth of evidence is out of reach where there are hardly more frauds than that.
        "min_child_weight": min(params["min_child_weight"], frauds / 50),
        "objective": "binary:logistic",
        "eval_metric": "logloss",
        "tree_method": "hist",
        "base_score": base_rate,
        "seed": setup.seed,
        "monotone_constraints": setup.monotone,
        "verbosity": 0,
    }


def fitted(
    booster: xgboost.Booster,
    largest: npt.NDArray[Any],
    base_rate: float,
    shift: float,
    params: dict[str, Any],
    setup: base.Setup,
) -> FittedXGBoost:
    """A trained booster as a model; ``largest`` is the largest value of each feature in training, ``[k]``."""
    base_margin = float(np.log(base_rate) - np.log1p(-base_rate))
    return FittedXGBoost(_missing_means_missing(booster, largest), base_margin, shift, params, setup)


def _thinned(
    rows: tuple[base.Matrix, base.Labels], params: dict[str, Any], seed: int
) -> tuple[tuple[base.Matrix, base.Labels], float]:
    """The rows to look at, and what leaving out the others does to the margin."""
    X, y = rows
    kept = base.keep_all_frauds(y, params["genuine_per_fraud"], params["max_rows"], seed)
    return (X[kept], y[kept]), base.thinning_shift(y, y[kept])


def _missing_means_missing(booster: xgboost.Booster, largest: npt.NDArray[Any]) -> xgboost.Booster:
    """The same booster, except that a value larger than any in training is never treated as a missing one.

    Where XGBoost separates present from missing values it writes "less than about twice the largest value"; an
    amount beyond that would silently take the branch of a missing amount, even against a monotone constraint.
    """
    document = json.loads(bytes(booster.save_raw(raw_format="json")))
    beyond = float("inf")  # the largest number is still below it
    for tree in document["learner"]["gradient_booster"]["model"]["trees"]:
        thresholds = tree["split_conditions"]
        for node, (left, feature) in enumerate(zip(tree["left_children"], tree["split_indices"], strict=True)):
            if left >= 0 and thresholds[node] > largest[feature]:
                thresholds[node] = beyond
    booster.load_model(bytearray(json.dumps(document), "utf-8"))
    return booster


def _report_to(progress: base.Progress, total: int) -> xgboost.callback.TrainingCallback:
    from xgboost.callback import TrainingCallback

    class Report(TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            progress(epoch + 1, total)
            return False

    return Report()


def _trees(booster: xgboost.Booster) -> list[_onnx.Tree]:
    """XGBoost's own JSON, which prints every float32 so that it reads back the same."""
    document = json.loads(bytes(booster.save_raw(raw_format="json")))
    trees = []
    for tree in document["learner"]["gradient_booster"]["model"]["trees"]:
        # A split's threshold and a leaf's value share one array.
        values = np.array(tree["split_conditions"], np.float32)
        left = np.array(tree["left_children"], np.int64)
        trees.append(
            _onnx.Tree(
                feature=np.array(tree["split_indices"], np.int64),
                threshold=values,
                if_true=left,
                if_false=np.array(tree["right_children"], np.int64),
                missing_is_true=np.array(tree["default_left"], np.bool_),
                value=values,
            )
        )
    return trees
