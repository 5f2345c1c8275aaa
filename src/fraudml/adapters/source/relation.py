"""What a database gives a source: the columns of a table or query, and its rows as a stream of Arrow tables.

The rules for rows are those of files. So a stream's tables are handed to DuckDB one after the other, each under the
name :data:`RAW`, and are read there like a file.
"""

# ruff: noqa: S608 - SQL is put together here from quoted names, see tables.py
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec
import pyarrow as pa

from fraudml.adapters.source.tables import Table, name
from fraudml.errors import DataError
from fraudml.events.address import Address

RAW = "__raw"
BLOCK_ROWS = 100_000  # about so many rows are in memory at a time


class Column(msgspec.Struct, frozen=True):
    """``kind``: its DuckDB type. ``typed``: SQL that makes a value of that type from what the stream has, whose
    quoted name stands where ``{0}`` is."""

    kind: str
    typed: str = "{0}"


class Relation(Protocol):
    """One table or query of a database. Its connection is opened by the first call and ended by :meth:`close`.

    Every method raises ``SourceError`` when the database fails and ``DataError`` when there is no such thing to read,
    each with a text that names what was read without its password. A stream that breaks off raises; it never ends
    early.
    """

    @property
    def address(self) -> Address:
        """What is read; as text it is for messages, and has no password."""
        ...

    def columns(self) -> dict[str, Column]:
        """The columns in order."""
        ...

    def count(self) -> int:
        """The number of rows."""
        ...

    def rows(self, columns: Sequence[str], share: float = 1.0) -> Iterator[pa.Table]:
        """These columns of all rows, or of a random share of them, in the order that the database gives."""
        ...

    def close(self) -> None:
        """End the connection; the next call opens another one."""
        ...


class StreamedTable(Table, frozen=True, kw_only=True):
    """A relation as :class:`~fraudml.adapters.source.batches.Batches` reads one of its Arrow tables."""

    typed: dict[str, str]

    @property
    def scan(self) -> str:
        """The columns of the tables that the relation was asked for, each in its type."""
        columns = ", ".join(f"{typed.format(name(column))} AS {name(column)}" for column, typed in self.typed.items())
        return f"(SELECT {columns} FROM {RAW})"

    @property
    def raw_scan(self) -> str:
        """The columns as they came."""
        return RAW

    def of(self, columns: Sequence[str]) -> StreamedTable:
        """The same with only these columns in the scan."""
        return msgspec.structs.replace(self, typed={column: self.typed[column] for column in columns})


def table_of(relation: Relation) -> StreamedTable:
    """A relation as a table; raises DataError when two columns share a name."""
    found = relation.columns()
    return StreamedTable(
        name=str(relation.address),
        columns={column: what.kind for column, what in found.items()},
        typed={column: what.typed for column, what in found.items()},
    )


def by_name(names: Sequence[str], columns: Sequence[Column], relation: str) -> dict[str, Column]:
    """Columns by their names; raises DataError when two have the same, as in ``SELECT a.id, b.id``.

    DuckDB's names do not differ by case alone.
    """
    seen: set[str] = set()
    for column in names:
        if column.lower() in seen:
            raise DataError(f"{relation} has the column {column!r} twice; name them apart with AS")
        seen.add(column.lower())
    return dict(zip(names, columns, strict=True))


def statement(relation: str, columns: Sequence[str], selected: Callable[[str], str], tail: str = "") -> str:
    """The SQL that reads columns of a relation, which is a quoted table or a query in brackets.

    >>> statement("t", ["id", "time"], name, "WHERE random() < 0.1")
    'SELECT "id", "time" FROM t WHERE random() < 0.1'
    """
    return f"SELECT {', '.join(map(selected, columns))} FROM {relation} {tail}".rstrip()


def query_in_brackets(sql: str) -> str:
    """A query to select from; its last line may be a comment."""
    return f"(\n{sql}\n) AS history"
