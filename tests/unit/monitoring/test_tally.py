"""What is counted later is what was counted, whoever counts and reads at the same time."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from fraudml.monitoring import tally
from fraudml.monitoring.catalogue import SCORES
from fraudml.monitoring.tally import CounterTally, HistogramTally

VALUES = st.floats(0, 1) | st.sampled_from(SCORES)


@given(st.lists(st.tuples(st.sampled_from(["1", "2"]), VALUES)))
def test_a_histogram_is_that_of_the_library(values: list[tuple[str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    fast = HistogramTally("fraud_score", ours)
    slow = Histogram("fraud_score", "", ["version"], buckets=SCORES, registry=theirs)
    for version, value in values:
        fast.observe((version,), value)
        slow.labels(version).observe(value)
    expected = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in theirs.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in ours.collect()
        for sample in family.samples
    }
    assert found == pytest.approx(expected)


def test_nothing_is_lost_or_counted_twice_by_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "TOGETHER", 7)
    registry = CollectorRegistry()
    counter, histogram = (
        CounterTally("fraud_late_total", registry),
        HistogramTally("fraud_batch_transactions", registry),
    )
    begin = threading.Barrier(5)

    def count() -> None:
        begin.wait()
        for number in range(5_000):
            counter.add(())
            histogram.observe((), number)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    begin.wait()
    while any(thread.is_alive() for thread in threads):
        list(registry.collect())
    assert registry.get_sample_value("fraud_late_total") == 20_000
    assert registry.get_sample_value("fraud_batch_transactions_count") == 20_000
    assert registry.get_sample_value("fraud_batch_transactions_sum") == 4 * sum(range(5_000))
