"""Where a Spark store keeps history and results: Parquet files in a directory that all executors reach.

A path of this machine is written and read here, by Arrow. Anything with a scheme (``s3a://``, ``hdfs://``, ``file://``)
goes through Spark, which knows the file system and its credentials; what crosses is one piece at a time.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from fraudml.events.schema import EVENT_TIME, TRANSACTION_ID

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class Files(Protocol):
    """Parquet data sets by name below one directory."""

    def path(self, name: str) -> str:
        """Where a data set is, for Spark."""
        ...

    def add(self, name: str, rows: pa.Table) -> None:
        """Add rows to a data set."""
        ...

    def parts(self, name: str) -> list[str]:
        """The files of a data set that Spark wrote in numbered parts, in their order."""
        ...

    def read(self, part: str, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of one file, by time and id."""
        ...

    def remove(self, name: str = "") -> None:
        """Remove a data set, or all of them."""
        ...


def open_files(session: SparkSession, directory: str) -> Files:
    """A fresh directory below ``directory``."""
    name = f"fraudml-{uuid4().hex[:12]}"
    if "://" in directory:
        return ClusterFiles(session, f"{directory.rstrip('/')}/{name}")
    place = Path(directory).resolve() / name
    place.mkdir(parents=True)
    return LocalFiles(place)


class LocalFiles:
    """On this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._added = 0

    def path(self, name: str) -> str:
        """See :class:`Files`."""
        return (self._directory / name).as_uri()

    def add(self, name: str, rows: pa.Table) -> None:
        """See :class:`Files`."""
        place = self._directory / name
        place.mkdir(exist_ok=True)
        pq.write_table(rows, place / f"part-{self._added:06}.parquet")
        self._added += 1

    def parts(self, name: str) -> list[str]:
        """See :class:`Files`."""
        return in_order([str(path) for path in (self._directory / name).rglob("*.parquet")])

    def read(self, part: str, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """See :class:`Files`."""
        with pq.ParquetFile(part) as file:
            yield from file.iter_batches(batch_rows)

    def remove(self, name: str = "") -> None:
        """See :class:`Files`."""
        shutil.rmtree(self._directory / name, ignore_errors=True)


class ClusterFiles:
    """Wherever Spark can write."""

    def __init__(self, session: SparkSession, uri: str) -> None:
        self._session = session
        self._uri = uri

    def path(self, name: str) -> str:
        """See :class:`Files`."""
        return f"{self._uri}/{name}"

    def add(self, name: str, rows: pa.Table) -> None:
        """See :class:`Files`."""
        self._session.createDataFrame(rows).write.mode("append").parquet(self.path(name))

    def parts(self, name: str) -> list[str]:
        """See :class:`Files`."""
        return in_order([unquote(file) for file in self._session.read.parquet(self.path(name)).inputFiles()])

    def read(self, part: str, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """See :class:`Files`. A large file may come in pieces, so it is put in order here."""
        rows = self._session.read.parquet(part).toArrow()
        yield from rows.sort_by([(EVENT_TIME, "ascending"), (TRANSACTION_ID, "ascending")]).to_batches(batch_rows)

    def remove(self, name: str = "") -> None:
        """See :class:`Files`. Through Spark Connect, which has no way to remove files, they stay."""
        if not is_connect(self._session):
            context: Any = self._session.sparkContext
            path = context._jvm.org.apache.hadoop.fs.Path(self.path(name))
            path.getFileSystem(context._jsc.hadoopConfiguration()).delete(path, True)


def is_connect(session: SparkSession) -> bool:
    """Whether a session speaks to a Spark Connect server, and so to no Java of its own."""
    return ".connect." in f"{type(session).__module__}."


def in_order(files: list[str]) -> list[str]:
    """By the number of the directory (``__part=7``), then of the task and of its file (``part-00003-...-c001``).

    >>> in_order(["d/__part=10/part-00000-x-c000.parquet", "d/__part=9/part-00001-x.c001.parquet"])[0][:10]
    'd/__part=9'
    """

    def place(file: str) -> tuple[int, ...]:
        numbers = (re.search(pattern, file) for pattern in (r"__part=(\d+)/", r"/part-(\d+)-", r"[-.]c(\d+)\."))
        return tuple(int(found[1]) if found else 0 for found in numbers)

    return sorted(files, key=place)
