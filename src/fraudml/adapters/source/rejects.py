"""The rejects file: every refused row with its file, line, reasons and content."""

# ruff: noqa: S608 - SQL is put together here from quoted names and literals, see tables.py
from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TextIO
from uuid import uuid4

import duckdb
import pyarrow as pa

from fraudml.adapters.source.tables import FileTable, Table, name, open_binary
from fraudml.errors import DataError
from fraudml.events.cards import CANDIDATE, CardHasher, looks_like_card
from fraudml.events.source import Rejects

HEADER = ("file", "line", "reason", "row")
MAX_ROW_CHARACTERS = 10_000
_CARD_IN_TEXT = re.compile(rf"(?<![0-9]){CANDIDATE}(?![0-9])")
_FORGET = "DROP TABLE reject_errors; DROP TABLE reject_scans"
_REASONS = {
    "TOO MANY COLUMNS": "malformed line: too many fields",
    "MISSING COLUMNS": "malformed line: too few fields",
    "UNQUOTED VALUE": "malformed line: a quote is not closed",
    "LINE SIZE OVER MAXIMUM": "malformed line: too long",
    "INVALID ENCODING": "malformed line: not UTF-8",
}


class RejectFile:
    """Writes rejects as they are found, and counts them; the file exists only when there are any.

    It gets its name when it is finished: another run of the same command may write its own meanwhile.
    """

    def __init__(self, path: Path, hasher: CardHasher) -> None:
        self._path = path
        self._draft = path.with_name(f"{path.name}.part-{uuid4().hex[:8]}")
        self._hasher = hasher
        self._file: TextIO | None = None
        self.reasons: Counter[str] = Counter()
        self.count = 0
        path.unlink(missing_ok=True)

    def add_file(
        self,
        connection: duckdb.DuckDBPyConnection,
        table: FileTable,
        columns: list[str],
        broken: dict[int, str],
        malformed: dict[int, tuple[str, str]],
    ) -> None:
        """Write a file's rejects: ``broken`` maps row numbers (from 0) to reasons, ``malformed`` the numbers of
        records that are no rows at all (see :func:`malformed_lines`) to reason and text. A line number of 0 means
        that it could not be told."""
        if table.parquet or not (broken or malformed):
            self.add(connection, table, columns, broken)
            return
        rows = _rows(connection, table, columns, broken)
        pending = next(rows, None)
        for line, record, number in _lines(table, malformed):
            if record in malformed:
                reason, text = malformed[record]
                self._write(table, line, reason, json.dumps({"line": self._clean(text)}, ensure_ascii=False))
            elif pending is not None and pending[0] == number:
                self._write(table, line, broken[number], self._json(pending[1]))
                pending = next(rows, None)
        while pending is not None:  # quotes so broken that lines cannot be told: better without than not at all
            self._write(table, 0, broken[pending[0]], self._json(pending[1]))
            pending = next(rows, None)
        if broken:
            connection.execute(_FORGET)

    def add(
        self,
        connection: duckdb.DuckDBPyConnection,
        table: Table,
        columns: list[str],
        broken: dict[int, str],
        first: int = 0,
    ) -> None:
        """Write the rejects of a table whose lines are its rows: ``broken`` maps row numbers (from 0) to reasons;
        ``first`` is the number of the row that they are counted from."""
        for number, row in _rows(connection, table, columns, broken):
            self._write(table, first + number + 1, broken[number], self._json(row))

    def summary(self, rows: int) -> Rejects:
        """What was refused of ``rows`` rows."""
        return Rejects(rows, self.count, dict(self.reasons.most_common()), self._path if self.count else None)

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None and not self._file.closed:
            self._file.close()
            self._draft.replace(self._path)

    def _write(self, table: Table, line: int, reason: str, row: str) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._draft.touch(mode=0o600)  # rows are personal data
            self._file = self._draft.open("w", encoding="utf-8", newline="")
            csv.writer(self._file).writerow(HEADER)
        csv.writer(self._file).writerow((table.name, line, reason, row[:MAX_ROW_CHARACTERS]))
        self.count += 1
        for part in reason.split("; "):
            self.reasons[part] += 1

    def _json(self, row: dict[str, object]) -> str:
        clean = {column: self._clean(value) if value is not None else None for column, value in row.items()}
        return json.dumps(clean, ensure_ascii=False)

    def _clean(self, value: object) -> str:
        """Text with everything in it that looks like a card number replaced."""
        text = str(value)
        if len(text) < 13:
            return text
        text = _CARD_IN_TEXT.sub(lambda match: self._hasher(match[0]), text)
        try:
            digits = str(abs(int(float(text))))  # 4.111111111111111e15
        except (ValueError, OverflowError):
            return text
        return self._hasher(digits) if looks_like_card(digits) else text


def malformed_lines(connection: duckdb.DuckDBPyConnection) -> dict[int, tuple[str, str]]:
    """What DuckDB could not split into fields in the scan before: record number -> (reason, text).

    Records are counted from 1, the header and empty lines included. Clears the list.
    """
    found: dict[int, tuple[str, str]] = {}
    query = "SELECT line, error_type::VARCHAR, csv_line FROM reject_errors ORDER BY ALL"
    for record, kind, text in connection.execute(query).fetchall():
        found.setdefault(record, (_REASONS.get(kind, f"malformed line: {kind.lower()}"), (text or "").strip("\r\n")))
    connection.execute(_FORGET)
    return found


def _rows(
    connection: duckdb.DuckDBPyConnection, table: Table, columns: list[str], broken: dict[int, str]
) -> Iterator[tuple[int, dict[str, object]]]:
    """The raw rows of these numbers, in order: a second scan, paid for only by files with rejects."""
    if not broken:
        return
    numbers = pa.table({"number": pa.array(sorted(broken), pa.int64())})
    selected = ", ".join(f"{name(column)}::VARCHAR" for column in columns)
    connection.register("broken_rows", numbers)
    cursor = connection.execute(
        f"SELECT * FROM (SELECT row_number() OVER () - 1 AS number, {selected} FROM {table.raw_scan}) "
        "WHERE number IN (SELECT number FROM broken_rows) ORDER BY number"
    )
    while rows := cursor.fetchmany(10_000):
        for number, *values in rows:
            yield number, dict(zip(columns, values, strict=True))
    connection.unregister("broken_rows")


def _lines(table: FileTable, malformed: dict[int, tuple[str, str]]) -> Iterator[tuple[int, int, int]]:
    """Every record after the header as (its first line, its number as in ``malformed``, its row number from 0).

    A quoted field may run over several lines; a malformed record's own text says over how many.
    """
    record, row, line, quotes, start, extra = 0, -1, 0, 0, 1, 0
    with open_binary(table.path) as file:
        for raw in _split(file, table):
            line += 1
            if extra:
                extra -= 1
                continue
            if not quotes:
                start = line
                record += 1
                if record in malformed:
                    extra = malformed[record][1].count(table.newline)
                    yield start, record, -1
                    continue
                if not raw.strip("\r\n"):
                    continue
            quotes = (quotes + raw.count('"')) % 2
            if not quotes:
                if record > 1:
                    row += 1
                    yield start, record, row
                continue


def _split(file: IO[bytes], table: FileTable) -> Iterator[str]:
    try:
        with io.TextIOWrapper(file, encoding=table.encoding, errors="replace", newline=table.newline) as text:
            yield from text
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {table.path}: {error}") from None
