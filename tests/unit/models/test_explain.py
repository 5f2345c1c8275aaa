"""Explanations add up exactly, equal the Shapley values where those can be worked out, and never waver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fraudml.features.spec import AttributeFeature, FeatureSet, Transform
from fraudml.models import bundle, explain
from fraudml.models.bundle import Bundle
from fraudml.models.explain import PERMUTATION_PAIRS, Explainer
from tests.support.bundles import make_bundle
from tests.support.scoring import FEATURES, SCHEMA

WEIGHTS = [0.5, -1.0, 2.0, 0.0, 0.25]
BACKGROUND = np.array([[1, 2, 3, 4, 5], [3, 2, 1, 0, -1]], np.float32)


class Function:
    """A runtime around any function of a row; counts the rows it is asked for."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.rows = 0

    def log_odds(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        self.rows += len(vectors)
        return np.array([self._function(*row) for row in vectors.astype(np.float64)])


def explainer_of(function: Any, width: int, background: list[list[float | None]]) -> tuple[Explainer, Function]:
    features = FeatureSet(SCHEMA, [AttributeFeature(f"f{i}", of="amount") for i in range(width)])
    runtime = Function(function)

    class Manifest:
        pass

    manifest: Any = Manifest()
    manifest.background = background
    return Explainer(Bundle(manifest, features, runtime, "1")), runtime  # type: ignore[arg-type]


def contributions(explainer: Explainer, row: list[float]) -> dict[str, float]:
    return {reason.feature: reason.contribution for reason in explainer.explain(np.array(row, np.float64)).reasons}


@pytest.fixture
def linear(tmp_path: Path) -> Explainer:
    make_bundle(tmp_path, FEATURES, weights=WEIGHTS, bias=-1, background=BACKGROUND)
    return Explainer(bundle.load(tmp_path))


def test_of_a_linear_model_they_are_weight_times_distance_from_the_background(linear: Explainer) -> None:
    row = np.array([7.0, -2.0, 1.5, 9.0, 0.0])
    expected = np.array(WEIGHTS) * (row - BACKGROUND.mean(axis=0))
    found = linear.explain(row)
    by_name = {reason.feature: reason.contribution for reason in found.reasons}
    np.testing.assert_allclose([by_name[name] for name in FEATURES.input_names], expected, atol=1e-5)
    assert found.base_log_odds == pytest.approx(-1 + BACKGROUND.mean(axis=0) @ np.array(WEIGHTS), abs=1e-5)
    assert found.log_odds == pytest.approx(-1 + row @ np.array(WEIGHTS), abs=1e-5)


def test_two_features_that_interact_share_their_gain() -> None:
    """Shapley by hand: with f = x * y from (1, 2) to (5, 7), each order gives the other half of 35 - 2."""
    explainer, _ = explainer_of(lambda x, y: x * y, 2, [[1.0, 2.0]])
    assert contributions(explainer, [5, 7]) == {
        "f0": pytest.approx(((5 - 1) * 2 + (5 - 1) * 7) / 2),
        "f1": pytest.approx(((7 - 2) * 1 + (7 - 2) * 5) / 2),
    }


@settings(max_examples=50)
@given(
    st.lists(st.floats(-100, 100, width=32) | st.just(float("nan")), min_size=4, max_size=4),
    st.lists(st.lists(st.floats(-100, 100, width=32) | st.none(), min_size=4, max_size=4), min_size=1, max_size=9),
)
def test_they_add_up_exactly(row: list[float], background: list[list[float | None]]) -> None:
    def odds(a: float, b: float, c: float, d: float) -> float:
        a, b, c, d = np.nan_to_num([a, b, c, d], nan=-7.0)
        return float(max(a, b) * 0.3 + (c > d) * 2.5 - abs(a * d) * 0.01)

    explainer, _ = explainer_of(odds, 4, background)
    found = explainer.explain(np.array(row))
    total = found.base_log_odds + sum(reason.contribution for reason in found.reasons)
    assert total == pytest.approx(found.log_odds, abs=1e-9)
    assert found.log_odds == pytest.approx(odds(*row), abs=1e-9)
    starts = [background[i % len(background)] for i in range(PERMUTATION_PAIRS)]
    base = np.mean([odds(*(np.nan if value is None else value for value in start)) for start in starts])
    assert found.base_log_odds == pytest.approx(base, abs=1e-9)


def test_the_same_vector_always_gets_the_same_explanation(tmp_path: Path, linear: Explainer) -> None:
    row = np.array([1.0, np.nan, 3.0, 4.0, 5.0])
    again = Explainer(bundle.load(tmp_path))
    assert linear.explain(row) == linear.explain(row) == again.explain(row)


def test_reasons_are_sorted_by_size_and_say_the_direction(linear: Explainer) -> None:
    found = linear.explain(np.array([7.0, -2.0, 1.5, 9.0, 0.0]))
    sizes = [abs(reason.contribution) for reason in found.reasons]
    assert sizes == sorted(sizes, reverse=True)
    assert {reason.feature for reason in found.reasons} == set(FEATURES.input_names)
    for reason in found.reasons[:4]:
        assert reason.text.endswith("raises the risk" if reason.contribution > 0 else "lowers the risk")


def test_a_missing_value_is_none_in_the_reason(linear: Explainer) -> None:
    found = linear.explain(np.array([np.nan] * 5))
    assert [reason.value for reason in found.reasons] == [None] * 5


def test_what_is_typical_is_the_median_of_the_values_that_are_there() -> None:
    background: list[list[float | None]] = [[1.0, None], [2.0, None], [9.0, 4.0]]
    explainer, _ = explainer_of(lambda x, y: x, 2, background)
    typical = {reason.feature: reason.typical for reason in explainer.explain(np.array([0.0, 0.0])).reasons}
    assert typical == {"f0": 2.0, "f1": None}


@pytest.mark.parametrize(("width", "pairs"), [(1, 8), (3, 8), (9, 5), (60, 1)])
def test_a_wide_model_keeps_to_its_budget(width: int, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "ROW_BUDGET", 100)
    explainer, runtime = explainer_of(lambda *row: sum(row), width, [[0.0] * width])
    found = explainer.explain(np.ones(width))
    assert runtime.rows == 2 * pairs * (width + 1)
    assert sum(reason.contribution for reason in found.reasons) == pytest.approx(width)


def test_the_vector_is_explained_as_the_model_reads_it(tmp_path: Path) -> None:
    """Values beyond float32 are clipped for the model; the reason shows the feature's own value."""
    features = FeatureSet(SCHEMA, [AttributeFeature("size", of="amount", transform=Transform.raw)])
    make_bundle(tmp_path, features, weights=[1e-38], bias=0)
    (reason,) = Explainer(bundle.load(tmp_path)).explain(np.array([1e300])).reasons
    assert reason.value == 1e300
    assert reason.contribution == pytest.approx(3.4, abs=0.1)
