"""Ridge-penalised logistic regression on robustly scaled features: the baseline every other family must beat.

Preprocessing, the same in training, in :meth:`margin` and in the exported graph: a missing value becomes the
median, and has its own coefficient where the column had missing values in training. Of ``z = (x - median) /
scale`` the model sees ``asinh(z)``, nearly logarithmic, and ``z`` itself cut off at +-8: together they bend where
money amounts need it. On card data the pair has an average precision of .63, either alone .47 and .57.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fraudml.training.families import _onnx, base

if TYPE_CHECKING:
    import onnx

FARTHEST = np.float32(1e6)  # in units of a column's scale; asinh of it is 14.5
CUT = np.float32(8)  # in the same units
CHUNK = 65_536  # rows transformed at a time


class LogisticRegressionFamily:
    """Every fraud and a sample of the genuine rows are enough for as few coefficients as there are."""

    name = "logistic_regression"
    defaults: Mapping[str, Any] = {"l2": 10.0, "genuine_per_fraud": 20.0, "max_rows": 250_000, "max_iter": 150}
    search_space: Mapping[str, Sequence[Any]] = {
        "l2": (0.1, 1.0, 10.0, 100.0, 1000.0),
        "genuine_per_fraud": (5.0, 20.0, 50.0),
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
    ) -> FittedLogisticRegression:
        """See :class:`fraudml.training.families.base.Family`; there is nothing to stop early."""
        setup = base.make_setup(feature_names, monotone, seed, threads)
        return _fit(X, y, setup, base.merge_params(self, params), progress)


FAMILY = LogisticRegressionFamily()


@dataclass(frozen=True)
class Scaling:
    """Per column: centre, scale (float32 ``[k]``) and whether training saw missing values."""

    median: base.Matrix
    scale: base.Matrix
    has_missing: base.Labels

    def __call__(self, X: base.Matrix) -> base.Matrix:
        """Float32 ``[n, 2 k]`` without missing values; every step is one node of the exported graph."""
        with np.errstate(over="ignore"):
            z = (X - self.median) / self.scale
        z = np.where(np.isnan(X), np.float32(0), z)
        return np.concatenate(
            [np.arcsinh(np.clip(z, -FARTHEST, FARTHEST)), np.clip(z, -CUT, CUT)], axis=1, dtype=np.float32
        )


@dataclass(frozen=True)
class FittedLogisticRegression:
    """``scaling(X) @ weights + isnan(X) @ missing_weights + intercept``; float64 ``[2 k]`` and ``[k]``."""

    scaling: Scaling
    weights: base.Margins
    missing_weights: base.Margins
    intercept: float
    importances: base.Margins
    params: dict[str, Any]
    setup: base.Setup

    @property
    def size(self) -> int:
        """Coefficients that are not zero."""
        return int(np.count_nonzero(self.weights) + np.count_nonzero(self.missing_weights))

    def margin(self, X: base.Matrix) -> base.Margins:
        """Log-odds of fraud of each row, before calibration."""
        margins = np.empty(len(X))
        for start in range(0, len(X), CHUNK):
            rows = np.asarray(X[start : start + CHUNK], np.float32)
            known = self.scaling(rows).astype(np.float64) @ self.weights
            missing = np.isnan(rows).astype(np.float64) @ self.missing_weights
            margins[start : start + CHUNK] = known + missing + self.intercept
        return margins

    def to_onnx(self) -> onnx.ModelProto:
        """The same steps as :class:`Scaling`, then two products."""
        from onnx import TensorProto, helper

        def step(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
            return helper.make_node(op, inputs, [output], **attributes)

        nodes = [
            step("IsNaN", ["features"], "missing"),
            step("Sub", ["features", "median"], "centred"),
            step("Div", ["centred", "scale"], "scaled"),
            step("Where", ["missing", "zero", "scaled"], "imputed"),
            step("Clip", ["imputed", "lowest", "highest"], "clipped"),
            step("Asinh", ["clipped"], "bent"),
            step("Clip", ["imputed", "cut_below", "cut_above"], "straight"),
            step("Concat", ["bent", "straight"], "known", axis=1),
            step("MatMul", ["known", "weights"], "known_part"),
            step("Cast", ["missing"], "missing_flags", to=TensorProto.FLOAT),
            step("MatMul", ["missing_flags", "missing_weights"], "missing_part"),
            step("Add", ["known_part", "missing_part"], "parts"),
            step("Add", ["parts", "intercept"], "sum"),
        ]
        constants: dict[str, npt.ArrayLike] = {
            "median": self.scaling.median,
            "scale": self.scaling.scale,
            "zero": 0.0,
            "lowest": -FARTHEST,
            "highest": FARTHEST,
            "cut_below": -CUT,
            "cut_above": CUT,
            "weights": self.weights[:, None],
            "missing_weights": self.missing_weights[:, None],
            "intercept": self.intercept,
        }
        return _onnx.margin_model(nodes, constants, len(self.setup.feature_names))

    def importance(self) -> dict[str, float]:
        """Share of each feature in the margin's movement: coefficient times standard deviation."""
        return base.shares(self.setup.feature_names, self.importances)

    def refit(
        self, X: base.Matrix, y: npt.ArrayLike, *, progress: base.Progress | None = None
    ) -> FittedLogisticRegression:
        """The same settings on other rows."""
        return _fit(X, y, self.setup, self.params, progress)


def _fit(
    X: base.Matrix,
    y: npt.ArrayLike,
    setup: base.Setup,
    params: dict[str, Any],
    progress: base.Progress | None,
) -> FittedLogisticRegression:
    X, y = base.check_rows(X, y, setup.feature_names)
    rows = base.keep_all_frauds(y, params["genuine_per_fraud"], params["max_rows"], setup.seed)
    shift = base.thinning_shift(y, y[rows])
    X, y = X[rows], y[rows]
    scaling = _scaling_of(X)
    known = scaling(X)
    mean = known.mean(axis=0, dtype=np.float64)
    spread = known.std(axis=0, dtype=np.float64)
    usable = np.flatnonzero(spread > 1e-6)
    flagged = np.flatnonzero(scaling.has_missing & ~np.isnan(X).all(axis=0))
    flags = np.isnan(X[:, flagged])

    design = np.empty((len(X), len(usable) + len(flagged)), np.float32)
    np.subtract(known[:, usable], mean[usable], out=design[:, : len(usable)], casting="same_kind")
    design[:, : len(usable)] /= spread[usable]
    design[:, len(usable) :] = flags
    directions = np.concatenate([np.tile(setup.monotone, 2)[usable], np.zeros(len(flagged), np.int64)])
    coefficients, intercept = _minimise(design, y, directions, params, progress)

    weights, missing_weights = np.zeros(2 * X.shape[1]), np.zeros(X.shape[1])
    weights[usable] = coefficients[: len(usable)] / spread[usable]
    missing_weights[flagged] = coefficients[len(usable) :]
    importances = (np.abs(weights) * spread).reshape(2, -1).sum(axis=0)
    importances[flagged] += np.abs(missing_weights[flagged]) * flags.std(axis=0)
    intercept += shift - float(weights @ mean)
    return FittedLogisticRegression(scaling, weights, missing_weights, intercept, importances, params, setup)


def _scaling_of(X: base.Matrix) -> Scaling:
    """Median and interquartile range; the mean distance from the median where more than half are equal."""
    k = X.shape[1]
    median, scale = np.zeros(k, np.float32), np.ones(k, np.float32)
    for column in range(k):
        values = X[~np.isnan(X[:, column]), column]
        if len(values) == 0:
            continue
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), method="lower")
        median[column] = middle
        distance = (float(high) - float(low)) / 1.349 or float(np.abs(values.astype(np.float64) - middle).mean())
        if np.float32(distance) > 0:
            scale[column] = distance
    return Scaling(median, scale, np.asarray(np.isnan(X).any(axis=0), np.bool_))


def _minimise(
    design: base.Matrix,
    y: base.Labels,
    directions: npt.NDArray[np.int64],
    params: dict[str, Any],
    progress: base.Progress | None,
) -> tuple[base.Margins, float]:
    """Coefficients and intercept of least penalised log loss, by L-BFGS-B, whose bounds keep the directions."""
    from scipy.optimize import minimize
    from scipy.special import expit

    n, k = design.shape
    base_rate = float(y.mean())
    start = np.append(np.zeros(k), np.log(base_rate / (1 - base_rate)))

    def loss(theta: base.Margins) -> tuple[float, base.Margins]:
        total = 0.5 * params["l2"] * float(theta[:-1] @ theta[:-1])
        gradient = np.append(params["l2"] * theta[:-1], 0.0)
        for first in range(0, n, CHUNK):
            rows = design[first : first + CHUNK].astype(np.float64)
            target = y[first : first + CHUNK]
            margins = rows @ theta[:-1] + theta[-1]
            total += float(np.logaddexp(0, margins).sum() - margins[target].sum())
            error = expit(margins) - target
            gradient[:-1] += error @ rows
            gradient[-1] += error.sum()
        return total / n, gradient / n

    done = 0

    def report(_: base.Margins) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, params["max_iter"])

    bounds = [(0 if d > 0 else None, 0 if d < 0 else None) for d in directions] + [(None, None)]
    solution = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        callback=report,
        options={"maxiter": params["max_iter"], "gtol": 1e-6},
    )
    return solution.x[:-1], float(solution.x[-1])
