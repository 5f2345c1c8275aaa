"""JSON Schemas of transactions and labels: as requests carry them, and as messages of a stream with a version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from fraudml.events.decoder import LONGEST_TEXT
from fraudml.events.normalise import EARLIEST_ATTRIBUTE_US, LATEST_US, NAIVE_TIME, TIME_SCALE, ZONED_TIME
from fraudml.events.schema import (
    AMOUNT_INPUT,
    NO_CURRENCY,
    TIME_INPUT,
    TRANSACTION_ID,
    AmountColumn,
    Attribute,
    AttributeType,
    Schema,
    TimeColumn,
    TimeFormat,
)
from fraudml.events.units import INTEGER_LIMIT, NUMBER_LIMIT

Json = dict[str, Any]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_HEADER = "fraudml-schema"  # of a message: the version of its schema
MEANING = "x-fraudml"  # of a property: what the column means, by the name that fraudml.yaml declares
# An id of white space alone is a missing one.
ID: Json = {"type": ["string", "integer"], "maxLength": LONGEST_TEXT, "pattern": r"\S"}
UNREAD: Json = {"description": "Accepted and not used."}
_TYPES: dict[AttributeType, Json] = {
    AttributeType.number: {"type": ["number", "null"], "minimum": -NUMBER_LIMIT, "maximum": NUMBER_LIMIT},
    AttributeType.integer: {"type": ["integer", "null"], "minimum": -INTEGER_LIMIT, "maximum": INTEGER_LIMIT},
    AttributeType.boolean: {"type": ["boolean", "null"]},
    AttributeType.category: {"type": ["string", "number", "null"], "maxLength": LONGEST_TEXT},
}
_ANY_TIME = f"^(?:{NAIVE_TIME}|{ZONED_TIME})$"
_PROSE = frozenset({"$schema", "$id", "title", "description"})
_DIGITS = 12  # of the hash in a version, as of a fingerprint that is shown
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def transaction_schema(schema: Schema) -> Json:
    """JSON Schema of one transaction."""
    properties: Json = {schema.id_column: ID | {"description": "Identifies the transaction; a retry repeats it."}}
    required = [schema.id_column, schema.event_time.column]
    happened = "When it happened; of the years 1970 to 2199, and not far ahead of the service's clock."
    properties[schema.event_time.column] = _time(schema.event_time, 0) | {"description": happened}
    for name, column in schema.entities.items():
        shape = {"type": ["string", "integer", "null"], "maxLength": LONGEST_TEXT}
        properties[column] = shape | {"description": f"The {name}."}
    if schema.amount is not None:
        amount = schema.amount
        most = INTEGER_LIMIT / 10**amount.decimals
        kind: Json = {
            "type": ["number", "null"] if amount.optional else "number",
            "minimum": -most if amount.allow_negative else 0,
            "maximum": most,
        }
        currency = "" if amount.currency == NO_CURRENCY else f" in {amount.currency}"
        properties[amount.column] = kind | {"description": f"The amount{currency}."}
        if not amount.optional:
            required.append(amount.column)
    for name, attribute in schema.attributes.items():
        if attribute.type is AttributeType.time:
            own = TimeColumn(name, attribute.format, attribute.timezone, attribute.start)
            moment = _time(own, EARLIEST_ATTRIBUTE_US)
            shape = moment | {"type": [moment["type"], "null"]}
        else:
            shape = dict(_TYPES[attribute.type])
        if attribute.vocabulary:
            shape["description"] = "Known values: " + ", ".join(attribute.vocabulary[:20])
        properties.setdefault(schema.attribute_column(name), shape)
    for column in schema.ignore:
        properties.setdefault(column, dict(UNREAD))
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _time(column: TimeColumn, earliest_us: int) -> Json:
    if column.format is TimeFormat.iso:
        return {"type": "string", "format": "date-time"}
    start_us = column.start_us() if column.format.needs_start else 0
    scale = TIME_SCALE[column.format]
    return {
        "type": "number",
        "minimum": (earliest_us - start_us) / scale,
        "exclusiveMaximum": (LATEST_US - start_us) / scale,
    }


def label_schema() -> Json:
    """JSON Schema of one label."""
    return {
        "type": "object",
        "properties": {
            "transaction_id": dict(ID),
            "is_fraud": {"type": "boolean"},
            "known_at": {
                "type": "string",
                "format": "date-time",
                "description": "When it became known; now when absent, never in the future, nor before its event.",
            },
        },
        "required": ["transaction_id", "is_fraud"],
        "additionalProperties": False,
    }


def transaction_message(schema: Schema) -> Json:
    """JSON Schema of a message with a transaction: what a request may carry, and what no request is documented to.

    Under :data:`MEANING` each property has what JSON Schema has no words for, such as the currency of an amount.
    """
    described = transaction_schema(schema)
    properties = described["properties"]
    for column in _label_columns(schema):  # a history that is replayed has them
        properties.setdefault(column, dict(UNREAD))
    for name, column, facts in _meanings(schema):
        properties[column].setdefault(MEANING, {})[name] = facts
        if "timezone" in facts and "format" in properties[column]:
            del properties[column]["format"]  # a date-time of RFC 3339 has a zone of its own
            properties[column]["pattern"] = _ANY_TIME
    return message("transaction", described)


def label_message(schema: Schema) -> Json:
    """JSON Schema of a message with a label; the id may also have the name that transactions have it under."""
    described = label_schema()
    if schema.id_column not in described["properties"]:
        described["properties"][schema.id_column] = dict(ID)
        described["required"].remove(TRANSACTION_ID)
        described["oneOf"] = [{"required": [name]} for name in (TRANSACTION_ID, schema.id_column)]
    return message("label", described)


def message(name: str, described: Json) -> Json:
    """A document of its own, with its version in ``$id``."""
    titled = {**described, "title": name}
    return {"$schema": DRAFT, "$id": f"urn:fraudml:{version_of(titled)}", **titled}


def version_of(described: Json) -> str:
    """The version of a message's schema: its name, and a hash of all of it but the words for people.

    The order of columns and how numbers are written do not matter: the file that ``fraudml schema show`` printed has
    the same version after another program wrote it again.

    >>> version_of(label_message(Schema(TimeColumn("time"), "id")))
    'label/94ab9ce944cc'
    """
    text = json.dumps(_canonical(described), sort_keys=True, separators=(",", ":"))
    return f"{described['title']}/{hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]}"


def headers_of(described: Json) -> list[tuple[str, bytes]]:
    """The headers of every message of this schema; make them once.

    >>> headers_of(label_message(Schema(TimeColumn("time"), "id")))
    [('fraudml-schema', b'label/94ab9ce944cc')]
    """
    return [(SCHEMA_HEADER, version_of(described).encode())]


def bare(described: Json) -> Json:
    """A schema without the words for people, down to its smallest part."""
    kept = {word: value for word, value in described.items() if word not in _PROSE}
    if "properties" in kept:  # a column may be called "description"
        kept["properties"] = {column: bare(shape) for column, shape in kept["properties"].items()}
    if "items" in kept:
        kept["items"] = bare(kept["items"])
    return kept


def _canonical(described: Json) -> Any:
    return _plain(bare(described))


def _plain(value: Any) -> Any:
    """The value with what does not matter made the same: the order of names, and whether 1 is written 1.0."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return sorted(value) if all(isinstance(item, str) for item in value) else [_plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _label_columns(schema: Schema) -> Iterator[str]:
    if schema.label is not None:
        yield schema.label.column
        if schema.label.known_at is not None:
            yield schema.label.known_at.column


def _meanings(schema: Schema) -> Iterator[tuple[str, str, Json]]:
    """Declared name, column, and how its values are read: all that decides what a value means."""
    yield TRANSACTION_ID, schema.id_column, {"is": "identifier"}
    yield TIME_INPUT, schema.event_time.column, {"is": TIME_INPUT} | _time_facts(schema.event_time)
    for name, column in schema.entities.items():
        yield name, column, {"is": "entity"}
    if schema.amount is not None:
        yield AMOUNT_INPUT, schema.amount.column, _amount_facts(schema.amount)
    for name, attribute in schema.attributes.items():
        facts: Json = {"is": attribute.type.value}
        if attribute.type is AttributeType.time:
            facts |= _time_facts(attribute)
        if attribute.vocabulary:
            facts["vocabulary"] = sorted(attribute.vocabulary)
        yield name, schema.attribute_column(name), facts


def _amount_facts(amount: AmountColumn) -> Json:
    currency = {} if amount.currency == NO_CURRENCY else {"currency": amount.currency}
    return {"is": AMOUNT_INPUT, "decimals": amount.decimals} | currency


def _time_facts(column: TimeColumn | Attribute) -> Json:
    """The format with what matters to it: the zone of texts, the moment that others count from."""
    facts = {"format": column.format.value}
    if column.format is TimeFormat.iso and column.timezone:
        facts["timezone"] = column.timezone
    if column.format.needs_start:
        start_us = TimeColumn("", column.format, column.timezone, column.start).start_us()
        facts["start"] = (_EPOCH + timedelta(microseconds=start_us)).isoformat()
    return facts
