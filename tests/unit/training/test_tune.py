"""The search looks only forward in time, finds what is clearly better, and repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fraudml.errors import TrainingError
from fraudml.training.families import family_names, get_family
from fraudml.training.tune import Trial, tune

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


def data(n: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shuffled rows over 100 days; the second column is the day."""
    rng = np.random.default_rng(0)
    times = rng.permutation(np.linspace(0, 100 * DAY, n).astype(np.int64))
    y = rng.random(n) < 0.05
    return np.stack([y + rng.normal(size=n), times / DAY], axis=1).astype(np.float32), y, times


def run(family: Any, **options: Any) -> Any:
    X, y, times = data()
    return tune(family, X, y, times, feature_names=["a", "day"], **options)


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


def test_training_rows_are_earlier_by_the_label_delay() -> None:
    family = Recorder()
    run(family, trials=1, label_delay_us=7 * DAY)
    train, valid, _ = family.fits[0]
    assert valid[:, 1].min() >= 75
    assert 67 < train[:, 1].max() < 68
    assert len(valid) == pytest.approx(500, abs=2)


def test_candidates_are_distinct_and_exhaust_a_small_space() -> None:
    tried = [tuple(sorted(trial.params.items())) for trial in run(Recorder(), trials=50).trials]
    assert len(tried) == len(set(tried)) == 5


def test_progress_counts_trials_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    run(Recorder(), trials=50, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]


@pytest.mark.parametrize("family", family_names())
def test_a_real_family_repeats_itself(family: str) -> None:
    chosen = get_family(family)

    class Small:
        name, defaults = chosen.name, chosen.defaults
        search_space = {"n_estimators": (3, 5)} if "n_estimators" in chosen.defaults else {"l2": (1.0, 10.0)}
        fit = staticmethod(chosen.fit)

    first, second = (run(Small(), trials=2, seed=4) for _ in "ab")
    assert first == second
    assert all(isinstance(trial, Trial) and trial.average_precision > 0.1 for trial in first.trials[1:])


def test_too_few_frauds_are_an_error_with_advice() -> None:
    X, y, times = data(60)
    with pytest.raises(TrainingError, match=r"too few frauds to tune by: \d in the earlier part"):
        tune(Recorder(), X, y, times, feature_names=["a", "day"])
    with pytest.raises(TrainingError, match="no transactions"):
        tune(Recorder(), X[:0], y[:0], times[:0], feature_names=["a", "day"])
