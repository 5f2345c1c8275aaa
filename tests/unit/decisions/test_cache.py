"""The cache changes how fast an answer comes, never which; without a working one the model scores."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fraudml import wiring
from fraudml.adapters.cache.memory import MemoryPredictionCache
from fraudml.decisions.cache import MANTISSA_BITS, ScoreCache, quantise
from fraudml.decisions.model import Model
from fraudml.errors import CacheError
from fraudml.features.spec import Aggregation, AttributeFeature, DerivedFeature, FeatureSet, WindowFeature
from fraudml.models.bundle import Bundle
from fraudml.monitoring.metrics import Metrics
from fraudml.settings import Settings
from tests.support import scoring
from tests.support.scoring import FEATURES, SCHEMA

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
LARGEST = float(np.finfo(np.float32).max)


class Counting:
    """A model that says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[float]] = []
        self.answer: float | None = None

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        self.asked += rows.tolist()
        return np.full(len(rows), self.answer) if self.answer is not None else rows[:, 0].astype(np.float64) / 100


class BreakableCache(MemoryPredictionCache):
    """Fails to ``get`` or to ``put``, as the test says."""

    fails: str | None = None

    def get(self, keys: Sequence[bytes]) -> list[float | None]:
        if self.fails == "get":
            raise CacheError("no connection")
        return super().get(keys)

    def put(self, scores: Mapping[bytes, float]) -> None:
        if self.fails == "put":
            raise CacheError("read only")
        super().put(scores)


@pytest.fixture
def outcomes() -> Counter[str]:
    return Counter()


@pytest.fixture
def store() -> BreakableCache:
    return BreakableCache(100, 60.0)


@pytest.fixture
def cache(store: BreakableCache, outcomes: Counter[str]) -> ScoreCache:
    return ScoreCache(store, lambda outcome, count: outcomes.update({outcome: count}))


def rows(*values: float) -> NDArray[np.float32]:
    return np.array([[value, 1.0] for value in values], np.float32)


def test_only_what_is_not_held_is_scored(cache: ScoreCache, outcomes: Counter[str]) -> None:
    model = Counting()
    assert cache.scores(b"m", rows(1, 2), model) == [0.01, 0.02]
    assert cache.scores(b"m", rows(3, 2, 1, 4), model) == [0.03, 0.02, 0.01, 0.04]
    assert [row[0] for row in model.asked] == [1, 2, 3, 4]
    assert cache.scores(b"m", rows(4, 3), model) == [0.04, 0.03]
    assert len(model.asked) == 4
    assert outcomes == {"miss": 4, "hit": 4}
    assert cache.scores(b"m", rows(), model) == []


def test_models_do_not_share_scores(cache: ScoreCache) -> None:
    first, second = Counting(), Counting()
    second.answer = 0.5
    assert cache.scores(b"1", rows(7), first) == [0.07]
    assert cache.scores(b"2", rows(7), second) == [0.5]
    assert cache.scores(b"1", rows(7), first) == [0.07]


def test_a_hit_and_a_miss_give_the_same_score(cache: ScoreCache) -> None:
    """Inputs that are one to the cache are one to the model: whichever came first, the answer is the same."""
    near = rows(100.0, 100.001)
    assert len({row.tobytes() for row in near}) == 2
    alone = [ScoreCache(MemoryPredictionCache(9, 9.0)).scores(b"m", near[[i]], Counting()) for i in (0, 1)]
    assert (
        alone[0] == alone[1] == cache.scores(b"m", near[[0]], Counting()) == cache.scores(b"m", near[[1]], Counting())
    )


@pytest.mark.parametrize("nonsense", [float("nan"), -0.1, 1.5])
def test_nonsense_is_not_kept(cache: ScoreCache, nonsense: float) -> None:
    model = Counting()
    model.answer = nonsense
    np.testing.assert_equal(cache.scores(b"m", rows(1), model), [nonsense])
    model.answer = 0.3
    assert cache.scores(b"m", rows(1), model) == [0.3]


@pytest.mark.parametrize("fails", ["get", "put"])
def test_a_failing_cache_is_no_cache_and_says_so_once(
    cache: ScoreCache,
    store: BreakableCache,
    outcomes: Counter[str],
    fails: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "fraudml")
    model, store.fails = Counting(), fails
    for _ in range(3):
        assert cache.scores(b"m", rows(1, 2), model) == [0.01, 0.02]
    assert len(model.asked) == 6
    assert outcomes["error"] == 6
    assert outcomes["hit"] == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    store.fails = None
    assert cache.scores(b"m", rows(1, 2), model) == [0.01, 0.02]
    assert cache.scores(b"m", rows(1, 2), model) == [0.01, 0.02]
    assert outcomes["hit"] == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


@given(arrays(np.float32, (3, 4), elements=st.floats(width=32)), st.integers(1, 23))
def test_quantising_keeps_its_bounds(values: NDArray[np.float32], bits: int) -> None:
    found = quantise(values, bits)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
    np.testing.assert_array_equal(np.isinf(found), np.isinf(values))
    np.testing.assert_array_equal(quantise(found, bits), found)  # so a cached row is its own key
    normal = np.isfinite(values) & (np.abs(values) >= SMALLEST_NORMAL)
    exact, got = values[normal].astype(np.float64), found[normal].astype(np.float64)
    assert np.all(np.abs(got - exact) <= np.abs(exact) * 2.0**-bits)


def test_quantising_by_hand() -> None:
    whole = np.arange(-(2**13), 2**13 + 1, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(quantise(whole), whole)
    ends = np.array([[LARGEST, -LARGEST, np.inf, np.nan]], np.float32)
    found = quantise(ends)[0]
    assert np.isfinite(found[:2]).all()
    assert found[0] == -found[1]
    assert abs(float(found[0]) / LARGEST - 1) < 2.0**-MANTISSA_BITS
    odd = np.array([[0x7FFFFFFF]], np.int32).view(np.float32)  # a NaN with every bit set
    assert np.isnan(quantise(odd)).all()
    turned = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(quantise(turned), turned)


def test_a_model_with_a_cache_scores_quantised_inputs_and_logs_what_it_read(cache: ScoreCache) -> None:
    model = Model(scoring.bundle(), cache=cache)
    vectors = np.array([[1234.567, 2.5, 0, 0, 0], [1234.568, 2.5, 0, 0, 0], [5e3, np.nan, 1, 1e3, 0]])
    expected = scoring.scores_of(quantise(vectors.astype(np.float32)).astype(np.float64))
    assert model.scores(vectors) == expected
    assert model.scores(vectors[::-1]) == expected[::-1]
    assert expected[0] == expected[1]
    assert Model(scoring.bundle()).scores(vectors)[0] == scoring.scores_of(vectors)[0] != expected[0]


def test_a_model_that_fails_behind_a_cache_gives_no_scores(cache: ScoreCache) -> None:
    model, vectors = Model(scoring.bundle(), cache=cache), np.zeros((2, 5))
    runtime = model.bundle.runtime
    runtime.broken = True  # type: ignore[attr-defined]
    assert model.scores(vectors) == [None, None]
    runtime.broken = False  # type: ignore[attr-defined]
    runtime.nonsense = True  # type: ignore[attr-defined]
    assert model.scores(vectors) == [None, None]
    runtime.nonsense = False  # type: ignore[attr-defined]
    assert model.scores(vectors) == scoring.scores_of(vectors)


def test_another_model_file_under_the_same_version_has_its_own_scores(cache: ScoreCache) -> None:
    def model(onnx_sha256: str, answer: float) -> Model:
        made, counting = scoring.bundle(), Counting()
        counting.answer = answer
        manifest = msgspec.structs.replace(made.manifest, onnx_sha256=onnx_sha256)
        runtime = SimpleNamespace(score=counting)
        return Model(Bundle(manifest, made.feature_set, runtime, made.version), cache=cache)  # type: ignore[arg-type]

    vectors = np.zeros((1, 5))
    assert model("a", 0.1).scores(vectors) == [0.1]
    assert model("b", 0.2).scores(vectors) == [0.2]
    assert model("a", 0.3).scores(vectors) == [0.1]


AMOUNT = AttributeFeature("amount", of="amount")
UNSEEN = WindowFeature("n_1d", "customer", Aggregation.count, "1d", input=False)


@pytest.mark.parametrize(
    ("mode", "features", "is_on"),
    [
        ("off", [AMOUNT], False),
        ("auto", [AMOUNT], True),
        ("auto", [AMOUNT, UNSEEN], True),
        ("auto", [AMOUNT, UNSEEN, DerivedFeature("rate", expression="amount / n_1d")], False),
        ("auto", FEATURES.features, False),
        ("on", FEATURES.features, True),
    ],
)
def test_auto_is_on_where_no_input_comes_from_history(mode: str, features: list[AttributeFeature], is_on: bool) -> None:
    found = wiring.prediction_cache(Settings(cache=mode), FeatureSet(SCHEMA, features))  # type: ignore[arg-type]
    assert (found is not None) is is_on


def test_the_metric_counts_outcomes() -> None:
    metrics = Metrics()
    cache = ScoreCache(MemoryPredictionCache(9, 9.0), metrics.cache)
    for _ in range(2):
        cache.scores(b"m", rows(1, 2), Counting())
    text = metrics.text().decode()
    assert 'fraud_cache_total{outcome="hit"} 2.0' in text
    assert 'fraud_cache_total{outcome="miss"} 2.0' in text
