"""The runtime gives what the graph says, and errors that name the trouble."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from fraudml.errors import BundleError
from fraudml.models.runtime import ROWS_AT_ONCE, Runtime
from tests.support.bundles import linear_model

MODEL = linear_model([2.0, -1.0], 0.5)


def test_scores_and_log_odds_by_hand() -> None:
    rows = np.array([[1, 2], [0, 0], [np.nan, -1], [0.25, 1]], np.float32)
    runtime = Runtime(MODEL)
    assert runtime.log_odds(rows).tolist() == [0.5, 0.5, 1.5, 0.0]
    np.testing.assert_allclose(runtime.score(rows), 1 / (1 + np.exp([-0.5, -0.5, -1.5, 0.0])), atol=1e-6)
    assert runtime.score(rows).dtype == np.float64


def test_a_batch_of_none() -> None:
    assert Runtime(MODEL).score(np.empty((0, 2), np.float32)).shape == (0,)


def test_several_threads_score_the_same() -> None:
    rows = np.random.default_rng(0).normal(size=(5_000, 2)).astype(np.float32)
    runtime = Runtime(MODEL)
    alone = runtime.score(rows)
    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(runtime.score, [rows] * 8):
            np.testing.assert_array_equal(scores, alone)


@pytest.mark.parametrize("rows", [np.zeros((3, 3), np.float32), np.zeros((3, 2), np.float64), np.zeros(2, np.float32)])
def test_wrong_shapes_and_types_are_errors_of_the_bundle(rows: np.ndarray) -> None:
    with pytest.raises(BundleError, match="cannot score") as caught:
        Runtime(MODEL).score(rows)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [b"", b"nonsense", MODEL[: len(MODEL) // 2]])
def test_what_is_no_model(model: bytes) -> None:
    with pytest.raises(BundleError, match=r"ONNX Runtime cannot load|must read") as caught:
        Runtime(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("renamed", ["features", "margin", "probability"])
def test_the_names_of_inputs_and_outputs_are_fixed(renamed: str) -> None:
    model = onnx.load_from_string(MODEL)
    for node in model.graph.node:
        node.input[:] = [f"{name}_2" if name == renamed else name for name in node.input]
        node.output[:] = [f"{name}_2" if name == renamed else name for name in node.output]
    for value in [*model.graph.input, *model.graph.output]:
        if value.name == renamed:
            value.name = f"{renamed}_2"
    with pytest.raises(BundleError, match="must read 'features' and give 'probability' and 'margin'"):
        Runtime(model.SerializeToString())


def test_a_batch_larger_than_one_piece_scores_the_same() -> None:
    rows = np.random.default_rng(0).normal(size=(2 * ROWS_AT_ONCE + 1, 2)).astype(np.float32)
    runtime = Runtime(MODEL)
    alone = [runtime.score(rows[[i]])[0] for i in (0, ROWS_AT_ONCE - 1, ROWS_AT_ONCE, len(rows) - 1)]
    whole = runtime.score(rows)
    assert whole.shape == (len(rows),)
    np.testing.assert_allclose(whole[[0, ROWS_AT_ONCE - 1, ROWS_AT_ONCE, -1]], alone, rtol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-runtime.log_odds(rows))), whole, atol=1e-6)
