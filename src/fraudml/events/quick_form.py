"""The usual form of a transaction in a request, read fast: a struct for msgspec, and what its values mean.

:mod:`fraudml.events.normalise` accepts far more than clients usually send. Here only those values are accepted whose
normal form is at hand; msgspec checks most of that while it decodes. Everything else raises ValueError, never with an
error for the client: the slow way then decides, and says what is wrong. It may refuse what is right, but must never
accept what the slow way refuses, or reads otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from types import GenericAlias
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta
from msgspec.structs import astuple

from fraudml.events.normalise import Reader, read_number
from fraudml.events.quick_times import UnsureError, quick_time_reader
from fraudml.events.schema import Attribute, AttributeType, Schema, TimeColumn, TimeFormat
from fraudml.events.strict_json import most_names
from fraudml.events.transaction import Transaction
from fraudml.events.units import INTEGER_LIMIT, to_minor

# What may be a card number has 13 digits: shorter text, and numbers below, need no look at their digits.
_CARD_LENGTH = 13
_BELOW = INTEGER_LIMIT - 1
# The types of fields. A whole number as a text is its digits; 0 is left out, so that what is false was not given.
_TEXT = str | Annotated[int, Meta(ge=1, le=2**53)] | None
_NUMBER = Annotated[float, Meta(ge=-_BELOW, le=_BELOW)] | None
_AMOUNT = _NUMBER | str  # a decimal fraction as a text is usual where money is
_INTEGER = Annotated[int, Meta(ge=-_BELOW, le=_BELOW)] | None
_BOOLEAN = bool | Annotated[int, Meta(ge=0, le=1)] | None
_ISO = str | None
_COUNT = Annotated[float, Meta(ge=0, le=1e18)] | None
_UNREAD = str | float | bool | None  # nothing nested: the slow way limits how deep

Values = tuple[Any, ...]  # of the columns that are read; None where there is none
ITEMS = "transactions"  # the one field of a batch
_BACKSLASH = ord("\\")


def quick_form(schema: Schema, hasher: Callable[[str], str], longest_text: int) -> QuickForm | None:
    """The quick form of a schema's requests; ``None`` where there is none."""
    try:
        return QuickForm(schema, hasher, longest_text)
    except UnsureError:
        return None


class QuickForm:
    """What a schema's requests usually look like: JSON to :data:`Values`, and values to transactions.

    Every method raises ValueError for what is not of this form; so does the constructor for a schema whose requests
    have none (two meanings of one column, a name that no struct's field can have). Safe to share between threads.
    """

    def __init__(self, schema: Schema, hasher: Callable[[str], str], longest_text: int) -> None:
        self._hasher = hasher
        self._longest_text = longest_text
        self._short = min(_CARD_LENGTH, longest_text + 1)
        attributes = {name: schema.attribute_column(name) for name in schema.attributes}
        types: dict[str, Any] = {}

        def field(column: str, kind: Any) -> None:
            if types.setdefault(column, kind) != kind:
                raise UnsureError  # one column, read in two ways

        # texts come first, so that one pass reads them all
        for column in (schema.id_column, *schema.entities.values()):
            field(column, _TEXT)
        for name, column in attributes.items():
            if schema.attributes[name].type is AttributeType.category:
                field(column, _TEXT)
        self._texts = len(types)
        field(schema.event_time.column, _type_of_time(schema.event_time))
        if schema.amount is not None:
            field(schema.amount.column, _AMOUNT)
        for name, column in attributes.items():
            field(column, _type_of(schema.attributes[name]))
        self._wanted = len(types)
        for column in _unread(schema):
            types.setdefault(column, _UNREAD)

        self._row, batch = _structs(types)
        self._decode_row = msgspec.json.Decoder(self._row).decode
        self._decode_batch: Callable[[bytes], Any] = msgspec.json.Decoder(batch).decode
        self._columns = tuple(types)[: self._wanted]
        self._places = {column: place for place, column in enumerate(self._columns)}
        self._clocks = [place for column, place in self._places.items() if types[column] == _ISO]
        self._time = self._places[schema.event_time.column]
        self._read_time = quick_time_reader(schema.event_time)
        self._entities = _picker([self._places[column] for column in schema.entities.values()])
        self._attributes = _picker([self._places[column] for column in attributes.values()])
        self._converted = self._conversions(schema)
        self._set_amount(schema)

    def _conversions(self, schema: Schema) -> list[tuple[int, Reader]]:
        """The places of attributes whose value is not yet its normal form, with what makes it."""
        found: dict[int, tuple[Any, Reader]] = {}
        for name, attribute in schema.attributes.items():
            if attribute.type in (AttributeType.boolean, AttributeType.time):
                read = _flag if attribute.type is AttributeType.boolean else quick_time_reader(attribute)
                meaning = (attribute.format, attribute.timezone, attribute.start)
                place = self._places[schema.attribute_column(name)]
                if found.setdefault(place, (meaning, read))[0] != meaning:
                    raise UnsureError
        return [(place, read) for place, (_, read) in found.items()]

    def _set_amount(self, schema: Schema) -> None:
        amount = schema.amount
        self._amount = None if amount is None else self._places[amount.column]
        self._decimals = amount.decimals if amount else 0
        self._amount_needed = amount is not None and not amount.optional
        self._scale = 10.0**self._decimals
        self._largest = _BELOW / self._scale  # below every limit, whatever it rounds to
        self._smallest = -self._largest if amount and amount.allow_negative else 0.0

    def decode(self, raw: bytes) -> Values:
        """The values of a JSON object."""
        try:
            values = astuple(self._decode_row(raw))
        except RecursionError:
            raise UnsureError from None
        values, given = self._wanted_of(values)
        self._check_names(raw, given, (values,))
        return values

    def decode_items(self, raw: bytes) -> list[Values]:
        """The values of each object of a batch."""
        try:
            items = self._decode_batch(raw).items
        except RecursionError:
            raise UnsureError from None
        rows = []
        names = 1
        for item in items:
            values, given = self._wanted_of(astuple(item))
            rows.append(values)
            names += given
        self._check_names(raw, names, rows)
        return rows

    def convert(self, row: Mapping[str, Any]) -> Values:
        """The values of an object that was decoded already."""
        return self._wanted_of(astuple(msgspec.convert(row, self._row)))[0]

    def object_of(self, values: Values) -> dict[str, Any]:
        """The object that values were read from, as far as the normaliser can tell."""
        return dict(zip(self._columns, values, strict=True))

    def _wanted_of(self, fields: Values) -> tuple[Values, int]:
        """The values of the fields that are read, and how many fields were given at all."""
        values, others = fields[: self._wanted], fields[self._wanted :]
        given = len(fields) - values.count(UNSET) - others.count(UNSET)
        if given < len(fields) and UNSET in values:
            values = tuple([None if value is UNSET else value for value in values])
        return values, given

    def _check_names(self, raw: bytes, names: int, rows: Sequence[Values]) -> None:
        """Refuse JSON that may hold more names than the ``names`` different ones that were found in it.

        Each name brings a colon. Without escapes, the colons of times are in ``raw`` as they are in the values: if the
        others are no more than the names, none was given twice. If they are, a sharper bound may still tell.
        """
        if _BACKSLASH not in raw:
            colons = raw.count(b":")
            for place in self._clocks:
                for values in rows:
                    clock = values[place]
                    if clock:
                        colons -= clock.count(":")
            if colons == names:
                return
        if most_names(raw) != names:
            raise UnsureError

    def transaction(self, values: Values, latest_us: float) -> Transaction:
        """The transaction of an object's values, when it is not later than ``latest_us``."""
        read: list[Any] = []
        for value in values[: self._texts]:
            if value:
                text = str(value).strip()
                read.append(text if 0 < len(text) < self._short else self._unusual(text))
            else:
                read.append(None)
        identifier = read[0]
        moment_us = self._read_time(values[self._time])
        if identifier is None or moment_us is None or moment_us > latest_us:
            raise UnsureError
        amount = None
        if self._amount is not None:
            number = values[self._amount]
            if type(number) is str:
                number = read_number(number)
            if number is None:
                if self._amount_needed:
                    raise UnsureError
            elif 0 <= number <= self._largest:
                amount = int(number * self._scale + 0.5)  # as to_minor does
            elif self._smallest <= number <= self._largest:
                amount = to_minor(number, self._decimals)
            else:
                raise UnsureError
        read += values[self._texts :]
        for place, convert in self._converted:
            read[place] = convert(read[place])
        normal = tuple(read)
        return Transaction(identifier, moment_us, self._entities(normal), amount, self._attributes(normal))

    def _unusual(self, text: str) -> str:
        if not text:
            raise UnsureError
        text = self._hasher(text)
        if len(text) > self._longest_text:
            raise UnsureError
        return text


def _type_of(attribute: Attribute) -> Any:
    match attribute.type:
        case AttributeType.number:
            return _NUMBER
        case AttributeType.integer:
            return _INTEGER
        case AttributeType.boolean:
            return _BOOLEAN
        case AttributeType.category:
            return _TEXT
        case AttributeType.time:
            return _type_of_time(attribute)


def _type_of_time(column: TimeColumn | Attribute) -> Any:
    return _ISO if column.format is TimeFormat.iso else _COUNT


def _unread(schema: Schema) -> Iterable[str]:
    """The columns that a request may carry and nothing reads."""
    if schema.label is not None:
        yield schema.label.column
        if schema.label.known_at is not None:
            yield schema.label.known_at.column
    yield from schema.ignore


def _structs(types: dict[str, Any]) -> tuple[type[msgspec.Struct], type[msgspec.Struct]]:
    """The types of a row with these columns and of a batch of such rows."""
    names = [f"field_{number}" for number in range(len(types))]
    fields = [(name, kind, UNSET) for name, kind in zip(names, types.values(), strict=True)]
    rename = dict(zip(names, types, strict=True))
    try:
        # gc=False: they hold what JSON holds, which has no cycles
        row = msgspec.defstruct("Row", fields, rename=rename, forbid_unknown_fields=True, gc=False)
    except ValueError:  # msgspec has no fields with a quote, a backslash or a line break in their name
        raise UnsureError from None
    items = ("items", GenericAlias(list, row))
    return row, msgspec.defstruct("Batch", [items], rename={"items": ITEMS}, forbid_unknown_fields=True)


def _picker(places: Sequence[int]) -> Callable[[Values], Values]:
    """What takes these places out of a tuple, as a tuple."""
    first = places[0] if places else 0
    if list(places) == list(range(first, first + len(places))):
        return itemgetter(slice(first, first + len(places)))
    return itemgetter(*places)


def _flag(value: bool | None) -> int | None:
    return None if value is None else int(value)
