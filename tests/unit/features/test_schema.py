from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest

from fraudml.decisions.log import audit_schema
from fraudml.errors import ConfigError
from fraudml.events.schema import (
    DECIDED,
    AmountColumn,
    Attribute,
    AttributeType,
    LabelColumn,
    Schema,
    TimeColumn,
    TimeFormat,
)
from fraudml.events.source import arrow_schema

TIME = TimeColumn("time")


def test_the_normal_form_follows_the_declared_order() -> None:
    schema = Schema(
        TIME,
        "id",
        {"customer": "c", "device": "d"},
        AmountColumn("a"),
        {
            "n": Attribute(AttributeType.number),
            "i": Attribute(AttributeType.integer),
            "b": Attribute(AttributeType.boolean),
            "c": Attribute(AttributeType.category),
            "t": Attribute(AttributeType.time),
        },
    ).check()
    names = ("transaction_id", "event_time_us", "customer", "device", "amount_minor", "n", "i", "b", "c", "t")
    assert schema.normal_columns() == names
    fields = arrow_schema(schema)
    assert fields.names == [*names, "is_fraud", "known_at_us"]
    assert [fields.field(name).type for name in "nibct"] == [
        pa.float64(),
        pa.int64(),
        pa.int64(),
        pa.string(),
        pa.int64(),
    ]


def test_input_types_by_name() -> None:
    schema = Schema(TIME, entities={"customer": "c"}, amount=AmountColumn("a"))
    assert schema.input_type("amount") is AttributeType.integer
    assert schema.input_type("event_time") is AttributeType.time
    assert schema.input_type("customer") is AttributeType.category
    with pytest.raises(ConfigError, match=r"no 'colour'; it has: event_time, amount, customer$"):
        schema.input_type("colour")
    with pytest.raises(ConfigError, match=r"no 'amount'; it has: event_time$"):
        Schema(TIME).input_type("amount")


def test_attribute_columns_default_to_the_name() -> None:
    schema = Schema(
        TIME,
        attributes={
            "v": Attribute(AttributeType.number),
            "w": Attribute(AttributeType.number, column="W 1"),
        },
    )
    assert (schema.attribute_column("v"), schema.attribute_column("w")) == ("v", "W 1")
    assert schema.id_column == "transaction_id"


@pytest.mark.parametrize(
    ("start", "timezone", "microseconds"),
    [
        ("1970-01-02", None, 86_400_000_000),
        ("1970-01-01T00:00:00.000001", None, 1),
        ("1970-01-01T01:00:00+01:00", None, 0),
        ("1970-01-01T00:00:00", "Europe/Berlin", -3_600_000_000),
    ],
)
def test_start_is_utc_unless_a_zone_is_named(start: str, timezone: str | None, microseconds: int) -> None:
    column = TimeColumn("t", TimeFormat.seconds_from, timezone, start)
    assert column.start_us() == microseconds


def category(*vocabulary: str) -> Attribute:
    return Attribute(AttributeType.category, vocabulary=vocabulary)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (Schema(TimeColumn("t", TimeFormat.seconds_from)), "needs 'start'"),
        (Schema(TimeColumn("t", TimeFormat.seconds_from, start="yesterday")), "schema.event_time"),
        (Schema(TimeColumn("t", timezone="Mars/Olympus")), "schema.event_time"),
        (Schema(TIME, entities={"card no": "c"}), "not a plain name"),
        (Schema(TIME, entities={"is_fraud": "c"}), "reserved"),
        (Schema(TIME, attributes={"Event_Time": category()}), "reserved"),
        (Schema(TIME, attributes={"Score": category()}), "reserved"),
        (Schema(TIME, entities={"card": "c"}, attributes={"CARD": category()}), "same name to a database"),
        (
            Schema(TIME, attributes={"n": Attribute(AttributeType.number, vocabulary=("1",))}),
            "only a category",
        ),
        (Schema(TIME, attributes={"x": category("a", "b", "a")}), "attribute 'x': the vocabulary names a value twice"),
        (Schema(TIME, label=LabelColumn("f", fraud=("Yes",))), "'Yes' never matches.*write 'yes'"),
        (Schema(TIME, label=LabelColumn("f", genuine=("no", "OK"))), "'OK' never matches"),
        (
            Schema(TIME, attributes={"t": Attribute(AttributeType.time, format=TimeFormat.seconds_from)}),
            "attribute 't'",
        ),
        (Schema(TIME, label=LabelColumn("f", delay="soon")), "not a duration"),
        (
            Schema(TIME, label=LabelColumn("f", known_at=TimeColumn("k", timezone="Nowhere"))),
            "schema.label.known_at",
        ),
        (Schema(TIME, amount=AmountColumn("a", decimals=9)), "between 0 and 8"),
    ],
)
def test_contradictions_are_named(schema: Schema, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schema.check()


def test_the_label_delay_is_in_microseconds() -> None:
    assert LabelColumn("f", delay="7d").delay_us == 7 * 86_400 * 10**6


def test_a_misspelt_key_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="entites"):
        msgspec.convert({"event_time": {"column": "t"}, "entites": {}}, Schema)


def test_no_column_has_the_name_of_what_is_decided() -> None:
    """An audit and an export have both side by side."""
    plain = Schema(TIME)
    assert set(audit_schema(plain).names) - set(arrow_schema(plain).names) == DECIDED
