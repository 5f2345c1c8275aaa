"""The offline store in Snowflake: history in temporary tables, features by the SQL of ``features/sql``.

History goes there as Parquet files over a temporary stage, results come back as Arrow batches. Snowflake drops tables
and stage when the session ends, however it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa

from fraudml.adapters.offline._pushed import PushedDownStore, resliced
from fraudml.errors import OfflineStoreError


class SnowflakeOfflineStore(PushedDownStore):
    """An ``OfflineStore`` (features/stores.py) in Snowflake.

    ``session``: of ``adapters/connections/snowflake.py``, not yet open; the store's own. :meth:`close` ends it.
    """

    dialect = "snowflake"

    def __init__(self, session: Any) -> None:
        super().__init__()
        self._session = session
        with self.failures("connecting"):
            session.open()

    def table(self, name: str) -> str:
        """A temporary table hides another one of its name, so it gets a name that nobody else uses."""
        return f"fraudml_{name}"

    def type_of(self, kind: pa.DataType) -> str:
        """The session's."""
        return str(self._session.types[kind])

    def create(self, name: str, schema: pa.Schema) -> None:
        """A temporary table."""
        self.run(f"CREATE OR REPLACE TEMPORARY TABLE {self.table(name)} ({self.columns(schema)})")

    def load(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Parquet files, all in one statement."""
        return int(self._session.load(self.table(name), schema, batches))

    def run(self, statement: str) -> None:
        """Run a statement."""
        self._session.run(statement)

    def rows(self, query: str, schema: pa.Schema, batch_size: int) -> Iterator[pa.RecordBatch]:
        """Arrow batches."""
        return resliced(self._session.batches(query), schema, batch_size)

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def failures(self, doing: str) -> AbstractContextManager[None]:
        """Errors of the driver."""
        found: AbstractContextManager[None] = self._session.failures(OfflineStoreError, doing)
        return found
