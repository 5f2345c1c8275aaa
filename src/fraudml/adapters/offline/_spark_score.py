"""Scoring on the executors: they get the bundle's files, and each of their processes opens it once.

Features come from Spark's SQL, derived ones and decisions from the same code as everywhere (``features/derive.py``,
``decisions/history.py``); what is written never passes the driver.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import pyarrow as pa

from fraudml.adapters.offline._spark_errors import quiet
from fraudml.adapters.offline._spark_files import is_connect
from fraudml.decisions import history
from fraudml.errors import BundleError, OfflineStoreError
from fraudml.events.schema import IS_FRAUD, KNOWN_AT
from fraudml.features.derive import Deriver, to_model
from fraudml.models import bundle as bundles
from fraudml.models.bundle import Bundle

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

DAY = "day"


class Shipped(NamedTuple):
    """A bundle as its files: what executors are sent. Spark broadcasts what is larger than a megabyte."""

    manifest: bytes
    model: bytes
    version: str


class Scoring:
    """Called by Spark with the batches of a partition."""

    def __init__(self, shipped: Shipped) -> None:
        self._shipped = shipped

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Transactions with their state features to decisions."""
        bundle, deriver = _opened(self._shipped)
        for batch in batches:
            yield history.decided(bundle, batch, bundle.runtime.score(to_model(deriver.from_arrow(batch))))


@lru_cache(maxsize=1)
def _opened(shipped: Shipped) -> tuple[Bundle, Deriver]:
    """The bundle, verified like any other: once for each process of an executor."""
    with tempfile.TemporaryDirectory(prefix="fraudml-bundle-") as place:
        directory = Path(place)
        (directory / bundles.MANIFEST_FILE).write_bytes(shipped.manifest)
        (directory / bundles.MODEL_FILE).write_bytes(shipped.model)
        bundle = bundles.load(directory, version=shipped.version)
    return bundle, Deriver(bundle.feature_set)


def ship(bundle: Bundle) -> Shipped:
    """The files of a loaded bundle."""
    if bundle.directory is None:
        raise BundleError("this bundle was not loaded from a directory, so there is nothing to send to executors")
    files = (bundle.directory / name for name in (bundles.MANIFEST_FILE, bundles.MODEL_FILE))
    try:
        manifest, model = (file.read_bytes() for file in files)
    except OSError as error:
        raise BundleError(f"bundle {bundle.directory} is gone: {error.strerror}") from None
    return Shipped(manifest, model, bundle.version)


def write_decisions(frame: DataFrame, rows: int, bundle: Bundle, output: str, *, by_day: bool) -> dict[str, int]:
    """Compute ``frame`` (``rows`` transactions with their state features), decide and write; see
    ``history.ScoresThere``."""
    from pyspark.sql.pandas.types import from_arrow_schema

    schema = bundle.feature_set.schema
    unread = [IS_FRAUD, KNOWN_AT, *schema.entity_names]  # by the model; each would cross to Python and back
    fields = from_arrow_schema(history.output_schema(schema.id_column))
    with quiet():
        decided = frame.drop(*unread).mapInArrow(Scoring(ship(bundle)), fields)
    with published(frame.sparkSession, output) as draft:
        if by_day:
            # one task for each day, or for a part of one that is large
            days = decided.withColumn(DAY, decided["event_time"].cast("date")).hint("rebalance", DAY)
            days.sortWithinPartitions(DAY, "event_time").write.mode("overwrite").partitionBy(DAY).parquet(draft)
        else:
            decided.write.mode("overwrite").parquet(draft)
        found = frame.sparkSession.read.schema(fields).parquet(draft).groupBy("action").count()
        actions = {row["action"]: row["count"] for row in found.toLocalIterator()}
        if (there := sum(actions.values())) != rows:
            raise OfflineStoreError(
                f"{there:,} of {rows:,} decisions can be read where {output} was to be: let the output be a place that "
                "this process and all executors share, such as a URI"
            )
        return actions


@contextmanager
def published(session: SparkSession, output: str) -> Iterator[str]:
    """A place beside ``output`` to write to, which becomes ``output`` when the block ends well.

    What was at ``output`` is replaced. On HDFS and this machine's disks that is a change of names; an object store
    copies, and there only the file ``_SUCCESS``, which comes last, says that everything is there. So it is with a URI
    over Spark Connect, which has no way to rename: Spark writes to ``output`` itself.
    """
    draft = f"{output.rstrip('/')}.part-{uuid4().hex[:8]}"
    if "://" not in output:
        files: _ThisMachine | _Hadoop = _ThisMachine()
        place = Path(draft).resolve().as_uri()
    elif is_connect(session):
        yield output
        return
    else:
        files, place = _Hadoop(session), draft
    try:
        yield place
        _replace(files, draft, output)
    finally:
        files.remove(draft)


def _replace(files: _ThisMachine | _Hadoop, draft: str, output: str) -> None:
    """Put the directory ``draft`` in the place of ``output``, which stays when that fails."""
    old = f"{draft}-old"
    replaces = files.exists(output)
    if replaces:
        files.rename(output, old)
    try:
        files.rename(draft, output)
    except BaseException:
        if replaces:
            files.rename(old, output)
        raise
    files.remove(old)


class _ThisMachine:
    def exists(self, place: str) -> bool:
        """Whether there is a file or a directory."""
        return Path(place).exists()

    def rename(self, place: str, name: str) -> None:
        """Move a file or a directory."""
        Path(place).rename(name)

    def remove(self, place: str) -> None:
        """Remove a file or a directory, if it is there."""
        if Path(place).is_file():
            Path(place).unlink()
        shutil.rmtree(place, ignore_errors=True)


class _Hadoop:
    """A file system that Spark knows, through the classes that Spark itself uses."""

    def __init__(self, session: SparkSession) -> None:
        context: Any = session.sparkContext
        self._path = context._jvm.org.apache.hadoop.fs.Path
        self._settings = context._jsc.hadoopConfiguration()

    def exists(self, place: str) -> bool:
        """Whether there is a file or a directory."""
        return bool(self._system(place).exists(self._path(place)))

    def rename(self, place: str, name: str) -> None:
        """Move a file or a directory; raises also where the file system just answers no."""
        if not self._system(place).rename(self._path(place), self._path(name)):
            raise OfflineStoreError(f"{place} could not be renamed to {name}: does something else write there?")

    def remove(self, place: str) -> None:
        """Remove a file or a directory, if it is there."""
        self._system(place).delete(self._path(place), True)

    def _system(self, place: str) -> Any:
        return self._path(place).getFileSystem(self._settings)
