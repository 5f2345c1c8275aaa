"""Weights in fewer bits: smaller files, nearly the same scores, and each row scored by itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from fraudml.errors import ConfigError
from fraudml.models.runtime import Runtime
from fraudml.training.calibrate import Calibrator
from fraudml.training.compress.weights import Weights, shrink
from fraudml.training.export import export
from fraudml.training.families import get_family
from tests.support.graphs import boosted, perceptron, random_tree

MOVES = {Weights.float16: 0.001, Weights.int8: 0.02}
SIZES = {Weights.float16: 0.62, Weights.int8: 0.42}


def inputs(width: int = 20, rows: int = 500) -> np.ndarray:
    found = np.random.default_rng(1).normal(size=(rows, width)).astype(np.float32)
    found[::7, 3] = np.nan
    return found


@pytest.mark.parametrize("weights", Weights)
def test_a_perceptron(weights: Weights) -> None:
    model = perceptron()
    made = shrink(model, weights)
    assert len(shrink(perceptron(200, 200), weights)) < SIZES[weights] * len(perceptron(200, 200))
    rows = inputs()
    before, after = Runtime(model).score(rows), Runtime(made).score(rows)
    assert 0 < np.abs(before - after).max() < MOVES[weights]
    assert len(made) < len(model)


@pytest.mark.parametrize("weights", Weights)
def test_a_score_does_not_depend_on_the_rows_beside_it(weights: Weights) -> None:
    runtime = Runtime(shrink(perceptron(), weights))
    rows = inputs(rows=40)
    alone = np.concatenate([runtime.score(rows[[i]]) for i in range(len(rows))])
    rows[0] *= 1e4
    np.testing.assert_allclose(runtime.score(rows)[1:], alone[1:], atol=1e-6)


@pytest.mark.parametrize("weights", Weights)
def test_logistic_regression(weights: Weights) -> None:
    x = inputs(rows=2_000)
    y = np.random.default_rng(2).random(2_000) < 1 / (1 + np.exp(3 - 2 * x[:, 0]))
    names = [f"f{i}" for i in range(20)]
    fitted = get_family("logistic_regression").fit(x, y, feature_names=names)
    model = export(fitted, Calibrator(1.1, -0.1), names)
    made = shrink(model, weights)
    assert np.abs(Runtime(model).score(x) - Runtime(made).score(x)).max() < MOVES[weights]


@pytest.mark.parametrize("weights", Weights)
def test_only_matrices_are_stored_anew_and_twice_gives_the_same(weights: Weights) -> None:
    made = onnx.load_from_string(shrink(perceptron(), weights))
    kinds = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert kinds["bias"] == kinds["last_bias"] == TensorProto.FLOAT
    assert not {"first", "second"} & set(kinds)
    assert shrink(perceptron(), weights) == shrink(perceptron(), weights)


def test_what_float16_cannot_hold_stays() -> None:
    document = onnx.load_from_string(perceptron())
    large = next(tensor for tensor in document.graph.initializer if tensor.name == "first")
    large.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(large) * np.float32(1e6), "first"))
    made = onnx.load_from_string(shrink(document.SerializeToString(), Weights.float16))
    assert {"first", "second_float16"} <= {tensor.name for tensor in made.graph.initializer}


def test_int8_keeps_a_column_of_zeros() -> None:
    document = onnx.load_from_string(perceptron())
    tensor = next(tensor for tensor in document.graph.initializer if tensor.name == "first")
    values = numpy_helper.to_array(tensor).copy()
    values[:, 5] = 0
    tensor.CopyFrom(numpy_helper.from_array(values, "first"))
    made = shrink(document.SerializeToString(), Weights.int8)
    assert np.isfinite(Runtime(made).score(inputs())).all()


@pytest.mark.parametrize("weights", Weights)
def test_trees_have_no_weights(weights: Weights) -> None:
    model = boosted([random_tree(np.random.default_rng(0), 3, (-1, 1))])
    with pytest.raises(ConfigError, match=f"--weights {weights} is for models with weight matrices"):
        shrink(model, weights)
