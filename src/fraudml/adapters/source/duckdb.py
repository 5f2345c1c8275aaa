"""A table or query of a DuckDB file, over a connection that only reads."""

# ruff: noqa: S608 - SQL is put together here from quoted names
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from fraudml.adapters.source import relation
from fraudml.adapters.source.relation import BLOCK_ROWS, Column
from fraudml.adapters.source.tables import name, stream
from fraudml.errors import DataError
from fraudml.events.address import Address


class DuckDBRelation:
    """A ``Relation`` of DuckDB; ``connect`` opens the file."""

    def __init__(self, address: Address, connect: Callable[[], duckdb.DuckDBPyConnection]) -> None:
        self.address = address
        self._connect = connect
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._from = relation.query_in_brackets(address.query) if address.query else ".".join(map(name, address.table))

    def columns(self) -> dict[str, Column]:
        """See the port."""
        with self._failures() as connection:
            found = connection.sql(f"DESCRIBE SELECT * FROM {self._from}").fetchall()
            names = [str(row[0]) for row in found]
            return relation.by_name(names, [Column(str(row[1])) for row in found], str(self.address))

    def count(self) -> int:
        """See the port."""
        with self._failures() as connection:
            return int(connection.sql(f"SELECT count(*) FROM {self._from}").fetchall()[0][0])

    def rows(self, columns: Sequence[str], share: float = 1.0) -> Iterator[pa.Table]:
        """See the port."""
        condition = f"WHERE random() < {share!r}" if share < 1 else ""
        with self._failures() as connection:
            found = connection.sql(relation.statement(self._from, columns, name, condition))
            for batch in stream(found, BLOCK_ROWS, str(self.address)):
                yield pa.Table.from_batches([batch])

    def close(self) -> None:
        """See the port."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _failures(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The connection, opened if need be; ended when anything goes wrong."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            yield self._connection
        except duckdb.Error as error:
            self.close()
            said, _, _ = str(error).strip().partition("\n\n")  # with "Did you mean", without the statement
            raise DataError(f"cannot read {self.address}: {' '.join(said.split())}") from error
        except BaseException:
            self.close()
            raise
