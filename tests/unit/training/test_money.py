"""Thresholds against every pair there is, and money worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.decisions.policy import Policy
from fraudml.models.bundle import Thresholds
from fraudml.training import money
from fraudml.training.dataset import Dataset

DAY_US = 86_400_000_000
COSTS = Costs(
    fraud_loss_share=1.0,
    chargeback_fee=10,
    margin_share=0.1,
    goodwill=2,
    review_cost=3,
    review_finds=0.8,
    reviews_per_day=1,
)


def dataset(y: list[int], amounts: list[float], days: list[float] | None = None) -> Dataset:
    times = (np.array(days if days is not None else np.linspace(0, 1, len(y))) * DAY_US).astype(np.int64)
    entity = np.zeros(len(y), np.int64)
    return Dataset(np.zeros((len(y), 1), np.float32), np.array(y, np.int8), times, times, np.array(amounts), entity)


def cost_of(data: Dataset, actions: NDArray[np.int8], costs: Costs) -> float:
    """The total cost of these actions, row by row as the documentation of Costs says it."""
    total = 0.0
    for fraud, minor, action in zip(data.y == 1, data.amount_minor, actions, strict=True):
        amount = minor / 100
        loss = costs.fraud_loss_share * amount + costs.chargeback_fee if fraud else 0.0
        if action == 0:
            total += loss
        elif action == 1:
            total += costs.review_cost + (1 - costs.review_finds) * loss
        elif not fraud:
            total += costs.margin_share * amount + costs.goodwill
    return total


def levels(scores: NDArray[np.float64], thresholds: Thresholds) -> NDArray[np.int8]:
    return Policy(thresholds.review, thresholds.decline).levels(scores)


def test_outcomes_by_hand() -> None:
    cost = money.outcomes(dataset([1, 0], [10_000, 5_000]), COSTS, 2)
    assert cost.approve.tolist() == [110, 0]
    assert cost.review.tolist() == pytest.approx([3 + 0.2 * 110, 3])
    assert cost.decline.tolist() == [0, 0.1 * 50 + 2]


def test_a_refund_counts_with_its_size_and_no_amount_as_declared() -> None:
    cost = money.outcomes(dataset([1, 1], [-10_000, np.nan]), Costs(chargeback_fee=0, amount_without_column=7), 2)
    assert cost.approve.tolist() == [100, 7]


rows = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), st.integers(0, 50_000)),
    min_size=1,
    max_size=9,
)
some_costs = st.builds(
    Costs,
    chargeback_fee=st.floats(0, 50),
    goodwill=st.floats(0, 50),
    margin_share=st.floats(0, 1),
    review_cost=st.floats(0, 50),
    review_finds=st.floats(0, 1),
    reviews_per_day=st.sampled_from([0.0, 1.0, 2.0, 100.0]),
)


@given(rows, some_costs)
def test_no_pair_of_thresholds_is_cheaper(table: list[tuple[int, float, int]], costs: Costs) -> None:
    y, scores, amounts = (list(column) for column in zip(*table, strict=True))
    data = dataset(y, amounts)
    found = money.best_thresholds(data, np.array(scores), costs, 2)
    cuts = [*sorted(set(scores)), money.NEVER]
    cheapest = np.inf
    for review, decline in itertools.combinations_with_replacement(cuts, 2):
        actions = levels(np.array(scores), Thresholds(review, decline))
        if (actions == 1).sum() <= costs.reviews_per_day:  # the period is one day
            cheapest = min(cheapest, cost_of(data, actions, costs))
    actions = levels(np.array(scores), found)
    assert found.review <= found.decline
    assert (actions == 1).sum() <= costs.reviews_per_day
    assert cost_of(data, actions, costs) == pytest.approx(cheapest)


def test_a_long_period_has_thresholds_close_to_the_best_of_all() -> None:
    """Beyond 2,000 different scores only some cuts are looked at."""
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    y = (rng.random(20_000) < scores**8).astype(int)
    data = dataset(y.tolist(), rng.integers(100, 20_000, 20_000).tolist(), np.linspace(0, 100, 20_000).tolist())
    costs = Costs(reviews_per_day=0)
    found = levels(scores, money.best_thresholds(data, scores, costs, 2))
    declines = [levels(scores, Thresholds(t, t)) for t in np.linspace(0, 1, 300)]
    assert cost_of(data, found, costs) <= 1.002 * min(cost_of(data, actions, costs) for actions in declines)


def test_the_capacity_holds_per_day_of_the_period() -> None:
    data = dataset([1] * 40, [5_000] * 40, np.linspace(0, 10, 40).tolist())
    scores = np.linspace(0, 1, 40)
    costs = Costs(reviews_per_day=2, goodwill=0, margin_share=0, review_cost=0.0, review_finds=1)
    actions = levels(scores, money.best_thresholds(data, scores, costs, 2))
    assert (actions == 1).sum() <= 20


def test_thresholds_of_scores_without_a_number_in_between() -> None:
    high = np.nextafter(0.5, 1)
    data = dataset([1, 0], [100_000, 100_000])
    found = money.best_thresholds(data, np.array([high, 0.5]), Costs(reviews_per_day=0), 2)
    assert levels(np.array([high, 0.5]), found).tolist() == [2, 0]


def test_nothing_is_worth_declining() -> None:
    found = money.best_thresholds(dataset([0, 0], [100, 100]), np.array([0.9, 0.1]), COSTS, 2)
    assert found == Thresholds(money.NEVER, money.NEVER)
    assert levels(np.array([1.0]), found).tolist() == [0]


def test_summary_by_hand() -> None:
    """Two days; approved fraud 110, reviewed fraud 3 + 22, declined genuine 7, declined fraud 0."""
    data = dataset([1, 1, 0, 1, 0], [10_000, 10_000, 5_000, 20_000, 900], [0, 0.5, 1, 1.5, 2])
    scores = np.array([0.1, 0.6, 0.95, 0.99, 0.2])
    found = money.summary(data, scores, Thresholds(0.5, 0.9), COSTS, 2, seed=0)
    assert found["fraud_loss_per_day"] == pytest.approx(110 / 2)
    assert found["review_cost_per_day"] == pytest.approx(25 / 2)
    assert found["false_decline_cost_per_day"] == pytest.approx(7 / 2)
    assert found["cost_per_day"] == pytest.approx((110 + 25 + 7) / 2)
    assert found["cost_per_day_without_model"] == pytest.approx((110 + 110 + 210) / 2)
    assert found["saved_per_day"] == pytest.approx((430 - 142) / 2)
    assert found["saved_per_day_low"] <= found["saved_per_day"] <= found["saved_per_day_high"]
    assert (found["reviews_per_day"], found["declines_per_day"], found["false_declines_per_day"]) == (0.5, 1, 0.5)
    assert found["frauds_stopped_share"] == pytest.approx(2 / 3)
    assert found["fraud_value_stopped_share"] == pytest.approx(320 / 430)


@given(st.floats(1.0, 30.0))
def test_figures_per_day_do_not_depend_on_where_the_last_day_ends(length: float) -> None:
    """A last day that has only begun is no whole day."""
    data = dataset([1, 1], [10_000, 10_000], [0.0, length])
    found = money.summary(data, np.zeros(2), Thresholds(2, 2), COSTS, 2, seed=0)
    assert found["cost_per_day"] == pytest.approx(220 / length, rel=1e-6)
    assert found["saved_per_day"] == 0


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """40 periods of 60 days whose true saving is 11 a day: about 38 intervals cover it."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(40):
        y = (rng.random(60) < 0.1).astype(int)
        data = dataset(y.tolist(), [10_000] * 60, np.arange(60).tolist())
        found = money.summary(data, y.astype(float), Thresholds(0.5, 0.5), COSTS, 2, seed=0)
        covered += found["saved_per_day_low"] <= 11 <= found["saved_per_day_high"]
    assert covered >= 33


def test_the_interval_depends_on_the_seed_alone() -> None:
    data = dataset([1, 0] * 10, list(range(1_000, 21_000, 1_000)), list(range(20)))
    scores = np.tile([0.9, 0.1], 10)
    one, same, other = (money.summary(data, scores, Thresholds(0.5, 0.5), COSTS, 2, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one["saved_per_day"] == other["saved_per_day"]
    assert one["saved_per_day_low"] != other["saved_per_day_low"]
