"""A deep tabular network by JAX and Optax (extra ``deep``): embeddings of numbers and an ensemble in one perceptron.

``_piecewise.py`` is how numbers come in, ``_tabm.py`` the network, ``_tabm_onnx.py`` the same as a graph; both name the
papers. Here is how it is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fraudml.training.families import _tabm, _tabm_onnx, base
from fraudml.training.families._piecewise import Encoding
from fraudml.training.families._tabm import Shape, Weights

if TYPE_CHECKING:
    import onnx

NEEDS = ("jax", "optax")
CHUNK = 1_024  # rows scored at a time; always so many, because each number of rows is a program of its own
IMPORTANCE_ROWS = 256
Rows = tuple[base.Matrix, base.Labels]


class DeepFamily:
    """Trained on every fraud and, like boosted trees, on 30 times as many genuine rows.

    Validation rows with few frauds say little about when to stop; then a fixed number of steps is taken. Directions
    (``monotone``) hold exactly, see ``_tabm.py``. XLA chooses its threads itself: ``threads`` changes nothing.
    """

    name = "deep"
    defaults: Mapping[str, Any] = {
        "steps": 1_750,  # without early stopping, for want of validation frauds
        "max_steps": 6_000,  # with it
        "early_stopping_steps": 600,  # without a better validation loss
        "early_stopping_frauds": 300,  # among the validation rows, from which on early stopping is used
        "evaluate_every": 100,
        "batch_size": 512,
        "learning_rate": 0.002,
        "weight_decay": 0.01,
        "dropout": 0.3,
        "averaging": 0.99,
        "bins": 24,
        "embedding": 8,
        "width": 64,
        "blocks": 2,
        "members": 8,
        "genuine_per_fraud": 30.0,
        "max_rows": 500_000,
    }
    search_space: Mapping[str, Sequence[Any]] = {
        "learning_rate": (0.001, 0.002, 0.004),
        "weight_decay": (0.001, 0.01, 0.1),
        "dropout": (0.1, 0.3, 0.5),
        "bins": (12, 24, 48),
        "width": (32, 64, 128),
        "blocks": (1, 2, 3),
        "steps": (750, 1_750, 3_500),
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
    ) -> FittedDeep:
        """See :class:`fraudml.training.families.base.Family`."""
        setup = base.make_setup(feature_names, monotone, seed, threads)
        chosen = base.merge_params(self, params)
        rows = base.check_rows(X, y, feature_names)
        held_out = base.check_validation(valid, feature_names)
        if held_out is not None and held_out[1].sum() < chosen["early_stopping_frauds"]:
            held_out = None
        steps = chosen["steps"] if held_out is None else chosen["max_steps"]
        return _fit(rows, held_out, setup, chosen, steps, progress)


FAMILY = DeepFamily()


@dataclass(frozen=True)
class FittedDeep:
    """A trained network; see :class:`fraudml.training.families.base.FittedModel`. ``weights``: NumPy arrays."""

    encoding: Encoding
    shape: Shape
    weights: Weights
    steps: int  # that led to these weights
    shift: float  # see base.thinning_shift
    importances: base.Margins
    params: dict[str, Any]
    setup: base.Setup

    @property
    def size(self) -> int:
        """Numbers learnt."""
        return sum(int(array.size) for array in self.weights.values())

    def margin(self, X: base.Matrix) -> base.Margins:
        """Log-odds of fraud of each row, before calibration."""
        return _margins(self._program(), self.weights, self.encoding, X) + self.shift

    def to_onnx(self) -> onnx.ModelProto:
        """The same steps in plain operators."""
        return _tabm_onnx.margin_model(self.encoding, self.shape, self.weights, self.shift)

    def importance(self) -> dict[str, float]:
        """Share of each feature in how far the margins of training rows move when its values are shuffled."""
        return base.shares(self.setup.feature_names, self.importances)

    def refit(self, X: base.Matrix, y: npt.ArrayLike, *, progress: base.Progress | None = None) -> FittedDeep:
        """The same settings and number of steps on other rows."""
        rows = base.check_rows(X, y, self.setup.feature_names)
        return _fit(rows, None, self.setup, self.params, self.steps, progress)

    def _program(self) -> _tabm.Program:
        return _program(self.shape, self.params)


def _fit(
    rows: Rows,
    valid: Rows | None,
    setup: base.Setup,
    params: dict[str, Any],
    max_steps: int,
    progress: base.Progress | None,
) -> FittedDeep:
    X, y, shift = _thinned(rows, params, setup.seed)
    shape = Shape(
        params["bins"], params["embedding"], params["width"], params["blocks"], params["members"], setup.monotone
    )
    program = _program(shape, params)
    encoding = Encoding.of(X, params["bins"])
    stop = None if valid is None else _EarlyStopping(program, encoding, *_thinned(valid, params, setup.seed)[:2])
    state = program.start(_tabm.initial_weights(shape, float(y.mean()), setup.seed))
    weights, steps, key = state.averaged, 0, _tabm.random_key(setup.seed)
    rng = np.random.default_rng(setup.seed)
    for step in range(1, max_steps + 1):
        batch = rng.integers(len(y), size=params["batch_size"])  # always of one size, or it would be another program
        state = program.step(state, encoding, X[batch], y[batch].astype(np.float32), key)
        if step % params["evaluate_every"] == 0 or step == max_steps:
            if progress is not None:
                progress(step, max_steps)
            if stop is None or stop.is_best(state.averaged):
                weights, steps = state.averaged, step
            if step - steps >= params["early_stopping_steps"]:
                break
    learnt = {name: np.asarray(array) for name, array in weights.items()}
    importances = _importances(program, learnt, encoding, X, setup.seed)
    return FittedDeep(encoding, shape, learnt, steps, shift, importances, params, setup)


def _program(shape: Shape, params: Mapping[str, Any]) -> _tabm.Program:
    return _tabm.program(shape, params["learning_rate"], params["weight_decay"], params["dropout"], params["averaging"])


def _thinned(rows: Rows, params: dict[str, Any], seed: int) -> tuple[base.Matrix, base.Labels, float]:
    """The rows to look at, and what leaving out the others does to the margin."""
    X, y = rows
    kept = base.keep_all_frauds(y, params["genuine_per_fraud"], params["max_rows"], seed)
    return X[kept], y[kept], base.thinning_shift(y, y[kept])


class _EarlyStopping:
    """Remembers the least log loss on validation rows, thinned like those of the training."""

    def __init__(self, program: _tabm.Program, encoding: Encoding, X: base.Matrix, y: base.Labels) -> None:
        self.program, self.encoding, self.X, self.y = program, encoding, X, y
        self.least = np.inf

    def is_best(self, weights: Weights) -> bool:
        """Whether these weights lose less than all before them."""
        margins = _margins(self.program, weights, self.encoding, self.X)
        loss = float((np.logaddexp(0, margins) - margins * self.y).mean())
        if loss >= self.least:
            return False
        self.least = loss
        return True


def _margins(program: _tabm.Program, weights: Weights, encoding: Encoding, X: base.Matrix) -> base.Margins:
    margins = np.empty(len(X))
    chunk = np.zeros((CHUNK, X.shape[1]), np.float32)
    for start in range(0, len(X), CHUNK):
        rows = X[start : start + CHUNK]
        chunk[: len(rows)] = rows
        margins[start : start + CHUNK] = np.asarray(program.margin(weights, encoding, chunk))[: len(rows)]
    return margins


def _importances(
    program: _tabm.Program, weights: Weights, encoding: Encoding, X: base.Matrix, seed: int
) -> base.Margins:
    """Mean absolute move of the margin when one column is shuffled, float64 ``[k]``."""
    rng = np.random.default_rng(seed)
    X = X[rng.choice(len(X), min(IMPORTANCE_ROWS, len(X)), replace=False)]
    order = rng.permutation(len(X))
    before = _margins(program, weights, encoding, X)
    moves = np.zeros(X.shape[1])
    for column in range(X.shape[1]):
        shuffled = X.copy()
        shuffled[:, column] = X[order, column]
        if not np.array_equal(shuffled, X, equal_nan=True):
            moves[column] = np.abs(_margins(program, weights, encoding, shuffled) - before).mean()
    return moves
