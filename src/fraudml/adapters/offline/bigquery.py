"""The offline store in BigQuery: history in tables of its own, features by the SQL of ``features/sql``.

History goes there as load jobs from Parquet, results come back as Arrow batches. The tables have a name that only this
store uses, and expire after a day, should it not come to remove them.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import requests
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery

from fraudml.adapters.offline._pushed import HISTORY, INCOMING, REPORTS, PushedDownStore, gathered, resliced
from fraudml.errors import OfflineStoreError

FILE_ROWS = 500_000  # of history in one load job
_TYPES = {pa.string(): "STRING", pa.int64(): "INT64", pa.float64(): "FLOAT64", pa.bool_(): "BOOL"}
_HINTS = {
    401: "see that the credentials are valid",
    403: "the account needs the roles BigQuery Data Editor (on the data set) and BigQuery Job User",
    404: "check project and data set in FRAUDML_OFFLINE_URL, and its location: ?location=EU",
}
_LOGIN = "name a key with ?credentials_path=..., or run: gcloud auth application-default login"


class BigQueryOfflineStore(PushedDownStore):
    """An ``OfflineStore`` (features/stores.py) in a data set of BigQuery.

    ``connect`` gives what ``adapters/connections/bigquery.py`` calls a session: ``client``, ``storage`` (or none),
    ``dataset``.
    """

    dialect = "bigquery"

    def __init__(self, connect: Callable[[], Any]) -> None:
        super().__init__()
        self._run = uuid4().hex[:12]
        with self.failures("connecting"):
            self._session = connect()

    def table(self, name: str) -> str:
        """A name that no other store uses."""
        return f"`{self._id(name)}`"

    def create(self, name: str, schema: pa.Schema) -> None:
        """A table that expires; text is compared by code point, whatever the data set's default."""
        columns = ", ".join(f"{self.quote(field.name)} {_TYPES[field.type]}" for field in schema)
        self.run(
            f"CREATE OR REPLACE TABLE {self.table(name)} ({columns}) DEFAULT COLLATE '' "
            "OPTIONS (expiration_timestamp = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 1 DAY))"
        )

    def load(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Load jobs from Parquet."""
        fields = [bigquery.SchemaField(field.name, _TYPES[field.type]) for field in schema]
        job = bigquery.LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_APPEND", schema=fields)
        rows = 0
        for table in gathered(batches, FILE_ROWS):
            file = io.BytesIO()
            pq.write_table(table.rename_columns(schema.names), file)
            loading = self._session.client.load_table_from_file(file, self._id(name), rewind=True, job_config=job)
            loading.result()
            rows += table.num_rows
        return rows

    def run(self, statement: str) -> None:
        """Run a statement."""
        self._session.client.query(statement).result()

    def rows(self, query: str, schema: pa.Schema, batch_size: int) -> Iterator[pa.RecordBatch]:
        """Arrow batches; the result has an order, so the driver reads it as one stream."""
        found = self._session.client.query(query).result(page_size=batch_size)
        batches = found.to_arrow_iterable(bqstorage_client=self._session.storage)
        yield from resliced(batches, schema, batch_size)

    def close(self) -> None:
        """Remove the tables; what cannot be removed expires."""
        for name in (INCOMING, REPORTS, HISTORY):
            with contextlib.suppress(GoogleAPIError, GoogleAuthError, requests.RequestException):
                self._session.client.delete_table(self._id(name), not_found_ok=True)
        self._session.client.close()

    @contextmanager
    def failures(self, doing: str) -> Iterator[None]:
        """Errors of the library, with what can be done about them."""
        try:
            yield
        except GoogleAuthError as error:
            raise OfflineStoreError(f"BigQuery failed while {doing}: {_line(error)}; {_LOGIN}") from error
        except (GoogleAPIError, requests.RequestException) as error:
            hint = _HINTS.get(getattr(error, "code", None) or 0)
            told = f"{_line(error)}; {hint}" if hint else _line(error)
            raise OfflineStoreError(f"BigQuery failed while {doing}: {told}") from error

    def _id(self, name: str) -> str:
        return f"{self._session.dataset}.fraudml_{self._run}_{name}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
