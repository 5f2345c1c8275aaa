"""Events of many lanes in order of time, and which of them a window sees."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Values = NDArray[Any]

KEY_LIMIT = 2**62
CHUNK = 1 << 20  # positions looked at in one go


class Sight:
    """Events sorted by (lane, time). ``order`` are their places before; ``None`` when they were sorted already."""

    def __init__(self, lanes: Ints, times: Ints, number: int) -> None:
        self.order: Ints | None = None
        self._only = number == 1  # all in one lane: their times are in order
        if self._only:
            if (times[1:] < times[:-1]).any():
                self.order = np.argsort(times, kind="stable")
                lanes, times = lanes[self.order], times[self.order]
            self.lanes, self.times = lanes, times
            return
        back = lanes[1:] < lanes[:-1]
        if (back | ((times[1:] < times[:-1]) & (lanes[1:] == lanes[:-1]))).any():
            self.order = np.lexsort((times, lanes))
            lanes, times = lanes[self.order], times[self.order]
        self.lanes, self.times = lanes, times
        low, high = (int(times.min()), int(times.max())) if len(times) else (0, 0)
        self._low, self._high = low, high
        self._ranks: Ints | None = None
        self._span = high - low + 2
        if number * self._span < KEY_LIMIT:
            self._keys = lanes * self._span + (times - low)
        else:  # a broken clock: ranks of times instead of times
            self._ranks = np.unique(times)
            self._span = len(self._ranks) + 1
            self._keys = lanes * self._span + np.searchsorted(self._ranks, times)

    def find(self, lanes: Ints, times: Ints) -> Ints:
        """For each (lane, time) the place of the lane's first event at or after that time."""
        if self._only:
            found: Ints = np.searchsorted(self.times, times)
            return found
        if self._ranks is None:
            offsets = np.minimum(np.maximum(times, self._low), self._high + 1) - self._low
        else:
            offsets = np.searchsorted(self._ranks, times)
        places: Ints = np.searchsorted(self._keys, lanes * self._span + offsets)
        return places

    def sort(self, values: Values) -> Values:
        """Values of the events, brought into this order."""
        return values if self.order is None else values[self.order]


def running(values: Values) -> Values:
    """Sums of the first 0, 1, ... n values (modulo 2^64 for integers of 64 bits)."""
    sums = np.zeros(len(values) + 1, values.dtype)
    np.add.accumulate(values, out=sums[1:])
    return sums


def reduce(function: np.ufunc, values: Values, first: Ints, until: Ints, empty: Any) -> Values:
    """A function over each slice ``[first, until)``, ``empty`` of none."""
    if len(first) == 1:  # a single transaction: two calls of NumPy less
        part = values[int(first[0]) : int(until[0])]
        return np.array([function.reduce(part) if len(part) else empty])
    if not len(first):
        return values[:0]
    edges = np.empty(2 * len(first), np.int64)
    edges[0::2], edges[1::2] = first, until
    padded = np.concatenate([values, np.zeros(1, values.dtype)])  # a slice may begin at the end
    return np.where(first < until, function.reduceat(padded, edges)[0::2], empty)


def parts(first: Ints, until: Ints) -> list[slice]:
    """Cut slices into runs that together have not much more than :data:`CHUNK` positions."""
    total = np.cumsum(until - first)
    if not len(total) or total[-1] <= CHUNK:
        return [slice(0, len(first))]
    cuts = np.searchsorted(total, np.arange(CHUNK, int(total[-1]), CHUNK)) + 1
    edges = np.unique(np.concatenate([[0], cuts, [len(first)]])).tolist()
    return [slice(a, b) for a, b in pairwise(edges)]


def spread(first: Ints, until: Ints) -> tuple[Ints, Ints]:
    """All positions in slices, and for each the number of its slice."""
    lengths = until - first
    owner = np.repeat(np.arange(len(first)), lengths)
    starts = np.cumsum(lengths) - lengths
    return np.arange(len(owner)) - starts[owner] + first[owner], owner


def previous(lanes: Ints, values: Values) -> Ints:
    """For each event, sorted by lane, the place of the one before with the same value in the same lane, or -1."""
    order = np.lexsort((values, lanes))  # stable: equal ones stay in order of time
    same = (values[order[1:]] == values[order[:-1]]) & (lanes[order[1:]] == lanes[order[:-1]])
    found = np.full(len(lanes), -1, np.int64)
    found[order[1:][same]] = order[:-1][same]
    return found


def distinct(before: Ints, first: Ints, until: Ints) -> Ints:
    """How many different values there are in each slice; ``before`` as :func:`previous` tells."""
    found = np.zeros(len(first), np.int64)
    for part in parts(first, until):
        start = first[part]
        places, owner = spread(start, until[part])
        fresh = before[places] < start[owner]
        found[part] = np.bincount(owner, fresh, minlength=len(start)).astype(np.int64)
    return found
