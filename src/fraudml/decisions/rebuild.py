"""Online state is a fold of history and the decision log: it can always be rebuilt."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain

import pyarrow as pa

from fraudml.decisions.log import DecisionLog
from fraudml.errors import StateLost
from fraudml.events.schema import TRANSACTION_ID
from fraudml.events.source import Progress
from fraudml.features.stores import OnlineStore

COMMIT_S = 2.0  # a decision is committed so soon after its transaction went into state, or it is degraded
LABELS_US = 86_400_000_000

# Reads what is in no decision log: the history that a service is started with.
ReadHistory = Callable[[], Iterable[pa.RecordBatch]]

logger = logging.getLogger(__name__)


def bring_up(
    store: OnlineStore, log: DecisionLog, history: ReadHistory, reach_us: int, progress: Progress | None = None
) -> None:
    """History into a store that has none; into a shared one that has, what ended processes may have kept for it.

    ``reach_us``: how long ago an event can have been decided that features of today may see.
    """
    if not store.lost():
        catch_up(store, log, reach_us)
    elif store.claim_load():
        rebuild(store, log, history(), progress)
    else:
        logger.warning("another process loads the history of the online store; until then decisions go without")


def rebuild(
    store: OnlineStore, log: DecisionLog, history: Iterable[pa.RecordBatch], progress: Progress | None = None
) -> int:
    """Fold history, then the log, into a store; returns the number of events.

    Into a shared store others add what they decide meanwhile. What they had added before it was emptied, and committed
    only after the log was read here, is read once more.
    """
    began = time.time_ns() // 1_000
    done = 0
    for batch in chain(not_logged(history, log), log.replay(), _late_commits(store, log, began)):
        store.load(batch)
        done += batch.num_rows
        if progress:
            progress(done, None)
    with suppress(StateLost):  # a shared store says so until the next line
        store.add_labels(list(log.later_labels()))
    store.loaded()
    return done


def catch_up(store: OnlineStore, log: DecisionLog, reach_us: int) -> int:
    """Give a shared store what processes that ended may have kept for it: the events of the last ``reach_us`` that were
    decided without it, and the label reports of the last :data:`LABELS_US`. It leaves out what it has.

    Returns the number of events given.
    """
    now_us = time.time_ns() // 1_000
    given = 0
    for batch in log.replay(after=now_us - reach_us, blind=True):
        store.load(batch)
        given += batch.num_rows
    store.add_labels(list(log.labels(after=now_us - LABELS_US)))
    return given


def _late_commits(store: OnlineStore, log: DecisionLog, began_us: int) -> Iterator[pa.RecordBatch]:
    if not store.shared:
        return
    time.sleep(max(0.0, COMMIT_S - (time.time_ns() // 1_000 - began_us) / 1e6))
    yield from log.replay(after=began_us - 60_000_000)


def not_logged(history: Iterable[pa.RecordBatch], log: DecisionLog) -> Iterator[pa.RecordBatch]:
    """History without what is in the log: a transaction in both counts once, as the log has it."""
    ids: set[str] | None = None
    for batch in history:
        if ids is None:  # without history nobody needs them
            ids = set(log.transaction_ids())
        keep = [key not in ids for key in batch.column(TRANSACTION_ID).to_pylist()]
        yield batch if all(keep) else batch.filter(pa.array(keep))
