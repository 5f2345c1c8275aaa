"""How rows of each arm are spread over categories (actions, bins of scores), with honest sample sizes.

The rows of one entity are alike, so ``n`` rows are worth fewer independent ones. How many is measured by random
groups (Wolter 2007, chapter 2): entities are put into groups by hash; groups are independent whatever happens within
an entity, so the spread of their sums tells the true variance, in memory that does not grow. Counts are weighted by
``1 / share`` of the arm when the row was decided, so that a change of shares in mid-rollout does not compare the
traffic of one week with that of another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fraudml.monitoring.rollouts.kept import Kept

GROUPS = 256


class Mix(Kept):
    """Weighted counts by arm (0 champion, 1 challenger), group of entities and category."""

    KEPT = dict.fromkeys(("_sums", "_squares", "rows"), np.ndarray)

    def __init__(self, categories: int) -> None:
        self._sums = np.zeros((2, GROUPS, categories))
        self._squares = np.zeros(2)
        self.rows = np.zeros(2, np.int64)

    def add(
        self,
        challenger: NDArray[np.bool_],
        key: NDArray[np.int64],
        category: NDArray[np.int64],
        weight: NDArray[np.float64],
    ) -> None:
        """Count rows ``[n]``: arm, hash of the entity, category, ``1 / share``."""
        arm = challenger.astype(np.int64)
        # one after the other, not pairwise: the sums are the same however the stream is cut
        np.add.at(self._sums, (arm, key % GROUPS, category), weight)
        np.add.at(self._squares, arm, weight**2)
        self.rows += np.bincount(arm, minlength=2)

    def shares(self) -> NDArray[np.float64]:
        """Share of each category, float64 ``[2, categories]``; NaN for an arm without rows."""
        total = self._sums.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.asarray(total / total.sum(axis=1, keepdims=True))

    def effective(self) -> NDArray[np.float64]:
        """How many independent rows each arm's shares are worth, float64 ``[2]``: Kish's size for unequal weights,
        divided by the design effect of entities (Rao and Scott 1981), which is never taken to be below 1."""
        return np.array([self._effective(arm) for arm in (0, 1)])

    def _effective(self, arm: int) -> float:
        sums = self._sums[arm]
        total = sums.sum()
        if total == 0:
            return 0.0
        share = sums.sum(axis=0) / total
        independent = float((share * (1 - share)).sum()) * self._squares[arm]
        clustered = ((sums - sums.sum(axis=1, keepdims=True) * share) ** 2).sum()
        clustered *= GROUPS / (GROUPS - 1)
        effect = clustered / independent if independent > 0 else 1.0
        return float(total**2 / self._squares[arm] / max(1.0, effect))
