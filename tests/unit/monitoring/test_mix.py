"""What clustered and weighted rows are worth."""

from __future__ import annotations

import numpy as np
import pytest

from fraudml.monitoring.rollouts.mix import Mix


def filled(category: np.ndarray, key: np.ndarray, weight: np.ndarray) -> Mix:
    mix = Mix(3)
    mix.add(np.ones(len(key), np.bool_), key, category, weight)
    return mix


def test_independent_rows_are_worth_themselves() -> None:
    random = np.random.default_rng(0)
    mix = filled(random.integers(0, 3, 20_000), random.integers(0, 2**40, 20_000), np.ones(20_000))
    assert mix.effective()[1] == pytest.approx(20_000, rel=0.15)
    assert mix.effective()[0] == 0
    assert np.isnan(mix.shares()[0]).all()


def test_ten_equal_rows_of_an_entity_are_worth_one() -> None:
    random = np.random.default_rng(1)
    kind, key = random.integers(0, 3, 2_000), random.integers(0, 2**40, 2_000)
    mix = filled(np.repeat(kind, 10), np.repeat(key, 10), np.ones(20_000))
    assert mix.effective()[1] == pytest.approx(2_000, rel=0.2)


def test_unequal_weights_cost_sample_size_as_kish_says() -> None:
    random = np.random.default_rng(2)
    weight = np.where(np.arange(20_000) < 2_000, 20.0, 2.0)
    mix = filled(random.integers(0, 3, 20_000), random.integers(0, 2**40, 20_000), weight)
    assert mix.effective()[1] == pytest.approx(weight.sum() ** 2 / (weight**2).sum(), rel=0.2)


def test_one_category_has_no_spread_to_measure() -> None:
    assert filled(np.zeros(50, np.int64), np.arange(50), np.ones(50)).effective()[1] == 50
