"""The online store in Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median_low
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraudml.adapters.online._plan import compile_plan
from fraudml.adapters.online._rows import Row, Rows
from fraudml.adapters.online.redis import epoch as epochs
from fraudml.adapters.online.redis import records
from fraudml.adapters.online.redis.answer import NEVER, Answer, blank
from fraudml.adapters.online.redis.calls import Call, Calls
from fraudml.adapters.online.redis.groups import group
from fraudml.adapters.online.redis.lanes import Lane, lay_out
from fraudml.adapters.online.redis.link import Client, Link
from fraudml.adapters.online.redis.load import Loader
from fraudml.adapters.online.redis.policy import check_policy
from fraudml.adapters.online.redis.post import Options, Post, Read
from fraudml.adapters.online.redis.stats import count
from fraudml.adapters.online.redis.tidy import Tidy
from fraudml.errors import OnlineStoreError, StateLost
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.features.spec import FeatureSet
from fraudml.features.stores import StateRead

DAY_US = 86_400_000_000
TICK = 256  # transactions after which the store looks at how far time has moved
AT_ONCE = 1_000  # transactions in one round trip
MOST_RISES = 64  # of time in a batch whose keys' transactions are out of order: each has a copy of its lane
WAIT = 4  # deadlines that a call waits for the calls of other threads


class Answered(NamedTuple):
    """For each transaction its cells, whether it is late, and since when it was there before (0: it was not);
    ``ready``: state is complete."""

    cells: NDArray[np.float64]
    late: NDArray[np.bool_]
    entered_us: NDArray[np.int64]
    ready: bool


class RedisOnlineStore:
    """State in Redis, shared by any number of processes (implements ``OnlineStore``).

    While history is missing ``read`` raises ``StateLost``, too.

    ``connect`` makes the client, on first use. ``project`` keeps models apart that use one Redis. ``lateness_us``: how
    late a transaction may be and still see all that it should. ``ahead_us``: how far ahead of the clock one may be.

    Exact like the in-process store; sums of floats agree to 1e-9 of the magnitudes. Late transactions see windows of a
    coarse resolution as far as they are folded. A repeat of a transaction adds nothing, except to a window of a coarse
    resolution when more than 1,024 other events of its entity were folded since.
    """

    def __init__(
        self,
        feature_set: FeatureSet,
        connect: Callable[[], Client],
        *,
        project: str = "fraud",
        lateness_us: int = DAY_US,
        ahead_us: int = DAY_US,
        timeout_ms: int = 250,
        tick: int = TICK,
    ) -> None:
        self.feature_set = feature_set
        self.lateness_us = lateness_us
        plan = compile_plan(feature_set)
        self._layout = lay_out(feature_set, plan, project)
        self._rows = Rows(feature_set.schema, plan.row)
        lanes = [lane for entity in self._layout.lanes for lane in entity]
        self._records = records.Records(feature_set.schema, plan, lanes)
        self._link = Link(connect, timeout_ms / 1_000)
        self._timeout_s = timeout_ms / 1_000
        self._epoch = epochs.Epoch(self._link, self._layout.namespace)
        self._calls = Calls(self._link)
        self._post = Post(self._link, self._calls, self._layout.keys(feature_set), lateness_us + ahead_us)
        self._tidy = Tidy(self._post)
        self._answer = Answer(self._layout, plan, self._records)
        self._blank = blank(self._layout)
        self._loader = Loader(
            feature_set, self._layout, self._records, self._link, self._post, self._epoch, lateness_us + ahead_us
        )
        self._tick = tick
        self._recent: list[int] = []
        self._seal_us = NEVER
        self._checked = False
        self._lock = threading.Lock()
        self._loading = threading.Lock()  # a load takes minutes, while decisions go on

    @property
    def shared(self) -> bool:
        """Other processes may use the same state."""
        return True

    def lost(self) -> bool:
        """See ``OnlineStore``: whether history, or the last of it, is missing on any node.

        It asks also a server that calls of decisions leave alone for a while, so whoever looks now and then in a thread
        of its own spares them the waiting.
        """
        self._check()
        return not self._epoch.is_ready([node.told for node in self._epoch.nodes(insist=True).values()])

    def claim_load(self) -> bool:
        """See ``OnlineStore``."""
        self._check()
        with self._loading:
            self._loader.begin()
            return self._epoch.claim()

    def give_up_load(self) -> None:
        """See ``OnlineStore``."""
        with self._loading:
            self._loader.begin()
            self._epoch.give_up()

    def loaded(self) -> None:
        """See ``OnlineStore``; raises ``StateLost`` when state was emptied while it was loaded."""
        self._check()
        with self._loading:
            self._loader.flush()
            self._epoch.finish()

    def behind(self) -> int | None:
        """See ``OnlineStore``."""
        with self._loading:
            return self._epoch.behind()

    def confirm(self, arrival: int) -> None:
        """See ``OnlineStore``."""
        self._check()
        with self._loading:
            self._epoch.confirm(arrival)

    def set_mark(self, text: str) -> None:
        """See ``OnlineStore``."""
        with self._loading:
            self._loader.note(text)

    def mark(self) -> str | None:
        """See ``OnlineStore``: of the load that this process has claimed."""
        self._check()
        with self._loading:
            return self._epoch.mark()

    def read_then_update(self, transactions: Sequence[Transaction], *, trace: bool = False) -> StateRead:
        """See ``OnlineStore``."""
        rows = self._rows.of(transactions)
        return self._in_parts(transactions, rows, trace)

    def read(self, transactions: Sequence[Transaction]) -> StateRead:
        """See ``OnlineStore``."""
        self._rows.of(transactions)
        return self._in_parts(transactions, None)

    def add_labels(self, labels: Sequence[Label], *, again: bool = False) -> None:
        """See ``OnlineStore``. A report of the same verdict, known at the same time, is a repeat."""
        self._rows.of_labels(labels)
        unique = {(label.transaction_id, label.known_at_us, label.is_fraud, label.entities): label for label in labels}
        different = list(unique.values())
        with self._alone():
            ready = True
            for first in range(0, len(different), AT_ONCE):
                ready &= self._add_labels(different[first : first + AT_ONCE], Options(careful=again))
        if not ready:
            raise StateLost(epochs.LOST)

    def load(self, events: pa.RecordBatch) -> None:
        """See ``OnlineStore``; raises ``StateLost`` when state was emptied since :meth:`claim_load`."""
        self._check()
        with self._loading:
            self._loader.add(events)

    def stats(self) -> dict[str, Any]:
        """``entities`` and ``events`` held; ``estimated`` says that they were counted on a sample of the keys."""
        self._check()
        with self._loading:
            self._loader.flush()
            return count(self._link, self._layout, self.feature_set)

    def _in_parts(
        self, transactions: Sequence[Transaction], rows: Sequence[Row] | None, trace: bool = False
    ) -> StateRead:
        values = np.empty((len(transactions), len(self._layout.positions)))
        late = np.zeros(len(transactions), dtype=np.bool_)
        entered_us = np.zeros(len(transactions), dtype=np.int64)
        ready = True
        if self._layout.width == 0 and not any(self._layout.lanes):
            return StateRead(values, late)
        with self._alone():
            for first in range(0, len(transactions), AT_ONCE):
                part = slice(first, first + AT_ONCE)
                found = self._run(transactions[part], None if rows is None else rows[part], trace)
                values[part], late[part] = found.cells[:, self._layout.positions], found.late
                entered_us[part] = found.entered_us
                ready &= found.ready
        if not ready:
            raise StateLost(epochs.LOST)
        return StateRead(values, late, entered_us if entered_us.any() else None)

    def _run(self, transactions: Sequence[Transaction], rows: Sequence[Row] | None, trace: bool) -> Answered:
        times = np.array([event.event_time_us for event in transactions], dtype=np.int64)
        keys = zip(*(event.entities for event in transactions), strict=True)
        groups = [group(each, times, update=rows is not None) for each in keys]
        if rows is not None and max((found.rises for found in groups if found is not None), default=0) > MOST_RISES:
            half = len(rows) // 2
            parts = (slice(half), slice(half, None))
            first, then = (self._run(transactions[part], rows[part], trace) for part in parts)
            cells, late, entered_us = (np.concatenate(both) for both in zip(first[:3], then[:3], strict=True))
            return Answered(cells, late, entered_us, first.ready and then.ready)
        fields = self._records.of_rows(rows) if rows is not None else {}
        ids = records.ids_of([event.transaction_id for event in transactions]) if rows is not None else None
        call = Call(ids, time.time_ns() // 1_000) if trace and ids is not None else None
        reads: list[Read] = []
        for lanes, found in zip(self._layout.lanes, groups, strict=True):
            if found is None:
                continue
            for lane in lanes:
                new = b""
                if ids is not None and not lane.labels:
                    new = records.pack(lane, ids, times, fields)[found.events].tobytes()
                reads.append(Read(lane, found, new))
        tidied = self._tidy.take() if rows is not None else []
        marks = self._post.send(reads, self._epoch, tidied, call=call)
        entered_us = np.zeros(len(times), dtype=np.int64)
        if call is not None and any(read.repeated for read in reads):
            entered_us = self._calls.entered_us(self._epoch.keys(), call)
        ready = self._epoch.is_ready(marks)
        cells, late = np.tile(self._blank, (len(times), 1)), np.zeros(len(times), dtype=np.bool_)
        for read in reads:
            seen = self._answer.of(read, cells, late)
            if rows is not None and ready:
                self._tidy.look(read, seen, self._seal_us)
        if rows is not None:
            self._note_times(times)
        if not ready:
            self._tidy.take()  # nobody folds what may be loaded again
        return Answered(cells, late, entered_us, ready)

    def _add_labels(self, labels: Sequence[Label], options: Options) -> bool:
        ids, times, fields = records.of_labels(labels)
        reads = []
        for entity, lanes in enumerate(self._layout.lanes):
            own: list[Lane] = [lane for lane in lanes if lane.labels]
            found = group([label.entities[entity] for label in labels], times, update=True) if own else None
            if found is not None:
                reads += [
                    Read(lane, found, records.pack(lane, ids, times, fields)[found.events].tobytes()) for lane in own
                ]
        return self._epoch.is_ready(self._post.send(reads, self._epoch, [], options))

    def _note_times(self, times: NDArray[np.int64]) -> None:
        """Time is the median of the last ones seen, so that single broken clocks forget nothing."""
        self._recent += times.tolist()
        if len(self._recent) >= self._tick:
            self._seal_us = median_low(self._recent) - self.lateness_us
            self._recent.clear()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One call at a time; a thread that waits for others does not wait for ever."""
        self._check()
        if not self._lock.acquire(timeout=WAIT * self._timeout_s):
            raise OnlineStoreError(
                "Redis, which holds online state, is slow: calls of other threads did not end in time"
            )
        try:
            yield
        finally:
            self._lock.release()

    def _check(self) -> None:
        """Once, refuse a server that may forget keys."""
        if not self._checked:
            check_policy(self._link)
            self._checked = True
