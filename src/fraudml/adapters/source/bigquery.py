"""A table or query of BigQuery, by its client's Arrow batches."""

# ruff: noqa: S608 - SQL is put together here from quoted names
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa
import requests
from google.api_core.exceptions import BadRequest, GoogleAPIError, NotFound
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery

from fraudml.adapters.source import relation
from fraudml.adapters.source.relation import BLOCK_ROWS, Column
from fraudml.errors import DataError, SourceError
from fraudml.events.address import Address

_KINDS = {
    "INTEGER": "BIGINT",
    "INT64": "BIGINT",
    "FLOAT": "DOUBLE",
    "FLOAT64": "DOUBLE",
    "BOOLEAN": "BOOLEAN",
    "BOOL": "BOOLEAN",
    "STRING": "VARCHAR",
    "DATE": "DATE",
    "DATETIME": "TIMESTAMP",
    "TIMESTAMP": "TIMESTAMP WITH TIME ZONE",
}
_NESTED = {"RECORD", "STRUCT"}
# What becomes text in BigQuery: DuckDB has no decimals of 76 digits.
_AS_TEXT = {"BIGNUMERIC": "CAST({} AS STRING)", "TIME": "CAST({} AS STRING)", "BYTES": "TO_HEX({})"}


class Session(Protocol):
    """Clients of one project and data set: see ``adapters/connections/bigquery.py``."""

    @property
    def client(self) -> Any:
        """A ``google.cloud.bigquery.Client``."""
        ...

    @property
    def storage(self) -> Any:
        """A client of the Storage Read API, or ``None``."""
        ...

    @property
    def dataset(self) -> str:
        """``project.dataset``, where a query's tables are that name none."""
        ...


class BigQueryRelation:
    """A ``Relation`` of BigQuery; ``silence_s``: how long one of its answers may take."""

    def __init__(self, address: Address, connect: Callable[[], Session], silence_s: float) -> None:
        self.address = address
        self._connect, self._silence_s = connect, silence_s
        self._session: Session | None = None
        self._selected: dict[str, str] = {}
        whole = (address.hosts[0][0], *address.places, *address.table)
        self._from = relation.query_in_brackets(address.query) if address.query else name(".".join(whole))

    def columns(self) -> dict[str, Column]:
        """See the port. BigQuery looks at the statement without running it."""
        with self._failures("looking at its columns") as session:
            config = self._config(session, dry_run=True, use_query_cache=False)
            job = session.client.query(f"SELECT * FROM {self._from}", job_config=config, timeout=self._silence_s)
            fields = list(job.schema or ())
            self._selected = {field.name: _selected(field) for field in fields}
            names = [field.name for field in fields]
            return relation.by_name(names, [_kind(field) for field in fields], str(self.address))

    def count(self) -> int:
        """See the port."""
        with self._failures("counting its rows") as session:
            [row] = self._result(session, f"SELECT count(*) AS found FROM {self._from}")
            return int(row[0])

    def rows(self, columns: Sequence[str], share: float = 1.0) -> Iterator[pa.Table]:
        """See the port."""
        if not self._selected:
            self.columns()
        condition = f"WHERE RAND() < {share!r}" if share < 1 else ""
        query = relation.statement(self._from, columns, self._selected.__getitem__, condition)
        with self._failures("reading its rows") as session:
            found = self._result(session, query)
            arrived = 0
            for batch in found.to_arrow_iterable(bqstorage_client=session.storage):
                arrived += batch.num_rows
                for start in range(0, batch.num_rows, BLOCK_ROWS):
                    yield pa.Table.from_batches([batch.slice(start, BLOCK_ROWS)])
            if arrived != found.total_rows:
                raise SourceError(f"{self.address}: BigQuery has {found.total_rows} rows, {arrived} arrived")

    def close(self) -> None:
        """See the port."""
        if self._session is not None:
            self._session.client.close()
            self._session = None

    def _result(self, session: Session, sql: str) -> Any:
        job = session.client.query(sql, job_config=self._config(session), timeout=self._silence_s)
        return job.result(timeout=self._silence_s)

    def _config(self, session: Session, **options: Any) -> Any:
        library: Any = bigquery  # it has no types
        return library.QueryJobConfig(default_dataset=session.dataset, **options)

    @contextmanager
    def _failures(self, doing: str) -> Iterator[Session]:
        """The session, opened if need be; ended when anything goes wrong."""
        try:
            if self._session is None:
                self._session = self._connect()
            yield self._session
        except (BadRequest, NotFound) as error:
            self.close()
            raise DataError(f"cannot read {self.address}: {_said(error)}") from error
        except GoogleAuthError as error:
            self.close()
            raise SourceError(
                f"{self.address}: no credentials: {_said(error)}; set GOOGLE_APPLICATION_CREDENTIALS, or "
                "credentials_path in the URL"
            ) from error
        except (GoogleAPIError, requests.RequestException, TimeoutError) as error:
            self.close()
            raise SourceError(
                f"{self.address}: BigQuery failed while {doing}: {_said(error)}; nothing of it was used"
            ) from error
        except BaseException:
            self.close()
            raise


def _said(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", "") or error).split()) or type(error).__name__


def name(part: str) -> str:
    """A quoted identifier.

    >>> name("shop.sales.payments")
    '`shop.sales.payments`'
    """
    return "`" + part.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _kind(field: Any) -> Column:
    if field.mode == "REPEATED" or field.field_type in _NESTED:
        return Column("LIST")
    if field.field_type in ("NUMERIC", "DECIMAL"):
        return Column(f"DECIMAL({field.precision or 38},{field.scale or 0 if field.precision else 9})")
    return Column(_KINDS.get(field.field_type, "VARCHAR"))


def _selected(field: Any) -> str:
    if field.mode == "REPEATED" or field.field_type in {*_KINDS, *_NESTED, "NUMERIC", "DECIMAL"}:
        return name(field.name)
    made = _AS_TEXT.get(field.field_type, "TO_JSON_STRING({})").format(name(field.name))
    return f"{made} AS {name(field.name)}"
