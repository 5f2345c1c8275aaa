"""The in-process store beyond the port: long lanes, bounded state, eviction, memory."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from fraudml.adapters.online.memory import MemoryOnlineStore, load
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


@pytest.mark.parametrize("many", [64, 0], ids=["in-a-loop", "by-numpy"])
@pytest.mark.parametrize("open_slots", [0, 12])
def test_a_long_lane_with_late_events_is_the_reference(
    monkeypatch: pytest.MonkeyPatch, many: int, open_slots: int
) -> None:
    monkeypatch.setattr("fraudml.adapters.online.memory.lane.MANY", many)
    monkeypatch.setattr("fraudml.adapters.online.memory.windows.OPEN", open_slots)
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


@pytest.mark.parametrize("resolution", ["1us", "1h"])
def test_events_later_than_what_was_dropped_disturb_nobody(resolution: str) -> None:
    features = windows(resolution, ["amount"])
    store = store_of(*features)
    rng = random.Random(4)
    seen: list[Transaction] = []
    now_us = 0
    for i in range(900):
        now_us += rng.choice([0, 1, HOUR_US // 20, HOUR_US // 4])
        late_us = rng.randrange(60 * HOUR_US) if rng.random() < 0.15 else 0
        amount = rng.choice([1, 10_000 - i % 40])  # descending: the maximum has much to remember
        each = event(now_us - late_us, amount, rng.choice("abc"))
        read = store.read_then_update([each]).values[0]
        if not late_us and i % 4 == 0:
            before = [one for one in seen if one.event_time_us >= now_us - DAY_US]
            expected = [as_float(state_value(store.feature_set, f, each, before, [])) for f in features]
            np.testing.assert_array_equal(read, expected)
        seen.append(each)


def test_what_a_wrong_clock_dropped_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraudml.adapters.online.memory.windows.OPEN", 0)
    store = store_of(*[f for f in windows("1us", ["amount"]) if f.agg is Aggregation.max])
    table = store._events[0]

    def add(card: str, time_us: int, amount: int) -> None:
        table.add(card, time_us, (amount,))

    for i in range(30):
        add("a", i, 1_000 - i)  # each is a maximum of what follows
        add("b", i, 1_000 - i)
    lane = table.lanes["a"]
    for _ in range(10):
        table.seal(lane.arena.starts[lane.last] - 1 + 6 * HOUR_US)  # a burst of wrong clocks
        table.trim(lane)
        table.seal(0)
        add("a", 1, 1)  # late; older than what was dropped
        for _ in range(20):
            add("a", lane.arena.starts[lane.last] + 1, 1_000 - lane.arena.starts[lane.last])
    assert store.read([event(40, card="b"), event(2, card="b")]).values.tolist() == [[1_000] * 2, [1_000] * 2]
    assert all(
        each.base <= lane.arena.columns[table.layout.ranked[0].times][each.base] < each.limit
        for each in table.lanes.values()
    )


def test_one_wrong_clock_does_not_leave_all_after_it_to_be_looked_at_one_by_one() -> None:
    store = store_of(*windows("1us", ["amount"]))
    store.read_then_update([event(HOUR_US)])
    for i in range(1_000):  # all of them late
        store.read_then_update([event(i)])
    (lane,) = [table.lanes["c"] for table in store._events]
    assert lane.last - lane.closed < 50


@pytest.mark.parametrize("many", [64, 0], ids=["in-a-loop", "by-numpy"])
@pytest.mark.parametrize("least", [10**18, -(10**18)], ids=["above", "below"])
def test_nothing_overflows_beyond_64_bits(monkeypatch: pytest.MonkeyPatch, many: int, least: int) -> None:
    monkeypatch.setattr("fraudml.adapters.online.memory.lane.MANY", many)
    features = windows("1us", ["amount"])
    store = store_of(*features, lateness_us=DAY_US)
    events = [event(i, (10**18, -(10**18), 7)[i % 3]) for i in range(60)]
    events += [event(i, least) for i in range(30)]  # late ones, which all totals after them take in
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
    assert lane.last - lane.first <= 4 * (6 + 2)
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
    assert lane.last - lane.first < 150
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


@pytest.mark.parametrize("resolution", ["1us", "1h"])
def test_the_collector_sees_no_more_objects_however_much_is_held(resolution: str) -> None:
    columns = ["amount", "lat", "shop"]
    features = [f for f in windows(resolution, columns) if f.of != "shop" or f.agg is Aggregation.nunique]
    store = store_of(*features, FRAUDS, LastFeature(name="a", over="card", of="lat"), lateness_us=DAY_US)

    def tracked(first: int, until: int) -> int:
        for i in range(first, until):
            store.read_then_update([event(i * 1_000_000, i, f"card {i % (i // 40 + 1)}", i / 7)])
            store.add_labels([Label("t", True, i * 1_000_000, (f"card {i % 30}",))])
        for _ in range(3):  # a tuple is let go when all it holds was let go before
            gc.collect()
        return len(gc.get_objects())

    few = tracked(0, 200)
    assert tracked(200, 2_000) - few < 200  # tuples of 16 keys are in one deque


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
