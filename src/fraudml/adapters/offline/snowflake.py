"""The offline store in Snowflake: history in temporary tables, features by the SQL of ``features/sql``.

History goes there as Parquet files over a temporary stage, results come back as Arrow batches. Snowflake drops tables
and stage when the session ends, however it ends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import snowflake.connector.errors as driver

from fraudml.adapters.offline._pushed import PushedDownStore, gathered, resliced
from fraudml.errors import OfflineStoreError

FILE_ROWS = 500_000  # of history in one file
_TYPES = {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.bool_(): "BOOLEAN"}
_HINTS = {
    250001: "check account, user and password in FRAUDML_OFFLINE_URL, and the network",
    390100: "check user and password in FRAUDML_OFFLINE_URL",
    606: "name a warehouse in FRAUDML_OFFLINE_URL: ?warehouse=NAME",
    3001: "the role needs USAGE on database and schema, and CREATE TABLE and CREATE STAGE in the schema",
    2003: "check database and schema in FRAUDML_OFFLINE_URL; the role needs USAGE on both",
    90105: "name the database in FRAUDML_OFFLINE_URL; the role needs USAGE on it",
    90106: "name the schema in FRAUDML_OFFLINE_URL; the role needs USAGE on it",
}


class SnowflakeOfflineStore(PushedDownStore):
    """An ``OfflineStore`` (features/stores.py) in Snowflake.

    ``connect`` opens the one session that the store uses; :meth:`close` ends it.
    """

    dialect = "snowflake"

    def __init__(self, connect: Callable[[], Any]) -> None:
        super().__init__()
        self._stage = f"fraudml_{uuid4().hex}"
        self._loads = count()
        with self.failures("connecting"):
            self._connection = connect()
            try:
                self.run(f"CREATE TEMPORARY STAGE {self._stage}")
            except BaseException:
                self._connection.close()
                raise

    def table(self, name: str) -> str:
        """A temporary table hides another one of its name, so it gets a name that nobody else uses."""
        return f"fraudml_{name}"

    def create(self, name: str, schema: pa.Schema) -> None:
        """A temporary table."""
        columns = ", ".join(f"{self.quote(field.name)} {_TYPES[field.type]}" for field in schema)
        self.run(f"CREATE OR REPLACE TEMPORARY TABLE {self.table(name)} ({columns})")

    def load(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Parquet files to the stage, all of them into the table in one statement."""
        stage = f"@{self._stage}/{next(self._loads)}"
        rows = files = 0
        with tempfile.TemporaryDirectory(prefix="fraudml-") as folder:
            for table in gathered(batches, FILE_ROWS):
                path = Path(folder) / f"{files}.parquet"
                pq.write_table(table.rename_columns([f"C{i}" for i in range(len(schema))]), path)
                self.run(f"PUT 'file://{path.as_posix()}' {stage} AUTO_COMPRESS = FALSE")
                path.unlink()
                rows, files = rows + table.num_rows, files + 1
        if files:
            values = ", ".join(f"$1:C{i}::{_TYPES[field.type]}" for i, field in enumerate(schema))
            self.run(
                f"COPY INTO {self.table(name)} FROM (SELECT {values} FROM {stage}) "  # noqa: S608 - names of ours
                "FILE_FORMAT = (TYPE = PARQUET)"
            )
        return rows

    def run(self, statement: str) -> None:
        """Run a statement."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement)

    def rows(self, query: str, schema: pa.Schema, batch_size: int) -> Iterator[pa.RecordBatch]:
        """Arrow batches, fetched ahead by the driver."""
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            for table in cursor.fetch_arrow_batches():
                yield from resliced(table.to_batches(), schema, batch_size)

    def close(self) -> None:
        """Snowflake drops tables and stage."""
        self._connection.close()

    @contextmanager
    def failures(self, doing: str) -> Iterator[None]:
        """Errors of the driver, with what can be done about them."""
        try:
            yield
        except driver.Error as error:
            said = " ".join(str(error.msg or error).split())
            hint = _HINTS.get(error.errno or 0)
            told = f"{said}; {hint}" if hint else said
            raise OfflineStoreError(f"Snowflake failed while {doing}: {told}") from error
