"""History from tables and queries of databases: streamed in Arrow, and judged by the very rules of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import duckdb
import pyarrow as pa

from fraudml.adapters.source import tables
from fraudml.adapters.source.batches import Batches
from fraudml.adapters.source.reading import Reading, connect
from fraudml.adapters.source.relation import RAW, Relation, StreamedTable, table_of
from fraudml.errors import DataError
from fraudml.events.cards import CardHasher
from fraudml.events.schema import Schema
from fraudml.events.source import Progress, Rejects, arrow_schema


class DatabaseSource:
    """Reads transactions from relations of databases, one after the other; a ``TransactionSource``.

    Only the columns that the schema uses are read, and one block of them is in memory at a time. What is promised of
    files is promised here too. A stream can be read only once, so the rows that a block loses to the rules are
    written to the rejects file with their block; the line is the row's number in the order the database gave.
    """

    def __init__(
        self,
        relations: Sequence[Relation],
        schema: Schema,
        hasher: CardHasher,
        *,
        max_reject_share: float = 0.05,
        rejects_path: Path = Path("rejects.csv"),
        threads: int = 1,
        memory_limit: str = "4GB",
    ) -> None:
        self._relations = relations
        self._schema = schema.check()
        self._hasher = hasher
        self._max_share = max_reject_share
        self._rejects_path = rejects_path
        self._threads, self._memory_limit = threads, memory_limit
        self._reading: Reading | None = None

    def read(self, progress: Progress | None = None) -> pa.RecordBatchReader:
        """Batches of ``arrow_schema``; the databases are asked for their columns at once, for rows as they are read."""
        names = [str(relation.address) for relation in self._relations]
        stems = [relation.address.stem for relation in self._relations]
        plans = []
        with ExitStack() as stack:  # ended again when one of them cannot be read
            for relation, stem in zip(self._relations, stems, strict=True):
                stack.callback(relation.close)
                distinct = stem if stems.count(stem) == 1 else str(relation.address)
                plans.append((relation, *_plan(table_of(relation), self._schema, self._hasher, distinct)))
            stack.pop_all()
        self._reading = Reading(names, self._schema, self._hasher, self._max_share, self._rejects_path)
        return pa.RecordBatchReader.from_batches(
            arrow_schema(self._schema), self._stream(plans, self._reading, progress)
        )

    def rejects(self) -> Rejects:
        """The rejects of the last :meth:`read`; complete once its reader is exhausted."""
        return self._reading.summary() if self._reading is not None else Rejects(0, 0, {}, None)

    def _stream(
        self, plans: list[tuple[Relation, StreamedTable, Batches]], reading: Reading, progress: Progress | None
    ) -> Iterator[pa.RecordBatch]:
        connection = connect(self._threads, self._memory_limit)
        parts = int(connection.execute("SELECT current_setting('threads')").fetchall()[0][0])
        try:
            for relation, table, plan in plans:
                first = 0
                for block in relation.rows(plan.used):
                    if not block.num_rows:
                        continue
                    connection.register(RAW, _in_parts(block, parts))
                    raw = _one_batch(connection.sql(plan.query).to_arrow_table())
                    batch, broken = reading.take(plan, raw, first)
                    reading.rejects.add(connection, table, plan.used, broken, first)
                    connection.unregister(RAW)
                    first += block.num_rows
                    if reading.is_hopeless(reading.rejects.count):
                        reading.end(stopped=True)
                    if progress is not None:
                        progress(reading.rows, None)
                    if batch.num_rows:
                        yield batch
                relation.close()
            reading.end()
        except duckdb.Error as error:
            raise DataError(f"cannot read {table.name}: {tables.first_line(error)}") from error
        finally:
            reading.rejects.close()
            connection.close()
            for relation, _, _ in plans:
                relation.close()


def _plan(table: StreamedTable, schema: Schema, hasher: CardHasher, stem: str) -> tuple[StreamedTable, Batches]:
    """The plan with a scan of no more columns than it uses."""
    used = Batches(table, schema, hasher, stem).used
    narrow = table.of(used)
    return narrow, Batches(narrow, schema, hasher, stem)


def _in_parts(block: pa.Table, parts: int) -> pa.Table:
    """The same rows in as many pieces as there are threads: a piece is a thread's work."""
    size = max(1, -(-block.num_rows // parts))
    return pa.Table.from_batches(block.combine_chunks().to_batches(size), block.schema)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return (
        batches[0]
        if len(batches) == 1
        else pa.RecordBatch.from_arrays(
            [pa.concat_arrays(column.chunks) for column in table.columns], schema=table.schema
        )
    )
