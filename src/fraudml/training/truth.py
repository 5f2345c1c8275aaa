"""Which label each transaction has by now, for a training set made of history and the decision log.

A transaction is looked at once its age is the maturity, from which labels count as final: before, a fraud may not be
reported yet, and would be learnt as genuine. Nothing that became known later than now is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraudml.decisions.log import DecisionLog
from fraudml.decisions.rebuild import NotLogged
from fraudml.decisions.record import Action
from fraudml.events.label import Label
from fraudml.events.schema import EVENT_TIME, IS_FRAUD, KNOWN_AT, TRANSACTION_ID, Schema
from fraudml.events.source import Progress, arrow_schema
from fraudml.features.stores import OfflineStore
from fraudml.training.dataset import NEVER_KNOWN, UNLABELLED


class Truth:
    """Gives batches of ``OfflineStore.features`` the labels to learn from; the features stay as they are.

    - Of several reports the last one to arrive counts.
    - A logged transaction that nobody reported on has the label of its row in history, if there is one; else it counts
      as genuine from its maturity on (unless ``reported_only``), as in the report of a rollout.
    - A decline that nobody reported on has no label: nobody learns what it would have been.
    - What is younger than the maturity has none either, also where a fraud was reported early: it would be learnt from
      without its genuine neighbours.

    ``counts``: of transactions with a label that was ``known``, that are ``assumed_genuine``, that are ``waiting`` for
    their maturity, and with an ``unknown`` label. ``unknown_declines_us``: event times of mature declines without one.
    """

    def __init__(self, now_us: int, maturity_us: int, *, reported_only: bool = False) -> None:
        self.counts: Counter[str] = Counter(known=0, assumed_genuine=0, waiting=0, unknown=0)
        self.unknown_declines_us: list[int] = []
        self._now_us = now_us
        self._maturity_us = maturity_us
        self._reported_only = reported_only
        self._later: dict[str, list[Label]] = {}
        self._in_history: dict[str, tuple[bool, int]] = {}
        self._unlabelled: set[str] = set()
        self._declined: set[str] = set()

    def history(self, whole: pa.RecordBatch, new: pa.RecordBatch) -> None:
        """A batch of history, and what of it is not in the log: an absent label there means nothing, and what it says
        of logged transactions may be all that is known."""
        fraud, known_at = new.column(IS_FRAUD), new.column(KNOWN_AT)
        unknown = pc.or_(pc.is_null(fraud), pc.fill_null(pc.greater(known_at, self._now_us), fill_value=True))
        self._unlabelled.update(new.column(TRANSACTION_ID).filter(unknown).to_pylist())
        if new.num_rows == whole.num_rows:
            return
        fresh = set(new.column(TRANSACTION_ID).to_pylist())
        columns = (whole.column(name).to_pylist() for name in (TRANSACTION_ID, IS_FRAUD, KNOWN_AT))
        for key, verdict, moment in zip(*columns, strict=True):
            if key not in fresh and verdict is not None:
                self._in_history[key] = (verdict, moment)

    def reported(self, later: Iterable[Label]) -> None:
        """Reports beside the first one about each transaction, in order of arrival."""
        for label in later:
            self._later.setdefault(label.transaction_id, []).append(label)

    def decided(self, outcomes: Iterable[pa.RecordBatch]) -> None:
        """All decisions: batches of ``decisions.log.OUTCOMES``."""
        for batch in outcomes:
            declines = pc.equal(batch.column("action"), Action.decline.value)
            self._declined.update(batch.column(TRANSACTION_ID).filter(declines).to_pylist())

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with other labels: null where there is none to learn from."""
        times = batch.column(EVENT_TIME).to_numpy()
        y = np.array(pc.fill_null(pc.cast(batch.column(IS_FRAUD), pa.int8()), UNLABELLED))
        known_at = np.array(pc.fill_null(batch.column(KNOWN_AT), NEVER_KNOWN))
        told = y >= 0
        y[known_at > self._now_us] = UNLABELLED
        mature = times <= self._now_us - self._maturity_us
        assumed = mature & ~told & (not self._reported_only)
        declined = np.zeros(len(y), np.bool_)
        for i, key in enumerate(batch.column(TRANSACTION_ID).to_pylist()):
            if key in self._later:
                y[i], known_at[i] = self._last(self._later[key], (int(y[i]), int(known_at[i])))
            elif not told[i] and key in self._in_history:
                verdict, moment = self._in_history[key]
                y[i], known_at[i] = (verdict, moment) if moment <= self._now_us else (UNLABELLED, NEVER_KNOWN)
                assumed[i] = False
            declined[i] = key in self._declined
            assumed[i] &= not (declined[i] or key in self._unlabelled)
        assumed &= y < 0
        y[assumed], known_at[assumed] = 0, times[assumed] + self._maturity_us
        y[~mature] = UNLABELLED
        self._count(y, times, assumed, mature, declined)
        return _with_labels(batch, y, known_at)

    def _last(self, later: list[Label], first: tuple[int, int]) -> tuple[int, int]:
        """Verdict and time of the last report that is known by now."""
        known = [(int(label.is_fraud), label.known_at_us) for label in later if label.known_at_us <= self._now_us]
        return known[-1] if known else first

    def _count(
        self,
        y: NDArray[np.int8],
        times: NDArray[np.int64],
        assumed: NDArray[np.bool_],
        mature: NDArray[np.bool_],
        declined: NDArray[np.bool_],
    ) -> None:
        unknown = mature & (y < 0)
        self.counts.update(
            known=int((mature & (y >= 0) & ~assumed).sum()),
            assumed_genuine=int(assumed.sum()),
            waiting=int((~mature).sum()),
            unknown=int(unknown.sum()),
        )
        self.unknown_declines_us += times[unknown & declined].tolist()


def gather(
    log: DecisionLog,
    store: OfflineStore,
    schema: Schema,
    history: Iterable[pa.RecordBatch],
    truth: Truth,
    progress: Progress | None = None,
) -> int:
    """Put history and all logged transactions, with their reports, into an empty store, and tell ``truth`` what it has
    to know. A transaction in both counts once, as the log has it. Returns the number of transactions.

    The store gets the reports as services did, so that features over labels are those that were served.
    """
    is_new = NotLogged(log)

    def past() -> Iterator[pa.RecordBatch]:
        for batch in history:
            new = is_new(batch)
            truth.history(batch, new)
            yield new

    def counted() -> Iterator[pa.RecordBatch]:
        done = 0
        for batch in chain(past(), log.replay()):
            yield batch
            done += batch.num_rows
            if progress:
                progress(done, None)

    rows = store.put(pa.RecordBatchReader.from_batches(arrow_schema(schema), counted()))
    later = list(log.later_labels())
    store.put_labels(later)
    truth.reported(later)
    truth.decided(log.outcomes())  # last: it has to know all that was put
    return rows


def _with_labels(batch: pa.RecordBatch, y: NDArray[np.int8], known_at: NDArray[np.int64]) -> pa.RecordBatch:
    without = y < 0
    columns = {
        IS_FRAUD: pa.array(y > 0, pa.bool_(), mask=without),
        KNOWN_AT: pa.array(known_at, pa.int64(), mask=without),
    }
    for name, column in columns.items():
        batch = batch.set_column(batch.schema.get_field_index(name), name, column)
    return batch
