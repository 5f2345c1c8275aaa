"""What warehouses with SQL do alike: tables with a watermark, new rows put into them from a table of their own."""

# ruff: noqa: S608 - what is put into SQL text here are names of ours, plain names and integers

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import pyarrow as pa

from fraudml.decisions.log import ARRIVAL
from fraudml.errors import ConflictError, WarehouseError

MARKS = "fraudml_sync"


class MarkedWarehouse(ABC):
    """A ``Warehouse`` (decisions/warehouse.py). ``session``: of ``adapters/connections``, not yet open; its own.

    A table called ``decisions`` by the port is ``fraudml_decisions`` there. Its watermark is a row of ``fraudml_sync``.
    """

    layout: ClassVar[str] = ""  # how rows are to lie: together by arrival

    def __init__(self, session: Any) -> None:
        self._session = session
        with self._failures("connecting"):
            session.open()

    @abstractmethod
    def _name(self, table: str) -> str:
        """How SQL calls a table."""

    @abstractmethod
    def _quote(self, column: str) -> str:
        """How SQL calls a column."""

    @abstractmethod
    def _stage(self, rows: pa.RecordBatch) -> str:
        """Load rows into a table that nobody else sees, and return how SQL calls it."""

    @abstractmethod
    def _commit(self, table: str, insert: str, move: str, before: int) -> None:
        """Run both statements in one transaction if the watermark is ``before``; raises ``ConflictError`` if not."""

    def prepare(self, tables: Mapping[str, pa.Schema]) -> None:
        """Make what is missing."""
        name, arrival = self._quote("name"), self._quote(ARRIVAL)
        marks = pa.schema([("name", pa.string()), (ARRIVAL, pa.int64())])
        with self._failures("making its tables"):
            for table, schema in {MARKS: marks, **{own(table): schema for table, schema in tables.items()}}.items():
                layout = self.layout if table != MARKS else ""
                self._session.run(f"CREATE TABLE IF NOT EXISTS {self._name(table)} ({self._columns(schema)}){layout}")
                have = {column.lower() for column in self._session.columns(self._place(table))}
                for field in schema:
                    if field.name not in have:
                        column = f"{self._quote(field.name)} {self._session.types[field.type]}"
                        self._session.run(f"ALTER TABLE {self._name(table)} ADD COLUMN {column}")
            for table in tables:
                self._session.run(
                    f"MERGE INTO {self._name(MARKS)} AS t USING (SELECT '{table}' AS {name}) AS s "
                    f"ON t.{name} = s.{name} WHEN NOT MATCHED THEN INSERT ({name}, {arrival}) VALUES (s.{name}, 0)"
                )

    def watermark(self, table: str) -> int:
        """The row's value."""
        query = f"SELECT {self._quote(ARRIVAL)} FROM {self._name(MARKS)} WHERE {self._quote('name')} = '{table}'"
        with self._failures("reading how far it is"):
            found = [value for batch in self._session.batches(query) for value in batch.column(0).to_pylist()]
        if len(found) != 1:
            raise WarehouseError(f"the table {MARKS} has {len(found)} rows for {table!r}; it must have one")
        return int(found[0])

    def arrivals(self, table: str, after: int) -> Iterator[pa.Array]:
        """The numbers, streamed."""
        arrival = self._quote(ARRIVAL)
        query = f"SELECT {arrival} FROM {self._name(own(table))} WHERE {arrival} > {int(after)}"
        with self._failures("reading what it has"):
            for batch in self._session.batches(query):
                yield batch.column(0).cast(pa.int64())

    def write(self, table: str, rows: pa.RecordBatch, *, before: int, watermark: int) -> None:
        """Load the rows aside; those that are new go over in one transaction with the watermark."""
        numbers = rows.column(ARRIVAL).to_numpy()
        arrival = self._quote(ARRIVAL)
        columns = [self._quote(name) for name in rows.schema.names]
        with self._failures("taking rows"):
            staged = self._stage(rows)
            # the bounds let the warehouse look only where such rows can be
            insert = (
                f"INSERT INTO {self._name(own(table))} ({', '.join(columns)}) SELECT "
                f"{', '.join(f's.{name}' for name in columns)} FROM {staged} AS s "
                f"LEFT JOIN {self._name(own(table))} AS t ON t.{arrival} = s.{arrival} "
                f"AND t.{arrival} >= {int(numbers.min())} AND t.{arrival} <= {int(numbers.max())} "
                f"WHERE t.{arrival} IS NULL"
            )
            mine = f"{self._quote('name')} = '{table}' AND {arrival} = {int(before)}"
            move = f"UPDATE {self._name(MARKS)} SET {arrival} = {int(watermark)} WHERE {mine}"
            self._commit(table, insert, move, before)

    def tidy(self, table: str) -> bool:
        """A warehouse does that by itself."""
        return False

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def _place(self, table: str) -> str:
        """What the session calls a table."""
        return self._name(table)

    def _columns(self, schema: pa.Schema) -> str:
        return ", ".join(f"{self._quote(field.name)} {self._session.types[field.type]}" for field in schema)

    def _failures(self, doing: str) -> AbstractContextManager[None]:
        found: AbstractContextManager[None] = self._session.failures(WarehouseError, doing)
        return found


def own(table: str) -> str:
    """What a table of the port is called."""
    return f"fraudml_{table}"


def overtaken(table: str) -> ConflictError:
    """Another export has moved the watermark."""
    return ConflictError(f"another export of {table} into this warehouse has run meanwhile; let only one run at a time")
