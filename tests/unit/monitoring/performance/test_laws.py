"""What holds of every estimate: labels that are all in need no correction; reports may change, or come in a file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.monitoring.performance.sums import Window
from tests.support.late_labels import DAY_US, NOW_US, SMALL, Log, World, simulate
from tests.support.late_labels import estimated as of


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    recall=st.floats(0.2, 0.9),
    fraud=st.floats(0.05, 0.3),
    false_alarms=st.floats(0.01, 0.3),
    per_entity=st.floats(1.0, 8.0),
)
def test_labels_that_are_all_in_need_no_correction(
    seed: int, recall: float, fraud: float, false_alarms: float, per_entity: float
) -> None:
    world = World(
        6_000, 60.0, fraud, recall, false_alarms, checked_days=0.01, passed_days=0.01, spread=0.1, per_entity=per_entity
    )
    found = of(simulate(seed, world).until(NOW_US), Window(NOW_US - 40 * DAY_US, NOW_US - 2 * DAY_US, NOW_US))
    assert found.recall is not None
    assert found.precision is not None
    assert found.loss_per_day is not None
    assert found.recall.value == pytest.approx(found.raw.recall)
    assert found.precision.value == pytest.approx(found.raw.precision)
    assert found.loss_per_day.value == pytest.approx(found.raw.loss_per_day)
    for interval in (found.recall, found.precision, found.loss_per_day):
        assert interval.low <= interval.value <= interval.high


def test_a_fraud_that_is_taken_back_never_was_one() -> None:
    log = simulate(0, SMALL).until(NOW_US)
    taken_back = np.arange(len(log.reports["is_fraud"])) % 3 == 0
    later = {name: values[taken_back] for name, values in log.reports.items()}
    later["is_fraud"] = np.zeros(taken_back.sum(), bool)
    later["label_arrival"] = later["known_at_us"] = later["label_arrival"] + 1
    both = {name: np.concatenate([values, later[name]]) for name, values in log.reports.items()}
    never = {name: values[~taken_back] for name, values in log.reports.items()}
    changed, clean = of(Log(log.decisions, both)), of(Log(log.decisions, never))
    assert changed.recall is not None
    assert changed.recall == clean.recall
    assert changed.loss_per_day == clean.loss_per_day
    assert changed.frauds == clean.frauds


def test_reports_that_come_in_a_file_count_from_when_they_were_known() -> None:
    """Of 40 days none came; then all did. Their delay is not how long frauds take to be noticed."""
    log = simulate(0, SMALL).until(NOW_US)
    as_it_came = of(log)
    held_back = log.reports["label_arrival"] > NOW_US - 40 * DAY_US
    log.reports["label_arrival"] = np.where(held_back, NOW_US - 1_000, log.reports["label_arrival"])
    found = of(log)
    assert found.feed.backlog > 100
    assert found.recall is not None
    assert as_it_came.recall is not None
    assert found.recall.value == pytest.approx(as_it_came.recall.value, abs=0.03)
    assert any("a week" in note for note in found.notes)
