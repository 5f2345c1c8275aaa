"""The offline store of a cluster: the SQL of ``features/sql``, run by Spark.

History is put as Parquet files into a working directory that the executors reach. Spark computes the features, writes
them there in numbered parts, each sorted by (event_time_us, transaction_id), and the parts are read back one by one:
this process never holds more than a piece of history or of results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow as pa

from fraudml.adapters.offline._shared import BARE, EMPTY, PUT_BEFORE, entity_names, label_table, result_schema
from fraudml.adapters.offline._spark_errors import spark_errors
from fraudml.adapters.offline._spark_files import is_connect, open_files
from fraudml.adapters.offline._spark_score import write_decisions
from fraudml.adapters.offline._spark_vectors import SparkVectors, input_columns, vectors_of
from fraudml.errors import ConfigError, OfflineStoreError, TrainingError
from fraudml.events.label import Label
from fraudml.events.schema import EVENT_TIME, IS_FRAUD, KNOWN_AT, TRANSACTION_ID
from fraudml.events.source import Progress, gathered
from fraudml.features.spec import FeatureSet
from fraudml.features.sql import state_features_sql
from fraudml.models.bundle import Bundle

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

FILE_ROWS = 500_000  # of history in one file: what this process holds at once while it is put
PART_ROWS = 250_000  # of results in one file: what it holds while they are read back
MOST_PARTS = 200  # that results are sorted into; a part of more rows has several files
HOUR_US = 3_600_000_000
PART = "__part"  # two underscores keep these apart from columns of the user


class _History(NamedTuple):
    """What is known of the history that was put."""

    entities: list[str]
    rows: int
    hours: list[tuple[int, int]]  # (hour since 1970, rows in it), in order


class SparkOfflineStore:
    """An ``OfflineStore`` (features/stores.py) over a Spark session, that can also score and train there.

    ``directory``: a path of this machine, or a URI that Spark knows (``s3a://bucket/path``). A fresh directory is made
    in it and removed by :meth:`close`, which also stops the session if it is ``owned``.
    """

    def __init__(self, session: SparkSession, directory: Path | str, *, owned: bool = False) -> None:
        self._session = session
        self._owned = owned
        self._files = open_files(session, str(directory))
        name = uuid4().hex
        self._seen, self._known, self._all = f"seen_{name}", f"known_{name}", f"history_{name}"
        self._history: _History | None = None
        self._labels = False
        self._results = 0
        self._closed = False

    def put(self, transactions: pa.RecordBatchReader) -> int:
        """Take in history; see the port. ``transaction_id`` must be unique."""
        if self._history is not None:
            raise OfflineStoreError(PUT_BEFORE)
        rows, hours = 0, Counter[int]()
        with spark_errors():
            for table in gathered(transactions, FILE_ROWS):
                self._files.add("history", table)
                rows += table.num_rows
                found, counts = np.unique(table.column(EVENT_TIME).to_numpy() // HOUR_US, return_counts=True)
                hours.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
            if not rows:
                self._files.add("history", transactions.schema.empty_table())
            self._history = _History(entity_names(transactions.schema), rows, sorted(hours.items()))
            self._read("history", transactions.schema).createOrReplaceTempView(self._all)
        return rows

    def put_labels(self, labels: Sequence[Label]) -> None:
        """Further label reports; the entities of a label that has none are its transaction's."""
        table = label_table(labels, self._put_history().entities)
        if table.num_rows:
            with spark_errors():
                self._files.add("labels", table)
            self._labels = True

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
        history = self._put_history()
        schema = result_schema(feature_set)
        with spark_errors():
            frame = self.frame(feature_set, since_us, until_us)
            total = history.rows
            if since_us is not None or until_us is not None:
                total = _between(self._session.table(self._all), since_us, until_us).count()
            done = 0
            if progress:
                progress(done, total)
            for batch in self.stream(frame, batch_size) if total else ():
                yield batch.cast(schema)
                done += batch.num_rows
                if progress:
                    progress(done, total)

    def frame(self, feature_set: FeatureSet, since_us: int | None = None, until_us: int | None = None) -> DataFrame:
        """The same as a DataFrame of Spark, in no order; nothing is computed yet. Call it within ``spark_errors``."""
        self._bound_views(feature_set, since_us, until_us)
        query = state_features_sql(feature_set, "spark", transactions=self._seen, labels=self._known)
        return _between(self._session.sql(query), since_us, None)

    def stream(self, frame: DataFrame, batch_size: int = 100_000) -> Iterator[pa.RecordBatch]:
        """Compute a DataFrame that has the event's time and id, and read it back ordered by them.

        Within this process's memory is one part of at most ``PART_ROWS`` rows.
        """
        from pyspark.sql import functions

        name = f"results-{self._results}"
        self._results += 1
        try:
            (
                frame.withColumn(PART, functions.expr(self._part()))
                .repartition(PART)
                .sortWithinPartitions(PART, EVENT_TIME, TRANSACTION_ID)
                .write.partitionBy(PART)
                .option("maxRecordsPerFile", PART_ROWS)
                .parquet(self._files.path(name))
            )
            for part in self._files.parts(name):
                yield from self._files.read(part, batch_size)
        finally:
            self._files.remove(name)

    def score(self, bundle: Bundle, output: str, *, by_day: bool = False) -> dict[str, int]:
        """Decide on all transactions, on the executors; see ``decisions.history.ScoresThere``."""
        with spark_errors():
            frame = self.frame(bundle.feature_set)
            return write_decisions(frame, self._put_history().rows, bundle, output, by_day=by_day)

    def vectors(self, feature_set: FeatureSet) -> SparkVectors:
        """Compute the model's inputs of all transactions and keep them with the cluster, for training there."""
        if is_connect(self._session):
            raise ConfigError("XGBoost cannot train over Spark Connect: name the cluster, or give --engine local")
        if not self._put_history().rows:
            raise TrainingError("there are no transactions in the period to train on")
        with spark_errors():
            vectors_of(self.frame(feature_set), feature_set).write.parquet(self._files.path("vectors"))
            frame = self._session.read.parquet(self._files.path("vectors"))
        return SparkVectors(frame, input_columns(feature_set), self.stream)

    def close(self) -> None:
        """Remove the temporary files, and stop the session if it is this store's own.

        It raises nothing: after a failure of Spark there may be nobody to ask, and that failure is what counts.
        """
        if self._closed:
            return
        self._closed = True
        with suppress(OfflineStoreError), spark_errors():
            self._files.remove()
            for view in (self._seen, self._known, self._all):
                self._session.catalog.dropTempView(view)
        if self._owned:
            with suppress(OfflineStoreError), spark_errors():
                self._session.stop()

    def _bound_views(self, feature_set: FeatureSet, since_us: int | None, until_us: int | None) -> None:
        """Views of the part of history that the wanted rows can see: transactions, and label reports."""
        history = self._put_history()
        horizon = max(map(feature_set.horizon_us, feature_set.schema.entity_names), default=0)
        start = None if since_us is None else since_us - horizon
        _between(self._session.table(self._all), start, until_us).createOrReplaceTempView(self._seen)
        keys = "".join(f", {_quote(name)}" for name in history.entities)
        reports = self._session.sql(
            f"SELECT {IS_FRAUD}, {KNOWN_AT}{keys} FROM {self._all} "  # noqa: S608 - quoted names
            f"WHERE {IS_FRAUD} IS NOT NULL AND {KNOWN_AT} IS NOT NULL"
        )
        if self._labels:
            reports = reports.unionAll(self._further_reports(history.entities))
        _between(reports, start, until_us, KNOWN_AT).createOrReplaceTempView(self._known)

    def _further_reports(self, entities: list[str]) -> DataFrame:
        keys = "".join(
            f", CASE WHEN n.{BARE} THEN h.{_quote(e)} ELSE n.{_quote(e)} END AS {_quote(e)}" for e in entities
        )
        put = self._read("labels", label_table([], entities).schema)
        put.createOrReplaceTempView(self._known)
        query = (
            f"SELECT n.{IS_FRAUD}, n.{KNOWN_AT}{keys} FROM {self._known} n "  # noqa: S608 - quoted names
            f"LEFT JOIN {self._all} h ON n.{BARE} AND h.{TRANSACTION_ID} = n.{TRANSACTION_ID}"
        )
        return self._session.sql(query)

    def _read(self, name: str, schema: pa.Schema) -> DataFrame:
        """A data set with a stated schema: Spark need not look into a file for it, and there may be none."""
        from pyspark.sql.pandas.types import from_arrow_schema

        return self._session.read.schema(from_arrow_schema(schema)).parquet(self._files.path(name))

    def _part(self) -> str:
        """An expression that numbers the parts of results: stretches of time with about the same number of rows."""
        history = self._put_history()
        most = max(PART_ROWS, history.rows // MOST_PARTS)
        cuts, inside = [], 0
        for hour, rows in history.hours:
            if inside and inside + rows > most:
                cuts.append(hour * HOUR_US)
                inside = 0
            inside += rows
        whens = " ".join(f"WHEN {EVENT_TIME} < {cut} THEN {i}" for i, cut in enumerate(cuts))
        return f"CASE {whens} ELSE {len(cuts)} END" if cuts else "0"

    def _put_history(self) -> _History:
        if self._history is None:
            raise OfflineStoreError(EMPTY)
        return self._history


def _between(frame: DataFrame, since_us: int | None, until_us: int | None, time: str = EVENT_TIME) -> DataFrame:
    if since_us is not None:
        frame = frame.where(f"{time} >= {int(since_us)}")
    return frame if until_us is None else frame.where(f"{time} < {int(until_us)}")


def _quote(name: str) -> str:
    """A quoted identifier of Spark's SQL."""
    return "`" + name.replace("`", "``") + "`"
