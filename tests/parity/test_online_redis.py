"""The online store in Redis is the reference, on generated histories.

Lanes are made short when they are long: histories are short, so they are tried with small limits, too. A history is
tried in half as many examples as for the store in this process: each takes some dozen round trips.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.adapters.connections import redis
from fraudml.adapters.online.redis import RedisOnlineStore, tidy
from fraudml.events.transaction import Transaction
from fraudml.features.spec import FeatureSet, StateFeature
from tests.parity.compare import agrees
from tests.parity.online import DAY_US, check
from tests.parity.strategies import History, histories, record_batch

FEWER = settings(max_examples=settings().max_examples // 2)
NUMBERS = itertools.count()


class Server:
    """Makes stores, each in a namespace of its own."""

    def __init__(self, url: str) -> None:
        self._client = redis.client(url, 5_000)

    def store(self, history: History, lateness_us: int = 2 * DAY_US, **options: Any) -> RedisOnlineStore:
        if next(NUMBERS) % 50 == 0:
            self._client.flushdb()
        store = RedisOnlineStore(
            history.feature_set,
            lambda: self._client,
            project=f"p{next(NUMBERS)}",
            lateness_us=lateness_us,
            timeout_ms=5_000,
            **options,
        )
        store.loaded()
        return store


@pytest.fixture(params=[True, False], ids=["short", "usual"], scope="module")
def server(request: pytest.FixtureRequest, redis_server: str) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setattr(tidy, "MOST_RAW", 2)
            patch.setattr(tidy, "KEPT_RAW", 1)
            patch.setattr(tidy, "LEAST_DROPPED", 1)
        yield Server(redis_server)


def same(
    value: float,
    wanted: float,
    feature_set: FeatureSet,
    feature: StateFeature,
    target: Transaction,
    before: Sequence[Transaction],
) -> bool:
    missing = None if math.isnan(wanted) else wanted
    return agrees(value, missing, feature_set, feature, target, before)


def distinct_labels(history: History) -> History:
    """Without reports that are the same in id, time and verdict: a shared store takes them for repeats."""
    labels = {(label.transaction_id, label.known_at_us, label.is_fraud): label for label in history.labels}
    return History(history.feature_set, history.transactions, tuple(labels.values()))


@FEWER
@given(histories(), st.integers(1, 5))
def test_events_in_any_order_of_arrival(server: Server, history: History, size: int) -> None:
    history = distinct_labels(history)
    store = server.store(history)
    store.add_labels(history.labels)
    events = history.transactions
    for first in range(0, len(events), size):
        batch = events[first : first + size]
        arrived = [events[: first + i] for i in range(len(batch))]
        check(history, store.read(batch), batch, [events[:first]] * len(batch), same)
        check(history, store.read_then_update(batch), batch, arrived, same)
    check(history, store.read(events), events, [events] * len(events), same)


@FEWER
@given(histories(max_transactions=40))
def test_events_in_order_of_time_with_all_made_short_after_each(server: Server, history: History) -> None:
    history = distinct_labels(history)
    store = server.store(history, lateness_us=0, tick=1)
    store.add_labels(history.labels)
    events = sorted(history.transactions, key=lambda event: event.event_time_us)
    for i, event in enumerate(events):
        check(history, store.read_then_update([event]), [event], [events[:i]], same)


@FEWER
@given(histories(), st.data())
def test_a_batch_that_is_sent_again_gets_the_same_answer_and_adds_nothing(
    server: Server, history: History, data: st.DataObject
) -> None:
    history = distinct_labels(history)
    store = server.store(history)
    store.add_labels(history.labels)
    events = history.transactions
    cut = data.draw(st.integers(0, len(events)))
    batch = events[cut:]
    store.read_then_update(events[:cut])
    arrived = [events[: cut + i] for i in range(len(batch))]
    for _ in range(2):
        check(history, store.read_then_update(batch), batch, arrived, same)
        store.add_labels(history.labels)
    check(history, store.read(events), events, [events] * len(events), same)


@FEWER
@given(histories(max_transactions=30), st.data())
def test_a_load_while_others_add_is_a_replay(server: Server, history: History, data: st.DataObject) -> None:
    """Some events are loaded, some added meanwhile, some both, in any order; two processes, and perhaps one more that
    began to load before and died: the load goes on where that one was, or begins anew."""
    history = distinct_labels(history)
    loading = server.store(history)
    adding = RedisOnlineStore(
        history.feature_set, loading._link.client, project=_project(loading), lateness_us=2 * DAY_US, tick=3
    )
    loading._link.client().flushdb()
    events = history.transactions
    ways = [data.draw(st.sampled_from(["load", "add", "both"])) for _ in events]
    loaded = [event for event, way in zip(events, ways, strict=True) if way != "add"]
    added = [event for event, way in zip(events, ways, strict=True) if way != "load"]
    marked = None
    if data.draw(st.booleans()):
        marked = _begin(history, loading, loaded, data)
        loaded = loaded[int(marked or 0) :]
    assert loading.lost()
    assert loading.claim_load()
    assert loading.mark() == marked
    assert not adding.claim_load()
    while loaded or added:
        size = data.draw(st.integers(1, 4))
        if loaded and (not added or data.draw(st.booleans())):
            loading.load(record_batch(history.feature_set.schema, loaded[:size], history.first_labels))
            if data.draw(st.booleans()):
                loading._loader.flush()
            loaded = loaded[size:]
        else:
            _while_lost(adding.read_then_update, added[:size])
            added = added[size:]
    _while_lost(adding.add_labels, history.labels)
    loading.loaded()
    assert not adding.lost()
    check(history, adding.read(events), events, [events] * len(events), same)
    late = [msgspec.structs.replace(event, transaction_id=f"{event.transaction_id} again") for event in events]
    check(history, adding.read_then_update(late[:1]), late[:1], [events], same)


def _begin(history: History, store: RedisOnlineStore, events: list[Transaction], data: st.DataObject) -> str | None:
    """A process loads some events and dies; it may have noted how far it had come."""
    died = RedisOnlineStore(history.feature_set, store._link.client, project=_project(store), lateness_us=2 * DAY_US)
    assert died.claim_load()
    cut = data.draw(st.integers(0, len(events)))
    marked = str(cut) if data.draw(st.booleans()) else None
    for first, until in ((0, cut), (cut, data.draw(st.integers(cut, len(events))))):
        died.load(record_batch(history.feature_set.schema, events[first:until], history.first_labels))
        died._loader.flush()
        if marked and not first:
            died.set_mark(marked)
    died.give_up_load()  # as if its time were over
    return marked


def _project(store: RedisOnlineStore) -> str:
    return store._layout.namespace.partition(":")[0]


def _while_lost(add: Any, events: Any) -> None:
    from fraudml.errors import StateLost

    if events:
        with pytest.raises(StateLost):
            add(events)
