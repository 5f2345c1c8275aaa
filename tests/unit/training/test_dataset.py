"""The training set is what the offline store gives, in order, with labels and numbered entities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fraudml.errors import TrainingError
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn
from fraudml.features.spec import Aggregation, AttributeFeature, DerivedFeature, FeatureSet, WindowFeature
from fraudml.training import dataset
from fraudml.training.dataset import NEVER_KNOWN, UNLABELLED

SCHEMA = Schema(
    TimeColumn("time"),
    "id",
    {"customer": "cust"},
    AmountColumn("amount"),
    {"country": Attribute(AttributeType.category, vocabulary=("DE", "FR"))},
).check()
FEATURES = FeatureSet(
    SCHEMA,
    [
        AttributeFeature("amount", of="amount"),
        AttributeFeature("country", of="country"),
        WindowFeature("n_1d", "customer", Aggregation.count, "1d", input=False),
        DerivedFeature("per_event", expression="amount / n_1d"),
    ],
)


def batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    columns = {
        "transaction_id": pa.string(),
        "event_time_us": pa.int64(),
        "customer": pa.string(),
        "amount_minor": pa.int64(),
        "country": pa.string(),
        "is_fraud": pa.bool_(),
        "known_at_us": pa.int64(),
        "n_1d": pa.int64(),
    }
    return pa.RecordBatch.from_pylist(rows, schema=pa.schema(list(columns.items())))


def row(time: int, **changes: Any) -> dict[str, Any]:
    values = {
        "transaction_id": f"t{time}",
        "event_time_us": time,
        "customer": "a",
        "amount_minor": 100,
        "country": "DE",
        "is_fraud": False,
        "known_at_us": time + 7,
        "n_1d": 2,
    }
    return values | changes


class Store:
    """An offline store that has computed these batches; remembers what it was asked."""

    def __init__(self, *batches: pa.RecordBatch) -> None:
        self.batches = batches
        self.asked: dict[str, Any] = {}

    def features(self, feature_set: FeatureSet, **asked: Any) -> Iterator[pa.RecordBatch]:
        assert feature_set is FEATURES
        self.asked = asked
        yield from self.batches


def build(*batches: pa.RecordBatch, **options: Any) -> dataset.Dataset:
    return dataset.build(Store(*batches), FEATURES, **options)  # type: ignore[arg-type]


def test_columns_by_hand() -> None:
    data = build(
        batch([row(1), row(2, customer="b", is_fraud=True, country="XX", amount_minor=700)]),
        batch([]),
        batch([row(3, customer=None, is_fraud=None, known_at_us=None, country=None, amount_minor=None, n_1d=0)]),
        batch([row(4, customer="b", country="FR"), row(5, customer="c")]),
    )
    assert data.x.dtype == np.float32
    np.testing.assert_array_equal(
        data.x, np.array([[100, 1, 50], [700, 0, 350], [np.nan] * 3, [100, 2, 50], [100, 1, 50]], np.float32)
    )
    assert data.y.tolist() == [0, 1, UNLABELLED, 0, 0]
    assert data.event_time_us.tolist() == [1, 2, 3, 4, 5]
    assert data.known_at_us.tolist() == [8, 9, NEVER_KNOWN, 11, 12]
    np.testing.assert_array_equal(data.amount_minor, [100, 700, np.nan, 100, 100])
    assert data.entity.tolist() == [0, 1, -1, 1, 2], "a number per customer across batches, -1 for none"
    assert (len(data), data.frauds) == (5, 1)


def test_the_period_is_asked_of_the_store() -> None:
    store = Store(batch([row(1)]))
    dataset.build(store, FEATURES, since_us=1, until_us=9)  # type: ignore[arg-type]
    assert store.asked == {"since_us": 1, "until_us": 9, "progress": None}


@pytest.mark.parametrize("batches", [(), (batch([]),)])
def test_no_transactions_is_said(batches: tuple[pa.RecordBatch, ...]) -> None:
    with pytest.raises(TrainingError, match="no transactions in the period"):
        build(*batches)


def test_the_hash_is_that_of_inputs_labels_and_times() -> None:
    rows = [row(1), row(2, is_fraud=True), row(3, country=None)]
    whole, parts = build(batch(rows)), build(batch(rows[:1]), batch(rows[1:]))
    assert whole.content_hash() == parts.content_hash()
    changed = [[row(1), row(2), rows[2]], [row(1, amount_minor=101), *rows[1:]], [row(0), *rows[1:]], rows[:2]]
    hashes = {build(batch(each)).content_hash() for each in changed}
    assert len(hashes | {whole.content_hash()}) == 5


def test_take_keeps_the_columns_together() -> None:
    data = build(batch([row(i, customer=f"c{i}", amount_minor=i, is_fraud=i == 3) for i in range(1, 6)]))
    for rows in (data.y == 1, np.array([2]), slice(2, 3)):
        taken = data.take(rows)
        assert taken.x[:, 0].tolist() == [3]
        assert (taken.y.tolist(), taken.event_time_us.tolist(), taken.known_at_us.tolist()) == ([1], [3], [10])
        assert (taken.amount_minor.tolist(), taken.entity.tolist()) == ([3], [2])
