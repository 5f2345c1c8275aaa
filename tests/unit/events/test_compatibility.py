"""What is called compatible is: the new decoder reads every message that the old one did, as the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from msgspec.structs import replace

from fraudml.errors import RowError
from fraudml.events.compatibility import Change, changes
from fraudml.events.decoder import TransactionDecoder
from fraudml.events.fields import FieldReader
from fraudml.events.message_schema import label_message, transaction_message, version_of
from fraudml.events.schema import (
    AmountColumn,
    Attribute,
    AttributeType,
    LabelColumn,
    Schema,
    TimeColumn,
    TimeFormat,
)
from fraudml.events.transaction import Transaction
from tests.unit.events.test_decoder import (
    HASHER,
    attributes,
    bodies,
    columns,
    decoder_of,
    schemas,
    start_of,
    time_columns,
    zones,
)

CATEGORY, NUMBER = Attribute(AttributeType.category), Attribute(AttributeType.number)
INTEGER, BOOLEAN = Attribute(AttributeType.integer), Attribute(AttributeType.boolean)
PLAIN = Schema(
    TimeColumn("time"),
    "id",
    {"customer": "cust", "shop": "shop_no"},
    AmountColumn("amount", currency="EUR"),
    {
        "country": replace(CATEGORY, vocabulary=("DE", "FR")),
        "device": CATEGORY,
        "items": INTEGER,
        "distance": replace(NUMBER, column="dist"),
        "born": Attribute(AttributeType.time),
    },
    LabelColumn("fraud"),
    ("note",),
)


def found(old: Schema, new: Schema) -> list[Change]:
    return changes(transaction_message(old), transaction_message(new))


def with_attributes(**changed: Attribute | None) -> Schema:
    """The plain schema with attributes added, replaced or (None) removed."""
    all_of = PLAIN.attributes | changed
    return replace(PLAIN, attributes={name: each for name, each in all_of.items() if each is not None})


amount = AmountColumn("amount", currency="EUR")
COMPATIBLE = {
    "an attribute is new": (with_attributes(new=NUMBER), "new", "is new, and may be missing"),
    "an entity is new": (
        replace(PLAIN, entities=PLAIN.entities | {"card": "card"}),
        "card",
        "is new, and may be missing",
    ),
    "an attribute is not used any more": (
        replace(with_attributes(items=None), ignore=("note", "items")),
        "items",
        "is no longer items",
    ),
    "a category becomes an entity": (
        replace(with_attributes(device=None), entities=PLAIN.entities | {"device": "device"}),
        "device",
        "type category -> entity",
    ),
    "an integer becomes a number": (with_attributes(items=NUMBER), "items", "type integer -> number"),
    "a vocabulary grows": (
        with_attributes(country=replace(CATEGORY, vocabulary=("DE", "FR", "IT", "AT"))),
        "country",
        "vocabulary adds AT, IT",
    ),
    "a vocabulary shrinks": (
        with_attributes(country=replace(CATEGORY, vocabulary=("FR",))),
        "country",
        "vocabulary drops DE",
    ),
    "a column is accepted": (replace(PLAIN, ignore=("note", "memo")), "memo", "is new, and may be missing"),
    "a zone is named": (
        replace(PLAIN, event_time=TimeColumn("time", timezone="Europe/Berlin")),
        "time",
        "timezone none -> Europe/Berlin",
    ),
    "an amount may be negative": (
        replace(PLAIN, amount=replace(amount, allow_negative=True)),
        "amount",
        "minimum 0 -> -10000000000.0",
    ),
    "an amount may be missing": (replace(PLAIN, amount=replace(amount, optional=True)), "amount", "may be missing now"),
    "the label's column is only ignored": (replace(PLAIN, label=None, ignore=("note", "fraud")), "", ""),
}
BREAKING = {
    "an attribute is gone": (with_attributes(items=None), "items", "is gone; messages that have it are refused"),
    "an ignored column is gone": (replace(PLAIN, ignore=()), "note", "is gone; messages that have it are refused"),
    "the label's column is gone": (replace(PLAIN, label=None), "fraud", "is gone; messages that have it are refused"),
    "the id has another column": (
        replace(PLAIN, transaction_id="no"),
        "id",
        "transaction_id is the field no now, no longer id",
    ),
    "an entity has another column": (
        replace(PLAIN, entities=PLAIN.entities | {"shop": "merchant"}, ignore=("note", "shop_no")),
        "shop_no",
        "shop is the field merchant now, no longer shop_no",
    ),
    "two entities change places": (
        replace(PLAIN, entities={"customer": "shop_no", "shop": "cust"}),
        "cust",
        "customer is the field shop_no now, no longer cust",
    ),
    "a number becomes an integer": (with_attributes(distance=replace(INTEGER, column="dist")), "dist", "type number"),
    "a number becomes a category": (with_attributes(distance=replace(CATEGORY, column="dist")), "dist", "type number"),
    "an ignored column is read": (with_attributes(note=CATEGORY), "note", "is note now, read as category"),
    "a text is read as a number, too": (
        with_attributes(how_long=replace(NUMBER, column="device")),
        "device",
        "is how_long now, read as number",
    ),
    "an amount is needed": (
        replace(PLAIN, amount=None),
        replace(PLAIN, amount=amount),
        "amount",
        "is new and required; messages without it are refused",
    ),
    "an amount has other minor units": (
        replace(PLAIN, amount=replace(amount, decimals=3)),
        "amount",
        "decimals 2 -> 3",
    ),
    "an amount is other money": (
        replace(PLAIN, amount=replace(amount, currency="USD")),
        "amount",
        "currency EUR -> USD",
    ),
    "an amount is no longer optional": (
        replace(PLAIN, amount=replace(amount, optional=True)),
        PLAIN,
        "amount",
        "is required now",
    ),
    "an amount may no longer be negative": (
        replace(PLAIN, amount=replace(amount, allow_negative=True)),
        PLAIN,
        "amount",
        "minimum -10000000000.0 -> 0",
    ),
    "a zone is no longer named": (
        replace(PLAIN, event_time=TimeColumn("time", timezone="Europe/Berlin")),
        PLAIN,
        "time",
        "timezone Europe/Berlin -> none",
    ),
    "a time is written otherwise": (
        replace(PLAIN, event_time=TimeColumn("time", TimeFormat.epoch_ms)),
        "time",
        "format iso -> epoch_ms",
    ),
    "a time is of another zone": (
        with_attributes(born=Attribute(AttributeType.time, timezone="Europe/Berlin")),
        with_attributes(born=Attribute(AttributeType.time, timezone="Asia/Tokyo")),
        "born",
        "timezone Europe/Berlin -> Asia/Tokyo",
    ),
    "a time counts from another day": (
        replace(PLAIN, event_time=TimeColumn("time", TimeFormat.days_from, start="2024-01-01")),
        replace(PLAIN, event_time=TimeColumn("time", TimeFormat.days_from, start="2024-01-02")),
        "time",
        "start 2024-01-01T00:00:00+00:00 -> 2024-01-02T00:00:00+00:00",
    ),
}


@pytest.mark.parametrize("case", COMPATIBLE)
def test_a_compatible_change(case: str) -> None:
    new, field, what = COMPATIBLE[case]
    made = found(PLAIN, new)
    assert all(change.compatible for change in made)
    assert not field or any((change.field, change.what) == (field, what) for change in made), made


@pytest.mark.parametrize("case", BREAKING)
def test_a_breaking_change_comes_first(case: str) -> None:
    *both, field, what = BREAKING[case]
    old, new = both if len(both) == 2 else (PLAIN, *both)
    first, *_ = made = found(old, new)  # type: ignore[arg-type]
    assert not first.compatible
    assert any(not each.compatible and each.field == field and each.what.startswith(what) for each in made), made


def test_the_same_start_said_otherwise_is_no_change() -> None:
    old = replace(PLAIN, event_time=TimeColumn("time", TimeFormat.days_from, "Europe/Berlin", "2024-01-01"))
    new = replace(PLAIN, event_time=TimeColumn("time", TimeFormat.days_from, None, "2023-12-31T23:00:00"))
    assert found(old, new) == []


def test_limits_of_another_release_are_seen() -> None:
    old, narrow = transaction_message(PLAIN), transaction_message(PLAIN)
    narrow["properties"]["cust"]["maxLength"] = 500
    assert changes(old, narrow) == [Change("transaction", "cust", False, "maxLength 1000 -> 500")]
    assert changes(narrow, old) == [Change("transaction", "cust", True, "maxLength 500 -> 1000")]


@st.composite
def changed(draw: st.DrawFn, schema: Schema) -> Schema:
    """The schema after one to three changes; many of them people make."""
    for _ in range(draw(st.integers(1, 3))):
        schema = draw(st.sampled_from(EDITS).flatmap(lambda edit, old=schema: edit(old)))  # type: ignore[misc]
    return schema


def new_columns(schema: Schema) -> st.SearchStrategy[str]:
    used = [*transaction_message(schema)["properties"]]
    return st.sampled_from(["new", *used]) | columns


@st.composite
def edited_attributes(draw: st.DrawFn, schema: Schema) -> Schema:
    made = dict(schema.attributes)
    name = draw(st.sampled_from([*made, "another"]))
    old = made.get(name, NUMBER)
    match draw(st.sampled_from(["drop", "retire", "type", "vocabulary", "zone", "column", "rename", "new", "twice"])):
        case "drop":
            made.pop(name, None)
        case "retire" if name in made:
            column = schema.attribute_column(name)
            del made[name]
            schema = replace(schema, ignore=(*schema.ignore, column))
        case "type":
            made[name] = replace(old, type=draw(st.sampled_from(list(AttributeType))))
        case "vocabulary" if old.type is AttributeType.category:
            made[name] = replace(old, vocabulary=tuple(draw(st.lists(st.sampled_from("abc"), unique=True))))
        case "zone":
            made[name] = replace(old, timezone=draw(zones))
        case "column":
            made[name] = replace(old, column=draw(new_columns(schema)))
        case "rename" if name in made:
            column = schema.attribute_column(name)
            made["renamed"] = replace(made.pop(name), column=column)
        case "twice" if name in made:
            made["twice"] = replace(old, column=schema.attribute_column(name))
        case _:
            made[name] = draw(attributes(new_columns(schema)))
    return replace(schema, attributes=made)


@st.composite
def edited_entities(draw: st.DrawFn, schema: Schema) -> Schema:
    names = ["entity0", "entity1", *(name for name in schema.attributes if draw(st.booleans()))]
    entities = dict(schema.entities)
    if draw(st.booleans()):
        entities[draw(st.sampled_from(names))] = draw(new_columns(schema))
    elif entities and draw(st.booleans()):
        del entities[draw(st.sampled_from(sorted(entities)))]
    elif schema.attributes:  # what was an attribute
        name = draw(st.sampled_from(sorted(schema.attributes)))
        entities[name] = schema.attribute_column(name)
    left = {name: each for name, each in schema.attributes.items() if name not in entities}
    return replace(schema, entities=entities, attributes=left)


@st.composite
def edited_amount(draw: st.DrawFn, schema: Schema) -> Schema:
    old = schema.amount or AmountColumn(draw(new_columns(schema)))
    edit = st.fixed_dictionaries(
        {},
        optional={
            "decimals": st.sampled_from([0, 2, 8]),
            "currency": st.sampled_from(["XXX", "EUR"]),
            "allow_negative": st.booleans(),
            "optional": st.booleans(),
            "column": new_columns(schema),
        },
    )
    return replace(
        schema, amount=draw(st.sampled_from([None, old, old, old]).map(lambda a: a and replace(a, **draw(edit))))
    )


@st.composite
def edited_rest(draw: st.DrawFn, schema: Schema) -> Schema:
    time, label = schema.event_time, schema.label
    match draw(st.sampled_from(["zone", "format", "time", "id", "label", "ignore"])):
        case "zone":
            return replace(schema, event_time=replace(time, timezone=draw(zones)))
        case "format":
            chosen = draw(st.sampled_from(list(TimeFormat)))
            return replace(schema, event_time=replace(time, format=chosen, start=start_of(chosen)))
        case "time":
            return replace(schema, event_time=draw(time_columns(new_columns(schema))))
        case "id":
            return replace(schema, transaction_id=draw(st.none() | new_columns(schema)))
        case "label":
            some = st.builds(LabelColumn, new_columns(schema))
            ignored = (*schema.ignore, label.column) if label and draw(st.booleans()) else schema.ignore
            return replace(schema, label=draw(st.none() | some), ignore=ignored)
    return replace(schema, ignore=tuple(draw(st.lists(new_columns(schema), max_size=2))))


EDITS: list[Any] = [edited_attributes, edited_attributes, edited_entities, edited_amount, edited_amount, edited_rest]


def meaning(schema: Schema, read: Transaction) -> dict[str, Any]:
    """The values of a transaction by the names that the project declares."""
    amount = {} if schema.amount is None else {"amount": read.amount_minor}
    return {
        "transaction_id": read.transaction_id,
        "event_time": read.event_time_us,
        **amount,
        **dict(zip(schema.entities, read.entities, strict=True)),
        **dict(zip(schema.attributes, read.attributes, strict=True)),
    }


def read(decoder: TransactionDecoder, raw: bytes) -> Transaction | None:
    try:
        return decoder.decode(raw)
    except RowError:
        return None


@given(st.data())
def test_compatible_means_that_old_messages_are_read_as_they_were(data: st.DataObject) -> None:
    old = data.draw(schemas())
    new = data.draw(changed(old))
    made = found(old, new)
    compatible = all(change.compatible for change in made)
    event(f"compatible: {compatible and (bool(made) or 'unchanged')}")
    if not compatible:
        return
    before, after = decoder_of(old), decoder_of(new)
    for _ in range(5):
        raw = data.draw(bodies(old)).encode()
        if (was := read(before, raw)) is not None:
            now = read(after, raw)
            assert now is not None, made
            then, since = meaning(old, was), meaning(new, now)
            assert {name: then[name] for name in then.keys() & since} == {
                name: since[name] for name in then.keys() & since
            }, made


@given(st.data())
def test_compatible_labels_are_read_as_they_were(data: st.DataObject) -> None:
    old, new = (Schema(TimeColumn("time"), data.draw(st.sampled_from([None, "id", "no"]))) for _ in range(2))
    made = changes(label_message(old), label_message(new))
    assert bool(made) == (version_of(label_message(old)) != version_of(label_message(new)))
    if all(change.compatible for change in made):
        name = data.draw(st.sampled_from([old.id_column, "transaction_id"]))
        label = {name: "t1", "is_fraud": True, "known_at": "2024-05-01T00:00:00Z"}
        assert FieldReader(new, HASHER).label(label) == FieldReader(old, HASHER).label(label)


@given(st.data())
def test_versions_are_equal_exactly_when_nothing_changed(data: st.DataObject) -> None:
    old = data.draw(schemas())
    new = data.draw(changed(old) | st.just(replace(old)))
    then, now = transaction_message(old), transaction_message(new)
    assert (changes(then, now) == []) == (version_of(then) == version_of(now))
    assert changes(then, then) == []
