"""Pruned trees: no score moves by more than the tolerance, for any input or for those of history."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.errors import BundleError, ConfigError
from fraudml.models.runtime import Runtime
from fraudml.training.compress import forest
from fraudml.training.compress.prune import is_forest, prune
from fraudml.training.families import _onnx
from tests.support.bundles import linear_model
from tests.support.graphs import WIDTH, Comparison, boosted, perceptron, random_tree, value_of, voting

# Every way through trees whose thresholds are whole numbers from -3 to 3, missing values too.
EVERYWHERE = np.array(list(itertools.product([*np.arange(-3.5, 4, 0.5), np.nan], repeat=WIDTH)), np.float32)
ROUNDING = 1e-6
KINDS = {"boosted": (boosted, (-0.4, 0.4)), "voting": (voting, (0.0, 1.0))}


def trees(seed: int, leaves: tuple[float, float], count: int = 5, depth: int = 4) -> list[_onnx.Tree]:
    rng = np.random.default_rng(seed)
    return [random_tree(rng, depth, leaves) for _ in range(count)]


def ensemble(model: bytes) -> onnx.NodeProto:
    return next(node for node in onnx.load_from_string(model).graph.node if node.op_type == "TreeEnsemble")


@given(st.integers(0, 10_000), st.sampled_from(["<", ">"]))
@settings(max_examples=15)
def test_what_is_read_is_what_was_written(seed: int, comparison: Comparison) -> None:
    made = trees(seed, (-1, 1))
    found = forest.read(ensemble(boosted(made, comparison)))
    nothing = np.zeros(len(found.tree), np.bool_)
    again = found.collapsed(nothing, np.zeros(len(found.tree)))
    assert found.comparison == comparison
    for row in EVERYWHERE[:: len(EVERYWHERE) // 40]:
        expected = sum(value_of(tree, comparison, row) for tree in made) - 2
        assert sum(value_of(tree, comparison, row) for tree in again) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10_000), tolerance=st.sampled_from([1e-4, 1e-3, 0.01, 0.05, 0.2]))
@settings(max_examples=25)
def test_no_score_moves_by_more_than_the_tolerance_anywhere(kind: str, seed: int, tolerance: float) -> None:
    make, leaves = KINDS[kind]
    model = make(trees(seed, leaves))
    found = prune(model, tolerance)
    moved = np.abs(Runtime(found.model).score(EVERYWHERE) - Runtime(model).score(EVERYWHERE)).max()
    assert moved <= found.bound + ROUNDING
    assert found.bound <= tolerance
    assert found.nodes[1] <= found.nodes[0] + 2, "a lone leaf gets a root"


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_tolerance_leaves_less(kind: str) -> None:
    make, leaves = KINDS[kind]
    model = make(trees(1, leaves, count=20))
    nodes = [prune(model, tolerance).nodes[1] for tolerance in (1e-4, 1e-2, 0.1, 0.5)]
    assert nodes == sorted(nodes, reverse=True)
    assert nodes[-1] < nodes[0] / 2


def test_what_changes_nothing_goes_at_any_tolerance() -> None:
    one = random_tree(np.random.default_rng(4), 4, (0.25, 0.25))
    assert len(one.value) > 5
    model = boosted([one])
    found = prune(model, 1e-5)
    assert found.trees[1] == 1
    assert found.bound == 0
    np.testing.assert_allclose(Runtime(found.model).score(EVERYWHERE), Runtime(model).score(EVERYWHERE), atol=ROUNDING)


def test_the_rest_of_the_model_stays() -> None:
    model = voting(trees(2, (0, 1)))
    before, after = (onnx.load_from_string(each) for each in (model, prune(model, 0.01).model))
    assert [node.op_type for node in before.graph.node] == [node.op_type for node in after.graph.node]
    assert before.graph.initializer == after.graph.initializer
    assert before.opset_import == after.opset_import


def test_the_same_model_gives_the_same_bytes() -> None:
    model = boosted(trees(3, (-0.5, 0.5)))
    assert prune(model, 0.02).model == prune(model, 0.02).model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_the_scores_of_history_stay_within_the_tolerance(kind: str, seed: int) -> None:
    make, leaves = KINDS[kind]
    model = make(trees(seed, leaves, count=12))
    history = np.random.default_rng(seed).normal(size=(300, WIDTH)).astype(np.float32)
    history[::9, 1] = np.nan
    found = prune(model, 0.02, history=history)
    moved = np.abs(Runtime(found.model).score(history) - Runtime(model).score(history)).max()
    assert moved <= 0.02
    everywhere = np.abs(Runtime(found.model).score(EVERYWHERE) - Runtime(model).score(EVERYWHERE)).max()
    assert everywhere <= found.bound + ROUNDING, "the bound for any input is told all the same"
    assert found.nodes[1] < prune(model, 0.02).nodes[1]


def without_calibration(document: onnx.ModelProto) -> None:
    document.graph.node[-1].op_type = "Neg"


def with_two_forests(document: onnx.ModelProto) -> None:
    document.graph.node.insert(0, ensemble(boosted(trees(9, (0, 1)))))
    document.graph.node[0].output[0] = "other"


def averaged(document: onnx.ModelProto) -> None:
    next(a for a in document.graph.node[0].attribute if a.name == "aggregate_function").i = 0


def edited(change: Callable[[onnx.ModelProto], None]) -> bytes:
    document = onnx.load_from_string(boosted(trees(5, (-1, 1))))
    change(document)
    return bytes(document.SerializeToString())


def test_what_cannot_be_pruned_says_why() -> None:
    with pytest.raises(ConfigError, match="this model has none; use --weights float16"):
        prune(linear_model([1, 2, 3], 0), 0.01)
    with pytest.raises(ConfigError, match="one ensemble of trees"):
        prune(edited(with_two_forests), 0.01)
    with pytest.raises(BundleError, match="not of the kind that fraudml writes"):
        prune(edited(averaged), 0.01)
    with pytest.raises(BundleError, match="does not rise"):
        prune(edited(without_calibration), 0.01)
    for tolerance in (0, 1, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            prune(boosted(trees(5, (-1, 1))), tolerance)


def test_forests_are_told_from_others() -> None:
    assert is_forest(voting(trees(1, (0, 1))))
    assert not is_forest(perceptron())
