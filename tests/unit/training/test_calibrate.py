"""Calibrated probabilities: honest where there is data, harmless where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fraudml.errors import TrainingError
from fraudml.training.calibrate import Calibrator


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_recovers_the_slope_and_intercept_that_made_the_data() -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(-3, 2, 200_000)
    y = rng.random(len(margin)) < sigmoid(0.6 * margin - 1)
    calibrator = Calibrator.fit(margin, y)
    assert calibrator.slope == pytest.approx(0.6, abs=0.02)
    assert calibrator.intercept == pytest.approx(-1, abs=0.05)
    assert calibrator.apply(margin).mean() == pytest.approx(y.mean(), rel=0.01)


def test_without_any_fraud_it_stays_close_to_the_margin() -> None:
    calibrator = Calibrator.fit(np.full(1000, -6.0), np.zeros(1000))
    assert 0.3 < calibrator.slope < 3
    assert -2 < calibrator.intercept <= 0


def test_with_two_frauds_it_moves_less_than_with_two_hundred() -> None:
    margin = np.full(100, -2.0)
    few = Calibrator.fit(margin, np.arange(100) < 2)
    many = Calibrator.fit(np.repeat(margin, 100), np.repeat(np.arange(100) < 2, 100))
    truth = 0.02
    assert abs(many.apply([-2.0])[0] - truth) < abs(few.apply([-2.0])[0] - truth) < 0.1
    assert many.apply([-2.0])[0] == pytest.approx(truth, abs=0.002)


@settings(deadline=None, max_examples=25)
@given(
    npst.arrays(np.float64, st.integers(0, 40), elements=st.floats(-700, 700)),
    st.integers(0, 2**40 - 1),
)
def test_it_keeps_the_order_whatever_the_data(margin: np.ndarray, bits: int) -> None:
    y = np.array([bits >> i & 1 for i in range(len(margin))], dtype=bool)
    calibrator = Calibrator.fit(margin, y)
    assert calibrator.slope > 0
    assert np.isfinite([calibrator.slope, calibrator.intercept]).all()
    scores = calibrator.apply(np.sort(margin))
    assert (np.diff(scores) >= 0).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_apply_is_the_sigmoid_of_the_log_odds_also_far_out() -> None:
    calibrator = Calibrator(slope=2.0, intercept=1.0)
    assert calibrator.log_odds([3.0])[0] == 7
    np.testing.assert_allclose(calibrator.apply([3.0]), sigmoid(np.array([7.0])))
    np.testing.assert_array_equal(calibrator.apply([-1e6, 1e6]), [0, 1])


@pytest.mark.parametrize(("margin", "y"), [([1.0, 2.0], [1]), ([np.nan], [1]), ([[1.0]], [[1]])])
def test_broken_input_is_refused(margin: list[float], y: list[int]) -> None:
    with pytest.raises(TrainingError, match="cannot calibrate"):
        Calibrator.fit(margin, y)
