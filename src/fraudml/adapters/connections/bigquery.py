"""A session of BigQuery from a URL: what the adapters of every role need of it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from fraudml.errors import ConfigError, MissingExtra, StoreError
from fraudml.events.source import gathered

FORM = "bigquery://project/dataset?location=EU&credentials_path=/path/key.json"
WORDS = {"location", "credentials_path", "api_endpoint"}
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TYPES = {pa.string(): "STRING", pa.int64(): "INT64", pa.float64(): "FLOAT64", pa.bool_(): "BOOL"}
FILE_ROWS = 500_000  # in one load job
HINTS = {
    401: "see that the credentials are valid",
    403: "the account needs the roles BigQuery Data Editor (on the data set) and BigQuery Job User",
    404: "check project and data set in {}, and its location: ?location=EU",
}
LOGIN = "name a key in {} with ?credentials_path=..., or run: gcloud auth application-default login"


class BigQuerySession:
    """Clients of one project. :meth:`open` it first; every method raises the library's errors, which :meth:`failures`
    translates.

    ``url``: of the form :data:`FORM`. Without ``credentials_path`` the credentials are those of the environment, as for
    every program that uses Google's libraries; with ``api_endpoint``, an emulator's, there are none. ``setting``: where
    the URL is from. Raises ``ConfigError`` and ``MissingExtra``.
    """

    types = TYPES

    def __init__(self, url: str, setting: str) -> None:
        try:
            from google import auth
            from google.cloud import bigquery
        except ImportError:
            raise MissingExtra("bigquery") from None
        self._auth: Any = auth
        self._library: Any = bigquery
        self._project, self._dataset, self._words = parameters(url, setting)
        self._setting = setting
        self.client: Any = None
        self.storage: Any = None  # a client of the Storage Read API, which is faster for large results

    @property
    def dataset(self) -> str:
        """``project.dataset``."""
        return f"{self._project}.{self._dataset}"

    def open(self) -> BigQuerySession:
        """Make the clients; nothing is sent yet but what a login takes. Returns itself."""
        from google.auth.credentials import AnonymousCredentials

        path, endpoint = self._words.get("credentials_path"), self._words.get("api_endpoint")
        anonymous: Any = AnonymousCredentials
        if path:
            credentials, _ = self._auth.load_credentials_from_file(path, scopes=[SCOPE])
        elif endpoint:
            credentials = anonymous()
        else:
            credentials, _ = self._auth.default(scopes=[SCOPE])
        options = {"api_endpoint": endpoint} if endpoint else None
        location = self._words.get("location")
        self.client = self._library.Client(self._project, credentials, location=location, client_options=options)
        if not endpoint:
            with contextlib.suppress(ImportError):
                from google.cloud.bigquery_storage import BigQueryReadClient

                self.storage = BigQueryReadClient(credentials=credentials)
        return self

    def name(self, table: str) -> str:
        """A table's full name."""
        return f"{self.dataset}.{table}"

    def run(self, statement: str) -> None:
        """Run a statement, or a script of several."""
        self.client.query(statement).result()

    def columns(self, table: str) -> list[str]:
        """The names of a table's columns."""
        found = self.client.query(f"SELECT * FROM `{self.name(table)}` LIMIT 0").result()  # noqa: S608 - our name
        return [field.name for field in found.schema]

    def batches(self, query: str, rows: int = 100_000) -> Iterator[pa.RecordBatch]:
        """The rows of a query; one with an order is read as one stream."""
        found = self.client.query(query).result(page_size=rows)
        yield from found.to_arrow_iterable(bqstorage_client=self.storage)

    def load(self, table: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Add rows to a table with such columns by load jobs from Parquet."""
        fields = [self._library.SchemaField(field.name, TYPES[field.type]) for field in schema]
        job = self._library.LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_APPEND", schema=fields)
        rows = 0
        for part in gathered(batches, FILE_ROWS):
            file = io.BytesIO()
            pq.write_table(part.rename_columns(schema.names), file)
            self.client.load_table_from_file(file, self.name(table), rewind=True, job_config=job).result()
            rows += part.num_rows
        return rows

    def drop(self, table: str) -> None:
        """Remove a table; nothing when it is not there or cannot be removed, as those that fraudml drops expire."""
        with contextlib.suppress(*self._errors()):
            self.client.delete_table(self.name(table), not_found_ok=True)

    def close(self) -> None:
        """Close the connections."""
        if self.client is not None:
            self.client.close()

    @contextmanager
    def failures(self, kind: type[StoreError], doing: str) -> Iterator[None]:
        """Errors of the library become ``kind``, with what can be done about them."""
        try:
            yield
        except self._errors() as error:
            refused = type(error).__module__.startswith("google.auth")
            hint = LOGIN if refused else HINTS.get(getattr(error, "code", None) or 0, "")
            said = " ".join(str(error).split()) or type(error).__name__
            told = f"{said}; {hint.format(self._setting)}" if hint else said
            raise kind(f"BigQuery failed while {doing}: {told}") from error

    @staticmethod
    def _errors() -> tuple[type[Exception], ...]:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from requests import RequestException

        return GoogleAPIError, GoogleAuthError, RequestException


def parameters(url: str, setting: str) -> tuple[str, str, dict[str, str]]:
    """Project, data set and further words of a URL.

    >>> parameters("bigquery://acme-risk/fraud?location=EU", "X")
    ('acme-risk', 'fraud', {'location': 'EU'})
    """
    wrong = ConfigError(f"{setting} is no URL of BigQuery: write {FORM}")
    try:
        parts = urlsplit(url)
        words = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise wrong from None
    path = [unquote(part) for part in parts.path.split("/") if part]
    if parts.scheme != "bigquery" or not parts.netloc or len(path) != 1 or set(words) - WORDS:
        raise wrong
    return parts.netloc, path[0], words
