"""What comes from journals reaches a shared online store, too."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from fraudml.decisions.record import Decision
from fraudml.decisions.recorder import Recorder
from fraudml.errors import DecisionLogError
from fraudml.events.schema import Schema
from fraudml.events.source import arrow_schema
from fraudml.features.stores import OnlineStore


def give_replayed(recorder: Recorder, store: OnlineStore, schema: Schema) -> int:
    """Give a shared store the transactions that were in the journal when it may have been loaded from the log.

    They went into it when they were decided. Had it been emptied after that, and loaded before the log got them, nobody
    else would bring them back. It leaves out what it has. Returns the number of transactions given.
    """
    return recorder.hand_on(lambda decisions: store.load(_history(schema, decisions)))


def _history(schema: Schema, decisions: Sequence[Decision]) -> pa.RecordBatch:
    """Their transactions without labels, which come behind them in the log."""
    rows = []
    for event in (decision.transaction for decision in decisions):
        known = (event.transaction_id, event.event_time_us, *event.entities, event.amount_minor, *event.attributes)
        rows.append((*known, None, None))
    columns = []
    for place, field in enumerate(arrow_schema(schema)):
        try:
            columns.append(pa.array([row[place] for row in rows], field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DecisionLogError(
                f"journaled values of {field.name!r} are not of the type that the schema declares now: restore the type"
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=arrow_schema(schema))
