"""Made-up transactions: the service's own rules accept every one of them, whatever the schema."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from fraudml.cli.bench import traffic
from fraudml.cli.bench.requests import Feed, Requests
from fraudml.events.cards import CardHasher
from fraudml.events.normalise import Normaliser
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, LabelColumn, Schema, TimeColumn, TimeFormat
from fraudml.events.transaction import Transaction

START = {fmt: "2024-01-01" for fmt in TimeFormat if fmt.needs_start}
ATTRIBUTES = {
    "number": Attribute(AttributeType.number),
    "integer": Attribute(AttributeType.integer),
    "boolean": Attribute(AttributeType.boolean),
    "country": Attribute(AttributeType.category, vocabulary=("DE", "FR")),
    "free": Attribute(AttributeType.category, column='with "quotes" and ü'),
    **{f"born_{fmt}": Attribute(AttributeType.time, format=fmt, start=START.get(fmt)) for fmt in TimeFormat},
}


def schema(written: TimeFormat = TimeFormat.iso, **changes: Any) -> Schema:
    values: dict[str, Any] = {
        "transaction_id": "tx",
        "entities": {"customer": "cust", "country_of": "country"},
        "amount": AmountColumn("amount"),
        "attributes": ATTRIBUTES,
        "label": LabelColumn("fraud"),
    }
    return Schema(TimeColumn("at", written, start=START.get(written)), **(values | changes)).check()


def made(declared: Schema, count: int, **changes: Any) -> Requests:
    options: dict[str, Any] = {"entities": 100, "skew": 1.0, "seed": 7, "bodies": count}
    return traffic.requests(declared, "fml_key", **(options | changes))


def transactions(declared: Schema, requests: Requests, count: int) -> list[Transaction]:
    feed, normalise = Feed(requests, "here"), Normaliser(declared, CardHasher(b"key"))
    found = []
    for _ in range(count):
        head, _, body = feed().partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        found.append(normalise(msgspec.json.decode(body)))
    return found


@pytest.mark.parametrize("written", list(TimeFormat))
def test_the_normaliser_accepts_what_is_made_up(written: TimeFormat) -> None:
    declared = schema(written)
    found = transactions(declared, made(declared, 50), 120)
    now_us = datetime.now(UTC).timestamp() * 1_000_000
    assert all(abs(each.event_time_us - now_us) < 60_000_000 for each in found)
    assert len({each.transaction_id for each in found}) == 120
    assert [each.event_time_us for each in found] == sorted(each.event_time_us for each in found)
    assert all(value is not None for each in found for value in (*each.entities, *each.attributes))
    assert all(each.amount_minor is not None and each.amount_minor >= 0 for each in found)


@pytest.mark.parametrize("bare", [schema(entities={}, attributes={}, amount=None), schema(transaction_id=None)])
def test_a_schema_may_lack_what_it_likes(bare: Schema) -> None:
    assert len(transactions(bare, made(bare, 5), 7)) == 7


def test_some_keys_come_up_far_more_often_than_others() -> None:
    declared = schema()
    counts = Counter(each.entities[0] for each in transactions(declared, made(declared, 5_000), 5_000))
    ordered = [count for _, count in counts.most_common()]
    assert len(counts) == 100
    assert ordered[0] > 5 * ordered[20]


def test_the_same_seed_makes_the_same_bodies_and_new_ids() -> None:
    declared = schema()
    first, again, other = (made(declared, 20, seed=seed) for seed in (1, 1, 2))
    assert first.bodies == again.bodies != other.bodies
    assert first.stamp != again.stamp


def test_a_batch_is_read_by_the_service_as_a_batch() -> None:
    declared = schema()
    normalise = Normaliser(declared, CardHasher(b"key"))
    body = Feed(made(declared, 30, batch=12), "here")().partition(b"\r\n\r\n")[2]
    document = msgspec.json.decode(body)
    assert list(document) == ["transactions"]
    assert len({normalise(row).transaction_id for row in document["transactions"]}) == 12


def test_ids_have_no_order_and_none_comes_up_twice() -> None:
    declared = schema()
    ids = [each.transaction_id for each in transactions(declared, made(declared, 50), 1_000)]
    assert len({len(each) for each in ids}) == 1
    assert len({each[:16] for each in ids}) == 1_000
    assert len({each[16:] for each in ids}) == 1  # what tells this run from others stands at the end
    rising = sum(first < second for first, second in itertools.pairwise(ids))
    assert 300 < rising < 700
    assert {each[0] for each in ids} == set("0123456789abcdef")  # they lie all over an index
