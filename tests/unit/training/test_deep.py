"""What is particular to the deep family: how numbers come in, when it stops, what its graph is made of."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fraudml.errors import MissingExtra
from fraudml.training.families import base, get_family
from fraudml.training.families._piecewise import Encoding
from tests.support.training import SMALL_DEEP

NAMES = [f"feature_{i}" for i in range(6)]


def rows(n: int = 1500, seed: int = 0) -> tuple[base.Matrix, base.Labels]:
    """Of the shape of test_families.py, for which the network is compiled already."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6)).astype(np.float32)
    y = X[:, 0] + 0.5 * rng.normal(size=n) > 1.8
    X[rng.random(n) < 0.1, 1] = np.nan
    return X, y


def fit(X: base.Matrix, y: Any, params: dict[str, Any] | None = None, **options: Any) -> Any:
    return get_family("deep").fit(X, y, feature_names=NAMES, params=SMALL_DEEP | (params or {}), **options)


def encoded(encoding: Encoding, values: Any) -> base.Matrix:
    """One column's bins, as the network computes them."""
    x = np.clip(np.asarray(values, np.float32), -base.HUGE, base.HUGE)
    with np.errstate(over="ignore"):
        return np.clip((x[:, None] - encoding.lower[0]) / encoding.width[0], 0, 1)


class TestEncoding:
    @given(
        arrays.arrays(
            np.float32, st.integers(1, 80), elements=st.floats(-float(base.HUGE), float(base.HUGE), width=32)
        ),
        st.integers(1, 12),
    )
    def test_bins_are_positions_from_0_to_1_that_rise_with_the_value(self, values: Any, bins: int) -> None:
        encoding = Encoding.of(values[:, None], bins)
        assert encoding.lower.shape == encoding.width.shape == (1, bins)
        assert (encoding.width > 0).all()
        ordered = encoded(encoding, np.sort(values))
        assert ((ordered >= 0) & (ordered <= 1)).all()
        assert (np.diff(ordered, axis=0) >= 0).all()
        assert np.isfinite(encoded(encoding, [np.inf, -np.inf, 3e38, -3e38, 1e-40])).all()

    @given(st.sets(st.integers(-50, 50), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
    def test_each_of_few_values_can_have_a_vector_of_its_own(self, codes: set[int], seed: int) -> None:
        values = np.random.default_rng(seed).permutation(np.repeat(sorted(codes), 3)).astype(np.float32)
        table = encoded(Encoding.of(values[:, None], 8), sorted(codes))
        assert np.linalg.matrix_rank(np.c_[table, np.ones(len(codes))]) == len(codes)

    def test_a_column_without_values_or_variety_says_nothing(self) -> None:
        X = np.array([[np.nan, 7.0]] * 5, np.float32)
        encoding = Encoding.of(X, 4)
        assert encoding.flagged.tolist() == [1, 0]
        assert encoding.fill.tolist() == [0, 7]
        assert (np.clip((np.float32(1e25) - encoding.lower) / encoding.width, 0, 1) == 0).all()


def test_codes_of_a_category_are_told_apart_whatever_their_order() -> None:
    rng = np.random.default_rng(0)
    X, _ = rows(4000)
    X[:, 5] = rng.integers(0, 9, len(X))
    y = np.isin(X[:, 5], [2, 6]) & (rng.random(len(X)) < 0.3)
    fitted = fit(X, y)
    probe = np.repeat(X[:1], 9, axis=0)
    probe[:, 5] = np.arange(9)
    assert set(np.argsort(fitted.margin(probe))[-2:]) == {2, 6}


def test_a_value_never_missing_in_training_counts_as_the_median_when_it_is() -> None:
    fitted = fit(*rows())
    known = rows()[0][:1]
    known[0, 0] = fitted.encoding.fill[0]
    missing = known.copy()
    missing[0, 0] = np.nan
    np.testing.assert_array_equal(fitted.margin(missing), fitted.margin(known))


class TestStopping:
    noise = (rows(400, seed=2)[0], np.random.default_rng(0).random(400) < 0.05)
    settings: dict[str, Any] = {"max_steps": 2000, "evaluate_every": 10, "early_stopping_steps": 30}  # noqa: RUF012

    def test_stops_early_and_keeps_the_best_weights(self) -> None:
        seen: list[tuple[int, int]] = []
        fitted = fit(
            *rows(),
            valid=self.noise,
            params=self.settings | {"early_stopping_frauds": 1},
            progress=lambda done, total: seen.append((done, total)),
        )
        assert fitted.steps == seen[-1][0] - 30 < 500
        assert seen[-1][1] == 2000
        again = fitted.refit(*rows())
        assert again.steps == fitted.steps
        np.testing.assert_array_equal(again.margin(self.noise[0]), fitted.margin(self.noise[0]))

    def test_few_validation_frauds_do_not_stop_it(self) -> None:
        assert fit(*rows(), valid=self.noise, params=self.settings | {"steps": 40}).steps == 40


def test_dropout_repeats_with_the_seed() -> None:
    X, y = rows()
    first, second, other = (fit(X, y, {"dropout": 0.2, "steps": 30}, seed=seed).margin(X) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_the_graph_is_of_plain_operators_and_as_many_numbers_as_it_says() -> None:
    fitted = fit(*rows())
    model = fitted.to_onnx()
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert fitted.size == sum(array.size for array in fitted.weights.values())


@pytest.mark.parametrize("library", ["jax", "optax"])
def test_a_missing_library_names_the_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=r"pip install 'fraudml\[deep\]'"):
        get_family("deep")
