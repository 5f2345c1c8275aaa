"""The A/B report: two arms of a rollout compared on mature labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.monitoring.rollouts.conclusion import conclude
from fraudml.monitoring.rollouts.resampling import (
    ALL,
    CAUGHT,
    FALSE_DECLINES,
    FEWEST_GROUPS,
    FLAGGED,
    FRAUDS,
    JUDGED,
    LOSS,
    REVIEWS,
    ArmSums,
    Interval,
    Resampled,
    draw,
)
from fraudml.monitoring.rollouts.results import ArmCounts, Comparison, Figure
from fraudml.monitoring.rollouts.rows import DECLINE, Arms, Rows, read_all
from fraudml.monitoring.rollouts.split import Split

DAY_US = 86_400_000_000
# Each figure, and the sum that tells how many entities it rests on.
_RATES = {"recall_at_same_rate": FRAUDS, "precision": CAUGHT}
_MONEY = {"fraud_loss": LOSS, "false_decline_cost": FALSE_DECLINES, "review_cost": REVIEWS}
_ALWAYS_KNOWN = {"fraud_loss", "review_cost"}
UNKNOWN = "would-be declines were not let through (exploration), so whether they were right cannot be known"


@dataclass
class _Arm:
    """What is counted of one arm."""

    sums: ArmSums = field(default_factory=ArmSums)
    unknown_declines: int = 0

    def counts(self, arm: str) -> ArmCounts:
        """The counts of the arm of that name."""
        weight, flagged = self.sums.sums[:, [ALL, FLAGGED]].sum(axis=0)
        share = float(flagged / weight) if weight else None
        victims = self.sums.groups(FRAUDS)
        return ArmCounts(arm, self.sums.decisions, self.sums.frauds, victims, self.unknown_declines, share)


def compare(
    decisions: Iterable[pa.RecordBatch],
    labels: Iterable[pa.RecordBatch],
    arms: Arms,
    costs: Costs,
    decimals: int,
    *,
    mature_before_us: int,
    name: str = "The challenger",
) -> Comparison:
    """Compare the arms on the decisions about events before ``mature_before_us``.

    Both streams are in order of arrival. A mature decision without a report of fraud counts as genuine; of several
    reports the last one counts. A decline that exploration did not touch has no honest label: unless one was reported,
    what depends on it is not given. Memory holds the ids of frauds and a hash of each entity, no rows.
    """
    reported = _reported(labels, arms, costs, decimals)
    split, counted = Split(), (_Arm(), _Arm())
    first = mature_before_us
    for batch in decisions:
        outcomes = read_all(batch, arms, costs, decimals)
        split.add(outcomes.rows, ~outcomes.between(arms))
        rows, ids = outcomes.of(arms), outcomes.ids_of(arms)
        fraud = np.array([i in reported.frauds for i in ids], np.bool_)
        told = fraud | np.array([i in reported.genuine_declines for i in ids], np.bool_)
        unknown = _unexplored(rows) & ~told
        rows = replace(rows, fraud=fraud.astype(np.float64), label_weight=np.where(unknown, 0.0, rows.label_weight))
        mature = rows.event_time_us < mature_before_us
        first = min(first, int(rows.event_time_us[mature].min(initial=first)))
        for arm, count in enumerate(counted):
            mine = mature & (rows.challenger == bool(arm))
            count.sums.add(rows.take(mine), costs)
            count.unknown_declines += int((unknown & mine).sum())
    result = Comparison(
        champion=counted[0].counts(arms.champion),
        challenger=counted[1].counts(arms.challenger),
        split=split.check(),
        days=(mature_before_us - first) / DAY_US,
        reports=reported.number,
        figures=figures(counted[0].sums, counted[1].sums, known=not any(arm.unknown_declines for arm in counted)),
    )
    return msgspec.structs.replace(result, conclusion=conclude(result, name))


@dataclass
class _Reported:
    """What label reports say: ids of frauds, and of declines that were reported genuine without exploration."""

    frauds: set[str] = field(default_factory=set)
    genuine_declines: set[str] = field(default_factory=set)
    number: int = 0


def _reported(labels: Iterable[pa.RecordBatch], arms: Arms, costs: Costs, decimals: int) -> _Reported:
    """Read the reports; a later one about the same transaction replaces the earlier."""
    found = _Reported()
    for batch in labels:
        outcomes = read_all(batch, arms, costs, decimals)
        rows = outcomes.of(arms)
        unexplored = _unexplored(rows)
        for place, transaction_id in enumerate(outcomes.ids_of(arms)):
            found.frauds.discard(transaction_id)
            found.genuine_declines.discard(transaction_id)
            if rows.fraud[place] == 1:
                found.frauds.add(transaction_id)
            elif unexplored[place]:
                found.genuine_declines.add(transaction_id)
        found.number += len(rows)
    return found


def _unexplored(rows: Rows) -> NDArray[np.bool_]:
    return np.asarray((rows.level == DECLINE) & ~rows.explored)


def figures(champion: ArmSums, challenger: ArmSums, *, known: bool) -> list[Figure]:
    """All figures; those that need the labels of declines only where these are known."""
    both = (champion, challenger)
    drawn = [draw(seed) for seed in range(len(both))]
    ratios = [arm.figures(weights) for arm, weights in zip(both, drawn, strict=True)]
    money = {name: [1_000 * ratio(sums, ALL) for ratio in ratios] for name, sums in _MONEY.items()}
    rate = float(ratios[0](FLAGGED, ALL)[0])
    values = {
        "recall_at_same_rate": [arm.recall(weights, rate) for arm, weights in zip(both, drawn, strict=True)],
        "precision": [ratio(CAUGHT, JUDGED) for ratio in ratios],
        **money,
        "total_cost": [
            money["fraud_loss"][i] + money["false_decline_cost"][i] + money["review_cost"][i] for i in (0, 1)
        ],
    }
    found = []
    for name, sums in (_RATES | _MONEY | {"total_cost": LOSS}).items():
        if known or name in _ALWAYS_KNOWN:
            found.append(_figure(name, values[name], [arm.groups(sums) for arm in both]))
        else:
            found.append(Figure(name, note=UNKNOWN))
    return found


def _figure(name: str, values: list[Resampled], groups: list[int]) -> Figure:
    """A figure; ``groups``: of entities that it rests on in each arm."""
    difference = Interval.of(values[1] - values[0], min(groups))
    return Figure(
        name=name,
        champion=Interval.of(values[0], groups[0]),
        challenger=Interval.of(values[1], groups[1]),
        difference=difference,
        concluded=difference is not None and not difference.low <= 0 <= difference.high,
        note="" if difference else f"an arm has fewer than {FEWEST_GROUPS} entities with such transactions",
    )
