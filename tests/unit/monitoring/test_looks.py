"""Spending of the false-alarm probability, and quantiles against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ncx2, norm

from fraudml.monitoring.rollouts.looks import Looks, heavy_quantile, noncentral_chi2_quantile, normal_quantile


def test_a_hundred_looks_spend_less_than_alpha() -> None:
    looks = Looks(first=20, alpha=0.01)
    assert 0.0099 < sum(looks.spend(looks.size) for _ in range(100)) < 0.01
    assert looks.size > 1e11  # more than anyone will have


@given(alpha=st.floats(1e-9, 5e-3), freedom=st.integers(1, 9), noncentrality=st.floats(0, 1e5))
def test_the_quantile_is_close_and_on_the_safe_side(alpha: float, freedom: int, noncentrality: float) -> None:
    exact = ncx2.isf(alpha, freedom, noncentrality) if noncentrality else ncx2.isf(alpha, freedom, 1e-12)
    ours = noncentral_chi2_quantile(alpha, freedom, noncentrality)
    assert 0.995 * exact < ours < 1.3 * exact


def test_the_normal_quantile() -> None:
    assert normal_quantile(1e-6) == pytest.approx(norm.isf(1e-6))


def test_sums_of_rare_losses_stay_below_the_heavy_quantile() -> None:
    random = np.random.default_rng(0)
    losses = random.poisson(3, 400_000) - 3  # skewed: a normal quantile is exceeded too often
    assert (losses > heavy_quantile(0.001, 3, 1)).mean() < 0.001 < (losses > np.sqrt(3) * norm.isf(0.001)).mean()
