"""From a score to an action."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.record import TOUCHES_SCORE, Action, Degradation
from fraudml.errors import ConfigError
from fraudml.models.bundle import Thresholds


class WhenDegraded(StrEnum):
    """What a score is worth that was made without history."""

    open = "open"  # it counts as it is: fraud may slip through, customers notice nothing
    closed = "closed"  # nothing is approved on it: what would be approved is reviewed


class Policy(msgspec.Struct, frozen=True):
    """Thresholds on the calibrated probability: from ``review`` on a case is reviewed, from ``decline`` on
    declined; a threshold above 1 means never. A transaction without a score is always reviewed.

    >>> policy = Policy(review=0.2, decline=0.9)
    >>> [policy.action(score) for score in (0.1, 0.2, 0.95, None)]
    [<Action.approve: 'approve'>, <Action.review: 'review'>, <Action.decline: 'decline'>, <Action.review: 'review'>]
    """

    review: float
    decline: float
    when_degraded: WhenDegraded = WhenDegraded.open

    def __post_init__(self) -> None:
        if math.isnan(self.review) or math.isnan(self.decline) or not 0 <= self.review <= self.decline:
            raise ConfigError(
                f"thresholds need 0 <= review <= decline, not review {self.review} and decline {self.decline}"
            )

    @classmethod
    def of(cls, thresholds: Thresholds, when_degraded: WhenDegraded = WhenDegraded.open) -> Policy:
        """The policy of a bundle's thresholds."""
        return cls(thresholds.review, thresholds.decline, when_degraded)

    def action(self, score: float | None, degraded: Sequence[Degradation] = ()) -> Action:
        """The action for a score, given what was degraded while it was made; what does not touch scores is ignored."""
        if score is None:
            return Action.review
        if score >= self.decline:
            return Action.decline
        if score >= self.review:
            return Action.review
        if degraded and self.when_degraded is WhenDegraded.closed and not TOUCHES_SCORE.isdisjoint(degraded):
            return Action.review
        return Action.approve

    def levels(self, scores: NDArray[np.float64]) -> NDArray[np.int8]:
        """The action for each score (NaN for none) as its place in :class:`Action`: 0 approve, 1 review, 2 decline.

        >>> Policy(review=0.2, decline=0.9).levels(np.array([0.1, 0.2, 0.95, np.nan])).tolist()
        [0, 1, 2, 1]
        """
        reviewed = (scores >= self.review) | np.isnan(scores)
        return reviewed.astype(np.int8) + (scores >= self.decline).astype(np.int8)

    def overridden(self, *, review: float | None = None, decline: float | None = None) -> Policy:
        """The same policy with other thresholds (``None`` keeps one); raises ConfigError when they cross."""
        return Policy(
            self.review if review is None else review,
            self.decline if decline is None else decline,
            self.when_degraded,
        )
