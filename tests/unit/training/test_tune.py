"""The search looks only forward in time, finds what is clearly better, and repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fraudml.errors import TrainingError
from fraudml.training.dataset import Dataset
from fraudml.training.families import family_names, get_family
from fraudml.training.tune import Trial, tune
from tests.support.training import SMALL_DEEP

DAY = 86_400_000_000


class Recorder:
    """A family whose margin is the first column times a parameter; it notes what it was fitted with."""

    name = "recorder"
    defaults: dict[str, Any] = {"sign": 0, "other": 1}  # noqa: RUF012
    search_space: dict[str, Any] = {"sign": (-1, 1), "other": (1, 2)}  # noqa: RUF012

    def __init__(self) -> None:
        self.fits: list[tuple[np.ndarray, np.ndarray, dict[str, Any]]] = []
        self.sign = 0

    def fit(self, X: np.ndarray, y: np.ndarray, *, valid: Any, params: Any, **_: Any) -> Any:
        self.fits.append((X, valid[0], params))
        self.sign = params.get("sign", 0)
        return self

    def margin(self, X: np.ndarray) -> np.ndarray:
        return self.sign * X[:, 0].astype(np.float64)


def data(n: int = 2000, *, delay: int = 0) -> Dataset:
    """Shuffled rows over 100 days; the second column is the day, labels are known ``delay`` later."""
    rng = np.random.default_rng(0)
    times = rng.permutation(np.linspace(0, 100 * DAY, n).astype(np.int64))
    y = rng.random(n) < 0.05
    x = np.stack([y + rng.normal(size=n), times / DAY], axis=1).astype(np.float32)
    return Dataset(x, y.astype(np.int8), times, times + delay, np.ones(n), np.zeros(n, np.int64))


def run(family: Any, rows: Dataset | None = None, **options: Any) -> Any:
    return tune(family, data() if rows is None else rows, feature_names=["a", "day"], **options)


def test_the_best_candidate_wins_and_the_defaults_come_first() -> None:
    result = run(Recorder(), trials=5)
    assert result.trials[0].params == {}
    assert result.params["sign"] == 1
    assert max(trial.average_precision for trial in result.trials) == pytest.approx(
        next(trial.average_precision for trial in result.trials if trial.params == result.params)
    )


def test_on_a_tie_the_defaults_stay() -> None:
    family = Recorder()
    family.search_space = {"other": (1, 2)}
    assert run(family, trials=3).params == {}


def test_training_labels_were_known_when_the_judged_rows_begin() -> None:
    family = Recorder()
    run(family, data(delay=7 * DAY), trials=1)
    train, valid, _ = family.fits[0]
    assert valid[:, 1].min() >= 75
    assert 67 < train[:, 1].max() <= 68
    assert len(valid) == pytest.approx(500, abs=2)


def test_candidates_are_distinct_and_exhaust_a_small_space() -> None:
    tried = [tuple(sorted(trial.params.items())) for trial in run(Recorder(), trials=50).trials]
    assert len(tried) == len(set(tried)) == 5


def test_progress_counts_trials_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    run(Recorder(), trials=50, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]


SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "cascade": {"accurate_params": ({"n_estimators": 3}, {"n_estimators": 5})},
    "deep": {"steps": (20, 30)},
    "logistic_regression": {"l2": (1.0, 10.0)},
    "random_forest": {"n_estimators": (3, 5)},
    "xgboost": {"n_estimators": (3, 5)},
}
QUICK: dict[str, dict[str, Any]] = {"deep": SMALL_DEEP}


@pytest.mark.parametrize("family", family_names())
def test_a_real_family_repeats_itself(family: str) -> None:
    chosen = get_family(family)

    class Small:
        name, defaults = chosen.name, chosen.defaults
        search_space = SPACES[family]

        def fit(self, X: Any, y: Any, *, params: Any, **options: Any) -> Any:
            return chosen.fit(X, y, params=QUICK.get(family, {}) | params, **options)

    first, second = (run(Small(), trials=2, seed=4) for _ in "ab")
    assert first == second
    assert all(isinstance(trial, Trial) and trial.average_precision > 0.1 for trial in first.trials[1:])


def test_the_defaults_are_tried_once() -> None:
    family = Recorder()
    family.search_space = {"sign": (0, 1), "other": (1,)}
    assert [trial.params for trial in run(family, trials=9).trials] == [{}, {"sign": 1, "other": 1}]


def test_too_few_frauds_are_an_error_with_advice() -> None:
    few = data(60)
    with pytest.raises(TrainingError, match=r"too few frauds to tune by: \d in the earlier part"):
        run(Recorder(), few)
    with pytest.raises(TrainingError, match="no transactions"):
        run(Recorder(), few.take(few.y > 1))
