"""One raw row (a JSON object, a CSV line as a mapping) to one :class:`Transaction`.

Files of millions of rows are normalised by SQL in ``adapters/source``; a property test holds the two together.
The rules are here, because this is the slow and obvious one:

- text is stripped; empty text and null are missing; for numbers also ``nan``, ``na``, ``n/a``, ``none``, ``null``;
- an identifier given as a whole number is its decimal digits, without ``.0``;
- numbers must lie within +-1e30, integers must be whole and within +-10^12, booleans one of true/false/yes/no/t/f/y/n/1/0;
- times lie in the years 1970 to 2199; a naive one is refused unless the schema names a time zone;
- an amount is rounded to minor units (halves away from zero), not negative unless the schema allows it;
- text that looks like a card number becomes a token; a number that looks like one is refused.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from fraudml.errors import FieldProblem, RowError
from fraudml.events.cards import CardHasher, looks_like_card
from fraudml.events.schema import Attribute, AttributeType, Schema, TimeColumn, TimeFormat
from fraudml.events.transaction import Transaction
from fraudml.events.units import INTEGER_LIMIT, NUMBER_LIMIT, to_minor

LATEST_US = 7_258_118_400_000_000  # 2200-01-01T00:00:00Z
NULL_WORDS = frozenset({"", "nan", "na", "n/a", "none", "null"})  # as numbers, in lower case
TRUE_WORDS = frozenset({"true", "t", "yes", "y", "1", "1.0"})
FALSE_WORDS = frozenset({"false", "f", "no", "n", "0", "0.0"})
_EPOCH_SCALE = {
    TimeFormat.epoch_s: 1_000_000,
    TimeFormat.seconds_from: 1_000_000,
    TimeFormat.epoch_ms: 1_000,
    TimeFormat.epoch_us: 1,
}

Reader = Callable[[Any], Any]


class _Wrong(ValueError):
    """What was expected of a value; becomes a FieldProblem with the field's name."""


def read_text(value: Any, hasher: CardHasher) -> str | None:
    """An identifier or category; ``None`` when missing."""
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int):
        text = str(value)
    elif isinstance(value, float):
        if math.isnan(value):
            return None
        text = str(int(value)) if value.is_integer() and abs(value) < 2**63 else repr(value)
    else:
        raise _Wrong("expected text or a number")
    return hasher(text) if text else None


def read_number(value: Any) -> float | None:
    """A number within +-1e30; ``None`` when missing."""
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in NULL_WORDS:
            return None
        if "_" in text:  # Python's float() would read 1_000
            raise _Wrong("expected a number")
        try:
            value = float(text)
        except ValueError:
            raise _Wrong("expected a number") from None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Wrong("expected a number")
    try:
        number = float(value)
    except OverflowError:
        raise _Wrong("expected a number within +-1e30") from None
    if math.isnan(number):
        return None
    if abs(number) > NUMBER_LIMIT:
        raise _Wrong("expected a number within +-1e30")
    if abs(number) >= INTEGER_LIMIT and number.is_integer() and looks_like_card(str(abs(int(number)))):
        raise _Wrong("looks like a card number; declare the column as an entity or a category, which is hashed")
    return number


def read_integer(value: Any) -> int | None:
    """A whole number within +-10^12; ``None`` when missing."""
    number = read_number(value)
    if number is None:
        return None
    if not number.is_integer() or abs(number) > INTEGER_LIMIT:
        raise _Wrong(f"expected a whole number within +-{INTEGER_LIMIT}")
    return int(number)


def read_boolean(value: Any) -> int | None:
    """0 or 1; ``None`` when missing."""
    if isinstance(value, bool):
        return int(value)
    word = str(value).strip().lower() if value is not None else ""
    if word in NULL_WORDS:
        return None
    if word in TRUE_WORDS:
        return 1
    if word in FALSE_WORDS:
        return 0
    raise _Wrong("expected true or false")


def time_reader(column: TimeColumn | Attribute) -> Reader:
    """A function from a raw value to microseconds UTC (``None`` when missing) for this column's format."""
    zone = ZoneInfo(column.timezone) if column.timezone else None
    start_us = (
        TimeColumn("", column.format, column.timezone, column.start).start_us()
        if column.format is TimeFormat.seconds_from
        else 0
    )

    def read(value: Any) -> int | None:
        if value is None or (isinstance(value, str) and value.strip().lower() in NULL_WORDS):
            return None
        if column.format is TimeFormat.iso:
            moment_us = _iso_us(value, zone)
        else:
            number = read_number(value)
            if number is None:
                return None
            moment_us = start_us + to_minor(number * _EPOCH_SCALE[column.format], 0)
        if not 0 <= moment_us < LATEST_US:
            raise _Wrong("expected a time between the years 1970 and 2199")
        return moment_us

    return read


def _iso_us(value: Any, zone: ZoneInfo | None) -> int:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise _Wrong("expected an ISO 8601 time such as 2024-05-01T12:30:00Z") from None
    if not isinstance(value, datetime):
        raise _Wrong("expected an ISO 8601 time such as 2024-05-01T12:30:00Z")
    if value.tzinfo is None:
        if zone is None:
            raise _Wrong("expected a time with its zone, such as 2024-05-01T12:30:00Z (the schema names no time zone)")
        value = value.replace(tzinfo=zone)
    delta = value.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


class Normaliser:
    """Turns raw rows into transactions, collecting every wrong field of a row before it complains.

    >>> from fraudml.events.schema import AmountColumn
    >>> schema = Schema(TimeColumn("time"), "id", {"customer": "cust"}, AmountColumn("amount"))
    >>> normalise = Normaliser(schema, CardHasher(b"key"))
    >>> normalise({"id": 7, "time": "2024-05-01T00:00:00Z", "cust": "c1", "amount": "12.5"})
    Transaction(transaction_id='7', event_time_us=1714521600000000, entities=('c1',), amount_minor=1250, attributes=())
    """

    def __init__(self, schema: Schema, hasher: CardHasher) -> None:
        self._schema = schema
        text: Reader = lambda value: read_text(value, hasher)  # noqa: E731 - a partial with a short name
        readers: dict[AttributeType, Reader] = {
            AttributeType.number: read_number,
            AttributeType.integer: read_integer,
            AttributeType.boolean: read_boolean,
            AttributeType.category: text,
        }
        self._id = (schema.id_column, text)
        self._time = (schema.event_time.column, time_reader(schema.event_time))
        self._entities = [(column, text) for column in schema.entities.values()]
        self._attributes = [
            (schema.attribute_column(name), readers.get(attribute.type) or time_reader(attribute))
            for name, attribute in schema.attributes.items()
        ]
        known = [
            self._id[0],
            self._time[0],
            *(c for c, _ in self._entities),
            *(c for c, _ in self._attributes),
        ]
        if schema.amount:
            known.append(schema.amount.column)
        if schema.label:
            known.append(schema.label.column)
            if schema.label.known_at:
                known.append(schema.label.known_at.column)
        self._known = frozenset([*known, *schema.ignore])

    def __call__(self, row: Mapping[str, Any]) -> Transaction:
        """The transaction of one row; raises RowError with every wrong field."""
        problems: list[FieldProblem] = []

        def take(column: str, read: Reader) -> Any:
            try:
                return read(row.get(column))
            except _Wrong as wrong:
                problems.append(FieldProblem(column, str(wrong)))
                return None

        def need(column: str, read: Reader) -> Any:
            before = len(problems)
            value = take(column, read)
            if value is None and len(problems) == before:
                problems.append(FieldProblem(column, "missing"))
            return value

        identifier = need(*self._id)
        moment_us = need(*self._time)
        entities = tuple(take(*reader) for reader in self._entities)
        amount = self._amount(row, take, problems)
        attributes = tuple(take(*reader) for reader in self._attributes)
        if not row.keys() <= self._known:
            problems.extend(self._unknown(row))
        if problems:
            raise RowError(problems)
        return Transaction(identifier, moment_us, entities, amount, attributes)

    def _amount(self, row: Mapping[str, Any], take: Callable[..., Any], problems: list[FieldProblem]) -> int | None:
        column = self._schema.amount
        if column is None:
            return None
        before = len(problems)
        number = take(column.column, read_number)
        if number is None:
            if not column.optional and len(problems) == before:
                problems.append(FieldProblem(column.column, "missing"))
            return None
        if number < 0 and not column.allow_negative:
            problems.append(FieldProblem(column.column, "expected an amount that is not negative"))
        minor = to_minor(number, column.decimals) if abs(number) < INTEGER_LIMIT else 2 * INTEGER_LIMIT
        if abs(minor) > INTEGER_LIMIT:
            problems.append(FieldProblem(column.column, f"expected at most {INTEGER_LIMIT} minor units"))
        return minor

    def _unknown(self, row: Mapping[str, Any]) -> list[FieldProblem]:
        """Unknown fields are refused: a misspelt name would otherwise be a silently missing value."""
        problems = []
        for name in sorted(row.keys() - self._known):
            close = difflib.get_close_matches(name, self._known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; list it under schema.ignore to accept it"
            problems.append(FieldProblem(name, f"unknown field{hint}"))
        return problems
