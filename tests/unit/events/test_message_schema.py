"""The JSON Schema of a message says what the decoder does, and its version changes exactly when it does."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import jsonschema_rs
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from fraudml.errors import RowError
from fraudml.events.fields import FieldReader
from fraudml.events.message_schema import (
    MEANING,
    Json,
    headers_of,
    label_message,
    transaction_message,
    version_of,
)
from fraudml.events.normalise import TIME_SCALE
from fraudml.events.schema import (
    AmountColumn,
    Attribute,
    AttributeType,
    LabelColumn,
    Schema,
    TimeColumn,
    TimeFormat,
)
from fraudml.events.strict_json import decode_object
from fraudml.events.units import INTEGER_LIMIT, NUMBER_LIMIT
from tests.unit.events.test_decoder import HASHER, decoder_of, schemas

NOW = datetime(2024, 12, 31, tzinfo=UTC)
PLAIN = Schema(
    TimeColumn("time"),
    "id",
    {"customer": "cust"},
    AmountColumn("amount", currency="EUR"),
    {"country": Attribute(AttributeType.category, vocabulary=("FR", "DE")), "items": Attribute(AttributeType.integer)},
    LabelColumn("fraud"),
    ("note",),
)


def columns_of(schema: Schema) -> list[str]:
    amount = [schema.amount.column] if schema.amount else []
    attributes = map(schema.attribute_column, schema.attributes)
    return [schema.id_column, schema.event_time.column, *schema.entities.values(), *amount, *attributes]


def distinct(schema: Schema) -> bool:
    """Whether each column has one meaning: then the schema says all of it."""
    columns = columns_of(schema)
    return len(set(columns)) == len(columns)


def accepted(schema: Schema, row: Any) -> bool:
    try:
        decoder_of(schema).decode(json.dumps(row).encode())
    except RowError:
        return False
    return True


def validator(described: Json) -> Callable[[Any], bool]:
    return jsonschema_rs.Draft202012Validator(described, validate_formats=True).is_valid


texts = st.text(min_size=1, max_size=9).filter(str.strip) | st.just("l" * 1_000)
whole = st.integers(-(10**15), 10**15)


def times(column: TimeColumn | Attribute) -> st.SearchStrategy[Any]:
    earliest = datetime(1901 if isinstance(column, Attribute) else 1971, 1, 1)  # noqa: DTZ001
    moments = st.datetimes(earliest, NOW.replace(tzinfo=None))
    if column.format is TimeFormat.iso:
        zoned = moments.map(lambda moment: moment.isoformat() + "Z")
        return zoned | moments.map(datetime.isoformat) if column.timezone else zoned
    seconds = st.floats(0, 300 * 86_400) if column.format.needs_start else st.floats(0, NOW.timestamp())
    return seconds.map(lambda value: value * 1_000_000 / TIME_SCALE[column.format])


VALUES: dict[AttributeType, st.SearchStrategy[Any]] = {
    AttributeType.number: st.sampled_from([NUMBER_LIMIT, -NUMBER_LIMIT, 0]) | st.floats(-1e11, 1e11),
    AttributeType.integer: st.sampled_from([INTEGER_LIMIT, -INTEGER_LIMIT, 0, 2.0]) | st.integers(-9, 99),
    AttributeType.boolean: st.booleans(),
    AttributeType.category: texts | whole | st.floats(-1e6, 1e6),
}


@st.composite
def documented(draw: st.DrawFn, schema: Schema) -> Json:
    """An object as the schema of messages describes it."""
    row = {schema.id_column: draw(texts | whole), schema.event_time.column: draw(times(schema.event_time))}
    maybe: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(schema.entities.values(), texts | whole)
    if schema.amount is not None:
        most = 0.1 * INTEGER_LIMIT / 10**schema.amount.decimals
        amounts = st.floats(-most if schema.amount.allow_negative else 0, most)
        if schema.amount.optional:
            maybe[schema.amount.column] = amounts
        else:
            row[schema.amount.column] = draw(amounts)
    for name, attribute in schema.attributes.items():
        values = times(attribute) if attribute.type is AttributeType.time else VALUES[attribute.type]
        maybe[schema.attribute_column(name)] = values
    for column, values in maybe.items():
        if draw(st.booleans()):
            row[column] = draw(values | st.none())
    unread = [*schema.ignore, *([schema.label.column] if schema.label else [])]
    for column in sorted({*unread} - {*columns_of(schema)}):
        row.setdefault(column, draw(st.none() | st.booleans() | texts))
    return row


WRONG: dict[str, list[Any]] = {
    "identifier": [[], {}, None, "", "l" * 1_001],
    "event_time": [[], {}, None, True, "yesterday", "2024-05-01T25:00:00Z", 1e30],
    "entity": [[], {}, "l" * 1_001],
    "amount": [[], {}, True, "x", 1e13],
    "number": [[], {}, True, "x", 1e31],
    "integer": [[], {}, True, "x", 2.5, INTEGER_LIMIT + 1],
    "boolean": [[], {}, 2, "x"],
    "category": [[], {}, "l" * 1_001],
    "time": [[], {}, True, "yesterday", 1e30],
}


@given(st.data())
def test_what_is_documented_is_read_and_what_is_clearly_wrong_is_refused_by_both(data: st.DataObject) -> None:
    schema = data.draw(schemas().filter(distinct))
    described = transaction_message(schema)
    valid = validator(described)
    row = data.draw(documented(schema))
    assert valid(row)
    assert accepted(schema, row)

    properties = {name: shape for name, shape in described["properties"].items() if MEANING in shape}
    column = data.draw(st.sampled_from(sorted(properties)))
    ((_, facts),) = properties[column][MEANING].items()
    wrong = {**row, column: data.draw(st.sampled_from(WRONG[facts["is"]]))}
    assert not valid(wrong)
    assert not accepted(schema, wrong)
    for needed in described["required"]:
        less = {name: value for name, value in row.items() if name != needed}
        assert not valid(less)
        assert not accepted(schema, less)
    assume("?" not in described["properties"])
    assert not valid({**row, "?": 1})
    assert not accepted(schema, {**row, "?": 1})


@given(st.sampled_from(["id", None]), st.data())
def test_so_it_is_with_labels(id_column: str | None, data: st.DataObject) -> None:
    schema = replace(PLAIN, transaction_id=id_column)
    valid, read = validator(label_message(schema)), FieldReader(schema, HASHER).label

    def accepted(row: Json) -> bool:
        try:
            read(decode_object(json.dumps(row).encode()))
        except RowError:
            return False
        return True

    name = data.draw(st.sampled_from([schema.id_column, "transaction_id"]))
    row = {name: data.draw(texts | whole), "is_fraud": data.draw(st.booleans())}
    if data.draw(st.booleans()):
        row["known_at"] = data.draw(times(TimeColumn("known_at")))
    assert valid(row)
    assert accepted(row)
    for wrong in (
        {**row, "is_fraud": data.draw(st.sampled_from([2, "x", [], None]))},
        {**row, name: data.draw(st.sampled_from([[], {}, None, " "]))},
        {**row, "known_at": data.draw(st.sampled_from([7, [], "yesterday", "2024-05-01T12:00:00"]))},
        {**row, "why": "stolen"},
        {"is_fraud": True},
        {name: "t1"},
    ):
        assert not valid(wrong)
        assert not accepted(wrong)


def test_the_header_of_messages() -> None:
    described = transaction_message(PLAIN)
    ((name, value),) = headers_of(described)
    assert (name, value.decode()) == ("fraudml-schema", version_of(described))
    assert described["$id"] == f"urn:fraudml:{value.decode()}"


@given(schemas())
def test_a_version_is_the_same_after_another_program_wrote_the_schema_again(schema: Schema) -> None:
    for described in (transaction_message(schema), label_message(schema)):
        assert version_of(written_otherwise(described)) == version_of(described)


def written_otherwise(value: Any) -> Any:
    """The same JSON with other words for people, names in another order, and 1 for 1.0 and the other way round."""
    if isinstance(value, dict):
        return {name: written_otherwise(value[name]) for name in reversed(value)}
    if isinstance(value, list):
        return [written_otherwise(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def test_words_for_people_are_no_part_of_a_version_but_columns_called_like_them_are() -> None:
    described = transaction_message(PLAIN)
    described["properties"]["id"]["description"] = "Unlike any other."
    assert version_of(described) == version_of(transaction_message(PLAIN))
    noted = [transaction_message(replace(PLAIN, ignore=(name,))) for name in ("note", "description", "title")]
    assert len(set(map(version_of, noted))) == 3


def test_the_order_of_declarations_is_no_part_of_a_version() -> None:
    reordered = dict(reversed(PLAIN.attributes.items()))
    reordered["country"] = replace(reordered["country"], vocabulary=("DE", "FR"))
    assert version_of(transaction_message(replace(PLAIN, attributes=reordered))) == version_of(
        transaction_message(PLAIN)
    )


def test_versions_stay_the_same_in_every_process_python_and_release() -> None:
    """A change here gives a new version to the messages of everybody who upgrades."""
    assert version_of(transaction_message(PLAIN)) == "transaction/5d42c497b9bc"
    assert version_of(label_message(PLAIN)) == "label/94ab9ce944cc"
