"""Between decisions and rows of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from fraudml.decisions.chain import Member, seals
from fraudml.decisions.log import AUDIT_LABELS, OUTCOMES, SHADOW_SCORES, audit_schema
from fraudml.decisions.record import Action, Decision, Degradation, LabelReport, Timings, Trial
from fraudml.errors import DecisionLogError
from fraudml.events.label import Label
from fraudml.events.schema import Schema
from fraudml.events.source import arrow_schema
from fraudml.events.transaction import Transaction

YOUNGER = 2  # columns of decisions, the last ones, that came after the chain
# A row as the driver gives it: a tuple in the order of the columns selected.
Row = Sequence[Any]

_degraded = msgspec.json.Decoder(tuple[Degradation, ...])
_timings = msgspec.json.Decoder(Timings)
_all_timings = msgspec.json.Decoder(list[Timings])
_trial = msgspec.json.Decoder(Trial)
_object = msgspec.json.Decoder(dict[str, Any])
_objects = msgspec.json.Decoder(list[dict[str, str | int | float]])
_encode = msgspec.json.Encoder().encode


class RowCodec:
    """Rows of one schema. Every method takes and gives rows in the order of the tables' columns."""

    def __init__(self, schema: Schema) -> None:
        self._entities = schema.entity_names
        self._attributes = schema.attribute_names
        self._entities_object = _json_object(schema.entity_names)
        self._attributes_object = _json_object(schema.attribute_names)
        self._history = arrow_schema(schema)
        self._audit = audit_schema(schema)

    def rows(self, decisions: Sequence[Decision]) -> list[tuple[Row, Row]]:
        """For each decision the rows of ``transactions`` and of ``decisions`` in SQLite's tables.

        Values are of the types that the driver takes as they are (no bool, no enum, no bytes): it looks for an
        adapter for all others. Timings are those of a batch, so their text is made once. A trial mostly is none.
        """
        rows: list[tuple[Row, Row]] = []
        entities, attributes, timings, timed = self._entities_object, self._attributes_object, None, ""
        for decision in decisions:
            event = decision.transaction
            first = (
                decision.arrival,
                event.transaction_id,
                event.event_time_us,
                event.amount_minor,
                _encode(entities(*event.entities)).decode(),
                _encode(attributes(*event.attributes)).decode(),
            )
            if decision.timings is not timings:
                timings = decision.timings
                timed = _encode(timings).decode()
            second = (
                decision.arrival,
                bytearray(decision.vector),
                decision.score,
                decision.action._value_,  # .value is ten times slower
                decision.model_version,
                decision.fingerprint,
                decision.arm,
                1 if decision.late else 0,
                _encode(decision.degraded).decode() if decision.degraded else "[]",
                decision.decided_at_us,
                timed,
                None if decision.trial is None else _encode(decision.trial).decode(),
                decision.source,
                decision.entered_us,
            )
            rows.append((first, second))
        return rows

    def decision(self, row: Row) -> Decision:
        """From a row of ``transactions`` followed by one of ``decisions`` without its arrival."""
        arrival, transaction_id, event_time_us, amount_minor, entities, attributes = row[:6]
        vector, score, action, version, fingerprint, arm, late, degraded, decided_at_us, *rest = row[6:]
        timings, trial, source, entered_us = rest
        keys = _object.decode(entities)
        values = _object.decode(attributes)
        event = Transaction(
            transaction_id,
            event_time_us,
            tuple(keys.get(name) for name in self._entities),
            amount_minor,
            tuple(values.get(name) for name in self._attributes),
        )
        return Decision(
            transaction=event,
            vector=vector,
            score=score,
            action=Action(action),
            model_version=version,
            fingerprint=fingerprint,
            arrival=arrival,
            decided_at_us=decided_at_us,
            timings=_timings.decode(timings),
            arm=arm,
            late=bool(late),
            degraded=_degraded.decode(degraded),
            trial=None if trial is None else _trial.decode(trial),
            source=source,
            entered_us=entered_us,
        )

    def label(self, row: Row) -> Label:
        """From a row (transaction_id, is_fraud, known_at_us, arrival, entities of the transaction)."""
        keys = _object.decode(row[4])
        transaction_id, is_fraud, known_at_us = row[:3]
        return Label(transaction_id, bool(is_fraud), known_at_us, tuple(map(keys.get, self._entities)))

    def history(self, rows: Sequence[Row]) -> pa.RecordBatch:
        """From rows (transaction_id, event_time_us, amount_minor, entities, attributes, is_fraud, known_at_us)."""
        ids, times, amounts, entities, attributes, frauds, known = zip(*rows, strict=True)
        columns = self._columns(ids, times, amounts, entities, attributes)
        is_fraud = [None if fraud is None else bool(fraud) for fraud in frauds]
        return _batch([*columns, is_fraud, known], self._history)

    def audit(self, rows: Sequence[Row]) -> pa.RecordBatch:
        """From rows (the five of a transaction, then the columns of ``audit_schema`` after the schema's own)."""
        ids, times, amounts, entities, attributes, *rest = zip(*rows, strict=True)
        arrival, decided, score, action, version, arm, fingerprint, late, degraded, vectors = rest
        columns = self._columns(ids, times, amounts, entities, attributes)
        sizes = np.array([len(vector) // 8 for vector in vectors])
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        flat = np.frombuffer(b"".join(vectors), dtype="<f8")
        vector_column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))
        flags = [[bool(value) for value in late], [Degradation.online_store in value for value in degraded]]
        own = [arrival, decided, score, action, version, arm, fingerprint, *flags, vector_column]
        return _batch([*columns, *own], self._audit)

    def _columns(self, ids: Row, times: Row, amounts: Row, entities: Row, attributes: Row) -> list[Row]:
        """The normal columns; all JSON objects of a column are decoded in one go, which is much faster."""
        keys = _objects.decode("[" + ",".join(entities) + "]")
        values = _objects.decode("[" + ",".join(attributes) + "]")
        return [
            ids,
            times,
            *([row.get(name) for row in keys] for name in self._entities),
            amounts,
            *([row.get(name) for row in values] for name in self._attributes),
        ]


def members(rows: Sequence[tuple[Row, Row]]) -> list[Member]:
    """What a link has of rows as :meth:`RowCodec.rows` makes them."""
    sealed = seals([linked_decision(*both) for both in rows])
    return [(first[0], first[2], seal) for (first, _), seal in zip(rows, sealed, strict=True)]


def linked_decision(first: Row, second: Row) -> tuple[Row, Row]:
    """What a link has of the rows of a decision. ``source`` and ``entered_us`` are younger than the chain: they count
    where they are set, so that older links fit."""
    for _ in range(YOUNGER):
        if second[-1] is not None:
            break
        second = second[:-1]
    return first, second


def label_row(item: LabelReport, nth: int) -> Row:
    """The row of ``labels`` in SQLite's table."""
    label = item.label
    return item.arrival, label.transaction_id, nth, int(label.is_fraud), label.known_at_us


def linked_label(row: Row) -> Row:
    """What a link has of a row of ``labels``: of its number only whether it is the first."""
    arrival, transaction_id, nth, *rest = row
    return arrival, transaction_id, int(nth == 1), *rest


def report(row: Row) -> LabelReport:
    """From a row (transaction_id, is_fraud, known_at_us, arrival)."""
    transaction_id, is_fraud, known_at_us, arrival = row
    return LabelReport(Label(transaction_id, bool(is_fraud), known_at_us), arrival)


def audit_labels(rows: Sequence[Row]) -> pa.RecordBatch:
    """From rows in the order of ``AUDIT_LABELS``."""
    ids, times, frauds, known, arrivals = zip(*rows, strict=True)
    return _batch([ids, times, [bool(fraud) for fraud in frauds], known, arrivals], AUDIT_LABELS)


def shadow_scores(rows: Sequence[Row]) -> pa.RecordBatch:
    """From rows in the order of ``SHADOW_SCORES``."""
    return _batch([*zip(*rows, strict=True)], SHADOW_SCORES)


def outcomes(rows: Sequence[Row]) -> pa.RecordBatch:
    """From rows in the order of ``OUTCOMES``, but for the timings as they are stored in the place of their two."""
    columns: list[Any] = [*zip(*rows, strict=True)]
    timings = _all_timings.decode(f"[{','.join(columns[10])}]")
    columns[10:11] = [each.batch for each in timings], [each.model_us for each in timings]
    columns[13] = [None if fraud is None else bool(fraud) for fraud in columns[13]]
    return _batch(columns, OUTCOMES)


def _json_object(names: Sequence[str]) -> type[msgspec.Struct]:
    """A struct that is encoded as the JSON object of those values that are not missing; faster than a dict.

    >>> _encode(_json_object(["customer", "my device"])(None, "d1"))
    b'{"my device":"d1"}'
    """
    fields = {f"f{i}": name for i, name in enumerate(names)}
    return msgspec.defstruct(
        "Present", [(field, Any, None) for field in fields], rename=fields, omit_defaults=True, gc=False
    )


def _batch(columns: list[Any], schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for values, field in zip(columns, schema, strict=True):
        try:
            arrays.append(values if isinstance(values, pa.Array) else pa.array(values, field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DecisionLogError(
                f"logged values of {field.name!r} are not of the type that the schema declares now: "
                "restore the type, or start with a new database"
            ) from error
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
