"""Decisions as PostgreSQL's binary format has them.

A value is its length and its bytes, in an array and in COPY alike: so cells are made once, column by column, and put
together as either.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import NamedTuple, TypeVar

import msgspec

from fraudml.adapters.log._rows import Row
from fraudml.adapters.log.postgres.keys import key_of
from fraudml.decisions.chain import Link
from fraudml.decisions.record import Action, Decision, LabelReport

NULL = b"\xff\xff\xff\xff"
_TRUE, _FALSE = b"\x00\x00\x00\x01\x01", b"\x00\x00\x00\x01\x00"
_COPY_BEGINS = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_ENDS = b"\xff\xff"
_int8 = struct.Struct("!iq").pack  # the length, which is 8, and the value
_float8 = struct.Struct("!id").pack
_int4 = struct.Struct("!ii").pack
_array = struct.Struct("!iiIii").pack
_encode = msgspec.json.Encoder().encode

BOOL, BYTEA, BIGINT, SMALLINT, INT, TEXT, FLOAT = 16, 17, 20, 21, 23, 25, 701  # types of elements
ARRAY_OF = {BOOL: 1000, BYTEA: 1001, BIGINT: 1016, INT: 1007, TEXT: 1009, FLOAT: 1022}

Column = list[bytes]
Value = TypeVar("Value")


LINK = {
    "writer": SMALLINT,
    "seq": BIGINT,
    "kind": TEXT,
    "rows": INT,
    "first": BIGINT,
    "until_us": BIGINT,
    "content": BYTEA,
    "digest": BYTEA,
    "members": BYTEA,
}


class Rows(NamedTuple):
    """The cells of decisions, column by column, in the order of ``statements.GIVEN``."""

    transaction_id: Column
    event_time_us: Column
    arrival: Column
    amount_minor: Column
    entities: Column
    attributes: Column
    original_id: Column
    vector: Column
    score: Column
    action: Column
    model_version: Column
    fingerprint: Column
    arm: Column
    late: Column
    degraded: Column
    decided_at_us: Column
    timings: Column
    trial: Column
    source: Column
    entered_us: Column


def rows(decisions: Sequence[Decision], stored: Sequence[tuple[Row, Row]]) -> Rows:
    """The cells of decisions, given also as SQLite's rows, whose JSON is taken; ``struct.error``, ``ValueError`` or
    ``TypeError`` for values that fit no column."""
    events = [decision.transaction for decision in decisions]
    keys = [key_of(event.transaction_id) for event in events]
    return Rows(
        transaction_id=[_bytes(key) for key, _ in keys],
        event_time_us=[_int8(8, event.event_time_us) for event in events],
        arrival=[_int8(8, decision.arrival) for decision in decisions],
        amount_minor=[NULL if event.amount_minor is None else _int8(8, event.amount_minor) for event in events],
        entities=[_bytes(first[4].encode()) for first, _ in stored],
        attributes=[_bytes(first[5].encode()) for first, _ in stored],
        original_id=[NULL if original is None else _bytes(original) for _, original in keys],
        vector=[_bytes(decision.vector) for decision in decisions],
        score=[NULL if decision.score is None else _float8(8, decision.score) for decision in decisions],
        action=[_ACTIONS[decision.action._value_] for decision in decisions],
        model_version=_alike([decision.model_version for decision in decisions], str.encode),
        fingerprint=_alike([decision.fingerprint for decision in decisions], str.encode),
        arm=_alike([decision.arm for decision in decisions], str.encode),
        late=[_TRUE if decision.late else _FALSE for decision in decisions],
        degraded=_alike([decision.degraded for decision in decisions], _encode),
        decided_at_us=[_int8(8, decision.decided_at_us) for decision in decisions],
        timings=_alike([second[10] for _, second in stored], str.encode),
        trial=[NULL if second[11] is None else _bytes(second[11].encode()) for _, second in stored],
        source=[NULL if decision.source is None else _bytes(decision.source.encode()) for decision in decisions],
        entered_us=[NULL if decision.entered_us is None else _int8(8, decision.entered_us) for decision in decisions],
    )


def link_values(link: Link) -> list[bytes]:
    """A link as parameters, in the order of :data:`LINK`."""
    return [
        link.writer.to_bytes(2, "big", signed=True),
        link.seq.to_bytes(8, "big", signed=True),
        link.kind.value.encode(),
        link.rows.to_bytes(4, "big", signed=True),
        link.first.to_bytes(8, "big", signed=True),
        link.until_us.to_bytes(8, "big", signed=True),
        *(link.content, link.digest, link.members or b""),
    ]


def link_columns(link: Link) -> list[Column]:
    """The same as columns of one cell."""
    return [[_bytes(value)] for value in link_values(link)]


def label_arrays(reports: Sequence[tuple[LabelReport, int]]) -> list[bytes]:
    """Arrays (arrival, transaction_id, nth, is_fraud, known_at_us) of reports, each with its number for its
    transaction."""
    labels = [(item.label, item.arrival, nth) for item, nth in reports]
    return [
        array(BIGINT, [_int8(8, arrival) for _, arrival, _ in labels]),
        array(TEXT, [_bytes(key_of(label.transaction_id)[0]) for label, _, _ in labels]),
        array(INT, [_int4(4, nth) for _, _, nth in labels]),
        array(BOOL, [_TRUE if label.is_fraud else _FALSE for label, _, _ in labels]),
        array(BIGINT, [_int8(8, label.known_at_us) for label, _, _ in labels]),
    ]


def key_array(transaction_ids: Sequence[str]) -> bytes:
    """The keys of ids."""
    return array(TEXT, [_bytes(key_of(each)[0]) for each in transaction_ids])


def array(kind: int, column: Column) -> bytes:
    """An array of one dimension."""
    return _array(1, 1, kind, len(column), 1) + b"".join(column)


def copied(columns: Sequence[Column]) -> bytes:
    """What COPY reads for these columns."""
    count = len(columns).to_bytes(2, "big")
    cells = chain.from_iterable(zip(repeat(count), *columns, strict=False))
    return b"".join([_COPY_BEGINS, *cells, _COPY_ENDS])


def _bytes(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def _alike(values: Sequence[Value], encode: Callable[[Value], bytes]) -> Column:
    """Of values of which most are the same object as the one before."""
    cells = []
    before, cell = None, NULL
    for value in values:
        if value is not before:
            before, cell = value, _bytes(encode(value))
        cells.append(cell)
    return cells


_ACTIONS = {action.value: _bytes(action.value.encode()) for action in Action}
