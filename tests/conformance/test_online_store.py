"""What every ``OnlineStore`` promises, by hand-computed examples; ``tests/parity`` covers the values at large."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import fraudml.adapters.online
from fraudml.errors import OnlineStoreError
from fraudml.events.label import Label
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn
from fraudml.events.source import arrow_schema
from fraudml.events.transaction import Transaction
from fraudml.features.spec import (
    Aggregation,
    AttributeFeature,
    Feature,
    FeatureSet,
    LabelAggregation,
    LabelWindowFeature,
    LastFeature,
    WindowFeature,
)
from fraudml.features.stores import OnlineStore

ADAPTERS = sorted(
    path.stem
    for path in Path(fraudml.adapters.online.__path__[0]).iterdir()
    if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").exists())
)
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
T0 = 1_700_000_000_000_000 // HOUR_US * HOUR_US  # a full hour
NAN = float("nan")

SCHEMA = Schema(
    TimeColumn("time"),
    "id",
    {"customer": "cust", "merchant": "merch"},
    AmountColumn("amount", optional=True),
    {
        "country": Attribute(AttributeType.category, vocabulary=("DE", "FR")),
        "lat": Attribute(AttributeType.number),
    },
)


def open_memory(feature_set: FeatureSet) -> OnlineStore:
    from fraudml.adapters.online.memory import MemoryOnlineStore

    return MemoryOnlineStore(feature_set, lateness_us=DAY_US)


def open_redis(feature_set: FeatureSet, url: str) -> OnlineStore:
    """In a namespace of its own, without history to be loaded."""
    from fraudml.adapters.connections import redis
    from fraudml.adapters.online.redis import RedisOnlineStore

    project = f"conformance-{next(NUMBERS)}"
    store = RedisOnlineStore(feature_set, lambda: redis.client(url, 5_000), project=project, lateness_us=DAY_US)
    store.loaded()
    return store


# Each with the fixture that gives the URL of its server
OPEN: dict[str, tuple[Callable[..., OnlineStore], str | None]] = {
    "memory": (open_memory, None),
    "redis": (open_redis, "redis_url"),
}
NUMBERS = itertools.count()
Open = Callable[..., OnlineStore]


@pytest.fixture(params=ADAPTERS)
def open_store(request: pytest.FixtureRequest) -> Open:
    """Opens an empty store of the adapter for some features."""
    opened, server = OPEN[request.param]
    url = [request.getfixturevalue(server)] if server else []
    return lambda *features: opened(FeatureSet(SCHEMA, features), *url)


def event(
    time_us: int, amount: int | None = 100, customer: str | None = "c", merchant: str | None = "m", **values: Any
) -> Transaction:
    attributes = (values.get("country", "DE"), values.get("lat", 1.5))
    return Transaction(values.get("name", f"t{time_us}"), time_us, (customer, merchant), amount, attributes)


def label(known_at_us: int, is_fraud: bool = True, customer: str = "c", merchant: str = "m") -> Label:
    return Label("some", is_fraud, known_at_us, (customer, merchant))


def window(agg: Aggregation, length: str = "1h", of: str | None = "amount", **options: Any) -> WindowFeature:
    return WindowFeature(
        name=options.pop("name", f"{agg}_{length}"),
        over=options.pop("over", "customer"),
        agg=agg,
        length=length,
        of=of,
        **options,
    )


def values(store: OnlineStore, *events: Transaction) -> list[list[float]]:
    read = store.read(events).values.tolist()
    assert isinstance(read, list)
    return read


def batch(events: Sequence[Transaction], labels: dict[str, tuple[bool, int]] | None = None) -> pa.RecordBatch:
    rows = [
        (
            e.transaction_id, e.event_time_us, *e.entities, e.amount_minor, *e.attributes,
            *(labels or {}).get(e.transaction_id, (None, None)),
        )
        for e in events
    ]  # fmt: skip
    schema = arrow_schema(SCHEMA)
    columns = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(schema)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


COUNT = window(Aggregation.count, of=None)
ALL = [window(agg) for agg in Aggregation]


def test_every_adapter_is_opened_here() -> None:
    assert set(ADAPTERS) == set(OPEN)


def test_an_unknown_entity_and_a_missing_key_read_as_empty(open_store: Open) -> None:
    store = open_store(*ALL)
    store.read_then_update([event(T0, customer=None)])
    empty = [0, 0, NAN, NAN, NAN, NAN, NAN]
    np.testing.assert_equal(values(store, event(T0 + 1), event(T0 + 1, customer=None)), [empty, empty])


def test_every_aggregation_skips_missing_values(open_store: Open) -> None:
    store = open_store(*ALL)
    amounts = [1, 2, None, 4]
    store.read_then_update([event(T0 + i, amount) for i, amount in enumerate(amounts)])
    assert values(store, event(T0 + 9)) == [[3, 7, 7 / 3, pytest.approx(1.5275252316519468), 1, 4, 3]]


def test_the_tail_is_inside_and_the_head_outside(open_store: Open) -> None:
    store = open_store(COUNT)
    store.read_then_update([event(T0)])
    times = [T0, T0 + 1, T0 + HOUR_US, T0 + HOUR_US + 1]
    assert values(store, *(event(time) for time in times)) == [[0], [1], [1], [0]]


def test_events_of_a_batch_are_taken_one_after_the_other(open_store: Open) -> None:
    store = open_store(COUNT)
    read = store.read_then_update([event(T0), event(T0, name="tie"), event(T0 + 5), event(T0 + 6)])
    assert read.values.tolist() == [[0], [0], [2], [3]]
    assert read.values.dtype == np.float64
    assert not read.late.any()


def test_reading_changes_nothing(open_store: Open) -> None:
    store = open_store(COUNT)
    store.read_then_update([event(T0)])
    assert values(store, event(T0 + 5), event(T0 + 6), event(T0 + 5)) == [[1], [1], [1]]


def test_a_tie_is_not_seen_after_a_look_into_the_future(open_store: Open) -> None:
    store = open_store(COUNT, window(Aggregation.max, "2h", resolution="1h"))
    store.read_then_update([event(T0), event(T0 + 1, 500)])
    assert values(store, event(T0 + 2), event(T0 + 1)) == [[2, 500], [1, 100]]


def test_a_coarse_tail_steps_while_the_head_is_exact(open_store: Open) -> None:
    store = open_store(window(Aggregation.sum, "2h", resolution="1h"))
    store.read_then_update([event(T0, 1), event(T0 + HOUR_US - 1, 2), event(T0 + HOUR_US, 4)])
    times = [T0 + HOUR_US, T0 + HOUR_US + 1, T0 + 3 * HOUR_US - 1, T0 + 3 * HOUR_US, T0 + 4 * HOUR_US]
    assert [row[0] for row in values(store, *(event(time) for time in times))] == [3, 7, 7, 4, 0]


def test_entities_are_apart(open_store: Open) -> None:
    store = open_store(COUNT, window(Aggregation.count, name="m", over="merchant", of=None))
    store.read_then_update([event(T0), event(T0 + 1, customer="other"), event(T0 + 2, merchant="other")])
    assert values(store, event(T0 + 9)) == [[2, 2]]


def test_a_late_event_is_flagged_and_put_at_its_own_time(open_store: Open) -> None:
    store = open_store(COUNT, window(Aggregation.sum, "2h"), window(Aggregation.min, "2h"))
    store.read_then_update([event(T0, 1), event(T0 + 100, 4)])
    read = store.read_then_update([event(T0 + 50, 2), event(T0 + 100, 8, name="tie")])
    assert read.late.tolist() == [True, False]
    assert read.values.tolist() == [[1, 1, 1], [2, 3, 1]]
    assert values(store, event(T0 + HOUR_US + 60)) == [[2, 15, 1]]


def test_late_means_that_some_entity_has_seen_more(open_store: Open) -> None:
    store = open_store(COUNT, window(Aggregation.count, name="m", over="merchant", of=None))
    store.read_then_update([event(T0 + 10, customer="busy", merchant="m")])
    others = [event(T0, customer="new", merchant="new"), event(T0, customer="new"), event(T0, customer=None)]
    assert store.read(others).late.tolist() == [False, True, True]


def test_late_also_holds_for_an_entity_with_label_windows_only(open_store: Open) -> None:
    frauds = LabelWindowFeature(name="f", over="customer", agg=LabelAggregation.fraud_count, length="1d")
    store = open_store(frauds)
    store.add_labels([label(T0 + 5)])
    assert store.read_then_update([event(T0), event(T0 + 10), event(T0)]).late.tolist() == [False, False, True]


def test_a_label_is_seen_after_it_became_known(open_store: Open) -> None:
    features = [LabelWindowFeature(name=agg, over="customer", agg=agg, length="1d") for agg in LabelAggregation]
    store = open_store(*features)
    store.read_then_update([event(T0 - 5)])
    store.add_labels([label(T0 + 10), label(T0 + 20, is_fraud=False), label(T0 + 10, customer="other")])
    np.testing.assert_equal(
        values(store, event(T0), event(T0 + 10), event(T0 + 11), event(T0 + 30)),
        [[0, 0, NAN], [0, 0, NAN], [1, 1, 1], [2, 1, 0.5]],
    )


def test_a_label_that_may_be_there_is_added_when_it_is_not(open_store: Open) -> None:
    for resolution in ("1us", "1h"):
        store = open_store(
            LabelWindowFeature("f", "merchant", LabelAggregation.fraud_count, "7d", resolution=resolution)
        )
        store.add_labels([Label("a", True, T0, ("c", "m"))], again=True)
        if store.shared:
            store.add_labels([Label("a", True, T0, ("c", "m")), Label("b", True, T0, ("c", "m"))], again=True)
        assert store.read([event(T0 + DAY_US)]).values.tolist() == [[2.0 if store.shared else 1.0]]


def test_giving_up_a_load_takes_nothing_away(open_store: Open) -> None:
    store = open_store(WindowFeature("n", "customer", Aggregation.count, "1d"))
    store.give_up_load()
    store.read_then_update([event(T0)])
    assert store.read([event(T0 + HOUR_US)]).values.tolist() == [[1.0]]


def test_a_future_label_stays_unseen_within_its_tile(open_store: Open) -> None:
    frauds = LabelWindowFeature(
        name="f", over="customer", agg=LabelAggregation.fraud_count, length="2h", resolution="1h"
    )
    store = open_store(frauds)
    store.add_labels([label(T0 + 30), label(T0 + 10), label(T0 + 20), label(T0 + HOUR_US)])
    assert values(store, *(event(T0 + at) for at in (10, 11, 30, 31))) == [[0], [1], [2], [3]]
    assert values(store, event(T0 + 3 * HOUR_US - 1), event(T0 + 3 * HOUR_US)) == [[4], [1]]


def test_last_reads_the_previous_event(open_store: Open) -> None:
    store = open_store(
        LastFeature(name="age", over="customer"),
        LastFeature(name="last_country", over="customer", of="country"),
        LastFeature(name="last_lat", over="customer", of="lat", within="1h"),
    )
    np.testing.assert_equal(values(store, event(T0)), [[NAN, NAN, NAN]])
    store.read_then_update([event(T0, country="FR"), event(T0 + 1_000_000, country="XX", lat=None)])
    np.testing.assert_equal(
        values(store, event(T0 + 1_000_000), event(T0 + 1_500_000), event(T0 + 2 * HOUR_US)),
        [[1.0, 2, 1.5], [0.5, 0, NAN], [7199.0, 0, NAN]],
    )


def test_among_ties_last_takes_the_greatest_whatever_the_order(open_store: Open) -> None:
    ties = [event(T0, 5, lat=None), event(T0, 5, lat=2.5), event(T0, None, lat=9.0), event(T0, 4, lat=8.0)]
    for order in (ties, ties[::-1]):
        store = open_store(
            LastFeature(name="last_lat", over="customer", of="lat"),
            LastFeature(name="last_amount", over="customer", of="amount"),
        )
        store.read_then_update(order)
        assert values(store, event(T0 + 1)) == [[2.5, 5]]


def test_nunique_counts_entities_and_categories(open_store: Open) -> None:
    store = open_store(window(Aggregation.nunique, of="merchant"), window(Aggregation.nunique, "2h", of="country"))
    store.read_then_update(
        [event(T0), event(T0 + 1, merchant="n", country=None), event(T0 + 2, merchant=None), event(T0 + 3)]
    )
    assert values(store, event(T0 + 9)) == [[2, 1]]


def test_a_bulk_load_in_any_order_is_a_replay(open_store: Open) -> None:
    frauds = LabelWindowFeature(name="f", over="customer", agg=LabelAggregation.fraud_count, length="1d")
    store = open_store(COUNT, window(Aggregation.std, "2h"), frauds, LastFeature(name="age", over="customer"))
    store.load(batch([event(T0 + 20, 3), event(T0, 1)], {f"t{T0}": (True, T0 + 15)}))
    store.load(batch([]))
    store.load(batch([event(T0 + 10, 8, customer=None), event(T0 + 5, 2), event(T0 + 20, 4, name="tie")]))
    store.read_then_update([event(T0 + 30, 5)])
    read = values(store, event(T0 + 12), event(T0 + 20), event(T0 + 40))
    expected = [[2, 0.5**0.5, 0, 7e-6], [2, 0.5**0.5, 1, 15e-6], [5, 2.5**0.5, 1, 10e-6]]
    np.testing.assert_allclose(read, expected, rtol=1e-12)


def test_stats_counts_entities_and_events(open_store: Open) -> None:
    store = open_store(COUNT)
    assert {name: store.stats()[name] for name in ("entities", "events")} == {"entities": 0, "events": 0}
    store.read_then_update([event(T0), event(T0 + 1), event(T0 + 2, customer="other"), event(T0, customer=None)])
    assert {name: store.stats()[name] for name in ("entities", "events")} == {"entities": 2, "events": 3}


def test_a_feature_set_without_history_has_no_columns(open_store: Open) -> None:
    store = open_store(AttributeFeature(name="amount_raw", of="amount"))
    read = store.read_then_update([event(T0), event(T0 - 5)])
    assert read.values.shape == (2, 0)
    assert read.late.tolist() == [False, False]
    store.load(batch([event(T0)]))
    assert store.stats()["entities"] == 0


def test_an_empty_batch_is_answered(open_store: Open) -> None:
    features: list[Feature] = [COUNT, LastFeature(name="age", over="customer")]
    read = open_store(*features).read_then_update([])
    assert read.values.shape == (0, 2)
    assert read.late.shape == (0,)


@pytest.mark.parametrize(
    "broken",
    [
        event(T0 + 1, 10**30),
        event(T0 + 1, "12"),  # type: ignore[arg-type]
        event(10**30),
        event(T0 + 1, customer=7),  # type: ignore[arg-type]
        Transaction("short", T0 + 1, ("c",), 5, ("DE", 1.0)),
        Transaction("bare", T0 + 1, ("c", "m"), 5, ()),
    ],
)
def test_nothing_of_a_refused_batch_is_applied(open_store: Open, broken: Transaction) -> None:
    store = open_store(COUNT, window(Aggregation.sum, "2h"))
    with pytest.raises(OnlineStoreError):
        store.read_then_update([event(T0), broken])
    assert values(store, event(T0 + 9)) == [[0, 0]]


def test_nothing_of_refused_labels_is_applied(open_store: Open) -> None:
    frauds = LabelWindowFeature(name="f", over="customer", agg=LabelAggregation.fraud_count, length="1d")
    store = open_store(frauds)
    with pytest.raises(OnlineStoreError):
        store.add_labels([label(T0), Label("without entities", True, T0)])
    assert values(store, event(T0 + 9)) == [[0]]


def test_calls_of_several_threads_are_atomic(open_store: Open) -> None:
    store = open_store(COUNT)
    seen: list[float] = []

    def work() -> None:
        for _ in range(50):
            pair_of = [event(T0, customer=key, name=f"t{next(NUMBERS)}") for key in ("a", "b")]
            seen.extend(store.read_then_update(pair_of).late)
            pair = store.read([event(T0 + 1, customer="a"), event(T0 + 1, customer="b")]).values
            seen.append(pair[0, 0] - pair[1, 0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(seen)
    assert values(store, event(T0 + 1, customer="a")) == [[200]]
