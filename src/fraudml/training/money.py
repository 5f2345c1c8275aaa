"""Thresholds that cost the least money per day under a review capacity, and what they save.

Every transaction is approved, reviewed or declined by its score. With the scores sorted from the highest down,
the first ``i`` are declined, those up to ``j`` reviewed and the rest approved; the total cost is then a sum of a
part that depends on ``i`` and one that depends on ``j``, so the best pair is found by looking at all of them
(on a grid of at most 2,000 cuts) at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.decisions.policy import Policy
from fraudml.models.bundle import Thresholds
from fraudml.training.dataset import Dataset

DAY_US = 86_400_000_000
GRID = 2_000
NEVER = 1.1  # a threshold that no probability reaches
RESAMPLES = 1_000


@dataclass(frozen=True)
class Outcomes:
    """Cost of each action for each row, float64 ``[n]``, in whole currency units."""

    approve: NDArray[np.float64]
    review: NDArray[np.float64]
    decline: NDArray[np.float64]


def outcomes(data: Dataset, costs: Costs, decimals: int) -> Outcomes:
    """What each action would cost for each labelled row (see :class:`Costs`)."""
    amount = np.nan_to_num(np.abs(data.amount_minor) / 10.0**decimals, nan=costs.amount_without_column)
    fraud = data.y == 1
    loss = np.where(fraud, costs.fraud_loss_share * amount + costs.chargeback_fee, 0.0)
    return Outcomes(
        approve=loss,
        review=costs.review_cost + (1 - costs.review_finds) * loss,
        decline=np.where(fraud, 0.0, costs.margin_share * amount + costs.goodwill),
    )


def days(data: Dataset) -> float:
    """The length of the period in days, at least one."""
    return max(1.0, float(np.ptp(data.event_time_us)) / DAY_US)


def best_thresholds(data: Dataset, scores: NDArray[np.float64], costs: Costs, decimals: int) -> Thresholds:
    """The thresholds with the least total cost on this period under ``costs.reviews_per_day``."""
    cost = outcomes(data, costs, decimals)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # cuts only where the score changes: equal scores get equal actions
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(ranked)) + 1, [len(ranked)]])
    if len(cuts) > GRID:  # dense at the top, where decisions are made
        places = np.unique(np.geomspace(1, len(cuts), GRID).astype(np.int64) - 1)
        cuts = cuts[places]
    declined = np.concatenate([[0.0], np.cumsum((cost.decline - cost.review)[order])])[cuts]
    reviewed = np.concatenate([[0.0], np.cumsum((cost.review - cost.approve)[order])])[cuts]
    count = cuts[None, :] - cuts[:, None]
    allowed = (count >= 0) & (count <= costs.reviews_per_day * days(data))
    total = np.where(allowed, declined[:, None] + reviewed[None, :], np.inf)
    i, j = np.unravel_index(int(np.argmin(total)), total.shape)
    return Thresholds(review=_threshold(ranked, int(cuts[j])), decline=_threshold(ranked, int(cuts[i])))


def summary(
    data: Dataset,
    scores: NDArray[np.float64],
    thresholds: Thresholds,
    costs: Costs,
    decimals: int,
    *,
    seed: int,
) -> dict[str, float]:
    """Money per day on this period: losses by kind, and the saving against approving everything, with a 95 %
    interval from resampling days (percentile bootstrap)."""
    cost = outcomes(data, costs, decimals)
    action = Policy.of(thresholds).levels(scores)
    fraud = data.y == 1
    spent = np.choose(action, [cost.approve, cost.review, cost.decline])
    day = (data.event_time_us - data.event_time_us.min()) // DAY_US
    saved = np.bincount(day, weights=cost.approve - spent)
    span = days(data)
    resampled = np.random.default_rng(seed).integers(0, len(saved), size=(RESAMPLES, len(saved)))
    low, high = np.quantile(saved[resampled].sum(axis=1) / span, [0.025, 0.975])
    caught = cost.approve[fraud & (action > 0)].sum() / max(cost.approve.sum(), 1e-12)
    return {
        "fraud_loss_per_day": float(cost.approve[(action == 0)].sum() / span),
        "false_decline_cost_per_day": float(cost.decline[action == 2].sum() / span),
        "review_cost_per_day": float(cost.review[action == 1].sum() / span),
        "cost_per_day": float(spent.sum() / span),
        "cost_per_day_without_model": float(cost.approve.sum() / span),
        "saved_per_day": float(saved.sum() / span),
        "saved_per_day_low": float(low),
        "saved_per_day_high": float(high),
        "reviews_per_day": float((action == 1).sum() / span),
        "declines_per_day": float((action == 2).sum() / span),
        "false_declines_per_day": float(((action == 2) & ~fraud).sum() / span),
        "fraud_value_stopped_share": float(caught),
        "frauds_stopped_share": float((action[fraud] > 0).mean()) if fraud.any() else 0.0,
    }


def _threshold(ranked: NDArray[np.float64], cut: int) -> float:
    """A threshold that exactly the first ``cut`` scores reach: half-way to the next, so rounding cannot tip it."""
    if cut == 0:
        return NEVER
    if cut == len(ranked):
        return 0.0
    middle = float((ranked[cut - 1] + ranked[cut]) / 2)
    return middle if middle > ranked[cut] else float(ranked[cut - 1])  # there may be no number in between
