"""Recall as it will turn out, from labels of which a third is in; and no figure where nothing can be known."""

from __future__ import annotations

import numpy as np
import pytest

from fraudml.errors import ConfigError, NotFoundError
from fraudml.monitoring import jobs
from fraudml.monitoring.performance import page
from fraudml.monitoring.performance.results import DeclinesKnown, Performance
from fraudml.monitoring.performance.sums import Window
from tests.support.late_labels import DAY_US, NOW_US, SMALL, Log, World, simulate, truly_caught
from tests.support.late_labels import estimated as of

THIRD = World(transactions=500_000, days=200.0, fraud=0.3, checked_days=14.0, passed_days=45.0)


def old_enough(found: Performance) -> int:
    return NOW_US - int((found.speaks_from_age_s or 0.0) * 1e6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_from_labels_one_third_mature_the_recall_is_within_two_points_of_what_it_will_be(seed: int) -> None:
    log = simulate(seed, THIRD).until(NOW_US)
    found = of(log)
    truth = truly_caught(log, found.since_us, old_enough(found))
    assert found.maturity == pytest.approx(1 / 3, abs=0.04)
    assert found.recall is not None
    assert found.raw.recall is not None
    assert abs(found.recall.value - truth) < 0.02
    assert found.raw.recall - truth > 0.15
    assert found.recall.low < found.recall.value < found.recall.high


def test_intervals_hold_what_they_promise() -> None:
    """Of 40 small worlds about 38 have the truth inside."""
    inside = 0
    for seed in range(40):
        log = simulate(seed, SMALL).until(NOW_US)
        found = of(log)
        assert found.recall is not None
        inside += found.recall.low <= truly_caught(log, found.since_us, old_enough(found)) <= found.recall.high
    assert inside >= 34


def test_when_all_labels_are_in_nothing_is_corrected() -> None:
    world = World(transactions=20_000, days=150.0, checked_days=0.01, passed_days=0.01, spread=0.1)
    found = of(simulate(0, world).until(NOW_US), Window(NOW_US - 60 * DAY_US, NOW_US - 2 * DAY_US, NOW_US))
    assert found.recall is not None
    assert found.recall.value == pytest.approx(found.raw.recall)
    assert found.precision is not None
    assert found.precision.value == pytest.approx(found.raw.precision)
    assert found.maturity == pytest.approx(1)


def test_declines_that_are_explored_stand_for_the_others() -> None:
    world = World(
        transactions=200_000, days=150.0, fraud=0.2, checked_days=2.0, passed_days=3.0, declined=0.5, explore=0.05
    )
    log = simulate(0, world).until(NOW_US)
    found = of(log)
    assert found.declines.known is DeclinesKnown.explored
    truth = log.truth
    here = (truth["time"] >= found.since_us) & (truth["time"] < old_enough(found))
    assert found.precision is not None
    assert found.precision.value == pytest.approx(truth["fraud"][here & truth["flagged"]].mean(), abs=0.05)
    assert found.recall is not None
    assert found.recall.low <= truly_caught(log, found.since_us, old_enough(found)) <= found.recall.high


def test_declines_that_nobody_explores_are_said_to_be_unknown() -> None:
    found = of(simulate(0, World(transactions=40_000, declined=0.5)).until(NOW_US))
    assert found.declines.known is DeclinesKnown.unknown
    assert found.false_decline_cost_per_day is None
    assert found.declines.recall is not None
    assert found.declines.recall.low <= found.declines.recall.by_score <= found.declines.recall.high
    assert any("rollout set --explore" in note for note in found.notes)


def test_a_feed_that_stops_is_seen_and_figures_are_as_of_then() -> None:
    stopped_us = NOW_US - 10 * DAY_US
    log = simulate(0, World(transactions=200_000)).until(NOW_US)
    told = log.reports["label_arrival"] <= stopped_us
    cut = Log(log.decisions, {name: values[told] for name, values in log.reports.items()}, log.truth)
    found = of(cut)
    assert found.feed.stopped
    assert found.feed.expected is not None
    assert found.feed.expected > 20
    assert found.as_of_us <= stopped_us
    assert any("look at what sends labels" in note for note in found.notes)
    values = jobs.performance_values(found, lambda: NOW_US)
    age = values["fraud_label_age_seconds"][()]
    assert callable(age)
    assert age() >= 10 * 86_400


def test_without_labels_without_frauds_and_without_decisions() -> None:
    log = simulate(0, SMALL).until(NOW_US)
    none = np.zeros(len(log.reports["label_arrival"]), bool)
    nothing = of(Log(log.decisions, {name: values[none] for name, values in log.reports.items()}))
    assert nothing.recall is None
    assert nothing.precision is None
    assert any("no label has been reported" in note for note in nothing.notes)
    assert "cannot be told" in page.headline(nothing)
    genuine = Log(log.decisions, log.reports | {"is_fraud": np.zeros(len(none), bool)})
    assert of(genuine).recall is None
    with pytest.raises(NotFoundError, match="no decisions"):
        of(log, Window(NOW_US - 900 * DAY_US, NOW_US - 800 * DAY_US, NOW_US))
    with pytest.raises(ConfigError, match="before it ends"):
        of(log, Window(NOW_US, NOW_US - DAY_US, NOW_US))


def test_clocks_that_jump_are_told_and_break_nothing() -> None:
    log = simulate(0, SMALL)  # with reports that are dated after now
    found = of(log)
    assert found.feed.ahead > 0
    assert any("dated after now" in note for note in found.notes)
    early = log.until(NOW_US)
    before = early.reports["event_time_us"] - DAY_US
    early.reports["label_arrival"] = early.reports["known_at_us"] = before
    impossible = of(early)
    assert impossible.feed.impossible == len(before)
    assert any("which cannot be" in note for note in impossible.notes)


def test_a_page_is_written_whatever_is_known() -> None:
    log = simulate(0, SMALL).until(NOW_US)
    for found in (of(log), of(Log(log.decisions, {name: values[:0] for name, values in log.reports.items()}))):
        text = page.render(found, "EUR")
        assert text.count("<svg") == 2
        assert "True performance" in text
