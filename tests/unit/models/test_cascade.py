"""A cascade with its accurate model elsewhere: only the rows it must see travel, and a failure is one clear error."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from fraudml.errors import BundleError, ConfigError
from fraudml.models import bundle
from fraudml.models.cascade import Cascade, CascadeRuntime, StageTimes
from fraudml.models.runtime import ROWS_AT_ONCE, Runtime
from fraudml.training.calibrate import Calibrator
from fraudml.training.export import export
from fraudml.training.families._band import Band
from fraudml.training.families.base import make_setup
from fraudml.training.families.cascade import FittedCascade
from tests.support.bundles import linear_model
from tests.support.training import LinearModel

NAMES = ["first", "second"]
LOCAL = Runtime(
    export(
        FittedCascade(
            LinearModel((2.0, 0.0), 0.0),
            LinearModel((0.0, 3.0), -1.0),
            Calibrator(),
            Calibrator(),
            Band(-1.0, 1.0),
            {},
            make_setup(NAMES, None, 0, 1),
        ),
        Calibrator(),
        NAMES,
    )
)
ROWS = np.random.default_rng(0).normal(size=(3 * ROWS_AT_ONCE, 2)).astype(np.float32)
CLEAR = np.array([[-3, 1], [2, 1]], np.float32)
UNCLEAR = np.array([[0, 1], [0.5, 1]], np.float32)


class Server:
    """An accurate model in the same process that counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[NDArray[np.float32]] = []
        self.model = Runtime(linear_model([0.0, 3.0], -1.0))

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        self.asked.append(vectors)
        return self.model.score(vectors)

    def log_odds(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        self.asked.append(vectors)
        return self.model.log_odds(vectors)


class Broken(Server):
    """One that fails, or answers nonsense."""

    def __init__(self, answer: Exception | NDArray[np.float64]) -> None:
        super().__init__()
        self.answer = answer

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_answers_are_those_of_the_bundle_alone() -> None:
    server = Server()
    runtime = CascadeRuntime(LOCAL, server)
    np.testing.assert_allclose(runtime.score(ROWS), LOCAL.score(ROWS), atol=1e-6)
    np.testing.assert_allclose(runtime.log_odds(ROWS), LOCAL.log_odds(ROWS), atol=1e-5)


def test_only_the_rows_in_the_band_travel_and_at_once() -> None:
    server = Server()
    CascadeRuntime(LOCAL, server).score(ROWS)
    (asked,) = server.asked
    np.testing.assert_array_equal(asked, ROWS[np.abs(2 * ROWS[:, 0]) <= 1])


@pytest.mark.parametrize("rows", [CLEAR, CLEAR[:1], CLEAR[:0]])
def test_no_call_where_the_fast_model_is_sure(rows: NDArray[np.float32]) -> None:
    server = Server()
    assert CascadeRuntime(LOCAL, server).score(rows).shape == (len(rows),)
    assert not server.asked


@pytest.mark.parametrize(
    "error", [ConfigError("it is gone"), ConnectionError("it is gone"), TimeoutError("it is gone")]
)
def test_a_failure_is_an_error_of_the_bundle_and_the_bundle_alone_still_scores(error: Exception) -> None:
    runtime = CascadeRuntime(LOCAL, Broken(error))
    with pytest.raises(BundleError, match="accurate model of the cascade cannot score: it is gone"):
        runtime.score(UNCLEAR)
    assert np.isfinite(runtime.score(CLEAR)).all()
    assert np.isfinite(LOCAL.score(UNCLEAR)).all()


@pytest.mark.parametrize("answer", [np.zeros(1), np.zeros((2, 1)), np.array([0.5, np.nan])])
def test_a_wrong_answer_is_not_taken(answer: NDArray[np.float64]) -> None:
    with pytest.raises(BundleError, match="answered 2 rows with shape"):
        CascadeRuntime(LOCAL, Broken(answer)).score(UNCLEAR)


def test_a_model_that_is_no_cascade_is_refused() -> None:
    with pytest.raises(BundleError, match="no cascade"):
        CascadeRuntime(Runtime(linear_model([1.0, 1.0], 0.0)), Server())


def test_what_the_manifest_says_survives_json() -> None:
    told = Cascade("a", "b", 0.01, 1.0, 0.005, 0.01, 0.97, 0.96, [StageTimes(1, 5.0, 30.0, 6.0)])
    assert msgspec.json.decode(msgspec.json.encode(told), type=Cascade) == told
    assert bundle.Manifest.__struct_fields__[-1] == "cascade"
