"""An offline store whose history lies in a database, which runs the SQL of ``features/sql``.

History becomes tables that only this store uses and that end with it. What a database does in its own way is in one
subclass each: make a table, load it, run a statement, stream the rows of a query.
"""

# ruff: noqa: S608 - what is put into SQL text here are quoted names, integers and generated queries

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

import pyarrow as pa
from sqlglot import exp

from fraudml.adapters.offline._names import plain_features, plain_name
from fraudml.adapters.offline._shared import (
    BARE,
    EMPTY,
    PUT_BEFORE,
    entity_names,
    label_schema,
    label_table,
    result_schema,
)
from fraudml.errors import OfflineStoreError
from fraudml.events.label import Label
from fraudml.events.schema import EVENT_TIME, IS_FRAUD, KNOWN_AT, TRANSACTION_ID
from fraudml.events.source import Progress
from fraudml.features.spec import FeatureSet
from fraudml.features.sql import state_features_sql

HISTORY, REPORTS, INCOMING = "history", "reports", "incoming"
_SEEN, _KNOWN = "fraudml_seen", "fraudml_known"


class PushedDownStore(ABC):
    """An ``OfflineStore`` (features/stores.py) in a database."""

    dialect: ClassVar[str]  # of features/sql
    aside: ClassVar[str] = "AS"  # introduces a CTE that is to be put in where it is used

    def __init__(self) -> None:
        self._entities: list[str] | None = None

    @abstractmethod
    def table(self, name: str) -> str:
        """How SQL calls a table of this store."""

    @abstractmethod
    def type_of(self, kind: pa.DataType) -> str:
        """What SQL calls the type of a column: text, 64-bit integer, double precision, boolean."""

    @abstractmethod
    def create(self, name: str, schema: pa.Schema) -> None:
        """Make a table that ends with this store, with columns of these names and types."""

    @abstractmethod
    def load(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
        """Add rows to a table made before; their number. A failure of ``batches`` stays what it is."""

    @abstractmethod
    def run(self, statement: str) -> None:
        """Run a statement."""

    @abstractmethod
    def rows(self, query: str, schema: pa.Schema, batch_size: int) -> Iterator[pa.RecordBatch]:
        """The rows of a query, streamed in its order, with the types of ``schema``."""

    @abstractmethod
    def failures(self, doing: str) -> AbstractContextManager[None]:
        """Errors of the driver inside become ``OfflineStoreError``."""

    @abstractmethod
    def close(self) -> None:
        """Remove the tables and end the connection."""

    def loaded(self, name: str, schema: pa.Schema) -> None:  # noqa: B027 - most databases need nothing
        """A table got its rows: tell the database's planner, say."""

    def at_once(self) -> AbstractContextManager[None]:
        """What is done inside is done wholly or not at all."""
        from contextlib import nullcontext

        return nullcontext()

    def put(self, transactions: pa.RecordBatchReader) -> int:
        """Take in history; see the port. ``transaction_id`` must be unique."""
        if self._entities is not None:
            raise OfflineStoreError(PUT_BEFORE)
        schema = _plain(transactions.schema)
        entities = entity_names(schema)
        labels = label_schema(entities)
        columns = ", ".join(map(self.quote, labels.names))
        with self.failures("taking in history"), self.at_once():
            self.create(HISTORY, schema)
            rows = self.load(HISTORY, schema, transactions)
            self.loaded(HISTORY, schema)
            self.create(REPORTS, labels)
            self.run(
                f"INSERT INTO {self.table(REPORTS)} ({columns}) SELECT {columns} FROM {self.table(HISTORY)} "
                f"WHERE {self.quote(IS_FRAUD)} IS NOT NULL AND {self.quote(KNOWN_AT)} IS NOT NULL"
            )
            self.loaded(REPORTS, labels)
        self._entities = entities
        return rows

    def put_labels(self, labels: Sequence[Label]) -> None:
        """Further label reports; the entities of a label that has none are its transaction's."""
        entities = self._put_entities()
        table = label_table(labels, entities)
        if not labels:
            return
        key, bare = self.quote(TRANSACTION_ID), self.quote(BARE)
        own = [f"n.{self.quote(name)}" for name in (TRANSACTION_ID, IS_FRAUD, KNOWN_AT)]
        own += [f"CASE WHEN n.{bare} THEN h.{self.quote(e)} ELSE n.{self.quote(e)} END" for e in entities]
        columns = ", ".join(map(self.quote, label_schema(entities).names))
        with self.failures("taking in labels"), self.at_once():
            self.create(INCOMING, table.schema)
            self.load(INCOMING, table.schema, table.to_batches())
            self.run(
                f"INSERT INTO {self.table(REPORTS)} ({columns}) SELECT {', '.join(own)} "
                f"FROM {self.table(INCOMING)} n LEFT JOIN {self.table(HISTORY)} h ON n.{bare} AND h.{key} = n.{key}"
            )
            self.run(f"DROP TABLE {self.table(INCOMING)}")
            self.loaded(REPORTS, label_schema(entities))

    def features(
        self,
        feature_set: FeatureSet,
        *,
        since_us: int | None = None,
        until_us: int | None = None,
        batch_size: int = 100_000,
        progress: Progress | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Point-in-time features, ordered and streamed; see the port."""
        self._put_entities()
        with self.failures("computing features"):
            total = self._count(since_us, until_us)
            done = 0
            if progress:
                progress(done, total)
            if not total:
                return
            query = self.query(feature_set, since_us, until_us)
            for batch in self.rows(query, result_schema(feature_set), batch_size):
                yield batch
                done += batch.num_rows
                if progress:
                    progress(done, total)

    def query(self, feature_set: FeatureSet, since_us: int | None = None, until_us: int | None = None) -> str:
        """The SQL that gives the features of the rows in the period, in order."""
        transactions, labels, asides = self.table(HISTORY), self.table(REPORTS), ""
        if since_us is not None or until_us is not None:
            horizon = max(map(feature_set.horizon_us, feature_set.schema.entity_names), default=0)
            first = None if since_us is None else since_us - horizon
            parts = ((_SEEN, transactions, EVENT_TIME), (_KNOWN, labels, KNOWN_AT))
            asides = "WITH " + ", ".join(
                f"{name} {self.aside} (SELECT * FROM {table}{self._where(time, first, until_us)})"
                for name, table, time in parts
            )
            transactions, labels = _SEEN, _KNOWN
        plain = plain_features(feature_set)
        if plain is None:
            columns = (*feature_set.schema.normal_columns(), IS_FRAUD, KNOWN_AT)
            inner = f"SELECT {', '.join(self.quote(plain_name(name)) for name in columns)} FROM {transactions}"
        else:
            inner = state_features_sql(plain, self.dialect, transactions=transactions, labels=labels)
        order = ", ".join(map(self.quote, (EVENT_TIME, TRANSACTION_ID)))
        wanted = self._where(EVENT_TIME, since_us, None)
        return f"{asides} SELECT * FROM (\n{inner}\n) AS found{wanted} ORDER BY {order}".lstrip()

    def columns(self, schema: pa.Schema) -> str:
        """The columns of a table to be made."""
        return ", ".join(f"{self.quote(field.name)} {self.type_of(field.type)}" for field in schema)

    def quote(self, name: str) -> str:
        """A quoted identifier."""
        return exp.to_identifier(name, quoted=True).sql(dialect=self.dialect)

    def _count(self, since_us: int | None, until_us: int | None) -> int:
        where = self._where(EVENT_TIME, since_us, until_us)
        schema = pa.schema([("n", pa.int64())])
        (batch,) = self.rows(f"SELECT COUNT(*) AS n FROM {self.table(HISTORY)}{where}", schema, 1)
        return int(batch.column(0)[0].as_py())

    def _where(self, time: str, since_us: int | None, until_us: int | None) -> str:
        name = self.quote(time)
        conditions = [] if since_us is None else [f"{name} >= {int(since_us)}"]
        conditions += [] if until_us is None else [f"{name} < {int(until_us)}"]
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""

    def _put_entities(self) -> list[str]:
        if self._entities is None:
            raise OfflineStoreError(EMPTY)
        return self._entities


def _plain(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_name(plain_name(field.name)) for field in schema])


def resliced(batches: Iterable[pa.RecordBatch], schema: pa.Schema, batch_size: int) -> Iterator[pa.RecordBatch]:
    """Batches of at most ``batch_size`` rows with the names and types of ``schema``, whatever those of the source."""
    for batch in batches:
        columns = [column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)]
        whole = pa.RecordBatch.from_arrays(columns, schema=schema)
        for start in range(0, whole.num_rows, batch_size):
            yield whole.slice(start, batch_size)
