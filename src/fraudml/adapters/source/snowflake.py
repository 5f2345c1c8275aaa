"""A table or query of Snowflake, by the connector's Arrow batches."""

# ruff: noqa: S608 - SQL is put together here from quoted names
from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import snowflake.connector as driver

from fraudml.adapters.source import relation
from fraudml.adapters.source.relation import BLOCK_ROWS, Column
from fraudml.adapters.source.tables import name
from fraudml.errors import DataError, SourceError
from fraudml.events.address import Address

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

# By the number of Snowflake's type; the connector's batches differ in how wide their numbers are.
_TIMES = {4: "TIMESTAMP", 6: "TIMESTAMP WITH TIME ZONE", 7: "TIMESTAMP WITH TIME ZONE", 8: "TIMESTAMP"}
_KINDS = {1: "DOUBLE", 2: "VARCHAR", 3: "DATE", 5: "LIST", 9: "LIST", 10: "LIST", 12: "TIME", 13: "BOOLEAN"}
_FIXED = 0
_NOT_THERE = {2003, 2043}  # "does not exist or not authorized"
_COMPILATION = {904, 1003, 2140}  # an unknown name, a wrong syntax
_FOLDED = re.compile(r"[a-z_][a-z0-9_$]*")


class SnowflakeRelation:
    """A ``Relation`` of Snowflake. Names of tables that are all lower case mean what they mean in Snowflake: the same
    in upper case. Names of columns are as Snowflake has them."""

    def __init__(self, address: Address, connect: Callable[[], SnowflakeConnection]) -> None:
        self.address = address
        self._connect = connect
        self._connection: SnowflakeConnection | None = None
        self._kinds: dict[str, Column] = {}
        self._from = (
            relation.query_in_brackets(address.query)
            if address.query
            else ".".join(name(_folded(part)) for part in address.table)
        )

    def columns(self) -> dict[str, Column]:
        """See the port."""
        with self._failures() as cursor:
            described = cursor.describe(f"SELECT * FROM {self._from}")
            kinds = [_kind(column.type_code, column.precision, column.scale) for column in described]
            self._kinds = relation.by_name([column.name for column in described], kinds, str(self.address))
            return self._kinds

    def count(self) -> int:
        """See the port."""
        with self._failures() as cursor:
            row = cursor.execute(f"SELECT count(*) FROM {self._from}").fetchone()
            return int(row[0])

    def rows(self, columns: Sequence[str], share: float = 1.0) -> Iterator[pa.Table]:
        """See the port."""
        known = self._kinds or self.columns()
        sample = f"SAMPLE BERNOULLI ({100 * share:.6f})" if share < 1 else ""
        query = relation.statement(self._from, columns, lambda column: _selected(column, known[column].kind), sample)
        with self._failures() as cursor:
            cursor.execute(query)
            for table in cursor.fetch_arrow_batches():
                for batch in table.to_batches(BLOCK_ROWS):
                    yield pa.Table.from_batches([batch])

    def close(self) -> None:
        """See the port."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _failures(self) -> Iterator[Any]:
        """A cursor, over a connection opened if need be; all is ended when anything goes wrong."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            with self._connection.cursor() as cursor:
                yield cursor
        except driver.Error as error:
            opened = self._connection is not None
            self.close()
            said = " ".join(str(error.msg).split())
            if error.errno in _NOT_THERE | _COMPILATION:
                raise DataError(f"cannot read {self.address}: {said}") from error
            if not opened:
                raise SourceError(f"cannot connect to Snowflake for {self.address}: {said}") from error
            raise SourceError(f"{self.address}: Snowflake failed: {said}; nothing of it was used") from error
        except BaseException:
            self.close()
            raise


def _folded(part: str) -> str:
    """A name as Snowflake keeps it when it is written without quotes.

    >>> _folded("payments"), _folded("Payments")
    ('PAYMENTS', 'Payments')
    """
    return part.upper() if _FOLDED.fullmatch(part) else part


def _kind(code: int, precision: int | None, scale: int | None) -> Column:
    if code == _FIXED:
        kind = f"DECIMAL({precision or 38},{scale or 0})"
        return Column(kind, f"{{0}}::{kind}")
    if code in _TIMES:
        return Column(_TIMES[code], f"{{0}}::{_TIMES[code]}")
    return Column(_KINDS.get(code, "VARCHAR"))


def _selected(column: str, kind: str) -> str:
    """Times in microseconds: nanoseconds would not reach beyond the year 2262."""
    if kind.startswith("TIMESTAMP"):
        exact = "timestamp_ntz(6)" if kind == "TIMESTAMP" else "timestamp_tz(6)"
        return f"{name(column)}::{exact} AS {name(column)}"
    return name(column)
