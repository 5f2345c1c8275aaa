"""The week's figures add up, patterns that are there are found, and words fit what is known."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.costs import Costs
from fraudml.decisions.record import Action, LabelReport
from fraudml.errors import ConfigError
from fraudml.events.label import Label
from fraudml.models.rollout import Change, Kind, Rollout
from fraudml.monitoring.performance.estimate import quiet
from fraudml.monitoring.rollouts.resampling import Interval
from fraudml.monitoring.weekly import page, sums
from fraudml.monitoring.weekly import week as weeks
from fraudml.monitoring.weekly.outlook import Outlook, outlook
from fraudml.monitoring.weekly.sums import Repeat
from fraudml.monitoring.weekly.week import Week
from tests.support import incidents, late_labels
from tests.support.scoring import SCHEMA, decision, transaction

SINCE_US = weeks.monday_us("2026-W10", 0)
HOUR_US = 3_600_000_000
COSTS = Costs()


class World:
    """A log to which rows are added: hours since Monday, amount in cents, action, whether it was fraud."""

    def __init__(self, folder: Path) -> None:
        self.log = SqliteDecisionLog(f"sqlite:///{folder / 'log.db'}", SCHEMA)
        self._number = 0

    def add(
        self, hour: float, amount: int = 10_000, action: str = "approve", fraud: bool | None = None, country: str = "DE"
    ) -> None:
        self.extend([(hour, amount, action, fraud, country)])

    def extend(self, rows: Iterable[tuple[float, int, str, bool | None, str]]) -> None:
        made, labels = [], []
        for hour, amount, action, fraud, country in rows:
            self._number += 1
            event = transaction(self._number, amount=amount, country=country)
            time_us = SINCE_US + int(hour * HOUR_US)
            event = type(event)(event.transaction_id, time_us, event.entities, event.amount_minor, event.attributes)
            arrival = SINCE_US + 100 * 24 * HOUR_US + self._number  # after the fact, as in a replay
            made.append(decision(event, arrival, action=Action(action)))
            if fraud is not None:
                label = Label(event.transaction_id, fraud, time_us + HOUR_US, event.entities)
                labels.append(LabelReport(label, arrival + 10**9))
        self.log.append(made)
        self.log.append_labels(labels)

    def week(self, rollouts: Iterable[Rollout] = (), expected: Outlook | None = None) -> Week:
        found = sums.read(self.log, SCHEMA, COSTS, SINCE_US)
        return weeks.week(found, SINCE_US, COSTS, "EUR", rollouts, expected)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_money_follows_from_labels_actions_and_costs(world: World) -> None:
    world.add(1, 10_000, "decline", fraud=True)  # stopped: 100 and the fee
    world.add(2, 10_000, "review", fraud=True)  # nine tenths of it
    world.add(3, 10_000, "approve", fraud=True)  # missed
    world.add(4, 20_000, "decline", fraud=False)  # a good customer: margin and goodwill
    world.add(5, 20_000, "decline")  # nobody knows
    world.add(6, 20_000, "approve", fraud=False)
    this = world.week().this
    loss = 100 + COSTS.chargeback_fee
    assert (this.transactions, this.declines, this.reviews, this.frauds) == (6, 3, 1, 3)
    assert this.stopped == pytest.approx(loss * (1 + COSTS.review_finds))
    assert this.missed == pytest.approx(loss * (2 - COSTS.review_finds))
    assert this.false_declines == 1
    assert this.false_decline_cost == pytest.approx(COSTS.margin_share * 200 + COSTS.goodwill)
    assert this.saved == pytest.approx(this.stopped - this.false_decline_cost - COSTS.review_cost)


def test_a_week_is_half_open_and_compared_with_those_before(world: World) -> None:
    for hour in (-1e-3, 0, 7 * 24 - 1e-3, 7 * 24, -7 * 24, -3 * 7 * 24, -5 * 7 * 24):
        world.add(hour)
    week = world.week()
    assert week.this.transactions == 2
    assert week.before.transactions == 2
    assert week.average.transactions == 3 / 4
    assert week.days == ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


def test_the_latest_verdict_counts(world: World) -> None:
    world.add(1, action="decline", fraud=True)
    event = transaction(1)
    label = Label("t1", False, SINCE_US + 9 * HOUR_US, event.entities)
    world.log.append_labels([LabelReport(label, SINCE_US + 10**16)])
    this = world.week().this
    assert (this.frauds, this.false_declines) == (0, 1)


def planted(weeks_back: int) -> list[tuple[float, int, str, bool | None, str]]:
    random = np.random.default_rng(weeks_back)
    rows: list[tuple[float, int, str, bool | None, str]] = []
    for _ in range(2_000):
        hour = float(random.uniform(0, 7 * 24)) - weeks_back * 7 * 24
        rows.append((hour, int(random.integers(500, 30_000)), "approve", bool(random.random() < 0.005), "DE"))
    return rows


def test_a_planted_pattern_is_found_and_is_new(world: World) -> None:
    for back in range(5):
        world.extend(planted(back))
    world.extend((hour, 150_000, "approve", hour < 30, "FR") for hour in range(60))
    week = world.week()
    found = {(each.attribute, each.value): each for each in week.patterns}
    assert {("country", "FR"), ("amount", "1,000 and more")} <= found.keys()
    assert found["country", "FR"].frauds == 30
    assert found["country", "FR"].is_new
    assert found["country", "FR"].lift > 10
    assert ("country", "DE") not in found
    assert "Look at what is new" in " ".join(page.advice(week))


def test_chance_is_no_pattern(world: World) -> None:
    for back in range(5):
        world.extend(planted(back))
    assert world.week().patterns == []


def test_values_beyond_a_limit_are_told_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "MOST_VALUES", 2)
    world.extend((1, 10_000, "approve", True, country) for country in ("DE", "FR", "IT", "ES", "DE"))
    found = sums.read(world.log, SCHEMA, COSTS, SINCE_US).segments
    countries = {each.value: weeks[-1, 0] for each, weeks in found.items() if each.attribute == "country"}
    assert countries == {"DE": 2, "FR": 1, sums.OTHERS: 2}


def test_who_is_hit_again_is_counted_within_the_week(world: World) -> None:
    """All are of one customer at one terminal."""
    assert world.week().repeats == []
    world.add(-1, fraud=True)
    world.add(1, fraud=True)
    world.add(2, fraud=False)
    assert world.week().repeats == [Repeat(name, 1, 0) for name in SCHEMA.entity_names]
    world.add(3, fraud=True)
    assert world.week().repeats == [Repeat(name, 1, 1) for name in SCHEMA.entity_names]
    assert f"1 of 1 ({SCHEMA.entity_names[0]})" in " ".join(page.render(world.week()).split())


def test_what_is_still_to_come_holds_what_comes() -> None:
    """Of a week a fortnight ago, of whose frauds some are reported within days and others after weeks."""
    simulated = late_labels.simulate(0, late_labels.World(transactions=200_000, days=100.0, passed_days=12.0))
    now_us, since_us = late_labels.NOW_US, late_labels.NOW_US - 14 * 24 * HOUR_US
    log: Any = simulated.until(now_us)
    costs = late_labels.PROJECT.costs
    found = outlook(log, incidents.SCHEMA, costs, since_us, now_us, quiet)
    assert found is not None
    assert found.missed is not None
    assert 0.4 < found.maturity < 0.9
    truth = simulated.truth
    week = truth["fraud"] & (truth["time"] >= since_us) & (truth["time"] < since_us + sums.WEEK_US)
    lost = costs.fraud_loss_share * simulated.decisions["amount_minor"] / 100 + costs.chargeback_fee
    came = float((lost * np.where(truth["flagged"], 1 - costs.review_finds, 1.0))[week].sum())
    assert found.missed.low < came < found.missed.high
    assert found.missed.high - found.missed.low < came / 2
    assert outlook(log, incidents.SCHEMA, costs, now_us, now_us, quiet) is None  # it has not begun
    assert outlook(log, incidents.SCHEMA, costs, 0, now_us, quiet) is None  # nothing was decided


def test_changes_of_models_in_the_week_are_told(world: World) -> None:
    at = (
        "2026-03-01T23:59:59+00:00",
        "2026-03-02T00:00:00+00:00",
        "2026-03-08T12:00:00+00:00",
        "2026-03-09T00:00:00+00:00",
    )
    rollouts = [
        Rollout(number, Change(Kind.promote, when, "ana", f"reason {number}")) for number, when in enumerate(at, 1)
    ]
    assert [each.reason for each in world.week(rollouts).changes] == ["reason 2", "reason 3"]


def test_words_fit_what_is_known(world: World) -> None:
    assert page.headline(world.week()) == "There were no transactions in this week."
    world.add(1)
    assert "no fraud of this week is reported yet" in page.headline(world.week())
    world.add(2, fraud=True)
    assert "115 EUR of fraud got through that is known by now." in page.headline(world.week())
    expected = Outlook(0.4, Interval(288.0, 200.0, 400.0))
    said = page.headline(world.week(expected=expected))
    assert "about 40% of this week's frauds are reported, so expect 200 EUR to 400 EUR in the end." in said
    assert "about 288 EUR once all" in page.render(world.week(expected=expected))
    assert page.headline(world.week(expected=Outlook(0.4, None))).endswith(
        "about 40% of this week's frauds are reported."
    )
    assert "are reported" not in page.headline(world.week(expected=Outlook(0.99, None)))


def test_values_are_escaped(world: World) -> None:
    world.extend((hour, 10_000, "approve", True, "<script>alert(1)</script>") for hour in range(20))
    world.extend((hour % 160, 10_000, "approve", False, "DE") for hour in range(2_000))
    text = page.render(world.week())
    assert "<script" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize("text", ["", "2026", "2026-48", "2026-W54", "last", "2026-W00", "2025-W53"])  # 2025 has 52
def test_what_is_no_week_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no week"):
        weeks.monday_us(text, 0)


def test_by_default_it_is_the_last_week_that_is_over() -> None:
    wednesday = SINCE_US + 2 * 24 * HOUR_US
    assert weeks.monday_us(None, wednesday) == SINCE_US - 7 * 24 * HOUR_US
    assert weeks.monday_us(None, SINCE_US) == SINCE_US - 7 * 24 * HOUR_US
    last = SINCE_US - 7 * 24 * HOUR_US
    for newest in (None, last, wednesday):
        assert weeks.last_us(wednesday, newest) == last
    for newest in (last - 1, last - 7 * 24 * HOUR_US):  # a replay, or nothing since
        assert weeks.last_us(wednesday, newest) == last - 7 * 24 * HOUR_US


def test_a_project_without_amounts_counts_what_is_declared(world: World) -> None:
    found: Any = sums.read(world.log, SCHEMA, COSTS, SINCE_US)
    assert found.week().tolist() == [0.0] * sums.SUMS
