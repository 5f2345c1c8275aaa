"""Online state is a fold of history and the decision log: it can always be rebuilt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import pyarrow as pa

from fraudml.decisions.log import DecisionLog
from fraudml.events.schema import TRANSACTION_ID
from fraudml.events.source import Progress
from fraudml.features.stores import OnlineStore


def rebuild(
    store: OnlineStore, log: DecisionLog, history: Iterable[pa.RecordBatch], progress: Progress | None = None
) -> int:
    """Fold history, then the log, into an empty store; returns the number of events."""
    done = 0
    for batch in chain(not_logged(history, log), log.replay()):
        store.load(batch)
        done += batch.num_rows
        if progress:
            progress(done, None)
    store.add_labels(list(log.later_labels()))
    store.stats()  # builds what was gathered
    return done


def not_logged(history: Iterable[pa.RecordBatch], log: DecisionLog) -> Iterator[pa.RecordBatch]:
    """History without what is in the log: a transaction in both counts once, as the log has it."""
    ids: set[str] | None = None
    for batch in history:
        if ids is None:  # without history nobody needs them
            ids = set(log.transaction_ids())
        keep = [key not in ids for key in batch.column(TRANSACTION_ID).to_pylist()]
        yield batch if all(keep) else batch.filter(pa.array(keep))
