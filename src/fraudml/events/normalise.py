"""One raw row (a JSON object, a CSV line as a mapping) to one :class:`Transaction`.

Files of millions of rows are normalised by SQL in ``adapters/source``; a property test holds the two together.
The rules are here, because this is the slow and obvious one:

- text is stripped of white space; empty text and null are missing; for everything but identifiers and
  categories also ``nan``, ``na``, ``n/a``, ``none``, ``null``;
- an identifier given as a whole number is its decimal digits, without ``.0``;
- numbers are decimal (:data:`NUMBER`) and within +-1e30, integers whole and within +-10^12, booleans one of
  true/false/yes/no/t/f/y/n/1/0;
- times are ISO 8601 (:data:`NAIVE_TIME`, :data:`ZONED_TIME`; digits beyond microseconds are cut off), of the
  years 1970 to 2199 (attributes: from 1900); a naive one is refused unless the schema names a time zone; a naive
  time that a change of clocks repeats is the first, one that it skips is read with the offset before the change;
- an amount is rounded to minor units (halves away from zero), not negative unless the schema allows it;
- text that looks like a card number becomes a token; a number that looks like one is refused.
"""

from __future__ import annotations

import difflib
import heapq
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from fraudml.errors import FieldProblem, RowError
from fraudml.events.cards import CardHasher, looks_like_card
from fraudml.events.schema import Attribute, AttributeType, LabelColumn, Schema, TimeColumn, TimeFormat
from fraudml.events.transaction import Transaction
from fraudml.events.units import INTEGER_LIMIT, NUMBER_LIMIT, SECOND, to_minor

UNKNOWN_TOLD = 20  # unknown fields of one row that an error names
LATEST_US = 7_258_118_400_000_000  # 2200-01-01T00:00:00Z
EARLIEST_ATTRIBUTE_US = -2_208_988_800_000_000  # 1900-01-01T00:00:00Z: dates of birth
NULL_WORDS = frozenset({"", "nan", "na", "n/a", "none", "null"})  # as numbers, in lower case
# Narrower than what Python reads (1_000, Arabic digits, 2024-W18-3), so that SQL can hold to the same.
NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[T ](?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?"
NAIVE_TIME = f"{_DATE}(?:{_CLOCK})?"
ZONED_TIME = f"{_DATE}{_CLOCK}(?:Z| ?UTC|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"
TRUE_WORDS = frozenset({"true", "t", "yes", "y", "1", "1.0"})
FALSE_WORDS = frozenset({"false", "f", "no", "n", "0", "0.0"})
TIME_SCALE = {
    TimeFormat.epoch_s: SECOND,
    TimeFormat.epoch_ms: 1_000,
    TimeFormat.epoch_us: 1,
    TimeFormat.seconds_from: SECOND,
    TimeFormat.hours_from: 3_600 * SECOND,
    TimeFormat.days_from: 86_400 * SECOND,
}
_NUMBER = re.compile(NUMBER)
_TIME = re.compile(f"{NAIVE_TIME}|{ZONED_TIME}")
# What readers expected, in words; SQL says the same.
A_NUMBER = "expected a number"
WITHIN_LIMIT = "expected a number within +-1e30"
NOT_A_CARD = "looks like a card number; declare the column as an entity or a category, which is hashed"
A_WHOLE_NUMBER = f"expected a whole number within +-{INTEGER_LIMIT}"
A_BOOLEAN = "expected true or false"
A_TIME = "expected an ISO 8601 time such as 2024-05-01T12:30:00Z"
WITH_ZONE = "expected a time with its zone, such as 2024-05-01T12:30:00Z (the schema names no time zone)"
WITHIN_YEARS = "expected a time between the years 1970 and 2199"
WITHIN_CENTURIES = "expected a time between the years 1900 and 2199"
NOT_NEGATIVE = "expected an amount that is not negative"
WITHIN_MINOR = f"expected at most {INTEGER_LIMIT} minor units"
A_VERDICT = "expected one of the schema's values for fraud or genuine"

Reader = Callable[[Any], Any]


class _Wrong(ValueError):
    """What was expected of a value; becomes a FieldProblem with the field's name."""


def read_text(value: Any, hasher: Callable[[str], str]) -> str | None:
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
    """A number within +-1e30 that is no card number; ``None`` when missing."""
    number = _read_any_number(value)
    if (
        number is not None
        and abs(number) >= INTEGER_LIMIT
        and number.is_integer()
        and looks_like_card(str(abs(int(number))))
    ):
        raise _Wrong(NOT_A_CARD)
    return number


def _read_any_number(value: Any) -> float | None:
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in NULL_WORDS:
            return None
        if _NUMBER.fullmatch(text) is None:
            raise _Wrong(A_NUMBER)
        value = float(text)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Wrong(A_NUMBER)
    try:
        number = float(value)
    except OverflowError:
        raise _Wrong(WITHIN_LIMIT) from None
    if math.isnan(number):
        return None
    if abs(number) > NUMBER_LIMIT:
        raise _Wrong(WITHIN_LIMIT)
    return number


def read_integer(value: Any) -> int | None:
    """A whole number within +-10^12; ``None`` when missing."""
    number = read_number(value)
    if number is None:
        return None
    if not number.is_integer() or abs(number) > INTEGER_LIMIT:
        raise _Wrong(A_WHOLE_NUMBER)
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
    raise _Wrong(A_BOOLEAN)


def time_reader(column: TimeColumn | Attribute) -> Reader:
    """A function from a raw value to microseconds UTC (``None`` when missing) for this column's format."""
    zone = ZoneInfo(column.timezone) if column.timezone else None
    start_us = (
        TimeColumn("", column.format, column.timezone, column.start).start_us() if column.format.needs_start else 0
    )

    earliest_us = EARLIEST_ATTRIBUTE_US if isinstance(column, Attribute) else 0

    def read(value: Any) -> int | None:
        if value is None or (isinstance(value, str) and value.strip().lower() in NULL_WORDS):
            return None
        if column.format is TimeFormat.iso:
            moment_us = _iso_us(value, zone)
        else:
            number = _read_any_number(value)  # one in ten epochs in milliseconds passes for a card number
            if number is None:
                return None
            moment_us = start_us + to_minor(number * TIME_SCALE[column.format], 0)
        if not earliest_us <= moment_us < LATEST_US:
            raise _Wrong(WITHIN_CENTURIES if earliest_us < 0 else WITHIN_YEARS)
        return moment_us

    return read


def _iso_us(value: Any, zone: ZoneInfo | None) -> int:
    if isinstance(value, str):
        text = value.strip()
        if _TIME.fullmatch(text) is None:
            raise _Wrong(A_TIME)
        try:
            value = datetime.fromisoformat(text.replace(" UTC", "Z").replace("UTC", "Z"))
        except ValueError:  # a 30th of February
            raise _Wrong(A_TIME) from None
    if not isinstance(value, datetime):
        raise _Wrong(A_TIME)
    if value.tzinfo is None:
        if zone is None:
            raise _Wrong(WITH_ZONE)
        value = value.replace(tzinfo=zone)
    delta: timedelta = value - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * SECOND + delta.microseconds


def read_label(value: Any, column: LabelColumn) -> bool | None:
    """The verdict of a label column; ``None`` when there is none yet.

    >>> column = LabelColumn("fraud")
    >>> read_label(" Yes ", column), read_label(0, column), read_label("", column)
    (True, False, None)
    """
    text = read_text(value, _keep)
    word = text.lower() if text is not None else ""
    if word in column.fraud:
        return True
    if word in column.genuine:
        return False
    if word in NULL_WORDS:
        return None
    raise _Wrong(A_VERDICT)


def _keep(text: str) -> str:
    return text


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
            problems.append(FieldProblem(column.column, NOT_NEGATIVE))
        minor = to_minor(number, column.decimals) if abs(number) < INTEGER_LIMIT else 2 * INTEGER_LIMIT
        if abs(minor) > INTEGER_LIMIT:
            problems.append(FieldProblem(column.column, WITHIN_MINOR))
        return minor

    def _unknown(self, row: Mapping[str, Any]) -> list[FieldProblem]:
        """Unknown fields are refused: a misspelt name would otherwise be a silently missing value.

        The first few are named: looking for what each of a million names could have meant takes minutes.
        """
        problems = []
        for name in heapq.nsmallest(UNKNOWN_TOLD, row.keys() - self._known):
            close = difflib.get_close_matches(name, self._known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; list it under schema.ignore to accept it"
            problems.append(FieldProblem(name, f"unknown field{hint}"))
        return problems
