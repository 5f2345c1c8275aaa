"""Small models made by hand: trees with the two endings that fraudml writes, and a perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fraudml.training.families import _onnx

WIDTH = 3
Comparison = Literal["<", ">"]


def random_tree(rng: np.random.Generator, depth: int, leaves: tuple[float, float]) -> _onnx.Tree:
    """A tree that splits at random, down to ``depth`` at most, with thresholds that repeat and leaves in a range."""
    rows: list[list[float]] = []

    def grow(left: int) -> int:
        at = len(rows)
        if left == 0 or rng.random() < 0.2:
            rows.append([-1, 0, -1, -1, 0, rng.choice([rng.uniform(*leaves), leaves[0]])])
            return at
        rows.append([rng.integers(WIDTH), rng.integers(-3, 4), 0, 0, rng.random() < 0.5, 0])
        rows[at][2] = grow(left - 1)
        rows[at][3] = grow(left - 1)
        return at

    grow(depth)
    columns = np.array(rows).T
    return _onnx.Tree(
        feature=columns[0].astype(np.int64),
        threshold=columns[1].astype(np.float32),
        if_true=columns[2].astype(np.int64),
        if_false=columns[3].astype(np.int64),
        missing_is_true=columns[4].astype(np.bool_),
        value=columns[5].astype(np.float32),
    )


def value_of(tree: _onnx.Tree, comparison: Comparison, row: np.ndarray) -> float:
    """What a tree adds for one row, the obvious way."""
    node = 0
    while tree.if_true[node] >= 0:
        value, threshold = row[tree.feature[node]], tree.threshold[node]
        if np.isnan(value):
            goes = bool(tree.missing_is_true[node])
        else:
            goes = bool(value < threshold if comparison == "<" else value > threshold)
        node = int(tree.if_true[node] if goes else tree.if_false[node])
    return float(tree.value[node])


def boosted(trees: Sequence[_onnx.Tree], comparison: Comparison = "<", slope: float = 1.3) -> bytes:
    """Trees whose sum is the margin, calibrated."""
    node = _onnx.tree_sum_node([_onnx.constant_tree(-2.0), *trees], comparison, "sum")
    return _calibrated(_onnx.margin_model([node], {}, WIDTH), slope)


def voting(trees: Sequence[_onnx.Tree], comparison: Comparison = ">", slope: float = 0.8) -> bytes:
    """Trees whose leaves are shares between 0 and 1, as a random forest's: log-odds of the mean vote."""
    steps = [
        ("Sub", ["all_votes", "votes"], "against"),
        ("Log", ["votes"], "log_votes"),
        ("Log", ["against"], "log_against"),
        ("Sub", ["log_votes", "log_against"], "odds"),
    ]
    nodes = [
        _onnx.tree_sum_node([_onnx.constant_tree(0.05), *trees], comparison, "votes"),
        *(helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps),
    ]
    return _calibrated(_onnx.margin_model(nodes, {"all_votes": len(trees) + 1.0}, WIDTH), slope)


def perceptron(width: int = 20, hidden: int = 32, *, scale: float = 1.0, seed: int = 0) -> bytes:
    """Two layers, one by MatMul and one by Gemm; a missing value counts as 0."""
    rng = np.random.default_rng(seed)
    constants = {
        "zero": np.array(0, np.float32),
        "first": rng.normal(size=(width, hidden)).astype(np.float32) * scale,
        "bias": rng.normal(size=hidden).astype(np.float32),
        "second": rng.normal(size=(hidden, 1)).astype(np.float32) / hidden,
        "last_bias": np.array([-2], np.float32),
        "last_axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("IsNaN", ["features"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "features"], ["filled"]),
        helper.make_node("MatMul", ["filled", "first"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["moved"]),
        helper.make_node("Tanh", ["moved"], ["bent"]),
        helper.make_node("Gemm", ["bent", "second", "last_bias"], ["column"]),
        helper.make_node("Squeeze", ["column", "last_axis"], ["margin"]),
        helper.make_node("Sigmoid", ["margin"], ["probability"]),
    ]
    return _model(nodes, constants, width)


def _calibrated(model: onnx.ModelProto, slope: float) -> bytes:
    graph = model.graph
    graph.node[-1].output[0] = "uncalibrated"
    graph.initializer.append(numpy_helper.from_array(np.array(slope, np.float32), "slope"))
    graph.node.append(helper.make_node("Mul", ["uncalibrated", "slope"], ["margin"]))
    graph.node.append(helper.make_node("Sigmoid", ["margin"], ["probability"]))
    graph.output.append(helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n"]))
    return bytes(model.SerializeToString())


def _model(nodes: list[Any], constants: dict[str, np.ndarray], width: int) -> bytes:
    graph = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("probability", "margin")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())
