"""What the A/B report holds; JSON-able by msgspec."""

from __future__ import annotations

import msgspec

from fraudml.monitoring.rollouts.resampling import Interval
from fraudml.monitoring.rollouts.split import SplitCheck


class ArmCounts(msgspec.Struct, frozen=True):
    """Mature decisions of an arm. ``frauds``: known ones; ``defrauded``: groups of entities they are of (at most 256);
    ``unknown_declines``: whose label nobody can know. ``flagged_share``: reviewed or declined."""

    arm: str
    decisions: int
    frauds: int
    defrauded: int
    unknown_declines: int
    flagged_share: float | None


class Figure(msgspec.Struct, frozen=True):
    """One figure of both arms with 95 % intervals; ``difference``: challenger minus champion. ``concluded``: the
    interval of the difference leaves out 0. All None, with a ``note``, where it cannot be known."""

    name: str
    champion: Interval | None = None
    challenger: Interval | None = None
    difference: Interval | None = None
    concluded: bool = False
    note: str = ""


class Comparison(msgspec.Struct, frozen=True):
    """What a rollout has shown. Money is in currency units per 1,000 transactions.

    ``days``: of the mature events; ``reports``: label reports about either arm. ``figures``: ``recall_at_same_rate``
    (share of the frauds among the highest scores, as many as the champion flags), ``precision`` (share of frauds among
    what the arm flags), ``fraud_loss``, ``false_decline_cost``, ``review_cost``, ``total_cost``.
    """

    champion: ArmCounts
    challenger: ArmCounts
    split: SplitCheck
    days: float
    reports: int
    figures: list[Figure]
    conclusion: str = ""

    def figure(self, name: str) -> Figure:
        """The figure of that name."""
        return next(figure for figure in self.figures if figure.name == name)
