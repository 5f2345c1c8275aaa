"""Prune trees as far as the inputs of history allow: no score of theirs moves by more than a tolerance.

Each row may move the sum of the trees up and down by what keeps its score within the tolerance: much where the score
is near 0, as most are, little where decisions are made. A subtree may become one leaf if there is a value for which
all rows that come there stay within their allowances, given what other subtrees have used of them; of those values
the one nearest to the rows' mean is taken. Subtrees are tried in order of the share of the allowances that each would
use alone, per node that it removes.

There is no promise for inputs unlike those of history; what unseen rows do is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraudml.training.compress.forest import Forest
from fraudml.training.families.base import Matrix

MOST_ROWS = 60_000  # looked at: half of them those with the highest scores, which allow least
MARGIN = 0.98  # of an allowance is used; the rest is for interpolation and float32


@dataclass(frozen=True)
class Allowances:
    """How far the sum of the trees may rise and fall for each row, float64 ``[n]`` each, both positive."""

    up: NDArray[np.float64]
    down: NDArray[np.float64]

    @classmethod
    def within(
        cls, tolerance: float, sums: NDArray[np.float64], grid: NDArray[np.float64], scores: NDArray[np.float64]
    ) -> Allowances:
        """Of rows with these ``sums``; ``scores`` are those of the sums ``grid``, both rising."""
        rising = np.append(True, np.diff(scores) > 0)
        grid, scores = grid[rising], scores[rising]
        now = np.interp(sums, grid, scores)
        up = np.interp(now + tolerance, scores, grid) - sums
        down = sums - np.interp(now - tolerance, scores, grid)
        return cls(np.maximum(up, 0) * MARGIN, np.maximum(down, 0) * MARGIN)


def telling(scores: NDArray[np.float64], most: int = MOST_ROWS) -> NDArray[np.int64]:
    """The rows to look at: those with the highest scores, and others at random."""
    if len(scores) <= most:
        return np.arange(len(scores))
    ranked = np.argsort(-scores, kind="stable")
    others = np.random.default_rng(0).choice(ranked[most // 2 :], most - most // 2, replace=False)
    return np.concatenate([ranked[: most // 2], others])


def collapse(
    found: Forest, inputs: Matrix, tolerance: float, curve: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which nodes become leaves, bool ``[m]``, and the value of each node as a leaf, float64 ``[m]``.

    ``curve``: sums of the trees and the scores that they give, both rising.
    """
    rows = _Rows(found, inputs)
    allowed = Allowances.within(tolerance, rows.sums(), *curve)
    low, high = found.leaf_ranges()
    value, leaf = (low + high) / 2, np.zeros(len(found.tree), dtype=np.bool_)
    tightest = np.minimum(allowed.up, allowed.down)
    used = np.zeros(len(inputs))
    inner = np.flatnonzero(found.inner)
    alone = np.array([rows.share_used(node, tightest) for node in inner.tolist()]) / found.inner_below()[inner]
    for node in inner[np.argsort(alone, kind="stable")].tolist():
        some, now = rows.of(node)
        if len(some):
            least = float((now - used[some] - allowed.down[some]).max())
            most = float((now - used[some] + allowed.up[some]).min())
            if least > most:
                continue
            value[node] = min(max(float(now.mean()), least), most)
            used[some] += value[node] - now
            now[:] = value[node]
        leaf[node] = True
    return leaf, value


class _Rows:
    """Which rows come to each node, and what each row's tree adds for it at the moment.

    The rows of a tree are in the order of its leaves, from left to right: those of any node are a slice.
    """

    def __init__(self, found: Forest, inputs: Matrix) -> None:
        count = found.levels[1]
        self._tree = found.tree
        self._order = np.tile(np.arange(len(inputs), dtype=np.int32), (count, 1))
        self._values = np.zeros((count, len(inputs)))
        self._start = np.zeros(len(found.tree), dtype=np.int64)
        self._end = np.full(len(found.tree), len(inputs))
        for node in range(len(found.tree)):  # a parent comes before its children
            rows = self._order[found.tree[node], self._start[node] : self._end[node]]
            if found.if_true[node] < 0:
                self._values[found.tree[node], self._start[node] : self._end[node]] = found.value[node]
                continue
            goes = found.goes_to_true(node, inputs[rows, found.feature[node]])
            rows[:] = np.concatenate([rows[goes], rows[~goes]])
            left, right = found.if_true[node], found.if_false[node]
            self._start[left], self._end[right] = self._start[node], self._end[node]
            self._end[left] = self._start[right] = self._start[node] + np.count_nonzero(goes)

    def sums(self) -> NDArray[np.float64]:
        """The sum of the trees for each row, float64 ``[n]``."""
        total = np.zeros(self._order.shape[1])
        for order, values in zip(self._order, self._values, strict=True):
            total[order] += values
        return total

    def of(self, node: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The numbers of a node's rows, and a view of their values in its tree."""
        part = slice(self._start[node], self._end[node])
        return self._order[self._tree[node], part], self._values[self._tree[node], part]

    def share_used(self, node: int, allowed: NDArray[np.float64]) -> float:
        """The largest share of its allowance that a row would use if the node were a leaf of its rows' mean."""
        some, now = self.of(node)
        if not len(some):
            return 0.0
        return float((np.abs(now - now.mean()) / np.maximum(allowed[some], 1e-12)).max())
