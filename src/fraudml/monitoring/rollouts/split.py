"""Sample ratio check: did entities fall to the arms as the shares say?

A split that is off (lost rows, an arm that crashes on some customers, a wrong hash) makes every comparison of the arms
worthless, however many rows there are (Fabijan et al. 2019).
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.monitoring.rollouts.rows import Rows

FLAG_BELOW = 0.001
FEWEST = 5  # expected in each arm; chi-square holds from there
_OTHER = 2


class SplitCheck(msgspec.Struct, frozen=True):
    """Entities of each arm, and what was expected of the challenger's; ``p_value``: None with too few entities."""

    champion: int
    challenger: int
    expected_challenger: float
    p_value: float | None
    flagged: bool


class Split:
    """Each entity once, where it was first seen: one draw with the share of that time, so shares may change.

    Entities first seen in the arm of another challenger are none of this comparison, wherever they go when shares
    change: they would all come to the arms that grow. So the rows of all arms are needed. Held are 24 bytes an entity,
    for a while three times that.
    """

    def __init__(self) -> None:
        self._seen = [np.zeros((0, 3), np.int64)]  # key, revision, arm: 0 champion, 1 challenger, 2 another
        self._held = 0
        self._shares: dict[int, dict[bool, float]] = {}

    def add(self, rows: Rows, others: NDArray[np.bool_] | None = None) -> None:
        """Count the entities of decisions, which come in order of arrival; ``others``: rows of other challengers."""
        arm = rows.challenger.astype(np.int64)
        if others is not None:
            arm[others] = _OTHER
        _, first = np.unique(rows.key, return_index=True)
        first.sort()
        self._seen.append(np.column_stack([rows.key[first], rows.revision[first], arm[first]]))
        self._held += len(first)
        for which in (False, True):
            mine = arm == which
            revisions, place = np.unique(rows.revision[mine], return_index=True)
            shares = rows.share[mine][place]
            for revision, share in zip(revisions.tolist(), shares.tolist(), strict=True):
                self._shares.setdefault(revision, {}).setdefault(which, share)
        if self._held > 2 * len(self._seen[0]) + 100_000:
            self._compact()

    def check(self) -> SplitCheck:
        """Chi-square of the entities that were new in each revision of the rollout, added up."""
        from scipy.special import chdtrc

        seen = self._compact()
        seen = seen[seen[:, 2] != _OTHER]
        statistic, freedom, expected_all = 0.0, 0, 0.0
        for revision, shares in self._shares.items():
            new = seen[seen[:, 1] == revision, 2]
            chance = _chance(shares)
            expected = len(new) * chance
            expected_all += expected
            if min(expected, len(new) - expected) >= FEWEST:
                statistic += (new.sum() - expected) ** 2 / (expected * (1 - chance))
                freedom += 1
        p_value = float(chdtrc(freedom, statistic)) if freedom else None
        challenger = int(seen[:, 2].sum())
        return SplitCheck(
            champion=len(seen) - challenger,
            challenger=challenger,
            expected_challenger=expected_all,
            p_value=p_value,
            flagged=p_value is not None and p_value < FLAG_BELOW,
        )

    def _compact(self) -> NDArray[np.int64]:
        """Forget all but the first sight of each entity."""
        seen = np.concatenate(self._seen)
        _, first = np.unique(seen[:, 0], return_index=True)
        self._seen, self._held = [seen[np.sort(first)]], len(first)
        return self._seen[0]


def _chance(shares: dict[bool, float]) -> float:
    """That an entity of either arm is the challenger's."""
    champion = shares.get(False, 1 - shares.get(True, 0.0))
    challenger = shares.get(True, 1 - champion)
    return challenger / (champion + challenger)
