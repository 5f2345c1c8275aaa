"""History from CSV and Parquet files, normalised by DuckDB at about a million rows a second and core.

The meaning is that of :mod:`fraudml.events.normalise`, whose rules :mod:`fraudml.adapters.source.rules` writes as
SQL. What SQL does not do well is done here on Arrow batches: card numbers, time zones, duplicate ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from fraudml.adapters.source import tables
from fraudml.adapters.source.batches import Batches
from fraudml.adapters.source.reading import BATCH_ROWS, Reading, connect
from fraudml.adapters.source.rejects import malformed_lines
from fraudml.adapters.source.tables import FileTable
from fraudml.errors import DataError
from fraudml.events.cards import CardHasher
from fraudml.events.schema import Schema
from fraudml.events.source import Progress, Rejects, arrow_schema


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
        self._reading: Reading | None = None

    def read(self, progress: Progress | None = None) -> pa.RecordBatchReader:
        """Batches of ``arrow_schema``, in the files' order; see :class:`~fraudml.events.source.TransactionSource`."""
        connection = connect(self._threads, self._memory_limit)
        found = [tables.describe(path, connection) for path in self._paths]
        plans = [
            (table, Batches(table, self._schema, self._hasher, stem))
            for table, stem in zip(found, tables.stems(found), strict=True)
        ]
        names = [table.name for table in found]
        self._reading = Reading(names, self._schema, self._hasher, self._max_share, self._rejects_path)
        return pa.RecordBatchReader.from_batches(
            arrow_schema(self._schema), self._stream(connection, plans, self._reading, progress)
        )

    def rejects(self) -> Rejects:
        """The rejects of the last :meth:`read`; complete once its reader is exhausted."""
        return self._reading.summary() if self._reading is not None else Rejects(0, 0, {}, None)

    def _stream(
        self,
        connection: duckdb.DuckDBPyConnection,
        plans: list[tuple[FileTable, Batches]],
        reading: Reading,
        progress: Progress | None,
    ) -> Iterator[pa.RecordBatch]:
        expected = _total([table for table, _ in plans])
        rejects = reading.rejects
        try:
            for table, plan in plans:
                broken: dict[int, str] = {}
                hopeless = False
                try:
                    for batch in _read_one(connection, plan, reading, broken):
                        if progress is not None:
                            progress(reading.rows, max(expected, reading.rows) if expected is not None else None)
                        yield batch
                except _Hopeless:
                    hopeless = True
                if hopeless:  # a second connection, as the first is amid a result
                    rejects.add_file(connection.cursor(), table, plan.used, broken, {})
                    reading.end(stopped=True)
                malformed = {} if table.parquet else malformed_lines(connection)
                reading.rows += len(malformed)
                rejects.add_file(connection, table, plan.used, broken, malformed)
            reading.end()
        except duckdb.Error as error:
            raise DataError(f"cannot read {table.name}: {tables.first_line(error)}") from error
        finally:
            rejects.close()
            connection.close()


def _read_one(
    connection: duckdb.DuckDBPyConnection, plan: Batches, reading: Reading, broken: dict[int, str]
) -> Iterator[pa.RecordBatch]:
    """One file's sound rows; the others are noted in ``broken``."""
    first = 0
    for raw in tables.stream(connection.sql(plan.query), BATCH_ROWS, plan.table.name):
        batch, problems = reading.take(plan, raw, first)
        broken.update((first + row, problem) for row, problem in problems.items())
        first += raw.num_rows
        if reading.is_hopeless(len(broken)):
            raise _Hopeless
        if batch.num_rows:
            yield batch


class _Hopeless(Exception):
    pass


def _total(found: list[FileTable]) -> int | None:
    expected = [table.expected_rows() for table in found]
    return None if None in expected else sum(rows for rows in expected if rows is not None)
