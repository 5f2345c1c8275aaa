"""What the columns of a user's data mean: the ``schema`` section of ``fraudml.yaml``."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from fraudml.errors import ConfigError
from fraudml.events.units import parse_duration

# Names of the normal form's own columns (see :meth:`Schema.normal_columns`).
TRANSACTION_ID = "transaction_id"
EVENT_TIME = "event_time_us"
AMOUNT = "amount_minor"
IS_FRAUD = "is_fraud"
KNOWN_AT = "known_at_us"
# What features call the two that are not attributes.
AMOUNT_INPUT = "amount"
TIME_INPUT = "event_time"
NO_CURRENCY = "XXX"  # ISO 4217's code for none
_INPUT_COLUMNS = {AMOUNT_INPUT: AMOUNT, TIME_INPUT: EVENT_TIME}
RESERVED = frozenset({TRANSACTION_ID, EVENT_TIME, AMOUNT, IS_FRAUD, KNOWN_AT, AMOUNT_INPUT, TIME_INPUT})
# What stands beside a transaction's own columns when its decision is read for an audit or an export.
DECIDED = frozenset(
    {"arrival", "decided_at_us", "score", "action", "model_version", "arm", "fingerprint", "late", "blind", "vector"}
)
NOT_FOR_COLUMNS = RESERVED | DECIDED  # names that no entity and no attribute may have


def normal_column(name: str) -> str:
    """The column of the normal form behind what features call by this name."""
    return _INPUT_COLUMNS.get(name, name)


class TimeFormat(StrEnum):
    """How a time column is written."""

    iso = "iso"  # ISO 8601 text, or the file's own date-time type
    epoch_s = "epoch_s"
    epoch_ms = "epoch_ms"
    epoch_us = "epoch_us"
    seconds_from = "seconds_from"  # seconds since ``start``
    hours_from = "hours_from"  # hours since ``start``, for example a simulation's steps
    days_from = "days_from"  # days since ``start``

    @property
    def needs_start(self) -> bool:
        """True for the formats that count from a ``start`` of their own."""
        return self.value.endswith("_from")


class AttributeType(StrEnum):
    """The type of an attribute; its normal form is in brackets."""

    number = "number"  # (float) within +-1e30
    integer = "integer"  # (int) whole, within +-10^12: window aggregations of it are exact
    boolean = "boolean"  # (int 0/1)
    category = "category"  # (str)
    time = "time"  # (int microseconds UTC), for example a date of birth


class TimeColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column that holds a time. A naive date-time is refused unless ``timezone`` is named."""

    column: str
    format: TimeFormat = TimeFormat.iso
    timezone: str | None = None
    start: str | None = None

    def start_us(self) -> int:
        """Microseconds UTC of ``start`` (a date or date-time; a naive one is in ``timezone``, or UTC)."""
        moment = datetime.fromisoformat(self.start or "1970-01-01")
        zone = ZoneInfo(self.timezone or "UTC")
        moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
        epoch = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
        delta = moment - epoch
        return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds

    def check(self, where: str) -> None:
        """Raise ConfigError when the format's own settings are missing or wrong."""
        if self.format.needs_start and self.start is None:
            raise ConfigError(f"{where}: format {self.format} needs 'start', a date such as 2024-01-01")
        try:
            self.start_us()
        except (ValueError, ZoneInfoNotFoundError) as error:
            raise ConfigError(f"{where}: {error}") from None


class AmountColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The money column; ``decimals`` is the number of minor-unit digits (2 for EUR, 0 for JPY)."""

    column: str
    decimals: int = 2
    currency: str = NO_CURRENCY
    allow_negative: bool = False
    optional: bool = False


class Attribute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A further column. ``vocabulary`` fixes a category's codes: the first value is code 1; others are 0."""

    type: AttributeType
    column: str | None = None
    vocabulary: tuple[str, ...] = ()
    format: TimeFormat = TimeFormat.iso
    timezone: str | None = None
    start: str | None = None


class LabelColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where history says fraud or not, and when that was known.

    ``known_at`` names the report-time column; without one, or where it is empty, a label counts as known
    ``delay`` after the event. ``fraud`` lists the values that mean fraud, ``genuine`` those that mean genuine
    (compared as lower-case text); a row with neither is a rejected row, an empty one has no label yet.
    """

    column: str
    delay: str = "7d"
    known_at: TimeColumn | None = None
    fraud: tuple[str, ...] = ("1", "true", "yes", "y", "t", "fraud", "1.0")
    genuine: tuple[str, ...] = ("0", "false", "no", "n", "f", "genuine", "legit", "0.0")

    @property
    def delay_us(self) -> int:
        """The label delay in microseconds."""
        return parse_duration(self.delay)

    def check(self, where: str) -> None:
        """Raise ConfigError when the delay or the report time is wrong, or a value can never match."""
        parse_duration(self.delay)
        for value in (*self.fraud, *self.genuine):
            if value != value.lower():
                raise ConfigError(
                    f"{where}: {value!r} never matches, as labels are compared in lower case; write {value.lower()!r}"
                )
        if self.known_at is not None:
            self.known_at.check(f"{where}.known_at")


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The meaning of every column. Requests use the columns' own names.

    ``transaction_id`` may be absent: rows of files are then numbered and requests carry ``transaction_id``.

    >>> schema = Schema(event_time=TimeColumn("time"), entities={"customer": "cust_no"})
    >>> schema.entity_names, schema.normal_columns()
    (('customer',), ('transaction_id', 'event_time_us', 'customer', 'amount_minor'))
    """

    event_time: TimeColumn
    transaction_id: str | None = None
    entities: dict[str, str] = {}
    amount: AmountColumn | None = None
    attributes: dict[str, Attribute] = {}
    label: LabelColumn | None = None
    ignore: tuple[str, ...] = ()

    @property
    def id_column(self) -> str:
        """The column or request field that identifies a transaction."""
        return self.transaction_id or TRANSACTION_ID

    @property
    def entity_names(self) -> tuple[str, ...]:
        """Entities in declared order: the order of :attr:`Transaction.entities`."""
        return tuple(self.entities)

    @property
    def currency(self) -> str:
        """What amounts are followed by; empty where there are none, or none is named."""
        return "" if self.amount is None or self.amount.currency == NO_CURRENCY else self.amount.currency

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Attributes in declared order: the order of :attr:`Transaction.attributes`."""
        return tuple(self.attributes)

    def attribute_column(self, name: str) -> str:
        """The file column or request field of an attribute."""
        return self.attributes[name].column or name

    def normal_columns(self) -> tuple[str, ...]:
        """Columns of the normal form as a table: id, time, entities, amount in minor units, attributes."""
        return (TRANSACTION_ID, EVENT_TIME, *self.entities, AMOUNT, *self.attributes)

    def input_type(self, name: str) -> AttributeType:
        """The type of what a feature may read by this name: an attribute, an entity, amount or event_time."""
        if name in self.attributes:
            return self.attributes[name].type
        if name in self.entities:
            return AttributeType.category
        if name == AMOUNT_INPUT and self.amount is not None:
            return AttributeType.integer
        if name == TIME_INPUT:
            return AttributeType.time
        known = ", ".join([TIME_INPUT, *([AMOUNT_INPUT] if self.amount else []), *self.entities, *self.attributes])
        raise ConfigError(f"the schema has no {name!r}; it has: {known}")

    def check(self) -> Schema:
        """Return self, or raise ConfigError naming the first contradiction."""
        self.event_time.check("schema.event_time")
        for name in self.entities:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ConfigError(f"schema.entities: {name!r} is not a plain name (letters, digits, _)")
        for name, attribute in self.attributes.items():
            if attribute.type is AttributeType.time:
                TimeColumn(name, attribute.format, attribute.timezone, attribute.start).check(f"attribute {name!r}")
            if attribute.vocabulary and attribute.type is not AttributeType.category:
                raise ConfigError(f"attribute {name!r}: only a category has a vocabulary")
            if len(set(attribute.vocabulary)) < len(attribute.vocabulary):  # which of its codes would it have?
                raise ConfigError(f"attribute {name!r}: the vocabulary names a value twice")
        seen: dict[str, str] = {}
        for name in (*self.entities, *self.attributes):
            folded = name.casefold()  # SQL engines fold the case of names
            if folded in NOT_FOR_COLUMNS:
                raise ConfigError(f"the name {name!r} is reserved; name it otherwise and set 'column: {name}'")
            if folded in seen:
                raise ConfigError(f"{name!r} and {seen[folded]!r} are the same name to a database; rename one")
            seen[folded] = name
        if self.label is not None:
            self.label.check("schema.label")
        if self.amount is not None and not 0 <= self.amount.decimals <= 8:
            raise ConfigError("schema.amount.decimals must be between 0 and 8")
        return self
