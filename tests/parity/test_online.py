"""The in-process online store is the reference, on generated histories.

Slots move when their stretch is full and columns grow when they are: histories are all short, so they are tried with
stretches and columns as short as can be, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.adapters.online.memory import MemoryOnlineStore, arena, windows
from tests.parity.online import DAY_US, check
from tests.parity.strategies import History, histories, record_batch

# Every history is tried twice, with both lengths.
FEWER = settings(max_examples=settings().max_examples // 2)


@pytest.fixture(params=[True, False], ids=["shortest", "usual"], autouse=True, scope="module")
def _short(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setattr(arena, "LEAST", 2)
            patch.setattr(arena, "GROWTH", 1)
            patch.setattr(windows, "OPEN", 0)
        yield


def store_for(history: History, tick: int = 256) -> MemoryOnlineStore:
    return MemoryOnlineStore(history.feature_set, lateness_us=2 * DAY_US, tick=tick)


@FEWER
@given(histories(), st.integers(1, 5))
def test_events_in_any_order_of_arrival(history: History, size: int) -> None:
    store = store_for(history)
    store.add_labels(history.labels)
    events = history.transactions
    for first in range(0, len(events), size):
        batch = events[first : first + size]
        arrived = [events[: first + i] for i in range(len(batch))]
        check(history, store.read(batch), batch, [events[:first]] * len(batch))
        check(history, store.read_then_update(batch), batch, arrived)
    check(history, store.read(events), events, [events] * len(events))


@FEWER
@given(histories(max_transactions=40))
def test_events_in_order_of_time_with_eviction_after_each(history: History) -> None:
    store = MemoryOnlineStore(history.feature_set, lateness_us=0, tick=1)
    store.add_labels(history.labels)
    events = sorted(history.transactions, key=lambda event: event.event_time_us)
    for i, event in enumerate(events):
        check(history, store.read_then_update([event]), [event], [events[:i]])


@FEWER
@given(histories(), st.data())
def test_a_bulk_load_is_a_replay(history: History, data: st.DataObject) -> None:
    events = history.transactions
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=3)))
    built = data.draw(st.booleans())
    store = store_for(history)
    for first, until in zip([0, *cuts], [*cuts, len(events)], strict=True):
        store.load(record_batch(history.feature_set.schema, events[first:until], history.first_labels))
        if built:
            store.stats()
    store.add_labels(history.further_labels)
    replayed = store_for(history)
    replayed.add_labels(history.labels)
    replayed.read_then_update(events)
    check(history, store.read(events), events, [events] * len(events))
    assert store.stats() == replayed.stats()
