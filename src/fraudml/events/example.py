"""A made-up transaction in the schema's own words: for the API's documentation and the first ``curl``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fraudml.events.schema import Attribute, AttributeType, Schema, TimeColumn, TimeFormat

_EPOCH_DIGITS = {TimeFormat.epoch_s: 1, TimeFormat.epoch_ms: 1_000, TimeFormat.epoch_us: 1_000_000}
EXAMPLE_TIME = datetime(2026, 1, 15, 14, 30, tzinfo=UTC)


def example(schema: Schema) -> dict[str, Any]:
    """One raw transaction that the schema accepts; no value comes from anybody's data.

    >>> example(Schema(TimeColumn("time"), "id", {"customer": "cust"}))
    {'id': 'example-1', 'time': '2026-01-15T14:30:00Z', 'cust': 'customer-1'}
    """
    row: dict[str, Any] = {schema.id_column: "example-1"}
    row[schema.event_time.column] = _time(schema.event_time, EXAMPLE_TIME)
    for name, column in schema.entities.items():
        row[column] = f"{name}-1"
    if schema.amount is not None:
        row[schema.amount.column] = 49.0 if schema.amount.decimals == 0 else 49.9
    for name, attribute in schema.attributes.items():
        row.setdefault(schema.attribute_column(name), _value(attribute))
    return row


def _value(attribute: Attribute) -> Any:
    match attribute.type:
        case AttributeType.number:
            return 1.5
        case AttributeType.integer:
            return 3
        case AttributeType.boolean:
            return True
        case AttributeType.category:
            return attribute.vocabulary[0] if attribute.vocabulary else "value"
        case AttributeType.time:
            return _time(attribute, EXAMPLE_TIME.replace(year=1990))


def _time(column: TimeColumn | Attribute, moment: datetime) -> str | int:
    if column.format is TimeFormat.iso:
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    if column.format in _EPOCH_DIGITS:
        return int(moment.timestamp()) * _EPOCH_DIGITS[column.format]
    return 86_400
