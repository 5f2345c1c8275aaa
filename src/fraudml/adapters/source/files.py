"""History from CSV and Parquet files, normalised by DuckDB at about a million rows a second and core.

The meaning is that of :mod:`fraudml.events.normalise`, whose rules :mod:`fraudml.adapters.source.rules` writes as
SQL. What SQL does not do well is done here on Arrow batches: card numbers, time zones, duplicate ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from fraudml.adapters.source import tables
from fraudml.adapters.source.batches import Batches
from fraudml.adapters.source.duplicates import SeenIds
from fraudml.adapters.source.rejects import RejectFile, malformed_lines
from fraudml.adapters.source.tables import Table
from fraudml.errors import DataError, TooManyRejects
from fraudml.events.cards import CardHasher
from fraudml.events.schema import Schema
from fraudml.events.source import Progress, Rejects, arrow_schema

BATCH_ROWS = 100_000
HOPELESS_ROWS = 50_000  # when more than half of so many rows are refused, the schema is wrong: stop at once
DUPLICATE = "duplicate id"


class FileSource:
    """Reads transactions from files: CSV (plain or gzipped, any delimiter, with a header) or Parquet.

    A file that lacks the label's columns is history without labels; any other missing column is a DataError.
    The rejects file holds, of each refused row, the columns that the schema uses. When the limit is exceeded, the
    reader raises ``TooManyRejects`` at its end, or early when nearly everything is refused; so does ``rejects()``.
    """

    def __init__(
        self,
        paths: str | Path | Iterable[str | Path],
        schema: Schema,
        hasher: CardHasher,
        *,
        max_reject_share: float = 0.05,
        rejects_path: Path = Path("rejects.csv"),
        threads: int = 1,
        memory_limit: str = "4GB",
    ) -> None:
        self._paths = tables.find(paths)
        self._schema = schema.check()
        self._hasher = hasher
        self._max_share = max_reject_share
        self._rejects_path = rejects_path
        self._threads, self._memory_limit = threads, memory_limit
        self._rejects: RejectFile | None = None
        self._failure: TooManyRejects | None = None
        self._rows = 0

    def read(self, progress: Progress | None = None) -> pa.RecordBatchReader:
        """Batches of ``arrow_schema``, in the files' order; see :class:`~fraudml.events.source.TransactionSource`."""
        connection = tables.connect(self._threads, self._memory_limit)
        connection.execute("SET TimeZone = 'UTC'")  # offsets are applied, naive times are left alone
        # Lists of words would become hash joins, which are slower and do not keep the order of the rows.
        connection.execute("SET disabled_optimizers = 'in_clause'")
        found = [tables.describe(path, connection) for path in self._paths]
        plans = [
            Batches(table, self._schema, self._hasher, stem)
            for table, stem in zip(found, tables.stems(found), strict=True)
        ]
        self._rows, self._failure = 0, None
        self._rejects = RejectFile(self._rejects_path, self._hasher)
        return pa.RecordBatchReader.from_batches(
            arrow_schema(self._schema), self._stream(connection, plans, self._rejects, progress)
        )

    def rejects(self) -> Rejects:
        """The rejects of the last :meth:`read`; complete once its reader is exhausted."""
        if self._failure is not None:
            raise self._failure
        if self._rejects is None:
            return Rejects(0, 0, {}, None)
        return self._rejects.summary(self._rows)

    def _stream(
        self,
        connection: duckdb.DuckDBPyConnection,
        plans: list[Batches],
        rejects: RejectFile,
        progress: Progress | None,
    ) -> Iterator[pa.RecordBatch]:
        expected = _total([plan.table for plan in plans])
        seen = SeenIds() if self._schema.transaction_id is not None else None
        try:
            for plan in plans:
                broken: dict[int, str] = {}
                try:
                    for batch in self._read_one(connection, plan, broken, seen):
                        if progress is not None:
                            progress(self._rows, max(expected, self._rows) if expected is not None else None)
                        yield batch
                except _Hopeless:
                    # A second connection, as the first is amid a result.
                    rejects.add(connection.cursor(), plan.table, plan.used, broken, {})
                    raise self._too_many(rejects, " so far; nearly all are refused, so the reading stopped") from None
                malformed = {} if plan.table.parquet else malformed_lines(connection)
                self._rows += len(malformed)
                rejects.add(connection, plan.table, plan.used, broken, malformed)
            if rejects.count > self._max_share * self._rows:
                raise self._too_many(rejects, "")
        except duckdb.Error as error:
            raise DataError(f"cannot read {plan.table.path}: {tables.first_line(error)}") from error
        finally:
            rejects.close()
            connection.close()

    def _read_one(
        self,
        connection: duckdb.DuckDBPyConnection,
        plan: Batches,
        broken: dict[int, str],
        seen: SeenIds | None,
    ) -> Iterator[pa.RecordBatch]:
        reader = connection.sql(plan.query).to_arrow_reader(BATCH_ROWS)
        first = 0
        for raw in reader:
            good, problems = plan.check(raw)
            if seen is not None:
                hashes = plan.id_hashes(raw, good)
                again = seen.repeated(hashes)
                if again.any():
                    at = np.flatnonzero(good)[again]
                    broken.update((first + int(row), DUPLICATE) for row in at)
                    good[at] = False
            broken.update((first + row, problem) for row, problem in problems.items())
            batch = plan.finish(raw, first, good)
            first += raw.num_rows
            self._rows += raw.num_rows
            hopeless = len(broken) > max(self._max_share, 0.5) * self._rows and self._max_share < 1
            if self._rows >= HOPELESS_ROWS and hopeless:
                raise _Hopeless
            if batch.num_rows:
                yield batch

    def _too_many(self, rejects: RejectFile, note: str) -> TooManyRejects:
        top = "; ".join(f"{reason} ({count:,})" for reason, count in rejects.reasons.most_common(3))
        more = f" and {len(self._paths) - 1} more files" if len(self._paths) > 1 else ""
        self._failure = TooManyRejects(
            f"{self._paths[0]}{more}: {rejects.count:,} of {self._rows:,} rows are broken{note}; at most "
            f"{self._max_share:.1%} are accepted. Most frequent: {top}. See {self._rejects_path}; correct the schema "
            "or the file, or raise FRAUDML_MAX_REJECT_SHARE"
        )
        return self._failure


class _Hopeless(Exception):
    pass


def _total(found: list[Table]) -> int | None:
    expected = [table.expected_rows() for table in found]
    return None if None in expected else sum(rows for rows in expected if rows is not None)
