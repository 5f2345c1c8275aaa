"""Exports a decision log into a warehouse: incremental, resumable, each row exactly once.

Rows go in order of arrival, in batches; a batch and the watermark that says how far the export has come are one
transaction of the warehouse. So an export that ends anywhere, however it ends, is continued by the next one.

With several writers a row may become visible in the log after later ones: its commit took longer, or its process kept
it in the journal while the log could not be reached. So the newest rows wait (``lag_us``), and a stretch before the
watermark is looked at again (``recheck_us``): what is in the log and not in the warehouse is exported then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import takewhile

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraudml.decisions.log import ARRIVAL, DecisionLog
from fraudml.decisions.warehouse import DECISIONS, LABELS, Warehouse, exported_decisions, exported_schemas
from fraudml.errors import ConflictError
from fraudml.events.schema import Schema
from fraudml.events.source import Progress

Read = Callable[[int, int], Iterator[pa.RecordBatch]]  # (number of rows, arrival number) -> so many after it, in order

NEAR_US = 60_000_000  # of the watermark: where rows are compared first
SAMPLE = 1_000


class Exported(msgspec.Struct):
    """What was done to one table: ``rows`` added, ``late`` of them from before the watermark; where that is now."""

    rows: int = 0
    late: int = 0
    watermark: int = 0


def sync(
    log: DecisionLog,
    warehouse: Warehouse,
    schema: Schema,
    *,
    until: int,
    recheck_us: int = 0,
    batch_size: int = 100_000,
    progress: dict[str, Progress] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Exported]:
    """Export the rows with arrival numbers of at most ``until``; returns what was done by table.

    ``recheck_us``: how far behind the watermark rows are looked for that came late. ``progress``: by table, told of
    rows looked at. ``stopped``: asked between batches whether to leave the rest to the next run. Raises
    ``ConflictError`` when the warehouse was filled from another log with rows of the same time, or by another export
    at this moment; ``WarehouseError`` and ``DecisionLogError``. It can always be run again.
    """
    columns = exported_schemas(schema)
    warehouse.prepare(columns)
    reads: dict[str, Read] = {
        DECISIONS: lambda size, after: (
            exported_decisions(batch, columns[DECISIONS]) for batch in log.audit_batches(size, after, limit=size)
        ),
        LABELS: lambda size, after: log.audit_labels(size, after, limit=size),
    }
    done: dict[str, Exported] = {}
    for table, read in reads.items():
        mark = warehouse.watermark(table)
        if mark and not _is_of(read, warehouse, table, mark):
            raise ConflictError(
                f"the warehouse's {table} were exported from another decision log: name another schema or data set in "
                "FRAUDML_WAREHOUSE_URL"
            )
        known = _known(warehouse, table, mark, recheck_us)
        batches = takewhile(lambda _: not stopped(), _batches(read, batch_size, max(0, mark - recheck_us), until))
        done[table] = _export(warehouse, table, mark, known, batches, (progress or {}).get(table))
        while not stopped() and warehouse.tidy(table):
            pass
    return done


def _export(
    warehouse: Warehouse,
    table: str,
    mark: int,
    known: NDArray[np.int64],
    batches: Iterator[pa.RecordBatch],
    progress: Progress | None,
) -> Exported:
    """Write what is not known there, batch by batch."""
    done = Exported(watermark=mark)
    seen = 0
    for batch in batches:
        arrivals = batch.column(ARRIVAL).to_numpy()
        missing = np.isin(arrivals, known, invert=True)
        if missing.any():
            moved = max(done.watermark, int(arrivals[-1]))
            warehouse.write(table, batch.filter(pa.array(missing)), before=done.watermark, watermark=moved)
            done.rows += int(missing.sum())
            done.late += int((missing & (arrivals <= mark)).sum())
            done.watermark = moved
            warehouse.tidy(table)  # some now: a long export would leave more small pieces than are quickly listed
        seen += batch.num_rows
        if progress:
            progress(seen, None)
    return done


def _batches(read: Read, batch_size: int, after: int, until: int) -> Iterator[pa.RecordBatch]:
    """The rows after one number up to another. The log is read anew for each batch, and no further: a reading that
    lasts for hours would keep it from being tidied."""
    while (batch := _first(read, batch_size, after)) is not None:
        arrivals = batch.column(ARRIVAL).to_numpy()
        wanted = batch.slice(0, int(np.searchsorted(arrivals, until, side="right")))
        if wanted.num_rows:
            yield wanted
        if wanted.num_rows < batch.num_rows:
            return
        after = int(arrivals[-1])


def _first(read: Read, size: int, after: int) -> pa.RecordBatch | None:
    with closing(read(size, after)) as batches:  # type: ignore[type-var] # a generator
        return next(batches, None)


def _is_of(read: Read, warehouse: Warehouse, table: str, mark: int) -> bool:
    """Whether the table was exported from this log, as far as that can be told.

    The row of the watermark tells. When retention has removed it, which goes by the time of transactions, rows before
    it do: the table has most of a sample, while of another log's it has none, or a few by chance. The nearest ones are
    asked first, then those of ever longer stretches. Without any row up to the watermark there is nothing to compare.
    """
    if _numbers(read, 1, mark - 1, mark).size:
        return True
    stretch, sampled = NEAR_US, False
    while True:
        after = max(0, mark - stretch)
        sample = _numbers(read, SAMPLE, after, mark)
        if sample.size:
            sampled = True
            found = sum(int(np.isin(sample, there.to_numpy()).sum()) for there in warehouse.arrivals(table, after))
            if 2 * found > sample.size:
                return True
        if not after:
            return not sampled
        stretch *= 16


def _numbers(read: Read, size: int, after: int, until: int) -> NDArray[np.int64]:
    """The first arrival numbers of a stretch, no more than ``size``."""
    batch = _first(read, size, after)
    numbers = np.empty(0, np.int64) if batch is None else batch.column(ARRIVAL).to_numpy()
    return numbers[numbers <= until]


def _known(warehouse: Warehouse, table: str, mark: int, recheck_us: int) -> NDArray[np.int64]:
    """The numbers that the table has of the stretch that is looked at again."""
    if not mark or not recheck_us:
        return np.empty(0, np.int64)
    found = [array.to_numpy() for array in warehouse.arrivals(table, max(0, mark - recheck_us))]
    return np.concatenate([np.empty(0, np.int64), *found])
