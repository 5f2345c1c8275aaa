"""The online store in Redis: repeats, several writers, loads, hot entities, keys of any text."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from fraudml import wiring
from fraudml.adapters.connections import redis
from fraudml.adapters.online.memory import MemoryOnlineStore
from fraudml.adapters.online.redis import RedisOnlineStore, load, post, store, tidy
from fraudml.adapters.online.redis.lanes import key_text
from fraudml.errors import ConfigError, MissingExtra, OnlineStoreError, StateLost
from fraudml.events.label import Label
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
from fraudml.settings import Settings
from tests.parity.strategies import record_batch
from tests.support.scoring import SCHEMA

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
T0 = 1_700_000_000_000_000 // HOUR_US * HOUR_US
NUMBERS = itertools.count()

Open = Callable[..., RedisOnlineStore]


@pytest.fixture
def client(redis_url: str) -> redis.Client:
    return redis.client(redis_url, 5_000)


@pytest.fixture
def open_store(client: redis.Client) -> Open:
    """Opens a store, complete unless ``ready`` is false."""

    def opened(*features: Feature, ready: bool = True, **options: Any) -> RedisOnlineStore:
        made = RedisOnlineStore(FeatureSet(SCHEMA, features), lambda: client, timeout_ms=5_000, **options)
        if ready:
            made.loaded()
        return made

    return opened


def event(time_us: int, amount: int = 100, customer: str | None = "c", terminal: str | None = None) -> Transaction:
    return Transaction(f"t{next(NUMBERS)}", time_us, (customer, terminal), amount, ("DE", 1.5, 3))


def window(agg: Aggregation, resolution: str = "1us", of: str | None = "amount", length: str = "2d") -> WindowFeature:
    name = f"{agg}_{of}_{length}_{resolution}"
    return WindowFeature(name=name, over="customer", agg=agg, of=of, length=length, resolution=resolution)


def history(events: Sequence[Transaction]) -> Any:
    return record_batch(SCHEMA, list(events), {})


def assert_reference(
    store: RedisOnlineStore, target: Transaction, events: Sequence[Transaction], labels: Sequence[Label] = ()
) -> None:
    features = store.feature_set.state_features
    expected = [as_float(state_value(store.feature_set, each, target, events, labels)) for each in features]
    np.testing.assert_allclose(store.read([target]).values[0], expected, rtol=4e-15)


ALL_COARSE = [window(agg, "1h", of) for agg in Aggregation for of in ("amount", "distance")]
FRAUDS = LabelWindowFeature(name="f", over="customer", agg=LabelAggregation.fraud_rate, length="2d", resolution="1h")


def test_a_hot_entity_is_bounded_by_its_tiles_and_stays_exact(open_store: Open, client: redis.Client) -> None:
    store = open_store(*ALL_COARSE, FRAUDS, lateness_us=HOUR_US)
    events, labels = [], []
    sizes: list[int] = []
    rng = random.Random(3)
    for first in range(0, 6_000, 50):  # five days
        batch = []
        for i in range(first, first + 50):
            now_us = T0 + i * 5 * DAY_US // 6_000
            batch.append(event(now_us - (rng.randrange(20) == 0) * rng.randrange(HOUR_US // 2), rng.randrange(10**12)))
        events += batch
        store.read_then_update(batch)
        reports = [Label(each.transaction_id, rng.random() < 0.1, each.event_time_us, each.entities) for each in batch]
        labels += reports
        store.add_labels(reports)
        if first % 1_000 == 0:
            assert_reference(store, event(T0 + (first + 60) * 5 * DAY_US // 6_000), events, labels)
        sizes.append(sum(client.strlen(key) for key in client.keys("*:customer:c}:[tl]*")))
    assert max(sizes) < 2_600 * 16 + 60 * 200 + 29 * 1_024 + 300 * 60  # distinct values, tiles, ids, what is not folded
    assert max(sizes[80:]) < 1.2 * max(sizes[40:80])


def test_what_was_folded_is_still_told_from_what_is_new(open_store: Open) -> None:
    store = open_store(window(Aggregation.count, "1h", None))
    events = [event(T0 + i * 1_000_000) for i in range(600)]
    for first in range(0, 600, 50):
        store.read_then_update(events[first : first + 50])
    store.read_then_update(events[:300])
    store.load(history(events[200:500]))
    assert_reference(store, event(T0 + DAY_US), events)


@pytest.mark.parametrize("size", [20, 64, 65, 600])  # of few each is searched for, of more a table is made
def test_repeats_among_what_is_new_are_left_out_however_many_come_at_once(open_store: Open, size: int) -> None:
    features = (*ALL_COARSE, FRAUDS, window(Aggregation.sum), LastFeature(name="age", over="customer"))
    store = open_store(*features, lateness_us=HOUR_US)
    events = [event(T0 + i // 3 * 1_000_000, i) for i in range(600)]
    labels = [
        Label(each.transaction_id, i % 7 == 0, each.event_time_us, each.entities) for i, each in enumerate(events)
    ]
    for first in range(0, 600, 50):  # one in two, and what is folded of them
        store.read_then_update(events[first : first + 50 : 2])
        store.add_labels(labels[first : first + 50 : 3])
    for first in range(0, 600, size):
        store.read_then_update(events[first : first + size])
        store.add_labels(labels[first : first + size])
    assert_reference(store, event(T0 + DAY_US), events, labels)
    for first in range(0, 600, size):
        store.load(history(events[first : first + size]))
    assert_reference(store, event(T0 + DAY_US), events, labels)


@pytest.mark.parametrize("resolution", ["1us", "1h"])
def test_a_load_takes_time_in_proportion_to_the_events_of_one_entity(client: redis.Client, resolution: str) -> None:
    features = FeatureSet(SCHEMA, [window(Aggregation.count, resolution, None)])

    def scripts_us() -> int:
        return sum(
            each["usec"] for name, each in client.info("commandstats").items() if name.startswith("cmdstat_eval")
        )

    def spent_us(number: int) -> int:
        """The third of three loads, the fastest of five: other programs run on the machine."""
        events = [event(T0 + i % number) for i in range(3 * number)]  # none is newer than all that is held
        loads = [history(events[first : first + number]) for first in range(0, 3 * number, number)]
        spent = []
        for attempt in range(5):
            store = RedisOnlineStore(features, lambda: client, project=f"p{number}-{attempt}", timeout_ms=5_000)
            assert store.claim_load()
            for each in loads:
                before = scripts_us()
                store.load(each)
                store._loader.flush()
            spent.append(scripts_us() - before)
        return min(spent)

    assert spent_us(48_000) < 32 * spent_us(6_000)  # 8 times; a search for each of them made it 64 times


def test_calls_of_a_load_are_short(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "BYTES", 22 * 30)
    store = open_store(window(Aggregation.sum))
    events = [event(T0 + i, i, f"c{i % 5}") for i in range(100)]
    names = sorted({each.entities[0] for each in events})
    lane = store._layout.lanes[0][0]
    calls = store._post.parts(lane, [name.encode() for name in names], [b"x" * 22 * n for n in (10, 20, 1, 40, 0)], 0)
    assert [list(part.places) for part in calls] == [[0, 1], [2], [3], [4]]
    store.load(history(events))
    assert_reference(store, event(T0 + DAY_US, customer="c3"), events)


def test_what_is_too_old_to_be_told_apart_is_left_out_of_a_catch_up_but_not_of_a_batch(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post, "RING", 16)
    store = open_store(window(Aggregation.count, "1h", None))
    events = [event(T0 + i * 1_000_000) for i in range(600)]
    for first in range(0, 600, 50):
        store.read_then_update(events[first : first + 50])
    store.load(history(events[:100]))
    assert_reference(store, event(T0 + DAY_US), events)
    late = event(T0 + 500_000)
    store.read_then_update([late])
    assert_reference(store, event(T0 + DAY_US), [*events, late])


def test_a_load_folds_but_leaves_out_what_others_added(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "ROWS", 100)
    features = (*ALL_COARSE, window(Aggregation.sum), LastFeature(name="age", over="customer"))
    loading, adding = open_store(*features, ready=False), open_store(*features, ready=False)
    events = [event(T0 + i * 60_000_000, i, f"c{i % 3}") for i in range(1_200)]
    assert loading.claim_load()
    for first in range(0, 1_200, 60):
        with pytest.raises(StateLost):
            adding.read_then_update(events[1_199 - first // 2 : 1_199 - first // 2 + 7])
        loading.load(history(events[first : first + 60]))
    loading.loaded()
    assert_reference(adding, event(T0 + DAY_US, customer="c1"), events)


def test_several_processes_add_at_the_same_time(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidy, "MOST_RAW", 12)
    monkeypatch.setattr(tidy, "KEPT_RAW", 4)
    features = (window(Aggregation.sum), *ALL_COARSE)
    open_store(*features)
    parts = [[event(T0 + i * 1_000_000 + number, i, f"c{i % 2}") for i in range(200)] for number in range(3)]
    errors: list[BaseException] = []

    def work(part: list[Transaction]) -> None:
        own = open_store(*features, ready=False)
        try:
            for first in range(0, len(part), 10):
                own.read_then_update(part[first : first + 10])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for key in ("c0", "c1"):
        assert_reference(open_store(*features), event(T0 + DAY_US, customer=key), [e for part in parts for e in part])


def test_a_batch_larger_than_a_round_trip_is_one_after_the_other(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "AT_ONCE", 7)
    monkeypatch.setattr(post, "TOGETHER", 2)
    opened = open_store(window(Aggregation.count, of=None))
    events = [event(T0 + i, customer=f"c{i % 5}") for i in range(50)]
    assert opened.read_then_update(events).values[:, 0].tolist() == [i // 5 for i in range(50)]
    reports = [Label(f"t{i}", True, T0, ("c", None)) for i in range(20)]
    open_store(FRAUDS).add_labels(reports * 2)


def test_a_batch_far_out_of_order_is_one_after_the_other(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_RISES", 3)
    opened = open_store(window(Aggregation.sum), window(Aggregation.count, of=None))
    rng = random.Random(6)
    events = [event(T0 + rng.randrange(1_000), i, rng.choice("ab")) for i in range(60)]
    read = opened.read_then_update(events)
    for i, each in enumerate(events):
        wanted = [
            as_float(state_value(opened.feature_set, f, each, events[:i], []))
            for f in opened.feature_set.state_features
        ]
        assert read.values[i].tolist() == wanted
        assert read.late[i] == any(
            e.event_time_us > each.event_time_us for e in events[:i] if e.entities == each.entities
        )


def test_keys_of_any_text_are_apart(open_store: Open, client: redis.Client) -> None:
    keys = [
        "}",
        "{a}",
        "a b",
        "a%20b",
        "\0",
        "\n",
        "é",
        "x" * 10_000,
        "x" * 10_000 + "y",
        "%%",
        ":",
        "a:e",
        "\ud800",
        "",
    ]
    opened = open_store(window(Aggregation.count, of=None))
    opened.read_then_update([event(T0 + i, customer=key) for i, key in enumerate(keys)])
    counts = opened.read([event(T0 + 100, customer=key) for key in keys]).values[:, 0]
    assert counts.tolist() == [1] * len(keys)
    assert len({key_text(key) for key in keys}) == len(keys)
    assert max(map(len, client.keys())) < 150
    assert opened.stats()["entities"] == len(keys)


def test_idle_entities_vanish_some_time_after_their_windows(open_store: Open, client: redis.Client) -> None:
    opened = open_store(window(Aggregation.count, of=None), FRAUDS, lateness_us=HOUR_US, ahead_us=HOUR_US)
    opened.read_then_update([event(T0)])
    lane = client.keys("*:customer:c}:e")[0]
    assert 50 * 3_600 < client.ttl(lane) <= 51 * 3_600
    far_us = int(client.time()[0]) * 1_000_000 + 30 * DAY_US
    opened.add_labels([Label("t", True, far_us, ("c", None)), Label("u", True, T0, ("c", None))])
    opened.add_labels([Label("v", True, T0, ("c", None))])  # does not make it shorter
    assert client.ttl(client.keys("*:customer:c}:l*")[0]) > 31 * 86_400


def test_a_lane_that_grows_large_is_appended_to(open_store: Open) -> None:
    opened = open_store(window(Aggregation.sum))
    events = [event(T0 + i, i) for i in range(600)]
    for first in range(0, 600, 20):
        opened.read_then_update(events[first : first + 20])
    assert_reference(opened, event(T0 + DAY_US), events)


def test_lanes_are_made_short_by_later_batches(open_store: Open, client: redis.Client) -> None:
    opened = open_store(window(Aggregation.sum, length="1h"), lateness_us=0, tick=1)
    events = [event(T0 + i * HOUR_US // 10, i) for i in range(100)]
    for each in events:
        opened.read_then_update([each])
    assert client.strlen(client.keys("*:customer:c}:e")[0]) < 30 * 22
    assert_reference(opened, event(T0 + 99 * HOUR_US // 10 + 1), events)


def test_last_features_keep_no_more_than_they_need(open_store: Open, client: redis.Client) -> None:
    opened = open_store(LastFeature(name="age", over="customer", within="90d"), lateness_us=HOUR_US, tick=1)
    for i in range(200):
        opened.read_then_update([event(T0 + i * HOUR_US)])
    assert client.strlen(client.keys("*:customer:c}:e")[0]) < 30 * 14


def test_nothing_is_read_while_history_is_missing(open_store: Open) -> None:
    with pytest.raises(StateLost, match="has to be loaded"):
        open_store(window(Aggregation.sum), ready=False).read([event(T0)])


def test_text_and_numbers_that_last_reads_are_those_of_the_store_in_this_process(open_store: Open) -> None:
    features = [LastFeature(name=f"last_{of}", over="customer", of=of) for of in ("country", "distance", "items")]
    texts = ["DE", "FR", "AA", "ZZ", "DE2", "é", None]
    rng = random.Random(4)
    opened, memory = open_store(*features), MemoryOnlineStore(FeatureSet(SCHEMA, features))
    for i in range(60):
        values = (rng.choice(texts), rng.choice([0.0, -0.0, 1.5, None]), rng.choice([3, None]))
        each = Transaction(f"u{i}", T0 + i // 4, ("c", None), 5, values)
        np.testing.assert_array_equal(opened.read_then_update([each]).values, memory.read_then_update([each]).values)


def test_claims_exclude_each_other_until_the_load_is_complete(open_store: Open) -> None:
    first, second = open_store(window(Aggregation.sum), ready=False), open_store(window(Aggregation.sum), ready=False)
    assert first.lost()
    assert second.lost()
    assert first.claim_load()
    assert not second.claim_load()
    first.give_up_load()
    assert second.claim_load()
    second.give_up_load()
    second.give_up_load()  # nothing to give up
    assert first.claim_load()
    first.loaded()
    assert not second.lost()
    assert not second.claim_load()  # nothing is missing


def test_a_lane_of_something_else_is_told(open_store: Open, client: redis.Client) -> None:
    opened = open_store(window(Aggregation.sum))
    opened.read_then_update([event(T0)])
    name = client.keys("*:customer:c}:e")[0]
    client.set(name, b"short")
    with pytest.raises(OnlineStoreError, match="another program"):
        opened.read([event(T0)])
    client.delete(name)
    client.lpush(name, "x")
    with pytest.raises(OnlineStoreError, match="another program"):
        opened.read([event(T0)])


def test_stats_of_many_keys_are_estimated(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from fraudml.adapters.online.redis import stats

    monkeypatch.setattr(stats, "SAMPLE", 100)
    monkeypatch.setattr(stats, "STEP", 50)
    opened = open_store(window(Aggregation.sum), window(Aggregation.count, "1h"))
    opened.read_then_update([event(T0, customer=f"c{i}") for i in range(500)])
    found = opened.stats()
    assert found["estimated"]
    assert 250 < found["entities"] < 1_000
    assert 250 < found["events"] < 1_000


def test_the_settings_choose_it(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features = FeatureSet(SCHEMA, [window(Aggregation.sum)])
    assert isinstance(wiring.online_store(Settings(), features), MemoryOnlineStore)
    chosen = wiring.online_store(Settings(redis_url=redis_url, model_name="mine"), features)
    assert isinstance(chosen, RedisOnlineStore)
    assert chosen.lost()
    assert chosen.shared
    with pytest.raises(ConfigError, match="no URL of Redis"):
        wiring.online_store(Settings(redis_url="http://here"), features)
    monkeypatch.setattr(redis, "Redis", None)
    with pytest.raises(MissingExtra):
        wiring.online_store(Settings(redis_url=redis_url), features)
