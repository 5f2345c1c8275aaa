"""Each fraud pattern shows the signature it is named for, and the patterns drift."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fraudml.simulation import SimulationConfig
from fraudml.simulation.campaigns import LONGEST_CAMPAIGN_DAYS, PATTERNS, FraudCalendar, Pattern, Stage, pattern
from fraudml.simulation.population import FIRST_STRAY_DEVICE, Population, populate
from fraudml.simulation.rows import COLUMNS, DAY_MS, Rows, make_rows

Act = Callable[..., Rows]
MEDIAN_GENUINE = 30_00


@pytest.fixture(scope="module")
def population() -> Population:
    return populate(SimulationConfig(customers=2_000, merchants=300), np.random.default_rng(5))


@pytest.fixture
def act(population: Population) -> Act:
    """``act(name, campaigns, progress)``: the rows of campaigns begun on day 0 of 1970."""

    def make(name: str, campaigns: int = 1, progress: float = 0.0) -> Rows:
        (chosen,) = (item for item in PATTERNS if item.name == name)
        rng = np.random.default_rng(9)
        return chosen.make(Stage(population, rng, day=0, midnight_ms=0, progress=progress, campaigns=campaigns))

    return make


@pytest.mark.parametrize("chosen", PATTERNS, ids=lambda chosen: chosen.name)
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_laws_of_every_pattern(chosen: Pattern, progress: float, population: Population) -> None:
    stage = Stage(population, np.random.default_rng(2), 0, 0, progress, campaigns=300)
    rows = chosen.make(stage)
    merchants = population.merchants
    assert len(rows) / 300 == pytest.approx(chosen.size, rel=0.1)
    assert rows.time_ms.min() >= 0
    assert rows.time_ms.max() < LONGEST_CAMPAIGN_DAYS * DAY_MS
    assert rows.amount_minor.min() > 0
    assert np.all(rows.terminal >= merchants.first_terminal[rows.merchant])
    assert np.all(rows.terminal < (merchants.first_terminal + merchants.terminals)[rows.merchant])
    assert np.all((rows.channel == 2) == (rows.ip_country >= 0))


def test_patterns_have_a_docstring_and_unique_names() -> None:
    names = [chosen.name for chosen in PATTERNS]
    assert len(set(names)) == len(names) >= 5
    assert all(chosen.make.__doc__ for chosen in PATTERNS)


def test_card_testing_is_many_small_amounts_at_one_merchant_within_minutes(act: Act) -> None:
    rows = act("card_testing")
    shop = np.bincount(rows.merchant).argmax()
    tests = rows.take(np.sort(np.flatnonzero((rows.merchant == shop) & (rows.amount_minor < 10_00))))
    assert len(tests) >= 15
    assert np.ptp(tests.time_ms) < 60 * 60_000
    assert len(np.unique(tests.customer)) > 0.9 * len(tests)
    assert len(np.unique(tests.device)) < 6
    assert np.median(tests.amount_minor) < 3_00
    assert np.all(tests.device >= FIRST_STRAY_DEVICE)


def test_card_testing_slows_down_and_charges_more_over_time(act: Act) -> None:
    early, late = act("card_testing", 200, 0.0), act("card_testing", 200, 1.0)
    assert np.median(late.amount_minor) > 2 * np.median(early.amount_minor)
    assert len(np.unique(late.device)) > 1.5 * len(np.unique(early.device))


def test_a_stolen_card_is_used_up_within_a_day_in_many_shops_for_more_than_usual(act: Act) -> None:
    rows = act("stolen_card_spree")
    assert len(np.unique(rows.customer)) == 1
    assert len(rows) >= 4
    assert np.ptp(rows.time_ms) < DAY_MS
    assert len(np.unique(rows.merchant)) > 2
    assert np.median(act("stolen_card_spree", 200).amount_minor) > 1.2 * MEDIAN_GENUINE


def test_a_compromised_terminal_is_charged_for_days_with_many_cards(act: Act) -> None:
    rows = act("compromised_terminal")
    assert len(np.unique(rows.terminal)) == 1
    assert len(np.unique(rows.time_ms // DAY_MS)) >= 6
    assert len(np.unique(rows.customer)) > 0.7 * len(rows)
    assert np.all(rows.channel == 0)


def test_account_takeover_uses_one_strange_device_on_a_few_accounts(act: Act) -> None:
    rows = act("account_takeover")
    assert len(np.unique(rows.device)) == 1
    assert rows.device[0] >= FIRST_STRAY_DEVICE
    assert 2 <= len(np.unique(rows.customer)) <= 7
    assert np.ptp(rows.time_ms) < 4 * DAY_MS
    assert np.all(rows.entry_mode == 5)


def test_account_takeover_appears_only_in_the_later_part(history: pa.Table, config: SimulationConfig) -> None:
    takeovers = history.filter(pc.equal(history["fraud_pattern"], "account_takeover"))
    first = pc.min(takeovers["event_time"]).as_py().date()
    assert 0.5 * config.days <= (first - config.start).days <= 0.8 * config.days
    assert takeovers.num_rows > 10


def test_a_collusive_merchant_charges_strangers_a_few_prices_and_more_each_week(act: Act) -> None:
    rows = act("collusive_merchant")
    assert len(np.unique(rows.merchant)) == 1
    assert len(np.unique(rows.customer)) > 0.9 * len(rows)
    middle = (rows.time_ms.min() + rows.time_ms.max()) / 2
    assert np.sum(rows.time_ms > middle) > 1.4 * np.sum(rows.time_ms <= middle)
    # A quarter of all charges at least lie within a tenth of the commonest price.
    near = np.abs(np.log(rows.amount_minor[:, None] / rows.amount_minor[None, :])) < 0.1
    assert near.sum(axis=0).max() > 0.25 * len(rows)


def test_intensity_by_week_moves(history: pa.Table) -> None:
    fraud = history.filter(pc.equal(history["is_fraud"], 1))
    week = fraud["event_time"].cast(pa.int64()).to_numpy() // (7 * DAY_MS)
    count = np.unique(week, return_counts=True)[1][1:-1]
    assert count.max() > 1.5 * count.min()


def test_a_new_pattern_is_one_function(monkeypatch: pytest.MonkeyPatch, population: Population) -> None:
    monkeypatch.setattr("fraudml.simulation.campaigns.PATTERNS", registered := [])

    @pattern(share=0.5, size=3, found_by_customer=0.5)
    def refund_abuse(stage: Stage) -> Rows:
        """Goods come back, other goods."""
        times = stage.midnight_ms + stage.rng.integers(0, DAY_MS, 3 * stage.campaigns)
        return make_rows(**{name: np.zeros(len(times)) for name in COLUMNS} | {"time_ms": times, "entry_mode": 7})

    assert [made.name for made in registered] == ["refund_abuse"]
    config = SimulationConfig(customers=2_000, merchants=300, days=30)
    days = list(FraudCalendar(config, population, registered).days())
    assert len(days) == config.days
    frauds = Rows.concat(days)
    genuine = config.customers * config.days * config.transactions_per_customer_per_day
    assert len(frauds) / genuine == pytest.approx(config.fraud_rate, rel=0.5)
    assert np.all(frauds.entry_mode == 7)
