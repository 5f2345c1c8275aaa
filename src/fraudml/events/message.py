"""Transactions and labels as the JSON that receivers read: the inverse of ``decoder`` and ``fields``."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from fraudml.events.label import Label
from fraudml.events.normalise import TIME_SCALE
from fraudml.events.schema import TRANSACTION_ID, Attribute, AttributeType, Schema, TimeColumn, TimeFormat
from fraudml.events.transaction import Transaction
from fraudml.events.units import to_minor

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder().encode
Write = Callable[[Any], Any]
_TEXT, _NUMBER, _INTEGER = AttributeType.category, AttributeType.number, AttributeType.integer


class MessageWriter:
    """Writes what :class:`fraudml.events.decoder.TransactionDecoder` and ``FieldReader.label`` read back as it was.

    Where several things are read from one column, the value that tells most is written: a text as it came, and a number
    before what is rounded from it.

    >>> from fraudml.events.schema import AmountColumn
    >>> schema = Schema(TimeColumn("step", TimeFormat.hours_from, start="2024-05-01"), "id", {"customer": "cust"},
    ...                 AmountColumn("amount"))
    >>> writer = MessageWriter(schema)
    >>> writer.transaction(Transaction("t1", 1_714_525_200_000_000, ("7",), 1250, ()))
    b'{"step":1,"id":"t1","cust":"7","amount":12.5}'
    >>> writer.label(Label("t1", True, 0))
    b'{"transaction_id":"t1","is_fraud":true,"known_at":"1970-01-01T00:00:00Z"}'
    """

    def __init__(self, schema: Schema) -> None:
        columns: dict[str, tuple[str, int, Write]] = {}

        def attributes(*kinds: AttributeType) -> None:
            for place, (name, attribute) in enumerate(schema.attributes.items()):
                if attribute.type in kinds:
                    columns.setdefault(schema.attribute_column(name), ("attribute", place, _writer(attribute)))

        columns[schema.event_time.column] = ("time", 0, time_writer(schema.event_time))
        columns.setdefault(schema.id_column, ("id", 0, _same))
        for place, column in enumerate(schema.entities.values()):
            columns.setdefault(column, ("entity", place, _same))
        attributes(_TEXT)
        attributes(_NUMBER)
        attributes(_INTEGER)
        if schema.amount is not None:
            columns.setdefault(schema.amount.column, ("amount", 0, _money(schema.amount.decimals)))
        attributes(AttributeType.boolean)
        attributes(AttributeType.time)
        self._columns = [(column, *what) for column, what in columns.items()]

    def transaction(self, event: Transaction) -> bytes:
        """A JSON object in the schema's own names, without what is missing."""
        made: dict[str, Any] = {}
        for column, kind, place, write in self._columns:
            match kind:
                case "attribute":
                    value: Any = event.attributes[place]
                case "entity":
                    value = event.entities[place]
                case "amount":
                    value = event.amount_minor
                case "time":
                    value = event.event_time_us
                case _:
                    value = event.transaction_id
            if value is not None:
                made[column] = write(value)
        return _encode(made)

    def label(self, label: Label) -> bytes:
        """A JSON object as ``POST /v1/labels`` and the topic of labels take it."""
        return _encode(
            {TRANSACTION_ID: label.transaction_id, "is_fraud": label.is_fraud, "known_at": _iso(label.known_at_us)}
        )


def time_writer(column: TimeColumn | Attribute) -> Write:
    """A function from microseconds UTC to what the column's reader takes for that moment.

    >>> time_writer(TimeColumn("t", TimeFormat.epoch_ms))(1_500), time_writer(TimeColumn("t"))(1_500)
    (1.5, datetime.datetime(1970, 1, 1, 0, 0, 0, 1500, tzinfo=datetime.timezone.utc))
    """
    if column.format is TimeFormat.iso:
        return _iso
    scale = TIME_SCALE[column.format]
    start = TimeColumn("", column.format, column.timezone, column.start)
    start_us = start.start_us() if column.format.needs_start else 0

    def write(moment_us: int) -> int | float:
        whole, rest = divmod(moment_us - start_us, scale)
        if not rest:
            return whole
        wanted = moment_us - start_us
        nearest = wanted / scale
        # beyond decades the double next to it may be the one that is read as this microsecond
        around = (nearest, math.nextafter(nearest, -math.inf), math.nextafter(nearest, math.inf))
        return next((number for number in around if to_minor(number * scale, 0) == wanted), nearest)

    return write


def _writer(attribute: Attribute) -> Write:
    if attribute.type is AttributeType.time:
        return time_writer(attribute)
    return bool if attribute.type is AttributeType.boolean else _same


def _money(decimals: int) -> Write:
    return _same if decimals == 0 else lambda minor: minor / 10**decimals


def _iso(moment_us: int) -> datetime:
    return _EPOCH + timedelta(0, 0, moment_us)


def _same(value: Any) -> Any:
    return value
