"""Which transaction ids were seen before, in eight bytes an id."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]


class SeenIds:
    """A set of 64-bit hashes kept as a few sorted arrays of growing size (a log-structured merge).

    Two different ids of a file of a hundred million share a hash with a probability of 0.0003; the second would be
    taken for a duplicate, and is in the rejects file.

    >>> seen = SeenIds()
    >>> seen.repeated(np.array([7, 8, 7], dtype=np.uint64)), seen.repeated(np.array([8, 9], dtype=np.uint64))
    (array([False, False,  True]), array([ True, False]))
    """

    def __init__(self) -> None:
        self._runs: list[Hashes] = []

    def repeated(self, hashes: Hashes) -> NDArray[np.bool_]:
        """True where a hash occurred before, in this array or an earlier one; remembers them all."""
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        again = np.zeros(len(hashes), dtype=bool)
        again[1:] = ordered[1:] == ordered[:-1]
        for run in self._runs:
            again |= run[np.minimum(np.searchsorted(run, ordered), len(run) - 1)] == ordered
        self._add(ordered[~again])
        repeated = np.empty_like(again)
        repeated[order] = again
        return repeated

    def _add(self, run: Hashes) -> None:
        if not len(run):
            return
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # two sorted runs: one merge
        self._runs.append(run)
