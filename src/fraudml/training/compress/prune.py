"""Prune trees so that no score moves by more than a tolerance, whatever the input.

A subtree becomes one leaf, half-way between its least and greatest leaf: that moves its tree's value by at most half
their difference. A row takes one way through each tree, so the sum over trees of each tree's largest such move bounds
how far any row's margin moves. The rest of the graph turns the sum of the trees into the score and rises with it;
from it follows how large that bound may be (:func:`largest_move`).

Which subtrees: in each tree, all within some move. The removed nodes as a function of that move are a staircase; its
upper hull is taken piece by piece, over all trees in order of nodes removed per move, until the bound is used up.
That is the greedy solution of a knapsack, short of the best by less than one piece.

The worst case is far from what is seen: a row that meets the largest move in every tree at once, all in one
direction. So a model gets less small than a tolerance that is only measured would allow, but the promise holds on
data that nobody has seen yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fraudml.errors import BundleError, ConfigError
from fraudml.models.runtime import INPUT, PROBABILITY, Runtime
from fraudml.training.compress import forest, observed
from fraudml.training.families import _onnx
from fraudml.training.families.base import Matrix

if TYPE_CHECKING:
    import onnx

GRID = 20_000  # sums of trees at which the score is looked at, evenly; and scores at whose sums it is
ROUNDING = 1e-3  # of the tolerance is left for float32 sums
STEPS = 40  # of a bisection


@dataclass(frozen=True)
class Pruned:
    """The smaller model, and its ``nodes`` and ``trees`` before and after; ``bound``: the most that a score moves."""

    model: bytes
    nodes: tuple[int, int]
    trees: tuple[int, int]
    bound: float


def is_forest(model: bytes) -> bool:
    """Whether a serialised model has trees."""
    import onnx

    return any(node.op_type == "TreeEnsemble" for node in onnx.load_from_string(model).graph.node)


def prune(model: bytes, tolerance: float, *, history: Matrix | None = None) -> Pruned:
    """A model whose scores differ from those of ``model`` by at most ``tolerance``, up to float32 rounding: for any
    input, or, smaller, for the inputs of ``history`` (float32 ``[n, k]``), see :mod:`...compress.observed`.

    Raises ConfigError when the model is not one ensemble of trees and what follows it.
    """
    import onnx

    if not 0 < tolerance < 1:
        raise ConfigError(f"the tolerance is a difference of probabilities, between 0 and 1; not {tolerance:g}")
    document = onnx.load_from_string(model)
    node, tail = _parts(document)
    found = forest.read(node)
    low, high = found.leaf_ranges()
    count = found.levels[1]
    span = (float(low[:count].sum()), float(high[:count].sum()))
    curve = _Curve(tail, span)
    if history is None:
        half = (high - low) / 2
        moves = _moves(found, half, curve.budget(tolerance * (1 - ROUNDING)))
        leaf, value = found.inner & (half <= moves[found.tree]), (low + high) / 2
    else:
        rows = history[observed.telling(Runtime(model).score(history))]
        leaf, value = observed.collapse(found, rows, tolerance, curve.points)
    moves = np.zeros(count)
    np.maximum.at(moves, found.tree, np.where(leaf, np.maximum(high - value, value - low), 0))
    trees = found.collapsed(leaf, value)
    _replace(document, node, _onnx.tree_sum_node(trees, found.comparison, node.output[0]))
    onnx.checker.check_model(document)
    return Pruned(
        model=document.SerializeToString(deterministic=True),
        nodes=(len(found.tree), sum(len(tree.value) for tree in trees)),
        trees=(count, len(trees)),
        bound=curve.largest_move(float(moves.sum())),
    )


def _parts(document: onnx.ModelProto) -> tuple[onnx.NodeProto, bytes]:
    """The node with the trees, and the rest of the graph as a model from their sum to the probability."""
    import onnx

    ensembles = [node for node in document.graph.node if node.op_type == "TreeEnsemble"]
    others = [node for node in document.graph.node if node.op_type != "TreeEnsemble"]
    if not ensembles:
        raise ConfigError("--tolerance prunes trees and this model has none; use --weights float16 or --features N")
    if len(ensembles) > 1 or any(INPUT in node.input for node in others):
        raise ConfigError(
            "--tolerance prunes a model that is one ensemble of trees (xgboost, random_forest); this one has other "
            "parts that read the features: use --features N"
        )
    tail = onnx.ModelProto()
    tail.CopyFrom(document)
    del tail.graph.node[:], tail.graph.input[:], tail.graph.output[:]
    tail.graph.node.extend(others)
    sums, scores = ensembles[0].output[0], next(o for o in document.graph.output if o.name == PROBABILITY)
    tail.graph.input.append(onnx.helper.make_tensor_value_info(sums, onnx.TensorProto.FLOAT, ["n", 1]))
    tail.graph.output.append(scores)
    return ensembles[0], tail.SerializeToString()


class _Curve:
    """The score as a function of the sum of the trees, which lies between the two numbers of ``span``."""

    def __init__(self, tail: bytes, span: tuple[float, float]) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(tail, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._low, self._high = span
        evenly = np.linspace(*span, GRID)
        scores = self._at(evenly)
        steep = np.interp(np.linspace(scores[0], scores[-1], GRID), scores, evenly)  # else few points would be there
        self._sums = np.union1d(evenly, steep)
        self._scores = self._at(self._sums)
        if not np.all(np.diff(self._scores) >= -1e-6):
            raise BundleError("the score of this model does not rise with the sum of its trees; it cannot be pruned")

    @property
    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums of the trees and their scores, both rising, float64 ``[g]`` each."""
        return self._sums, self._scores

    def largest_move(self, shift: float) -> float:
        """The most that a score moves when the sum moves by up to ``shift`` and stays within the span.

        Between two points of the grid the sum is at least the lower and at most the upper, and the score rises with
        it: the score of the upper one moved up, less that of the lower one, is no less than any move in between.
        """
        if shift <= 0:
            return 0.0
        moved = self._at(np.minimum(self._sums + shift, self._high))
        return float((moved[1:] - self._scores[:-1]).max())

    def budget(self, tolerance: float) -> float:
        """The largest shift of the sum that moves no score by more than ``tolerance``."""
        low, high = 0.0, self._high - self._low
        if self.largest_move(high) <= tolerance:
            return high
        for _ in range(STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.largest_move(middle) <= tolerance else (low, middle)
        return low

    def _at(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        (scores,) = self._session.run([PROBABILITY], {self._input: sums.astype(np.float32)[:, None]})
        return np.asarray(scores, np.float64).reshape(-1)


def _moves(found: forest.Forest, half: NDArray[np.float64], budget: float) -> NDArray[np.float64]:
    """How far the value of each tree may move, float64 ``[trees]``; they add up to at most ``budget``.

    ``half``: half the difference of the leaves below each node, ``[m]``.
    """
    count = found.levels[1]
    inner = np.flatnonzero(found.inner)
    inner = inner[np.lexsort((half[inner], found.tree[inner]))]
    starts = np.searchsorted(found.tree[inner], np.arange(1, count))
    pieces = []
    for tree, nodes in enumerate(np.split(inner, starts)):
        corners = _hull(half[nodes])
        pieces += [(_slope(a, b), tree, a[0], b[0]) for a, b in pairwise(corners)]
    moves = np.zeros(count)
    left = budget
    for _, tree, start, end in sorted(pieces, key=lambda piece: -piece[0]):
        step = min(end - start, left)
        moves[tree] = start + step
        left -= step
        if left <= 0:
            break
    return moves


def _hull(moves: NDArray[np.float64]) -> list[tuple[float, int]]:
    """Corners of the upper hull of ``(move, nodes removed by it)``, from (0, 0); ``moves`` rise.

    >>> _hull(np.array([0.0, 1.0, 1.5, 4.0]))
    [(0.0, 1), (1.5, 3), (4.0, 4)]
    """
    values = np.unique(np.append(moves, 0.0))
    corners: list[tuple[float, int]] = []
    for point in zip(values.tolist(), np.searchsorted(moves, values, "right").tolist(), strict=True):
        while len(corners) > 1 and _slope(corners[-2], corners[-1]) <= _slope(corners[-1], point):
            corners.pop()
        corners.append(point)
    return corners


def _slope(one: tuple[float, int], other: tuple[float, int]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def _replace(document: onnx.ModelProto, node: onnx.NodeProto, by: onnx.NodeProto) -> None:
    place = next(i for i, each in enumerate(document.graph.node) if each.op_type == node.op_type)
    document.graph.node.remove(document.graph.node[place])
    document.graph.node.insert(place, by)
