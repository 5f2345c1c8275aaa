"""A table or query of PostgreSQL, by ``COPY ... TO STDOUT``: one statement, so one moment's view of the data.

The lines of CSV become Arrow by pyarrow's reader, all columns as text; DuckDB gives each its type, so that a value
that cannot be had in that type (``infinity``, the year 4713 BC) is one refused row and not the end.
"""

# ruff: noqa: S608 - SQL is put together here from quoted names
from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pyarrow as pa
from psycopg.pq.abc import PGresult
from pyarrow import csv

from fraudml.adapters.source import relation
from fraudml.adapters.source._libpq import Silent, Statements
from fraudml.adapters.source.relation import BLOCK_ROWS, Column
from fraudml.adapters.source.tables import name
from fraudml.errors import DataError, SourceError
from fraudml.events.address import Address

NUMERIC = 1700
# A snapshot, so that what is counted is what is read; and nothing that a query calls may write. All settings end with
# it: behind a pool of connections, such as PgBouncer's, they would be another client's next.
_BEGIN = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    "SET LOCAL DateStyle = ISO",
    "SET LOCAL TimeZone = 'UTC'",
    "SET LOCAL IntervalStyle = iso_8601",
    "SET LOCAL extra_float_digits = 1",  # every digit that tells two floats apart
    "SET LOCAL synchronize_seqscans = off",  # a table that stays as it is comes in the same order
)
_ONE_PROCESS = "SET LOCAL max_parallel_workers_per_gather = 0"  # several would change the order; queries may need them
_FAR = "coalesce(try_cast({{0}} AS {0}), CASE WHEN {{0}} IS NOT NULL THEN 'infinity'::{0} END)"
# By the number (OID) of PostgreSQL's type; everything else is text.
_KINDS = {
    16: "BOOLEAN",
    20: "BIGINT",
    21: "SMALLINT",
    23: "INTEGER",
    26: "BIGINT",
    700: "FLOAT",
    701: "DOUBLE",
    1082: "DATE",
    1114: "TIMESTAMP",
    1184: "TIMESTAMP WITH TIME ZONE",
}
_OF_DATES = ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE")
# numeric without a precision: text keeps what a float would not, and 5 and 5.00 are the same id
_TRIMMED = "CASE WHEN contains({0}, '.') THEN rtrim(rtrim({0}, '0'), '.') ELSE {0} END"


class PostgresRelation:
    """A ``Relation`` of PostgreSQL. ``connect`` opens an autocommit connection; ``silence_s``: see ``Statements``."""

    def __init__(self, address: Address, connect: Callable[[], psycopg.Connection[Any]], silence_s: float) -> None:
        self.address = address
        self._connect, self._silence_s = connect, silence_s
        self._statements: Statements | None = None
        self._in_snapshot = False
        self._from = relation.query_in_brackets(address.query) if address.query else ".".join(map(name, address.table))

    def columns(self) -> dict[str, Column]:
        """See the port."""
        if self._in_snapshot:
            self.close()
        with self._failures("looking at its columns"):
            statements = self._opened()
            _run(statements, _BEGIN)
            try:
                described = statements.describe(f"SELECT * FROM {self._from}")
            except psycopg.errors.UndefinedTable as error:
                if self.address.query:
                    raise
                statements.run("ROLLBACK")
                raise DataError(f"there is no {self.address}{self._neighbour(statements)}") from error
            names = [(described.fname(i) or b"").decode() for i in range(described.nfields)]
            kinds = _kinds(described, self._nested(statements, described))
            statements.run("COMMIT")
            return relation.by_name(names, kinds, str(self.address))

    def count(self) -> int:
        """See the port."""
        with self._failures("counting its rows"):
            return int(self._snapshot().value(f"SELECT count(*) FROM {self._from}"))

    def rows(self, columns: Sequence[str], share: float = 1.0) -> Iterator[pa.Table]:
        """See the port."""
        sample = f"WHERE random() < {share!r}" if share < 1 else ""
        query = relation.statement(self._from, columns, name, sample)
        with self._failures("reading its rows"):
            statements = self._snapshot()
            if self.address.table:
                statements.run(_ONE_PROCESS)
            if sample:
                statements.run("SELECT setseed(0.5)")  # the same sample each time
            for block in statements.copy(query, BLOCK_ROWS):
                yield _arrow(block, columns, str(self.address))

    def close(self) -> None:
        """See the port."""
        if self._statements is not None:
            self._statements.close()
            self._statements, self._in_snapshot = None, False

    def _opened(self) -> Statements:
        if self._statements is None:
            self._statements = Statements(self._connect(), self._silence_s)
        return self._statements

    def _snapshot(self) -> Statements:
        """The connection in the transaction in which everything is counted and read."""
        statements = self._opened()
        if not self._in_snapshot:
            _run(statements, _BEGIN)
            self._in_snapshot = True
        return statements

    def _neighbour(self, statements: Statements) -> str:
        """The table that was meant, perhaps."""
        found = statements.run(
            "SELECT table_schema, table_name FROM information_schema.tables "
            "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"
        )
        tables: dict[str, str] = {}
        for row in range(found.ntuples):
            schema, table = ((found.get_value(row, column) or b"").decode() for column in (0, 1))
            tables.setdefault(table.lower(), f"{schema}.{table}")
        close = difflib.get_close_matches(self.address.table[-1].lower(), tables, n=1)
        return f"; did you mean {tables[close[0]]}?" if close else "; no table that you may see has a name like it"

    def _nested(self, statements: Statements, described: PGresult) -> set[int]:
        """The types among the columns' that are arrays or composites."""
        types = ", ".join(str(described.ftype(i)) for i in range(described.nfields)) or "0"
        found = statements.run(f"SELECT oid FROM pg_type WHERE oid IN ({types}) AND typcategory IN ('A', 'C')")
        return {int(found.get_value(row, 0) or b"0") for row in range(found.ntuples)}

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        """Ends the connection when anything goes wrong, and says in words what did."""
        try:
            yield
        except BaseException as error:
            self.close()
            if isinstance(error, Silent):
                raise SourceError(
                    f"{self.address}: {doing} took too long: nothing came for {self._silence_s:g} s "
                    "(FRAUDML_SOURCE_TIMEOUT_S)"
                ) from None
            if isinstance(error, psycopg.Error):
                raise _in_words(str(self.address), doing, error) from error
            raise


def _run(statements: Statements, texts: Sequence[str]) -> None:
    for text in texts:
        statements.run(text)


def _kinds(described: PGresult, nested: set[int]) -> list[Column]:
    return [
        Column("LIST") if described.ftype(i) in nested else _kind(described.ftype(i), described.fmod(i))
        for i in range(described.nfields)
    ]


def _kind(oid: int, modifier: int) -> Column:
    """The DuckDB type of a column, as a Parquet file of the table would have it.

    >>> _kind(1700, 786438).kind, _kind(1700, -1).kind
    ('DECIMAL(12,2)', 'VARCHAR')
    """
    if oid == NUMERIC:
        precision = (modifier - 4) >> 16 & 0xFFFF
        scale = ((modifier - 4 & 0x7FF) ^ 1024) - 1024
        if modifier < 0 or not 0 <= scale <= precision <= 38:
            return Column("VARCHAR", _TRIMMED)
        kind = f"DECIMAL({precision},{scale})"
        return Column(kind, f"try_cast({{0}} AS {kind})")  # NaN is missing
    kind = _KINDS.get(oid, "VARCHAR")
    if kind == "VARCHAR":
        return Column(kind)
    return Column(kind, _FAR.format(kind) if kind in _OF_DATES else f"{{0}}::{kind}")


def _arrow(lines: list[bytes], columns: Sequence[str], relation_name: str) -> pa.Table:
    """Lines of CSV, each a row, as text columns."""
    # An empty line first, which is skipped: the reader takes a mark of the byte order off the start of its input.
    content = b"".join([b"\n", *lines])
    names = [str(position) for position in range(len(columns))]
    try:
        table = csv.read_csv(
            pa.BufferReader(content),
            csv.ReadOptions(column_names=names, skip_rows=1, block_size=len(content) + 1),
            csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise _not_utf8(relation_name) from error
        raise SourceError(f"{relation_name}: what the server sent cannot be read as rows") from error
    if table.num_rows != len(lines):
        raise SourceError(f"{relation_name}: {len(lines)} rows arrived, {table.num_rows} could be read")
    return table.rename_columns(list(columns))


def _not_utf8(relation_name: str) -> DataError:
    return DataError(f"{relation_name} holds text that is not UTF-8; convert it, or leave it out by a query")


def _in_words(relation_name: str, doing: str, error: psycopg.Error) -> DataError | SourceError:
    state = error.sqlstate or ""
    said = (error.diag.message_primary or str(error)).strip().partition("\n")[0]
    if state.startswith("22"):  # a value is wrong; it may be a personal one
        said = re.sub(r'"[^"]*"', '"..."', said)
    if state == "42501":
        return SourceError(f"{relation_name}: {said}; the user needs the right to read it (GRANT SELECT)")
    if state == "22021":
        return _not_utf8(relation_name)
    if state == "57014":
        return SourceError(f"{relation_name}: {doing} was ended by the server: {said}; raise its limit for this user")
    if state.startswith(("42", "22", "25", "0A", "3F")):
        return DataError(f"cannot read {relation_name}: {said}")
    return SourceError(f"{relation_name}: the database failed while {doing}: {said}; nothing of it was used")
