"""Online state is a fold of history and the decision log: it can always be rebuilt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from fraudml.decisions.log import DecisionLog
from fraudml.events.schema import TRANSACTION_ID
from fraudml.events.source import Progress
from fraudml.features.stores import OnlineStore


def rebuild(
    store: OnlineStore, log: DecisionLog, history: Iterable[pa.RecordBatch], progress: Progress | None = None
) -> int:
    """Fold history, then the log, into an empty store; returns the number of events.

    A transaction that is in both counts once, as the log has it.
    """
    logged = pa.concat_arrays([batch.column(TRANSACTION_ID) for batch in log.replay()] or [pa.array([], pa.string())])
    done = 0
    for batch in _chain(_without(history, logged), log.replay()):
        store.load(batch)
        done += batch.num_rows
        if progress:
            progress(done, None)
    store.add_labels(list(log.later_labels()))
    store.stats()  # builds what was gathered
    return done


def _without(history: Iterable[pa.RecordBatch], ids: pa.Array) -> Iterator[pa.RecordBatch]:
    for batch in history:
        yield batch.filter(pc.invert(pc.is_in(batch.column(TRANSACTION_ID), ids))) if len(ids) else batch


def _chain(*sources: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batches in sources:
        yield from batches
