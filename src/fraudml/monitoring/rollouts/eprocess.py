"""Two test martingales for rare failures of model calls, valid at any stopping time.

An e-process has expectation at most 1 at any stopping time while its hypothesis holds, so the chance that it ever
reaches ``1 / alpha`` is at most ``alpha`` (Ville's inequality; Ramdas, Grünwald, Vovk and Shafer 2023). Both are
mixtures of likelihood ratios, exact for Bernoulli calls however rare the failures:

- ``absolute``: "the challenger fails at most at the tolerated rate";
- ``relative``: "it fails at most as often as the champion *at the same time*", over blocks of consecutive rows with
  the safe 2x2 test of Turner, Ly and Grünwald (2024). The rate may differ from block to block: a stall or an outage
  that hits both arms is evidence against neither.

All rows of one call to a model fail or are slow together, so a row counts ``1 / batch``. By Hölder's inequality the
products stay e-values whatever the dependence within a call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraudml.monitoring.rollouts.kept import Kept

BLOCK = 50  # rows of both arms; the longest that a breach waits to be noticed
# Alternatives: rate of the challenger, its ratio to the champion's, weight. Most on "the champion has no such trouble".
_RELATIVE = np.array([(0.01, 1_000, 0.85), (0.01, 5, 0.05), (0.3, 5, 0.05), (0.8, 20, 0.05)])
_ABSOLUTE = np.array([2.0, 5.0, 20.0, 100.0, 1_000.0, 5_000.0])  # times the tolerated rate, as odds
_GOOD_CHAMPION, _BAD_CHAMPION, _GOOD_CHALLENGER, _BAD_CHALLENGER = range(4)


@dataclass(frozen=True)
class Evidence:
    """After each block that ended, arrays ``[blocks]``: the place of its last row, log e-values against "at most the
    tolerated rate" and "at most as often as the champion"; ``[blocks, 2]`` (champion, challenger): rows, calls and
    bad calls so far."""

    place: NDArray[np.int64]
    absolute: NDArray[np.float64]
    relative: NDArray[np.float64]
    rows: NDArray[np.int64]
    calls: NDArray[np.float64]
    bad: NDArray[np.float64]


class FailureRates(Kept):
    """Evidence that the challenger's rate is above ``tolerated`` and above the champion's.

    ``rows`` int64, ``calls`` and ``bad`` float64, all ``[2]`` (champion, challenger), are those of whole blocks.
    """

    KEPT = dict.fromkeys(("_absolute", "_relative", "_good", "_open", "_open_rows", "rows", "calls", "bad"), np.ndarray)

    def __init__(self, tolerated: float) -> None:
        odds = _ABSOLUTE * tolerated / (1 - tolerated)
        rate = odds / (1 + odds)
        self._terms = np.column_stack([np.log((1 - rate) / (1 - tolerated)), np.log(rate / tolerated)])
        self._absolute = np.full(len(rate), -math.log(len(rate)))
        self._relative = np.log(_RELATIVE[:, 2])
        self._good = np.zeros(2)
        self._open = np.zeros(4)
        self._open_rows = np.zeros(2, np.int64)
        self.rows = np.zeros(2, np.int64)
        self.calls = np.zeros(2)
        self.bad = np.zeros(2)

    def add(self, challenger: NDArray[np.bool_], bad: NDArray[np.bool_], batch: NDArray[np.int64]) -> Evidence:
        """Count rows ``[n]``; what the blocks that they end have shown."""
        already = int(self._open_rows.sum())
        block = (already + np.arange(len(bad))) // BLOCK
        whole = (already + len(bad)) // BLOCK
        # one after the other, not pairwise: the sums are the same however the stream is cut
        sums, rows = np.zeros((whole + 1, 4)), np.zeros((whole + 1, 2), np.int64)
        sums[0], rows[0] = self._open, self._open_rows
        np.add.at(sums, (block, np.where(challenger, _GOOD_CHALLENGER, _GOOD_CHAMPION) + bad), 1 / np.maximum(batch, 1))
        np.add.at(rows, (block, challenger.astype(np.int64)), 1)
        self._open, self._open_rows = sums[whole], rows[whole]
        sums = sums[:whole]
        good = running(self._good, sums[:, [_GOOD_CHAMPION, _GOOD_CHALLENGER]])
        bad_calls = running(self.bad, sums[:, [_BAD_CHAMPION, _BAD_CHALLENGER]])
        absolute = running(self._absolute, _likelihood(sums, self._terms))
        relative = running(self._relative, _comparison(sums))
        seen = Evidence(
            place=BLOCK * np.arange(1, whole + 1) - already - 1,
            absolute=np.logaddexp.reduce(absolute, axis=1),
            relative=np.logaddexp.reduce(relative, axis=1),
            rows=self.rows + np.cumsum(rows[:whole], axis=0),
            calls=good + bad_calls,
            bad=bad_calls,
        )
        if whole:
            self._absolute, self._relative = absolute[-1], relative[-1]
            self._good = good[-1]
            self.rows, self.calls, self.bad = seen.rows[-1], seen.calls[-1], seen.bad[-1]
        return seen


def running(start: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """``start`` ``[k]`` plus the steps ``[n, k]`` so far: ``[n, k]``, added one after the other."""
    return np.cumsum(np.vstack([start, steps]), axis=0)[1:]


def _likelihood(sums: NDArray[np.float64], terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log likelihood ratios of the challenger's calls, ``[blocks, alternatives]``."""
    good, bad = sums[:, [_GOOD_CHALLENGER]], sums[:, [_BAD_CHALLENGER]]
    return np.asarray(good * terms[:, 0] + bad * terms[:, 1])


def _comparison(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the safe 2x2 test's factors, ``[blocks, alternatives]``; a block with one arm only says nothing."""
    champion_good, champion_bad, good, bad = (sums[:, [kind]] for kind in range(4))
    calls, champion_calls = good + bad, champion_good + champion_bad
    rate = _RELATIVE[:, 0]
    champion_rate = rate / _RELATIVE[:, 1]
    pooled = (calls * rate + champion_calls * champion_rate) / (calls + champion_calls)
    factor = good * np.log((1 - rate) / (1 - pooled)) + bad * np.log(rate / pooled)
    factor += champion_good * np.log((1 - champion_rate) / (1 - pooled))
    factor += champion_bad * np.log(champion_rate / pooled)
    return np.where((calls > 0) & (champion_calls > 0), factor, 0.0)
