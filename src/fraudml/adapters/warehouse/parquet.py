"""Decisions as Parquet files by day, on a disk or in an object store: each batch is some files and one new manifest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fraudml.adapters.warehouse._manifest import Manifest, Manifests, Part
from fraudml.adapters.warehouse._marked import overtaken
from fraudml.decisions.log import ARRIVAL
from fraudml.decisions.warehouse import DAY, names_beside_day
from fraudml.errors import ConflictError, WarehouseError
from fraudml.events.schema import EVENT_TIME
from fraudml.events.source import gathered

DAY_US = 86_400_000_000
SLACK_US = 3_600_000_000  # after its end a day's transactions have arrived, but for a few
MERGED = 8  # small files of a day that become one
TARGET_BYTES = 256 * 2**20  # a file of this size stays as it is
GROUP_ROWS = 65_536  # rows in memory when files are put together, and rows that a reader can leave out
LARGEST = 2**63 - 1
OURS = re.compile(r".*/day=\d{4}-\d\d-\d\d/part-\d{19}-\d{19}-[0-9a-f]{12}\.parquet")


class ParquetWarehouse:
    """A ``Warehouse`` (decisions/warehouse.py) of files. ``files``: of ``adapters/connections``; its own.

    A table is a folder: ``decisions/day=2026-11-30/part-...parquet``, by the day (UTC) of the transaction. Files are
    put in place first, and count from the moment a manifest names them. What no manifest names is removed by the next
    run, after a manifest of its own: whoever was still about to commit such files finds its number taken.
    """

    def __init__(self, files: Any) -> None:
        self._files = files
        self._tables: dict[str, Manifests] = {}

    def prepare(self, tables: Mapping[str, pa.Schema]) -> None:
        """Make what is missing, and remove what a run has left that did not end well."""
        with self._failures("making its tables"):
            self._files.begin()
            for table, schema in tables.items():
                manifests = self._tables[table] = Manifests(self._files, table)
                last = manifests.last()
                columns = _with_new(last.columns, schema, f"{self._files.place}/{table}")
                known = {part.path for part in last.parts}
                left = [name for name in self._files.below(table) if OURS.fullmatch(name) and name not in known]
                if not last.version or left or columns != last.columns:
                    manifests.commit(msgspec.structs.replace(last, columns=columns))
                if not last.version:
                    manifests.check_store()
                self._files.remove(left)
                manifests.forget_old()

    def watermark(self, table: str) -> int:
        """The last manifest's."""
        with self._failures("reading how far it is"):
            return self._tables[table].last().watermark

    def arrivals(self, table: str, after: int) -> Iterator[pa.Array]:
        """The numbers, file by file."""
        with self._failures("reading what it has"):
            for numbers in self._numbers(self._tables[table].last(), after + 1, LARGEST):
                yield pa.array(numbers)

    def write(self, table: str, rows: pa.RecordBatch, *, before: int, watermark: int) -> None:
        """A file for each day, then the manifest."""
        with self._failures("taking rows"):
            last = self._tables[table].last()
            if last.watermark != before:
                raise overtaken(table)
            arrivals = rows.column(ARRIVAL).to_numpy()
            there = [*self._numbers(last, int(arrivals.min()), int(arrivals.max()))]
            if there:
                rows = rows.filter(pa.array(np.isin(arrivals, np.concatenate(there), invert=True)))
            schema = _schema(last.columns)
            whole = _as(schema, pa.Table.from_batches([rows]))
            days = rows.column(EVENT_TIME).to_numpy() // DAY_US
            made: list[Part] = []
            with self._removed_on_failure(made):
                for day in np.unique(days):
                    folder = f"{table}/{DAY}={datetime.fromtimestamp(int(day) * 86_400, UTC):%Y-%m-%d}"
                    self._put(made, folder, schema, [whole.filter(pa.array(days == day))])
            self._commit(table, last, made, [], watermark)

    def tidy(self, table: str) -> bool:
        """Put small files of a day together that has ended, and remove them.

        Between the commit and the end of the removal someone who reads all files there are sees their rows twice.
        """
        with self._failures("putting files together"):
            last = self._tables[table].last()
            small = _small_files(last)
            if not small:
                return False
            made: list[Part] = []
            with self._removed_on_failure(made):
                schema = _schema(last.columns)
                groups = gathered(self._batches(small, schema), GROUP_ROWS)
                self._put(made, small[0].day, schema, groups)
            self._commit(table, last, made, small, last.watermark)
            self._files.remove([part.path for part in small])
            return True

    def close(self) -> None:
        """Remove what is temporary."""
        self._files.close()

    def _numbers(self, manifest: Manifest, first: int, last: int) -> Iterator[NDArray[np.int64]]:
        """The arrival numbers of a stretch, both ends included; only the groups of rows that can have some are read."""
        for part in manifest.parts:
            if part.last < first or part.first > last:
                continue
            with self._opened(part) as file:
                if file is None:
                    continue
                column = file.schema_arrow.names.index(ARRIVAL)
                for group in range(file.num_row_groups):
                    known = file.metadata.row_group(group).column(column).statistics
                    if known is not None and known.has_min_max and (known.max < first or known.min > last):
                        continue
                    numbers = file.read_row_group(group, columns=[ARRIVAL]).column(0).to_numpy()
                    yield numbers[(numbers >= first) & (numbers <= last)]

    def _batches(self, parts: Sequence[Part], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for part in parts:
            with self._opened(part) as file:
                for batch in file.iter_batches(GROUP_ROWS) if file is not None else ():
                    yield from _as(schema, pa.Table.from_batches([batch])).to_batches()

    @contextmanager
    def _opened(self, part: Part) -> Iterator[pq.ParquetFile | None]:
        """``None`` for a file that somebody has removed, to keep no more than some years, say."""
        try:
            file = self._files.open(part.path)
        except FileNotFoundError:
            yield None
            return
        with file, pq.ParquetFile(file) as opened:
            yield opened

    def _put(self, made: list[Part], folder: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
        """One file of all rows; none without rows. It is in ``made`` before it is in its place."""
        path: Path = self._files.scratch() / uuid4().hex
        first, last, rows = LARGEST, 0, 0
        try:
            with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for table in tables:
                    arrivals = table.column(ARRIVAL).to_numpy()
                    first, last = min(first, int(arrivals.min())), max(last, int(arrivals.max()))
                    rows += table.num_rows
                    writer.write_table(table, row_group_size=GROUP_ROWS)
            if rows:
                name = f"{folder}/part-{first:019}-{last:019}-{uuid4().hex[:12]}.parquet"
                made.append(Part(name, first, last, rows, path.stat().st_size))
                self._files.put(path, name)
        finally:
            path.unlink(missing_ok=True)

    def _commit(self, table: str, last: Manifest, made: list[Part], gone: Sequence[Part], watermark: int) -> None:
        removed = {part.path for part in gone}
        parts = [*(part for part in last.parts if part.path not in removed), *made]
        manifests = self._tables[table]
        try:
            manifests.commit(msgspec.structs.replace(last, parts=parts, watermark=watermark))
        except ConflictError:  # after any other error the files may count
            self._discard(made)
            raise
        manifests.forget_old()

    @contextmanager
    def _removed_on_failure(self, made: list[Part]) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._discard(made)
            raise

    def _discard(self, made: Sequence[Part]) -> None:
        with suppress(Exception):  # the next run removes them, too
            self._files.remove([part.path for part in made])

    def _failures(self, doing: str) -> AbstractContextManager[None]:
        found: AbstractContextManager[None] = self._files.failures(WarehouseError, doing)
        return found


def _with_new(columns: Mapping[str, str], schema: pa.Schema, place: str) -> dict[str, str]:
    """The columns of a table and those it lacks. A type does not change: no reader could read both."""
    found = dict(columns)
    for name, field in zip(names_beside_day(schema.names), schema, strict=True):
        if found.setdefault(name, str(field.type)) != str(field.type):
            raise WarehouseError(
                f"the column {name!r} of {place} is {found[name]} and would be {field.type}: give it another name in "
                "fraudml.yaml, or name another place in FRAUDML_WAREHOUSE_URL"
            )
    return found


def _schema(columns: Mapping[str, str]) -> pa.Schema:
    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])


def _as(schema: pa.Schema, table: pa.Table) -> pa.Table:
    """The table with these columns; what it lacks is null."""
    given = dict(zip(names_beside_day(table.schema.names), table.columns, strict=True))
    columns = [given[field.name] if field.name in given else pa.nulls(table.num_rows, field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _small_files(manifest: Manifest) -> list[Part]:
    """Files of one day to put together, or none. Those of about one size: a large one is not written anew for each
    late transaction."""
    days: dict[str, list[Part]] = {}
    for part in manifest.parts:
        if part.bytes < TARGET_BYTES:
            days.setdefault(part.day, []).append(part)
    for folder, parts in days.items():
        began = datetime.combine(date.fromisoformat(folder[-10:]), datetime.min.time(), UTC)
        if int(began.timestamp()) * 1_000_000 + DAY_US + SLACK_US > manifest.watermark:
            continue
        chosen: list[Part] = []
        size = 0
        for part in sorted(parts, key=lambda part: part.bytes):
            if size >= TARGET_BYTES or (len(chosen) >= MERGED and part.bytes > size):
                break
            chosen.append(part)
            size += part.bytes
        if len(chosen) >= MERGED:
            return sorted(chosen, key=lambda part: part.first)
    return []
