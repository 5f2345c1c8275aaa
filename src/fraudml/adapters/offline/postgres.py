"""The offline store in PostgreSQL: history in temporary tables, features by the SQL of ``features/sql``.

Rows travel as CSV over COPY, both ways: Arrow writes and reads it in compiled code, the server's numbers are the
shortest text that means the same, and a missing value differs from an empty text by its quotes. Temporary tables are
not logged, and the server drops them when the connection ends, however it ends: nothing is left behind by a crash.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any

import psycopg
import pyarrow as pa
from pyarrow import csv

from fraudml.adapters.offline._pushed import PushedDownStore, resliced
from fraudml.errors import OfflineStoreError

OLDEST = 120_000  # NOT MATERIALIZED
COPY_ROWS = 20_000  # in one piece of CSV
# Compiling these large queries costs more than it saves; and the role may have numbers printed with fewer digits.
SESSION = "SET jit = off; SET extra_float_digits = 1"
_TYPES = {
    pa.string(): 'text COLLATE "C"',
    pa.int64(): "bigint",
    pa.float64(): "double precision",
    pa.bool_(): "boolean",
}
_WRITE = csv.WriteOptions(include_header=False)
_PARSE = csv.ParseOptions(newlines_in_values=True)

_HINTS = {
    "42501": "the role may need: GRANT TEMPORARY ON DATABASE ... TO ...",
    "53100": "free disk space on the server, or use a shorter history",
    "53200": "give the server more memory, or lower its work_mem",
    "53300": "end other connections, or raise the server's max_connections",
    "53400": "raise temp_file_limit for this role, or use a shorter history",
    "57014": "raise statement_timeout for this role",
    "25006": "the server takes no writes, not even temporary tables: name the primary in FRAUDML_OFFLINE_URL",
    "22021": "a text in the history contains the character NUL, which PostgreSQL cannot store",
    "22P05": "the database cannot store every character: use one whose encoding is UTF8",
}
_GONE = "the connection was lost; see that the server runs, and start again"
# psycopg does not tell why a connection failed, but for the text
_UNREACHABLE = "see that the server runs, and check host, port, database, user and password in FRAUDML_OFFLINE_URL"


class PostgresOfflineStore(PushedDownStore):
    """An ``OfflineStore`` (features/stores.py) in PostgreSQL 12 or later.

    ``connect`` opens the one connection that the store uses, with autocommit; :meth:`close` ends it.
    """

    dialect = "postgres"
    aside = "AS NOT MATERIALIZED"

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]]) -> None:
        super().__init__()
        with self.failures("connecting"):
            self._connection = connect()
            try:
                self._connection.execute(SESSION)
            except BaseException:
                self._connection.close()
                raise
        if self._connection.info.server_version < OLDEST:
            self.close()
            raise OfflineStoreError("features over history need PostgreSQL 12 or later")

    def table(self, name: str) -> str:
        """Temporary tables have a schema of their own: no other table is hidden, and none is meant by mistake."""
        return f"pg_temp.fraudml_{name}"

    def type_of(self, kind: pa.DataType) -> str:
        """Text is compared by code point, whatever the database's own order."""
        return _TYPES[kind]

    def create(self, name: str, schema: pa.Schema) -> None:
        """A temporary table."""
        self.run(f"CREATE TEMPORARY TABLE fraudml_{name} ({self.columns(schema)})")

    def load(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """COPY from CSV."""
        rows = 0
        with self._connection.cursor() as cursor, cursor.copy(f"COPY {self.table(name)} FROM STDIN (FORMAT csv)") as to:
            for batch in batches:
                for start in range(0, batch.num_rows, COPY_ROWS):
                    piece = io.BytesIO()
                    csv.write_csv(batch.slice(start, COPY_ROWS), piece, _WRITE)
                    to.write(piece.getbuffer())
                rows += batch.num_rows
        return rows

    def loaded(self, name: str, schema: pa.Schema) -> None:
        """Autovacuum does not look at temporary tables."""
        self.run(f"ANALYZE {self.table(name)}")

    def run(self, statement: str) -> None:
        """Run a statement."""
        self._connection.execute(statement)

    def rows(self, query: str, schema: pa.Schema, batch_size: int) -> Iterator[pa.RecordBatch]:
        """COPY to CSV: the server sends as fast as it is read, row by row."""
        convert = csv.ConvertOptions(
            column_types={field.name: field.type for field in schema},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        )
        with self._connection.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT csv)") as found:
            lines = iter(found)
            while piece := b"".join(islice(lines, batch_size)):
                # as one block: a row must not be longer than a block
                read = csv.ReadOptions(column_names=schema.names, block_size=len(piece))
                table = csv.read_csv(pa.BufferReader(piece), read, _PARSE, convert)
                yield from resliced(table.combine_chunks().to_batches(), schema, batch_size)

    def at_once(self) -> AbstractContextManager[Any]:
        """A transaction."""
        return self._connection.transaction()

    def close(self) -> None:
        """The server drops the tables."""
        self._connection.close()

    @contextmanager
    def failures(self, doing: str) -> Iterator[None]:
        """Errors of psycopg, with what can be done about them."""
        try:
            yield
        except psycopg.Error as error:
            raise OfflineStoreError(f"PostgreSQL failed while {doing}: {_told(error, doing)}") from error


def _told(error: psycopg.Error, doing: str) -> str:
    """One line: what the server said, and what to do."""
    said = error.diag.message_primary or next(iter(str(error).strip().splitlines()), type(error).__name__)
    state = error.sqlstate or ""
    hint = _HINTS.get(state) or _HINTS.get(state[:2])
    if hint is None and isinstance(error, psycopg.OperationalError):
        hint = _UNREACHABLE if doing == "connecting" else _GONE
    return f"{said}; {hint}" if hint else said
