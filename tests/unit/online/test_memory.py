"""The in-process store beyond the port: long lanes, bounded state, eviction, memory."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from fraudml.adapters.online.memory import MemoryOnlineStore, load, series
from fraudml.errors import OnlineStoreError
from fraudml.events.label import Label
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn
from fraudml.events.source import arrow_schema
from fraudml.events.transaction import Transaction
from fraudml.features.reference import as_float, state_value
from fraudml.features.spec import (
    Aggregation,
    Feature,
    FeatureSet,
    LabelAggregation,
    LabelWindowFeature,
    LastFeature,
    WindowFeature,
)

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
SCHEMA = Schema(
    TimeColumn("time"),
    "id",
    {"card": "card"},
    AmountColumn("amount", optional=True),
    {"lat": Attribute(AttributeType.number), "shop": Attribute(AttributeType.category)},
)
COUNT = WindowFeature(name="n", over="card", agg=Aggregation.count, length="1h")
FRAUDS = LabelWindowFeature(name="frauds", over="card", agg=LabelAggregation.fraud_count, length="1d", resolution="1h")


def event(time_us: int, amount: int | None = 100, card: str = "c", lat: float | None = 0.1) -> Transaction:
    return Transaction(f"t{time_us}", time_us, (card,), amount, (lat, f"shop {amount}"))


def store_of(*features: Feature, lateness_us: int = 0, tick: int = 1) -> MemoryOnlineStore:
    return MemoryOnlineStore(FeatureSet(SCHEMA, features), lateness_us=lateness_us, tick=tick)


def windows(resolution: str, columns: Sequence[str] = ("amount", "lat")) -> list[WindowFeature]:
    return [
        WindowFeature(name=f"{of}_{agg}_{length}", over="card", agg=agg, of=of, length=length, resolution=resolution)
        for of in columns
        for agg in Aggregation
        for length in ("1h", "6h")
    ]


def history(rng: random.Random, size: int) -> list[Transaction]:
    """Dense events in order of time, some at the same time, some values missing."""
    time_us = 0
    events = []
    for _ in range(size):
        time_us += rng.choice([0, 1, HOUR_US // 20, HOUR_US // 20, HOUR_US])
        amount = rng.choice([None, 1, rng.randrange(10**12)])
        events.append(event(time_us, amount, lat=rng.choice([None, rng.uniform(-90, 90), 1e-300])))
    return events


@pytest.mark.parametrize("resolution", ["1us", "30min", "1h"])
def test_a_long_lane_is_the_reference(resolution: str) -> None:
    features = windows(resolution)
    store = store_of(*features)
    events = history(random.Random(1), 150)
    read = [store.read_then_update([each]).values[0] for each in events]
    for i in range(0, 150, 3):
        expected = [
            as_float(state_value(store.feature_set, feature, events[i], events[:i], [])) for feature in features
        ]
        np.testing.assert_array_equal(read[i], expected)


def test_a_long_lane_with_late_events_is_the_reference() -> None:
    features = [*windows("1us"), LastFeature(name="age", over="card"), LastFeature(name="l", over="card", of="lat")]
    store = store_of(*features, lateness_us=400 * DAY_US)
    rng = random.Random(2)
    events = history(rng, 120)
    arrivals = sorted(events, key=lambda each: each.event_time_us + rng.choice([0, 0, 0, 3 * HOUR_US]))
    read = [store.read_then_update([each]).values[0] for each in arrivals]
    for i in range(0, 120, 3):
        expected = [
            as_float(state_value(store.feature_set, feature, arrivals[i], arrivals[:i], [])) for feature in features
        ]
        np.testing.assert_array_equal(read[i], expected)


def test_nothing_overflows_beyond_64_bits() -> None:
    features = windows("1us", ["amount"])
    store = store_of(*features, lateness_us=DAY_US)
    events = [event(i, (10**18, -(10**18), 7)[i % 3]) for i in range(60)]
    store.read_then_update(events)
    for target in (event(100), event(30)):  # the second one is late
        expected = [as_float(state_value(store.feature_set, f, target, events, [])) for f in features]
        np.testing.assert_array_equal(store.read([target]).values[0], expected)


def test_a_hot_entity_holds_one_slot_per_tile() -> None:
    features = [window for window in windows("1h") if window.length == "6h"]
    store = store_of(*features, tick=16)
    for i in range(2_500):
        store.read_then_update([event(i * HOUR_US // 125, i)])
    lane = store._events[0].lanes["c"]
    assert len(lane.starts) <= 2 * (6 + 2) + series.SMALL
    assert store.read([event(20 * HOUR_US)]).values[0, 0] == 750


def test_an_exact_lane_holds_what_its_windows_see() -> None:
    store = store_of(COUNT)
    for i in range(5_000):
        store.read_then_update([event(i * HOUR_US // 100)])
    assert store.stats()["events"] <= 2 * 100 + 32
    assert store.read([event(50 * HOUR_US)]).values.tolist() == [[100]]


def test_lateness_keeps_what_late_events_read() -> None:
    store = store_of(COUNT, lateness_us=DAY_US)
    for i in range(1_000):
        store.read_then_update([event(i * HOUR_US // 10)])
    assert store.read([event(100 * HOUR_US - DAY_US)]).values.tolist() == [[10]]


def test_old_label_reports_are_folded_into_tiles() -> None:
    store = store_of(FRAUDS, COUNT)
    for i in range(1_000):
        time_us = i * HOUR_US // 50
        store.read_then_update([event(time_us)])
        store.add_labels([Label("t", True, time_us, ("c",))])
    lane = store._labels[0].lanes["c"]
    assert len(lane.starts) < 150
    assert store.read([event(19 * HOUR_US), event(20 * HOUR_US + 1)]).values[:, 0].tolist() == [950, 1_000]


def test_idle_entities_are_forgotten() -> None:
    store = store_of(COUNT, LastFeature(name="age", over="card", within="2h"))
    for i in range(2_000):
        store.read_then_update([event(i * HOUR_US // 10, card=f"card {i}")])
    assert store.stats()["entities"] <= 40
    assert store.read([event(200 * HOUR_US, card="card 1999")]).values.tolist() == [[1, 360]]


def test_a_broken_clock_forgets_nothing() -> None:
    store = store_of(COUNT, tick=8)
    for i in range(64):
        broken = 10**15 if i % 8 == 0 else 0
        store.read_then_update([event(i + broken, card=f"card {i % 16}")])
    assert store.read([event(100, card="card 1")]).values.tolist() == [[4]]


def test_the_collector_does_not_track_short_lanes() -> None:
    store = store_of(*windows("1us", ["amount"]), LastFeature(name="a", over="card", of="amount"))
    store.read_then_update([event(i, i) for i in range(5)])
    for _ in range(3):  # a tuple is let go when all it holds was let go before
        gc.collect()
    lanes = [table.lanes["c"] for table in store._tables]
    held = [value for lane in lanes for value in (lane, lane.starts)]
    held += [lanes[0].extremes, *lanes[0].extremes, lanes[0].moments[0].sums, lanes[1].values]
    assert not any(map(gc.is_tracked, held))


def test_an_entity_of_few_events_takes_less_than_two_kilobytes() -> None:
    features = [
        WindowFeature(name=f"{agg}_{length}", over="card", agg=agg, of="amount", length=length)
        for agg in (Aggregation.count, Aggregation.sum, Aggregation.std)
        for length in ("1h", "1d", "7d", "30d")
    ]
    store = store_of(*features, FRAUDS, lateness_us=DAY_US, tick=256)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for i in range(3_000):
        card = f"card {i % 1_000:012}"
        store.read_then_update([event(1_700_000_000_000_000 + i, i, card)])
        store.add_labels([Label("t", False, 1_700_000_000_000_000 + i, (card,))])
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / 1_000 < 2_000


def batch(events: Sequence[Transaction]) -> pa.RecordBatch:
    rows = [
        (e.transaction_id, e.event_time_us, *e.entities, e.amount_minor, *e.attributes, True, e.event_time_us)
        for e in events
    ]
    schema = arrow_schema(SCHEMA)
    columns = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(schema)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@pytest.mark.parametrize("size", [7, 100])
def test_a_load_of_long_history_is_a_replay(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "PRUNE_ROWS", 40)
    features = [*windows("1us"), FRAUDS, LastFeature(name="age", over="card"), *windows("1h", ["shop"])[:2]]
    features = [f for f in features if getattr(f, "of", None) != "shop" or f.agg is Aggregation.count]
    events = history(random.Random(3), 300)
    loaded, replayed = store_of(*features), store_of(*features)
    for first in range(0, 300, size):
        loaded.load(batch(events[first : first + size]))
    replayed.add_labels([Label("t", True, each.event_time_us, each.entities) for each in events])
    replayed.read_then_update(events)
    newest = events[-1].event_time_us
    targets = [event(newest + ahead) for ahead in (0, 1, HOUR_US, 5 * HOUR_US)]
    np.testing.assert_array_equal(loaded.read(targets).values, replayed.read(targets).values)
    assert loaded.stats()["events"] < 300


def test_history_not_in_normal_form_is_refused() -> None:
    store = store_of(COUNT, *windows("1us", ["lat"]))
    good = batch([event(5)])
    with pytest.raises(OnlineStoreError, match="lacks the columns lat"):
        store.load(good.drop_columns(["lat"]))
    with pytest.raises(OnlineStoreError, match="without event_time_us"):
        store.load(good.set_column(1, "event_time_us", pa.array([None], pa.int64())))
    with pytest.raises(OnlineStoreError, match="finite"):
        store.load(batch([event(5, lat=float("nan"))]))
    assert store.stats()["events"] == 0
