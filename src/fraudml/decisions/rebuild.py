"""Online state is a fold of history and the decision log: it can always be rebuilt."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice

import msgspec
import pyarrow as pa

from fraudml.decisions.log import DecisionLog
from fraudml.errors import OnlineStoreError, StateLost
from fraudml.events.label import Label
from fraudml.events.schema import TRANSACTION_ID
from fraudml.events.source import Progress
from fraudml.features.stores import OnlineStore

COMMIT_S = 2.0  # a decision is committed so soon after its transaction went into state, or it is degraded
LABELS_US = 86_400_000_000
OVERLAP_US = 60_000_000  # loaded once more: clocks differ, and a call of the log takes its time
LABELS_AT_ONCE = 2_000
IDS_AT_ONCE = 1_000

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
        bring_back(store, log, history, reach_us, progress)
    else:
        logger.warning("another process loads the history of the online store; until then decisions go without")


def bring_back(
    store: OnlineStore, log: DecisionLog, history: ReadHistory, reach_us: int, progress: Progress | None = None
) -> int:
    """Load what is missing in a store that this process has claimed: all of history, or the last events from the log.

    Returns the number of events loaded. When it fails the claim is given up.
    """
    try:
        return _bring_back(store, log, history, reach_us, progress)
    except BaseException:
        with suppress(OnlineStoreError):
            store.give_up_load()
        raise


def _bring_back(
    store: OnlineStore, log: DecisionLog, history: ReadHistory, reach_us: int, progress: Progress | None
) -> int:
    since = store.behind()
    if since is None:
        return rebuild(store, log, history(), progress, reach_us=reach_us)
    began_us = time.time_ns() // 1_000
    given = catch_up(store, log, reach_us)  # what was kept for the store, and given to it late, is lost as well
    _wait_for_commits(began_us)
    given += _load(store, log.replay(after=since - OVERLAP_US))
    _add_labels(store, log.labels(after=since - OVERLAP_US), again=True)
    _add_labels(store, log.labels(after=since))  # most of these were lost: the old ones, too, have to be added
    store.loaded()
    return given


class Mark(msgspec.Struct, frozen=True):
    """How far loading has come: rows of history, and the arrival number of the last logged transaction.

    ``began``: when the first process began, as an arrival number."""

    rows: int = 0
    arrival: int = 0
    began: int = 0


def rebuild(
    store: OnlineStore,
    log: DecisionLog,
    history: Iterable[pa.RecordBatch],
    progress: Progress | None = None,
    *,
    reach_us: int | None = None,
) -> int:
    """Fold history, then the log, into a store; returns the number of events, those loaded before included.

    Of a shared store a process that was interrupted may have loaded some: what comes before the store's mark is left
    out, as long as ``history`` has the same rows in the same order. Others add what they decide meanwhile. What they
    had added before the store was emptied, and committed only after the log was read here, is read once more.
    ``reach_us``: see :func:`bring_up`; what was decided before that is not read for a shared store, which forgets it.
    """
    began = time.time_ns() // 1_000
    mark = _mark_of(store)
    first = mark.began or began
    oldest = first - reach_us if store.shared and reach_us is not None else 0
    done = 0

    def load(batch: pa.RecordBatch, mark: Mark) -> None:
        nonlocal done
        store.load(batch)
        store.set_mark(msgspec.json.encode(mark).decode())
        done += batch.num_rows
        if progress:
            progress(done, None)

    is_new = NotLogged(log)
    rows = 0
    for batch in history:
        rows += batch.num_rows
        if rows > mark.rows:
            load(is_new(batch), Mark(rows, 0, first))
        else:
            done += batch.num_rows
    for batch in log.replay(after=max(mark.arrival, oldest)):
        newest = batch.column(TRANSACTION_ID)[-1].as_py()
        load(batch, Mark(rows, log.decision(newest).arrival, first))
    if store.shared:
        _wait_for_commits(began)
        _load(store, log.replay(after=began - OVERLAP_US))
    _add_labels(store, log.later_labels(after=max(oldest, 0)))
    if store.shared:
        _add_labels(store, log.labels(after=first))  # first reports that came too late for their transactions' replay
    store.loaded()
    store.confirm(began)
    return done


def _mark_of(store: OnlineStore) -> Mark:
    text = store.mark()
    return msgspec.json.decode(text, type=Mark) if text else Mark()


def catch_up(store: OnlineStore, log: DecisionLog, reach_us: int) -> int:
    """Give a shared store what processes that ended may have kept for it: the events of the last ``reach_us`` that were
    decided without it, and the label reports of the last :data:`LABELS_US`. It leaves out what it has.

    Returns the number of events given.
    """
    now_us = time.time_ns() // 1_000
    return _give_blind(store, log, now_us - reach_us, now_us - LABELS_US)


def catch_up_since(store: OnlineStore, log: DecisionLog, failed_us: int) -> int:
    """Give a shared store that works again what processes keep for it since then: they may not know yet."""
    after = failed_us - OVERLAP_US
    return _give_blind(store, log, after, after)


def _give_blind(store: OnlineStore, log: DecisionLog, after: int, labels_after: int) -> int:
    given = _load(store, log.replay(after=after, blind=True))
    _add_labels(store, log.labels(after=labels_after), again=True)
    return given


def _load(store: OnlineStore, batches: Iterable[pa.RecordBatch]) -> int:
    number = 0
    for batch in batches:
        store.load(batch)
        number += batch.num_rows
    return number


def _add_labels(store: OnlineStore, labels: Iterable[Label], *, again: bool = False) -> None:
    waiting = iter(labels)
    while some := list(islice(waiting, LABELS_AT_ONCE)):
        with suppress(StateLost):  # a shared store says so until all is loaded
            store.add_labels(some, again=again)


def _wait_for_commits(began_us: int) -> None:
    """What was in flight when a shared store lost events is in the log afterwards."""
    time.sleep(max(0.0, COMMIT_S - (time.time_ns() // 1_000 - began_us) / 1e6))


class NotLogged:
    """Batches of history without what is in the log: a transaction in both counts once, as the log has it.

    The ids are looked up: a process that decides has no room for all that the log knows, and decisions that look up
    theirs do not wait for many.
    """

    def __init__(self, log: DecisionLog) -> None:
        self._log = log

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        ids = batch.column(TRANSACTION_ID).to_pylist()
        known: set[str] = set()
        for first in range(0, len(ids), IDS_AT_ONCE):
            known.update(self._log.find(ids[first : first + IDS_AT_ONCE]))
        return batch.filter(pa.array([key not in known for key in ids])) if known else batch
