"""Training data made in memory, and a training run's result around a model that needs no fitting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.features.spec import FeatureSet
from fraudml.training import split
from fraudml.training.dataset import Dataset
from fraudml.training.train import Candidate, LocalResult, Options, measure
from tests.support.bundles import linear_model
from tests.support.scoring import FEATURES, T0

DAY_US = 86_400_000_000

# A network that tests can wait for; dropout takes as long to compile as all the rest.
SMALL_DEEP: dict[str, Any] = {
    "steps": 250,
    "batch_size": 64,
    "learning_rate": 0.01,
    "dropout": 0.0,
    "bins": 8,
    "embedding": 4,
    "width": 16,
    "members": 2,
}


def make_dataset(
    rows: int = 4_000, *, days: float = 40, delay_days: float = 7, width: int = 5, seed: int = 0
) -> Dataset:
    """Random transactions in time order, about 5 % fraud, whose log-odds are linear in the first two features."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, width)).astype(np.float32)
    odds = -4.5 + 1.8 * x[:, 0] + x[:, 1]
    y = (rng.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    times = T0 + np.sort(rng.integers(0, int(days * DAY_US), rows))
    amounts = np.round(np.exp(rng.normal(4, 1, rows)) * 100)
    return Dataset(x, y, times, times + int(delay_days * DAY_US), amounts, rng.integers(0, rows // 10, rows))


@dataclass(frozen=True)
class LinearModel:
    """A fitted model that needs no fitting: margin = weights * features + bias, a missing value counting as 0."""

    weights: tuple[float, ...]
    bias: float = -4.5

    @property
    def params(self) -> dict[str, Any]:
        return {"weights": list(self.weights), "bias": self.bias}

    @property
    def size(self) -> int:
        return sum(weight != 0 for weight in self.weights)

    def margin(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.nan_to_num(X.astype(np.float64), posinf=1e25, neginf=-1e25) @ np.array(self.weights) + self.bias

    def to_onnx(self) -> Any:
        import onnx

        model = onnx.load_from_string(linear_model(self.weights, self.bias))
        del model.graph.node[-1], model.graph.output[0]  # the sigmoid: calibration comes first
        return model

    def importance(self) -> dict[str, float]:
        total = sum(abs(weight) for weight in self.weights)
        return {
            name: abs(weight) / total
            for name, weight in sorted(
                zip(FEATURES.input_names, self.weights, strict=True), key=lambda item: -abs(item[1])
            )
        }

    def refit(self, X: NDArray[np.float32], y: Any, *, progress: Any = None) -> LinearModel:
        return LinearModel(self.weights, self.bias + 1)


def make_candidate(
    family: str, model: Any, data: Dataset, parts: split.Split, costs: Costs, *, decimals: int = 2
) -> Candidate:
    """A candidate measured on the parts that ``training.train`` measures on."""
    measured = measure(family, model, data.take(parts.valid), data.take(parts.test), costs, decimals, seed=0)
    return replace(measured, seconds=1.25)


def make_result(
    data: Dataset | None = None,
    *,
    feature_set: FeatureSet = FEATURES,
    weights: Sequence[Sequence[float]] = ((1.8, 1, 0, 0, 0), (1, 0, 0.5, 0, 0)),
    costs: Costs | None = None,
) -> LocalResult:
    """The result of training linear models with these weights, the best first."""
    data = make_dataset() if data is None else data
    costs = costs or Costs()
    parts = split.by_time(data)
    candidates = [
        make_candidate(f"linear_{i}", LinearModel(tuple(map(float, w))), data, parts, costs)
        for i, w in enumerate(weights, 1)
    ]
    names = tuple(candidate.family for candidate in candidates)
    return LocalResult(candidates, parts, data, feature_set, costs, Options(names))
