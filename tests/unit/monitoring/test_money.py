"""The cost of mistakes: as training counts it, weighted as exploration asks, and found when it grows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fraudml.decisions.costs import Costs
from fraudml.monitoring.rollouts.money import WARM_UP, CostCheck, false_decline_cost, fraud_loss
from fraudml.monitoring.rollouts.rows import Rows
from fraudml.training import money
from fraudml.training.dataset import Dataset
from tests.support.rollouts import World, labelled, simulate

COSTS = Costs(fraud_loss_share=0.8, chargeback_fee=10, margin_share=0.1, goodwill=2, review_cost=3, review_finds=0.8)


def test_costs_are_those_of_training() -> None:
    rows = simulate(5_000, 0)
    data = Dataset(
        np.zeros((5_000, 1), np.float32),
        rows.fraud.astype(np.int8),
        rows.event_time_us,
        rows.event_time_us,
        rows.amount * 100,
        rows.key,
    )
    cost = money.outcomes(data, COSTS, 2)
    spent = np.choose(rows.level, [cost.approve, cost.review, cost.decline])
    ours = fraud_loss(rows, COSTS) + false_decline_cost(rows, COSTS) + COSTS.review_cost * (rows.level == 1)
    assert ours == pytest.approx(spent)


def check(rows: Rows, limit: float = 0.0, alpha: float = 0.003) -> CostCheck:
    cost = CostCheck(Costs(), limit, alpha, 20)
    cost.observe(rows)
    cost.observe_labels(rows.take(labelled(rows)))
    return cost


def test_a_challenger_that_misses_more_fraud_is_found_and_one_that_may_is_not() -> None:
    rows = simulate(150_000, 1, World(share=0.5, per_entity=2, fault="blind"))
    breach = check(rows).breach
    assert breach is not None
    assert breach.status.challenger is not None
    assert breach.status.champion is not None
    assert breach.status.challenger > 1.3 * breach.status.champion
    assert check(rows, limit=2_000).breach is None


def test_labels_wait_for_the_amounts_that_say_what_is_usual() -> None:
    rows = simulate(4_000, 2, World(share=0.5))
    rows = replace(rows, fraud=np.where(np.arange(4_000) % 3 == 0, 1.0, 0.0))
    early, late = CostCheck(Costs(), 0.0, 0.003, 20), CostCheck(Costs(), 0.0, 0.003, 20)
    known = rows.take(slice(0, 300)), rows.take(slice(300, None))
    early.observe(known[0])
    early.observe_labels(known[0])
    assert early.status().challenger is None
    early.observe(known[1])
    early.observe_labels(known[1])
    late.observe(rows)
    late.observe_labels(rows)
    assert len(known[0]) < WARM_UP
    assert early.status() == late.status()


def test_weights_of_explored_declines_make_the_sum_honest() -> None:
    """Let through with probability a quarter: four times the cost of those that are known."""
    rows = simulate(60_000, 3, World(share=0.5, decline=0.31, review=0.3))
    rows = replace(rows, fraud=np.zeros(len(rows)))
    status = check(rows, limit=1e9).status()
    truth = false_decline_cost(rows.clipped(float(np.quantile(rows.amount, 0.95))), Costs())
    assert status.champion == pytest.approx(1_000 * truth[~rows.challenger].mean(), rel=0.25)
    assert status.challenger == pytest.approx(1_000 * truth[rows.challenger].mean(), rel=0.25)


def test_a_quiet_false_alarm_rate_where_losses_come_in_campaigns() -> None:
    alarms = sum(check(simulate(10_000, seed, World(share=0.5)), alpha=0.1).breach is not None for seed in range(150))
    assert alarms <= 150 * 0.1
