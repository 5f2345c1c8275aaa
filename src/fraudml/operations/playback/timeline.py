"""History as one line of events: transactions at their time, each label at the time it became known."""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace

from fraudml.events.label import Label
from fraudml.events.message import MessageWriter
from fraudml.events.receiver import Item
from fraudml.events.schema import AMOUNT, EVENT_TIME, IS_FRAUD, KNOWN_AT, TRANSACTION_ID, AttributeType, Schema
from fraudml.events.transaction import Transaction
from fraudml.features.spec import AttributeFeature, FeatureSet, Transform
from fraudml.features.stores import OfflineStore

SECOND_US = 1_000_000
Event = Transaction | Label


class Stretch(NamedTuple):
    """The part of history that is played: ``since_us <= time < until_us``, no more than ``limit`` transactions."""

    since_us: int | None = None
    until_us: int | None = None
    limit: int | None = None


class Extent(NamedTuple):
    """How many transactions, and the times of the first and the last one."""

    transactions: int
    first_us: int
    last_us: int

    def shift_us(self, now_us: int, speed: float | None, rate: float | None) -> int:
        """What to add to all times so that none is ahead of the clock while it is played.

        At real speed, or slower, the first transaction is of now. What is played faster would run ahead of the clock,
        so the last one is of the moment at which it will be sent. In whole seconds: some formats of time have no other.

        >>> extent = Extent(11, 0, 10_000_000)
        >>> [extent.shift_us(100_000_000, *pace) for pace in ((1.0, None), (10.0, None), (None, None), (0.5, None))]
        [100000000, 91000000, 90000000, 100000000]
        """
        whole_us = self.last_us - self.first_us
        paced_us = whole_us / speed if speed else 0
        counted_us = (self.transactions - 1) / rate * SECOND_US if rate else 0
        takes_us = int(min(max(paced_us, counted_us), whole_us))
        return (now_us + takes_us - self.last_us) // SECOND_US * SECOND_US


def in_order(store: OfflineStore, schema: Schema, until_us: int | None = None) -> Iterator[pa.RecordBatch]:
    """What was put into an offline store, ordered by (event_time_us, transaction_id)."""
    nothing_to_compute = FeatureSet(
        schema, [AttributeFeature("hour", of="event_time", transform=Transform.hour_of_day)]
    )
    return store.features(nothing_to_compute, until_us=until_us)


def extent(batches: Iterable[pa.RecordBatch], stretch: Stretch) -> Extent:
    """Of the transactions of a stretch; ``batches``: in order of time, as :func:`timeline` takes them."""
    count, first_us, last_us = 0, 0, 0
    for batch in batches:
        times = batch.column(EVENT_TIME).to_numpy()
        times = times[times >= (stretch.since_us or 0)]
        if stretch.limit is not None:
            times = times[: stretch.limit - count]
        if len(times):
            first_us = first_us if count else int(times[0])
            last_us = int(times[-1])
            count += len(times)
        if count == stretch.limit:
            break
    return Extent(count, first_us, last_us)


def timeline(
    batches: Iterable[pa.RecordBatch], schema: Schema, stretch: Stretch, *, labels: bool = True
) -> Generator[Event]:
    """Transactions and labels in order of time; of one time, transactions first: none of them may see the label.

    ``batches``: of ``events.source.arrow_schema``, all before ``until_us``, ordered by (event_time_us, transaction_id),
    so that an interrupted replay goes on in the same order. Those before ``since_us`` only give their later labels.
    With a ``limit`` the last transaction is the end, else labels that become known after it follow.
    """
    since_us = stretch.since_us or 0
    waiting: list[tuple[int, int, Label]] = []
    number = 0
    for batch in batches:
        before = int(np.searchsorted(batch.column(EVENT_TIME).to_numpy(), since_us))
        if before and labels:
            older = batch.slice(0, before)
            older = older.filter(pc.greater_equal(older.column(KNOWN_AT).fill_null(-1), since_us))
            for _, label in _rows(older, schema):
                number += 1
                _wait(waiting, number, label, stretch)
        for event, label in _rows(batch.slice(before), schema):
            while waiting and waiting[0][0] < event.event_time_us:
                yield heapq.heappop(waiting)[2]
            yield event
            number += 1
            if stretch.limit is not None:
                stretch = stretch._replace(limit=stretch.limit - 1)
                if stretch.limit == 0:
                    return
            if labels:
                _wait(waiting, number, label, stretch)
    while waiting:
        yield heapq.heappop(waiting)[2]


def _wait(waiting: list[tuple[int, int, Label]], number: int, label: Label | None, stretch: Stretch) -> None:
    if label is not None and (stretch.until_us is None or label.known_at_us < stretch.until_us):
        heapq.heappush(waiting, (label.known_at_us, number, label))


def _rows(batch: pa.RecordBatch, schema: Schema) -> Iterator[tuple[Transaction, Label | None]]:
    def columns(*names: str) -> list[list[Any]]:
        return [batch.column(name).to_pylist() for name in names]

    entities = zip(*columns(*schema.entities), strict=True) if schema.entities else iter([()] * batch.num_rows)
    attributes = zip(*columns(*schema.attributes), strict=True) if schema.attributes else iter([()] * batch.num_rows)
    own = columns(TRANSACTION_ID, EVENT_TIME, AMOUNT, IS_FRAUD, KNOWN_AT)
    for name, time_us, amount, is_fraud, known_us, keys, values in zip(*own, entities, attributes, strict=True):
        label = None if is_fraud is None else Label(name, is_fraud, known_us, keys)
        yield Transaction(name, time_us, keys, amount, values), label


class ItemWriter:
    """Events as messages, moved by ``shift_us``: event times, times of labels, and attributes that are times, so that
    what a feature takes the difference of stays as it was."""

    def __init__(self, schema: Schema, shift_us: int = 0) -> None:
        self._writer = MessageWriter(schema)
        self._shift_us = shift_us
        self._times = [attribute.type is AttributeType.time for attribute in schema.attributes.values()]

    def item(self, event: Event) -> Item:
        """What is sent of an event; its time is the one of history."""
        key = event.entities[0] if event.entities else None
        moved = self._moved(event) if self._shift_us else event
        if isinstance(moved, Label):
            return Item(True, _time_us(event), event.transaction_id, key, self._writer.label(moved))
        return Item(False, _time_us(event), event.transaction_id, key, self._writer.transaction(moved))

    def known_us(self, label: Label) -> int:
        """When a receiver is told that it was known."""
        return label.known_at_us + self._shift_us

    def _moved(self, event: Event) -> Event:
        shift_us = self._shift_us
        if isinstance(event, Label):
            return replace(event, known_at_us=event.known_at_us + shift_us)
        attributes = tuple(
            value + shift_us if is_time and isinstance(value, int) else value
            for is_time, value in zip(self._times, event.attributes, strict=True)
        )
        return replace(event, event_time_us=event.event_time_us + shift_us, attributes=attributes)


def _time_us(event: Event) -> int:
    return event.known_at_us if isinstance(event, Label) else event.event_time_us
