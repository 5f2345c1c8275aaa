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
from functools import partial

import msgspec
import numpy as np
import pyarrow as pa

from fraudml.decisions.log import ARRIVAL, DecisionLog
from fraudml.decisions.warehouse import DECISIONS, LABELS, Warehouse, exported_decisions, exported_schemas
from fraudml.errors import ConflictError
from fraudml.events.schema import Schema
from fraudml.events.source import Progress

Read = Callable[[int], Iterator[pa.RecordBatch]]  # the rows after an arrival number, in order


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
) -> dict[str, Exported]:
    """Export the rows with arrival numbers of at most ``until``; returns what was done by table.

    ``recheck_us``: how far behind the watermark rows are looked for that came late. ``progress``: by table, told of
    rows looked at. Raises ``ConflictError`` when the warehouse was filled from another log, or by another export at
    this moment; ``WarehouseError`` and ``DecisionLogError``. It can always be run again.
    """
    columns = exported_schemas(schema)
    warehouse.prepare(columns)
    reads: dict[str, Read] = {
        DECISIONS: lambda after: (
            exported_decisions(batch, columns[DECISIONS]) for batch in log.audit_batches(batch_size, after)
        ),
        LABELS: partial(log.audit_labels, batch_size),
    }
    return {
        table: _export(warehouse, table, read, until, recheck_us, (progress or {}).get(table))
        for table, read in reads.items()
    }


def _export(
    warehouse: Warehouse, table: str, read: Read, until: int, recheck_us: int, progress: Progress | None
) -> Exported:
    mark = warehouse.watermark(table)
    if mark and not _holds(read, mark):
        raise ConflictError(
            f"the warehouse's {table} were exported from another decision log: name another schema or data set in "
            "FRAUDML_WAREHOUSE_URL"
        )
    done = Exported(watermark=mark)
    after = max(0, mark - recheck_us) if mark else 0
    known = _known(warehouse, table, after) if after < mark else np.empty(0, np.int64)
    seen = 0
    while (batch := _first(read, after)) is not None:
        arrivals = batch.column(ARRIVAL).to_numpy()
        whole = len(arrivals)
        batch = batch.slice(0, int(np.searchsorted(arrivals, until, side="right")))
        if batch.num_rows:
            arrivals = arrivals[: batch.num_rows]
            after = int(arrivals[-1])
            missing = np.isin(arrivals, known, invert=True)
            if missing.any():
                moved = max(done.watermark, after)
                warehouse.write(table, batch.filter(pa.array(missing)), before=done.watermark, watermark=moved)
                done.rows += int(missing.sum())
                done.late += int((missing & (arrivals <= mark)).sum())
                done.watermark = moved
            seen += batch.num_rows
            if progress:
                progress(seen, None)
        if batch.num_rows < whole:
            break
    return done


def _first(read: Read, after: int) -> pa.RecordBatch | None:
    """The next batch. The log is read anew for each: a reading that lasts for hours would keep it from being tidied."""
    batches = read(after)
    with closing(batches):  # type: ignore[type-var] # a generator
        return next(batches, None)


def _holds(read: Read, arrival: int) -> bool:
    """Whether the log has a row with this number."""
    batch = _first(read, arrival - 1)
    return batch is not None and batch.column(ARRIVAL)[0].as_py() == arrival


def _known(warehouse: Warehouse, table: str, after: int) -> np.ndarray:
    found = [np.empty(0, np.int64), *(array.to_numpy() for array in warehouse.arrivals(table, after))]
    return np.concatenate(found)
