"""The trees of a ``TreeEnsemble`` node as arrays, and a node made of what is left of them.

What :mod:`fraudml.training.families._onnx` writes is read: one target, leaves added up, one kind of comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fraudml.errors import BundleError
from fraudml.training.families import _onnx

if TYPE_CHECKING:
    import onnx

_COMPARISONS: dict[int, Literal["<", ">"]] = {1: "<", 3: ">"}


@dataclass(frozen=True)
class Forest:
    """All trees in arrays over their ``m`` nodes, level by level: a child comes after its parent, roots come first.

    ``tree``: the number of each node's tree; the rest as in :class:`fraudml.training.families._onnx.Tree`.
    ``levels``: where each level begins, and ``m``.
    """

    tree: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float32]
    if_true: NDArray[np.int64]
    if_false: NDArray[np.int64]
    missing_is_true: NDArray[np.bool_]
    value: NDArray[np.float32]
    levels: list[int]
    comparison: Literal["<", ">"]

    @property
    def inner(self) -> NDArray[np.bool_]:
        """The nodes that compare, bool ``[m]``."""
        return self.if_true >= 0

    def leaf_ranges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The least and the greatest leaf below each node, float64 ``[m]`` each."""
        low, high = self.value.astype(np.float64), self.value.astype(np.float64)
        for nodes in self._levels_up():
            left, right = self.if_true[nodes], self.if_false[nodes]
            low[nodes] = np.minimum(low[left], low[right])
            high[nodes] = np.maximum(high[left], high[right])
        return low, high

    def inner_below(self) -> NDArray[np.int64]:
        """How many nodes that compare there are in the subtree of each node, itself included, int64 ``[m]``."""
        count = self.inner.astype(np.int64)
        for nodes in self._levels_up():
            count[nodes] += count[self.if_true[nodes]] + count[self.if_false[nodes]]
        return count

    def goes_to_true(self, node: int, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which values of its feature, float32 ``[n]``, a node sends to ``if_true``."""
        threshold = self.threshold[node]
        compared = values < threshold if self.comparison == "<" else values > threshold
        goes: NDArray[np.bool_] = compared | (np.isnan(values) & self.missing_is_true[node])
        return goes

    def collapsed(self, leaf: NDArray[np.bool_], value: NDArray[np.float64]) -> list[_onnx.Tree]:
        """The trees in which the nodes of ``leaf`` add their ``value`` and nothing is left below them.

        Trees of which one leaf is left are added up to one, the last.
        """
        inner = self.inner & ~leaf
        alive = np.zeros(len(self.tree), dtype=np.bool_)
        alive[: self.levels[1]] = True
        for start, end in pairwise(self.levels):
            nodes = start + np.flatnonzero(alive[start:end] & inner[start:end])
            alive[self.if_true[nodes]] = alive[self.if_false[nodes]] = True
        order = np.flatnonzero(alive)
        order = order[np.argsort(self.tree[order], kind="stable")]
        starts = np.flatnonzero(np.diff(self.tree[order], prepend=-1))
        number = np.zeros(len(self.tree), dtype=np.int64)  # of a node within its tree
        number[order] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
        values = np.where(leaf, value, self.value).astype(np.float32)
        trees, constant = [], 0.0
        for nodes in np.split(order, starts[1:]):
            if len(nodes) == 1:
                constant += float(values[nodes[0]])
                continue
            splits = inner[nodes]
            trees.append(
                _onnx.Tree(
                    feature=np.where(splits, self.feature[nodes], -1),
                    threshold=self.threshold[nodes],
                    if_true=np.where(splits, number[self.if_true[nodes]], -1),
                    if_false=np.where(splits, number[self.if_false[nodes]], -1),
                    missing_is_true=self.missing_is_true[nodes] & splits,
                    value=values[nodes],
                )
            )
        return [*trees, _onnx.constant_tree(constant)]

    def _levels_up(self) -> Iterator[NDArray[np.int64]]:
        """The nodes that compare, from the lowest level to the roots."""
        for start, end in reversed(list(pairwise(self.levels))):
            yield start + np.flatnonzero(self.inner[start:end])


def read(node: onnx.NodeProto) -> Forest:
    """The trees of a node; raises BundleError for an ensemble of another make."""
    from onnx import helper, numpy_helper

    found: dict[str, Any] = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    modes = set(numpy_helper.to_array(found["nodes_modes"]).tolist())
    usual = {"n_targets": 1, "aggregate_function": 1, "post_transform": 0}
    if len(modes) != 1 or not modes <= set(_COMPARISONS) or any(found.get(k, v) != v for k, v in usual.items()):
        raise BundleError("the trees of this model are not of the kind that fraudml writes; they cannot be pruned")
    splits = numpy_helper.to_array(found["nodes_splits"]).astype(np.float32)
    weights = numpy_helper.to_array(found["leaf_weights"]).astype(np.float32)
    count = len(splits)  # leaves are numbered after the inner nodes here
    children = [
        np.array(found[f"nodes_{side}nodeids"], np.int64) + count * np.array(found[f"nodes_{side}leafs"], np.int64)
        for side in ("true", "false")
    ]
    missing = np.array(found.get("nodes_missing_value_tracks_true") or [0] * count, np.bool_)
    roots = np.array(found["tree_roots"], np.int64)
    place, tree, if_true, if_false, levels = _by_level(roots, children[0], children[1])
    is_inner = place < count
    split_at, leaf_at = np.where(is_inner, place, 0), np.where(is_inner, 0, place - count)
    return Forest(
        tree=tree,
        feature=np.where(is_inner, np.array(found["nodes_featureids"], np.int64)[split_at], -1),
        threshold=np.where(is_inner, splits[split_at], 0).astype(np.float32),
        if_true=if_true,
        if_false=if_false,
        missing_is_true=is_inner & missing[split_at],
        value=np.where(is_inner, 0, weights[leaf_at]).astype(np.float32),
        levels=levels,
        comparison=_COMPARISONS[modes.pop()],
    )


def _by_level(
    roots: NDArray[np.int64], if_true: NDArray[np.int64], if_false: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], list[int]]:
    """Walk all trees at once: which node of the file each is, its tree, its children's new numbers (-1 at a leaf)."""
    places, trees, lefts, rights, levels = [], [], [], [], [0]
    place, tree = roots, np.arange(len(roots))
    while len(place):
        is_inner = place < len(if_true)
        begin, end = levels[-1], levels[-1] + len(place)
        first = end + 2 * (np.cumsum(is_inner) - 1)  # where the children of each inner node will be
        places.append(place)
        trees.append(tree)
        lefts.append(np.where(is_inner, first, -1))
        rights.append(np.where(is_inner, first + 1, -1))
        levels.append(end)
        if end - begin > len(if_true) + 2 * len(roots):
            raise BundleError("the trees of this model go round in circles; it is corrupt")
        inner = place[is_inner]
        place = np.stack([if_true[inner], if_false[inner]], axis=1).reshape(-1)
        tree = np.repeat(tree[is_inner], 2)
    return np.concatenate(places), np.concatenate(trees), np.concatenate(lefts), np.concatenate(rights), levels
