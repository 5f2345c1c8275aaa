"""The offline store in BigQuery: history in tables of its own, features by the SQL of ``features/sql``.

History goes there as load jobs from Parquet, results come back as Arrow batches. The tables have a name that only this
store uses, and expire after a day, should it not come to remove them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from uuid import uuid4

import pyarrow as pa

from fraudml.adapters.offline._pushed import HISTORY, INCOMING, REPORTS, PushedDownStore, resliced
from fraudml.errors import OfflineStoreError


class BigQueryOfflineStore(PushedDownStore):
    """An ``OfflineStore`` (features/stores.py) in a data set of BigQuery.

    ``session``: of ``adapters/connections/bigquery.py``, not yet open; the store's own. :meth:`close` ends it.
    """

    dialect = "bigquery"

    def __init__(self, session: Any) -> None:
        super().__init__()
        self._run = uuid4().hex[:12]
        self._session = session
        with self.failures("connecting"):
            session.open()

    def table(self, name: str) -> str:
        """A name that no other store uses."""
        return f"`{self._session.name(self._own(name))}`"

    def type_of(self, kind: pa.DataType) -> str:
        """The session's."""
        return str(self._session.types[kind])

    def create(self, name: str, schema: pa.Schema) -> None:
        """A table that expires; text is compared by code point, whatever the data set's default."""
        self.run(
            f"CREATE OR REPLACE TABLE {self.table(name)} ({self.columns(schema)}) DEFAULT COLLATE '' "
            "OPTIONS (expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 1 DAY))"
        )

    def load(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Load jobs."""
        return int(self._session.load(self._own(name), schema, batches))

    def run(self, statement: str) -> None:
        """Run a statement."""
        self._session.run(statement)

    def rows(self, query: str, schema: pa.Schema, batch_size: int) -> Iterator[pa.RecordBatch]:
        """Arrow batches."""
        return resliced(self._session.batches(query, batch_size), schema, batch_size)

    def close(self) -> None:
        """Remove the tables; what cannot be removed expires."""
        for name in (INCOMING, REPORTS, HISTORY):
            self._session.drop(self._own(name))
        self._session.close()

    def failures(self, doing: str) -> AbstractContextManager[None]:
        """Errors of the library."""
        found: AbstractContextManager[None] = self._session.failures(OfflineStoreError, doing)
        return found

    def _own(self, name: str) -> str:
        return f"fraudml_{self._run}_{name}"
