"""The offline store of one machine: DuckDB in process.

History is one table sorted by (event_time_us, transaction_id). Counts, sums, means and standard deviations of
integer columns and label windows are computed by prefix sums in NumPy (``_prefix_sums.py``), their smallest and largest
values by sparse tables (``_extremes.py``), several times faster than DuckDB's window operator; everything else is the
SQL of ``features/sql``, and so is all of it where the arrays would not fit in memory or the sums not in 64 bits. Both
give the same values (tests/parity).
"""

# ruff: noqa: S608 - what is put into SQL text here are quoted names, integers and generated queries

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from msgspec.structs import replace

from fraudml.adapters.offline._fast_path import FastPath, quote
from fraudml.adapters.offline._prefix_sums import Floats
from fraudml.adapters.offline._shared import (
    BARE,
    EMPTY,
    PUT_BEFORE,
    entity_names,
    label_table,
    noting,
    result_schema,
)
from fraudml.errors import FraudmlError, OfflineStoreError
from fraudml.events.label import Label
from fraudml.events.source import Progress, arrow_schema
from fraudml.features.spec import FeatureSet
from fraudml.features.sql import state_features_sql

_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class DuckDBOfflineStore:
    """An ``OfflineStore`` (features/stores.py) over an in-memory DuckDB that spills to disk.

    ``threads``: 0 uses all cores. ``memory_limit``: DuckDB's text, such as ``4GB``; NumPy's arrays count against it
    (at most half). ``temp_directory``: where to spill; by default a fresh directory, removed by :meth:`close`.

    >>> store = DuckDBOfflineStore(threads=1)
    >>> store.close()
    """

    def __init__(
        self, *, threads: int = 0, memory_limit: str = "4GB", temp_directory: Path | str | None = None
    ) -> None:
        self._own_directory = None if temp_directory else tempfile.mkdtemp(prefix="fraudml-")
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit,
            "temp_directory": str(temp_directory or self._own_directory),
            "autoinstall_known_extensions": False,
        }
        if threads:
            config["threads"] = threads
        with _driver_errors():
            self._connection = duckdb.connect(":memory:", config=config)
            # it would go to standard output, among the results
            self._connection.execute("SET enable_progress_bar = false")
        self._threads = int(self._scalar("SELECT current_setting('threads')"))
        self._memory_limit = memory_limit
        self._memory_bytes = parse_bytes(self._scalar("SELECT current_setting('memory_limit')"))
        self._entities: list[str] | None = None

    def put(self, transactions: pa.RecordBatchReader) -> int:
        """Take in history; see the port. ``transaction_id`` must be unique."""
        if self._entities is not None:
            raise OfflineStoreError(PUT_BEFORE)
        failures: list[FraudmlError] = []
        reader = pa.RecordBatchReader.from_batches(transactions.schema, noting(transactions, failures))
        with _driver_errors(failures):
            self._connection.register("incoming", reader)
            self._run("CREATE TABLE history AS SELECT * FROM incoming ORDER BY event_time_us, transaction_id")
            self._connection.unregister("incoming")
            self._entities = entity_names(transactions.schema)
            keys = "".join(f", {quote(name)}" for name in self._entities)
            self._run(
                f"CREATE TABLE reports AS SELECT transaction_id, is_fraud, known_at_us{keys} FROM history "
                "WHERE is_fraud IS NOT NULL AND known_at_us IS NOT NULL"
            )
        return int(self._scalar("SELECT count(*) FROM history"))

    def put_labels(self, labels: Sequence[Label]) -> None:
        """Further label reports; the entities of a label that has none are its transaction's."""
        entities = self._put_entities()
        incoming = label_table(labels, entities)
        keys = "".join(f", CASE WHEN {BARE} THEN h.{quote(e)} ELSE n.{quote(e)} END" for e in entities)
        with _driver_errors():
            self._connection.register("incoming", incoming)
            self._run(
                f"INSERT INTO reports SELECT n.transaction_id, n.is_fraud, n.known_at_us{keys} "
                f"FROM incoming n LEFT JOIN history h ON {BARE} AND h.transaction_id = n.transaction_id"
            )
            self._connection.unregister("incoming")

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
        with _driver_errors():
            self._bound_views(feature_set, since_us, until_us)
            since = "true" if since_us is None else f"event_time_us >= {int(since_us)}"
            seen = self._scalar("SELECT count(*) FROM seen")
            total = self._scalar(f"SELECT count(*) FROM seen WHERE {since}")
            done = 0
            if progress:
                progress(done, total)
            with self._fast_features(feature_set, seen) as arrays:
                for batch in self._stream(feature_set, arrays, since, seen - total, batch_size):
                    yield batch
                    done += batch.num_rows
                    if progress:
                        progress(done, total)

    def close(self) -> None:
        """Free memory and remove temporary files."""
        self._connection.close()
        if self._own_directory:
            shutil.rmtree(self._own_directory, ignore_errors=True)

    def _bound_views(self, feature_set: FeatureSet, since_us: int | None, until_us: int | None) -> None:
        """Views of the part of history that the wanted rows can see: ``seen`` and ``known``."""
        horizon = max(map(feature_set.horizon_us, feature_set.schema.entity_names), default=0)
        for view, table, time in (("seen", "history", "event_time_us"), ("known", "reports", "known_at_us")):
            conditions = [] if since_us is None else [f"{time} >= {int(since_us) - horizon}"]
            conditions += [] if until_us is None else [f"{time} < {int(until_us)}"]
            where = " AND ".join(conditions) or "true"
            self._run(f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM {table} WHERE {where}")

    @contextmanager
    def _fast_features(self, feature_set: FeatureSet, rows: int) -> Iterator[dict[str, Floats]]:
        """What the fast path computes, if it fits; DuckDB's memory is cut by as much meanwhile."""
        fast = FastPath(self._connection, feature_set, self._threads)
        needed = fast.estimate_bytes(rows)
        if needed > self._memory_bytes // 2:
            yield {}
            return
        self._run(f"SET memory_limit = '{self._memory_bytes - needed}B'")
        try:
            yield fast.compute(rows)
        finally:
            self._run(f"SET memory_limit = '{self._memory_limit}'")

    def _stream(
        self, feature_set: FeatureSet, arrays: dict[str, Floats], since: str, skip: int, batch_size: int
    ) -> Iterator[pa.RecordBatch]:
        """The wanted rows in order; ``arrays`` hold features of all rows seen, the first ``skip`` unwanted."""
        fields = arrow_schema(feature_set.schema)
        computed = feature_set.state_features
        rest = [replace(feature, input=True) for feature in computed if feature.name not in arrays]
        query = f"SELECT {', '.join(map(quote, fields.names))} FROM seen WHERE {since}"
        if rest:
            wanted = FeatureSet(feature_set.schema, rest)
            inner = state_features_sql(wanted, "duckdb", transactions="seen", labels="known")
            query = f"SELECT * FROM ({inner}) WHERE {since} ORDER BY event_time_us, transaction_id"
        place = {feature.name: i for i, feature in enumerate(rest, len(fields))}
        schema = result_schema(feature_set)
        with self._connection.cursor() as cursor:
            for whole in cursor.sql(query).to_arrow_reader(batch_size):
                for start in range(0, whole.num_rows, batch_size):
                    batch = whole.slice(start, batch_size)
                    columns = [batch.column(i) for i in range(len(fields))]
                    for feature in computed:
                        if feature.name in arrays:
                            values = arrays[feature.name][skip : skip + batch.num_rows]
                            columns.append(pa.array(values, from_pandas=True))  # NaN becomes null
                        else:
                            columns.append(batch.column(place[feature.name]))
                    cast = [column.cast(field.type) for column, field in zip(columns, schema, strict=True)]
                    yield pa.RecordBatch.from_arrays(cast, schema=schema)
                    skip += batch.num_rows

    def _put_entities(self) -> list[str]:
        if self._entities is None:
            raise OfflineStoreError(EMPTY)
        return self._entities

    def _scalar(self, query: str) -> Any:
        return self._run(query)[0][0]

    def _run(self, query: str) -> list[tuple[Any, ...]]:
        """Run to the end: DuckDB refuses a second query while a result is open."""
        return self._connection.execute(query).fetchall()


def parse_bytes(text: str) -> int:
    """Bytes of DuckDB's way to print sizes.

    >>> parse_bytes("3.5 KiB"), parse_bytes("512 bytes")
    (3584, 512)
    """
    number, unit = text.split()
    return int(float(number) * _UNITS[unit])


@contextmanager
def _driver_errors(failures: Sequence[FraudmlError] = ()) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        if failures:
            raise failures[0] from None
        first = str(error).strip().splitlines()[0]
        raise OfflineStoreError(f"DuckDB failed: {first}") from error
