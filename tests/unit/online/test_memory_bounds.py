"""The in-process store: what a burst, a hot hour or a single extreme value takes is given back or was never taken."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from fraudml.adapters.online.memory import MemoryOnlineStore, extremes
from fraudml.adapters.online.memory.windows import WindowTable
from fraudml.errors import OnlineStoreError
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn
from fraudml.events.source import arrow_schema
from fraudml.events.transaction import Transaction
from fraudml.features.reference import as_float, state_value
from fraudml.features.spec import Aggregation, Feature, FeatureSet, WindowFeature

HOUR_US = 3_600_000_000
SCHEMA = Schema(
    TimeColumn("time"),
    "id",
    {"card": "card"},
    AmountColumn("amount", optional=True),
    {"lat": Attribute(AttributeType.number), "shop": Attribute(AttributeType.category)},
)


def event(time_us: int, amount: int = 100, card: str = "c", lat: float | None = 0.1, shop: str = "s") -> Transaction:
    return Transaction(f"t{time_us}", time_us, (card,), amount, (lat, shop))


def window(agg: Aggregation, of: str | None, resolution: str = "1us", length: str = "1h") -> WindowFeature:
    return WindowFeature(
        name=f"{agg}_{of}_{length}_{resolution}", over="card", agg=agg, of=of, length=length, resolution=resolution
    )


def store_of(*features: Feature, lateness_us: int = 0) -> MemoryOnlineStore:
    return MemoryOnlineStore(FeatureSet(SCHEMA, features), lateness_us=lateness_us, tick=1)


def table_of(store: MemoryOnlineStore) -> WindowTable:
    table = store._events[0]
    assert isinstance(table, WindowTable)
    return table


def assert_reference(store: MemoryOnlineStore, target: Transaction, events: Sequence[Transaction]) -> None:
    features = store.feature_set.state_features
    expected = [as_float(state_value(store.feature_set, each, target, events, [])) for each in features]
    np.testing.assert_array_equal(store.read([target]).values[0], expected)


def test_a_hot_hour_of_distinct_values_is_not_gone_through_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0
    members = extremes.members

    def counting(content: object) -> object:
        nonlocal seen
        found = members(content)
        seen += len(found)
        return found

    monkeypatch.setattr(extremes, "members", counting)
    store = store_of(window(Aggregation.nunique, "shop", "1h", "6h"), lateness_us=HOUR_US)
    for i in range(4_000):  # two hours
        back_us = 2_000_000 if i % 10 == 0 else 0  # some are late
        store.read_then_update([event(i * HOUR_US // 2_000 + HOUR_US - back_us, shop=f"shop {i}")])
    assert seen < 10 * 4_000
    assert store.read([event(4 * HOUR_US)]).values.tolist() == [[4_000]]


def test_distinct_values_of_full_hours_with_late_events_are_the_reference() -> None:
    features = [window(Aggregation.nunique, "shop", "1h", length) for length in ("1h", "6h")]
    store = store_of(*features, window(Aggregation.max, "amount", "1h"), lateness_us=400 * HOUR_US)
    rng = random.Random(5)
    events: list[Transaction] = []
    for i in range(1_500):
        now_us = (i + i // 700 * 120) * HOUR_US // 120
        late_us = rng.randrange(3 * HOUR_US) if rng.random() < 0.1 else 0
        each = event(now_us - late_us, rng.randrange(1_000), shop=f"shop {rng.randrange(5 + i // 4)}")
        if i % 20 == 0:
            assert_reference(store, event(now_us), events)
        store.read_then_update([each])
        events.append(each)


@pytest.mark.parametrize("length", ["2min", "30d"])
def test_distinct_values_of_a_loaded_hour(length: str) -> None:
    store = store_of(window(Aggregation.nunique, "shop", "1min", length), lateness_us=HOUR_US)
    events = [event(i * 200_000, shop=f"shop {i % 400}") for i in range(1_000)]
    store.load(batch(events))
    for i in range(1_000, 1_400):
        events.append(event(i * 200_000, shop=f"shop {i % 500}"))
        assert_reference(store, events[-1], events)
        store.read_then_update([events[-1]])


@pytest.mark.parametrize("resolution", ["1us", "1min"])
@pytest.mark.parametrize("goes_on", [True, False])
def test_what_a_burst_took_is_given_back(resolution: str, goes_on: bool) -> None:
    store = store_of(*[window(agg, "amount", resolution) for agg in Aggregation], lateness_us=HOUR_US)
    events = [event(i * HOUR_US // 2_000, i) for i in range(2_000)]
    store.read_then_update(events)
    table = table_of(store)
    lane = table.lanes["c"]
    before = lane.limit - lane.base
    assert before >= 64
    for i in range(400):  # the burst leaves the window; the sweep or the lane's own events give the stretch back
        each = event(HOUR_US + i * HOUR_US // 20, i, "c" if goes_on or i % 30 == 0 else "other")
        store.read_then_update([each])
        events.append(each)
    assert lane.limit - lane.base <= 256
    assert all(seen.times.limit - seen.times.base <= 256 for seen in lane.seen)
    assert all(len(seen.values) <= 256 for seen in lane.seen)
    recent = [each for each in events if each.entities == ("c",)]
    assert_reference(store, event(HOUR_US + 20 * HOUR_US), recent)


def test_what_was_given_back_serves_shorter_lanes() -> None:
    store = store_of(window(Aggregation.sum, "amount"), lateness_us=HOUR_US)
    store.read_then_update([event(i) for i in range(9_000)])
    store.read_then_update([event(100 * HOUR_US + i) for i in range(2)])
    store.read_then_update([event(100 * HOUR_US, card="sweep")] * 64)
    cells = len(table_of(store).arena.starts)
    store.read_then_update([event(100 * HOUR_US + i, card=f"card {i % 900}") for i in range(3_600)])
    assert len(table_of(store).arena.starts) == cells
    assert store.read([event(100 * HOUR_US + 9_000, card="card 7")]).values.tolist() == [[400]]


def test_totals_of_an_endless_lane_stay_in_64_bits() -> None:
    store = store_of(window(Aggregation.std, "amount"), window(Aggregation.sum, "lat"))
    events = [event(i * HOUR_US // 50, 10**8 + i, lat=i / 7) for i in range(4_000)]
    for i, each in enumerate(events):
        if i % 97 == 0:
            assert_reference(store, each, events[max(i - 60, 0) : i])
        store.read_then_update([each])
    table = table_of(store)
    assert 4_000 * 10**16 > 2**63
    assert table._wide is None
    assert table.lanes["c"].arena is table.arena


def test_a_late_event_that_overflows_totals_counts_once() -> None:
    store = store_of(window(Aggregation.std, "amount"), window(Aggregation.count, None), lateness_us=HOUR_US)
    table = table_of(store)
    events = [event(i * HOUR_US // 50, 10**8) for i in range(900)]
    for each in events:
        store.read_then_update([each])
    for i in range(60):
        each = event(17 * HOUR_US + i * 10**7 + 1, 10**8 - i)  # before the newest
        store.read_then_update([each])
        events.append(each)
    assert 960 * 10**16 > 2**63
    assert table._wide is None
    assert_reference(store, event(18 * HOUR_US), events)


def test_a_wide_lane_comes_back() -> None:
    store = store_of(window(Aggregation.std, "amount"), window(Aggregation.max, "amount"))
    table = table_of(store)
    events = [event(i, 10**15) for i in range(10)]
    store.read_then_update(events)
    assert table.lanes["c"].arena is table._wide
    for i in range(200):
        each = event((2 + i) * HOUR_US // 2, i)
        assert_reference(store, each, events[-12:])
        store.read_then_update([each])
        events.append(each)
    assert table.lanes["c"].arena is table.arena


def test_one_tiny_float_does_not_enlarge_a_lane_for_ever() -> None:
    store = store_of(window(Aggregation.sum, "lat"), window(Aggregation.std, "lat"))
    lane_of = table_of(store).lanes
    events = [event(0, lat=5e-324), event(1, lat=None)]
    store.read_then_update(events)
    assert lane_of["c"].scales[0] > 1_000
    for i in range(200):
        each = event((2 + i) * HOUR_US // 4, lat=(0.1, -3.0, 1e-30, None)[i % 4] if i < 100 else i - 150.5)
        assert_reference(store, each, events[-12:])
        store.read_then_update([each])
        events.append(each)
    assert lane_of["c"].scales == (64,)


def batch(events: Sequence[Transaction]) -> pa.RecordBatch:
    rows = [(e.transaction_id, e.event_time_us, *e.entities, e.amount_minor, *e.attributes, True, 0) for e in events]
    schema = arrow_schema(SCHEMA)
    columns = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(schema)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@pytest.mark.parametrize(
    "broken",
    [event(2**62), event(-(2**62)), event(1, 2**62), event(1, -(2**63)), event(1, lat=1e200), event(1, lat=-1e100)],
    ids=["late", "early", "amount", "least", "lat", "bound"],
)
def test_history_out_of_range_is_refused_and_the_rest_is_kept(broken: Transaction) -> None:
    store = store_of(*[window(agg, of) for agg in Aggregation for of in ("amount", "lat")])
    store.load(batch([event(1, 5), event(2, 7)]))
    with pytest.raises(OnlineStoreError, match="out of range"):
        store.load(batch([event(0), broken]))
    store.load(batch([event(3, 9)]))
    assert store.stats()["events"] == 3
    assert_reference(store, event(4), [event(1, 5), event(2, 7), event(3, 9)])
