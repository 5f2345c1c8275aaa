"""Decisions of two periods, read from the log in one pass.

A period is half-open and of event times. The log is in order of arrival, and an event cannot be further ahead of its
arrival than the service accepts, so what happened at some time arrived no earlier than a little before it. There is no
such bound for late events: everything that arrived since is read.

A log that holds more than can be read is sampled: its arrivals are cut into slices of equal time, and of each the same
share from its beginning on is kept, the share that could be read of the fullest one. That is even over time, and needs
no weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from fraudml.decisions.log import ARRIVAL, DecisionLog
from fraudml.events.source import Progress

MOST_ROWS = 300_000
SLICES = 200
_BATCH = 20_000
HOUR_US = 3_600_000_000
WEEK_US = 7 * 24 * HOUR_US


class Period(msgspec.Struct, frozen=True):
    """Event times from ``since_us`` to before ``until_us``, microseconds UTC."""

    since_us: int
    until_us: int

    @property
    def hours(self) -> float:
        """Its length."""
        return (self.until_us - self.since_us) / HOUR_US


class Sample(NamedTuple):
    """Rows of ``audit_batches`` of each period; ``share``: of the log that was read; ``late``: rows of the current
    period that arrived more than a day after their event, ``ahead`` more than an hour before it."""

    reference: pa.Table
    current: pa.Table
    share: float
    late: int
    ahead: int


def newest_us(log: DecisionLog) -> int | None:
    """The greatest event time among the latest decisions; ``None`` for an empty log."""
    last = log.last_arrival(labels=False)
    newest = None
    for batch in log.audit_batches(after=last - HOUR_US, limit=_BATCH):
        if batch.num_rows:
            found = int(pc.max(batch.column("event_time_us")).as_py())
            newest = found if newest is None else max(newest, found)
    return newest


def read(
    log: DecisionLog,
    reference: Period,
    current: Period,
    *,
    ahead_us: int,
    most: int = MOST_ROWS,
    progress: Progress | None = None,
) -> Sample:
    """Both periods; ``ahead_us``: as far ahead of its arrival as an event may be."""
    after = min(reference.since_us, current.since_us) - ahead_us
    share, batches = 1.0, list(_first(log, after, most, progress))
    if sum(batch.num_rows for batch in batches) >= most:
        share, batches = _slices(log, after, most, progress)
    now = _of(batches, current)
    delay = now.column(ARRIVAL).to_numpy() - now.column("event_time_us").to_numpy()
    late, ahead = int((delay > 24 * HOUR_US).sum()), int((delay < -HOUR_US).sum())
    return Sample(_of(batches, reference), now, share, late, ahead)


def same_hours(table: pa.Table, current: Period) -> pa.Table:
    """The rows at hours of the week that a period shorter than a week has, too: a Monday is compared with Mondays."""
    length = current.until_us - current.since_us
    if length >= WEEK_US:
        return table
    since = (table.column("event_time_us").to_numpy() - current.since_us) % WEEK_US
    return table.filter(pa.array(since < length))


def _first(log: DecisionLog, after: int, most: int, progress: Progress | None) -> Iterator[pa.RecordBatch]:
    done = 0
    for batch in log.audit_batches(_BATCH, after, limit=most):
        done += batch.num_rows
        if progress:
            progress(done, None)
        yield batch


def _slices(log: DecisionLog, after: int, most: int, progress: Progress | None) -> tuple[float, list[pa.RecordBatch]]:
    """The share of each slice that is kept, and its rows."""
    last, each = log.last_arrival(labels=False), most // SLICES
    step = (last - after) / SLICES
    found: list[tuple[float, list[pa.RecordBatch]]] = []
    share = 1.0
    for number in range(SLICES):
        start = after + number * step
        batches = list(log.audit_batches(each, int(start), limit=each))
        if sum(batch.num_rows for batch in batches) >= each:
            share = min(share, (int(batches[-1].column(ARRIVAL)[-1].as_py()) - start) / step)
        found.append((start, batches))
        if progress:
            progress(number + 1, SLICES)
    kept = []
    for start, batches in found:
        for batch in batches:
            kept.append(batch.filter(pc.less_equal(batch.column(ARRIVAL), int(start + share * step))))
    return share, kept


def _of(batches: list[pa.RecordBatch], period: Period) -> pa.Table:
    rows = []
    for batch in batches:
        time = batch.column("event_time_us")
        inside = pc.and_(pc.greater_equal(time, period.since_us), pc.less(time, period.until_us))
        rows.append(batch.filter(inside))
    if not rows:
        return pa.table({"event_time_us": pa.array([], pa.int64()), ARRIVAL: pa.array([], pa.int64())})
    return pa.Table.from_batches(rows)
