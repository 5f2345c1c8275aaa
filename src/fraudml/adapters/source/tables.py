"""The files behind a name or a glob, and how DuckDB reads one of them: delimiter, encoding, columns.

DuckDB's own sniffer gives up on files with broken lines, so the little that is needed is found here: every file
must have a header line, and the delimiter is the one that the header is written with.
"""

# ruff: noqa: S608 - SQL is put together here from quoted names and literals, see tables.py
from __future__ import annotations

import codecs
import csv
import difflib
import glob
import gzip
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import duckdb
import msgspec
import pyarrow as pa

from fraudml.errors import DataError

SAMPLE_BYTES = 262_144
DELIMITERS = ",;\t|"
PARQUET = (".parquet", ".pq")
CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz")


def literal(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def literals(texts: Iterable[str]) -> str:
    """A SQL list of string literals, for IN."""
    return f"({', '.join(map(literal, sorted(texts)))})"


def name(column: str) -> str:
    """A quoted SQL identifier."""
    return '"' + column.replace('"', '""') + '"'


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """What is read as one table. ``name``: how messages and the rejects file call it; ``columns`` maps names to DuckDB
    types."""

    name: str
    columns: dict[str, str]

    @property
    def scan(self) -> str:
        """The SQL that reads it, each column in its type."""
        raise NotImplementedError

    @property
    def raw_scan(self) -> str:
        """The SQL that reads it as the rejects file shows it."""
        return self.scan


class FileTable(Table, frozen=True, kw_only=True):
    """One file as a table; all columns of a CSV are ``VARCHAR``. ``bytes_per_row`` is an estimate (0 when unknown),
    ``rows`` exact or -1."""

    path: Path
    call: str
    parquet: bool
    rows: int = -1
    bytes_per_row: float = 0.0
    newline: str = "\n"
    encoding: str = "utf-8"

    @property
    def scan(self) -> str:
        """The SQL that reads the file. Malformed lines of a CSV are left out and noted in ``reject_errors``; which
        lines count as malformed depends on the columns that the query reads."""
        return f"{self.call})" if self.parquet else f"{self.call}, store_rejects=true, rejects_limit=0)"

    @property
    def compressed(self) -> bool:
        """True for a gzipped CSV."""
        return self.path.suffix == ".gz"

    def expected_rows(self) -> int | None:
        """The number of rows: exact for Parquet, estimated for plain CSV, ``None`` for compressed CSV."""
        if self.parquet:
            return self.rows
        if self.compressed or not self.bytes_per_row:
            return None
        return int(self.path.stat().st_size / self.bytes_per_row)


def connect(threads: int, memory_limit: str) -> duckdb.DuckDBPyConnection:
    """A connection of its own; ``threads``: 0 uses all cores."""
    config: dict[str, str | bool | int | float | list[str]] = {"memory_limit": memory_limit}
    if threads:
        config["threads"] = threads
    connection = duckdb.connect(config=config)
    connection.execute("SET enable_progress_bar = false")  # it would go to standard output, among the results
    return connection


def first_line(error: Exception) -> str:
    """The first line of an error: DuckDB adds hints and candidates below it."""
    return str(error).strip().partition("\n")[0]


def stream(relation: duckdb.DuckDBPyRelation, rows: int, what: str) -> Iterator[pa.RecordBatch]:
    """A result in batches; a failure amid them is a DataError about ``what`` (Arrow makes an OSError of DuckDB's)."""
    reader = relation.to_arrow_reader(rows)
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"cannot read {what}: {first_line(error)}") from error
        yield batch


def find(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The files behind names, globs and folders, sorted within each; raises DataError when there are none."""
    found: list[Path] = []
    for entry in [paths] if isinstance(paths, (str, Path)) else paths:
        path = Path(entry)
        if path.is_dir():
            matches = sorted(child for child in path.iterdir() if child.name.lower().endswith(CSV + PARQUET))
        elif path.exists():
            matches = [path]
        else:
            matches = sorted(Path(match) for match in glob.glob(str(entry)) if Path(match).is_file())  # noqa: PTH207
        if not matches:
            raise DataError(f"there is no file {entry}")
        found += [match for match in matches if match not in found]
    if not found:
        raise DataError("no file was named")
    kinds = {is_parquet(path) for path in found}
    if len(kinds) > 1:
        raise DataError("the files are a mixture of CSV and Parquet; read one kind at a time")
    return found


def is_parquet(path: Path) -> bool:
    """True for a Parquet file, by its first bytes: names lie."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def describe(path: Path, connection: duckdb.DuckDBPyConnection) -> FileTable:
    """Look at a file's head; raises DataError when it cannot be read as a table."""
    return _parquet(path, connection) if is_parquet(path) else _csv(path)


def require(table: Table, wanted: Sequence[str]) -> None:
    """Raise DataError that names the columns a file lacks and their nearest neighbours."""
    missing = []
    for column in wanted:
        if column not in table.columns:
            lower = {existing.lower(): existing for existing in table.columns}
            close = difflib.get_close_matches(column.lower(), lower, n=1)
            missing.append(f"{column!r}" + (f" (did you mean {lower[close[0]]!r}?)" if close else ""))
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise DataError(f"{table.name} lacks the column{plural} {', '.join(missing)} of the schema")


def open_binary(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _parquet(path: Path, connection: duckdb.DuckDBPyConnection) -> FileTable:
    call = f"read_parquet({literal(_plain(path))}, binary_as_string=true"
    try:
        columns = {row[0]: row[1] for row in connection.sql(f"DESCRIBE FROM {call})").fetchall()}
        rows = connection.sql(f"SELECT count(*) FROM {call})").fetchall()
    except duckdb.Error as error:
        raise DataError(f"cannot read {path} as Parquet: {first_line(error)}") from None
    return FileTable(name=str(path), columns=columns, path=path, call=call, parquet=True, rows=rows[0][0])


def _csv(path: Path) -> FileTable:
    try:
        with open_binary(path) as file:
            head = file.read(SAMPLE_BYTES)
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    encoding = _encoding(head)
    text = head.decode(encoding, errors="replace").removeprefix("\ufeff")
    newline = "\n" if "\n" in text or "\r" not in text else "\r"
    first = text.partition(newline)[0].rstrip("\r")
    if not first.strip():
        raise DataError(f"{path} is empty, or its first line is; the first line must name the columns")
    if "\0" in first:
        raise DataError(f"{path} is neither CSV nor Parquet")
    delimiter = _delimiter(first)
    columns = dict.fromkeys(_header(path, text, delimiter), "VARCHAR")
    fields = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in columns)
    call = (
        f"read_csv({literal(_plain(path))}, auto_detect=false, header=true, columns={{{fields}}}, "
        f"delim={literal(delimiter)}, quote='\"', escape='\"', encoding={literal(encoding)}, nullstr='', "
        f"compression={literal('gzip' if path.suffix == '.gz' else 'none')}, max_line_size=16000000"
    )
    lines = text.count(newline)
    return FileTable(
        name=str(path),
        columns=columns,
        path=path,
        call=call,
        parquet=False,
        bytes_per_row=len(head) / lines if lines > 1 else 0.0,
        newline=newline,
        encoding=encoding,
    )


def _header(path: Path, text: str, delimiter: str) -> list[str]:
    names = [field.strip() for field in next(csv.reader(io.StringIO(text), delimiter=delimiter))]
    names = [field or f"column{position}" for position, field in enumerate(names)]
    seen: set[str] = set()
    for field in names:
        if field.lower() in seen:
            raise DataError(f"{path}: the header names the column {field!r} twice")
        seen.add(field.lower())
    if all(_is_value(field) for field in names):
        raise DataError(f"{path} has no header: its first line must name the columns, not hold values")
    return names


def _is_value(field: str) -> bool:
    return field.replace(".", "", 1).replace("-", "").isdigit()


def _delimiter(header: str) -> str:
    """The delimiter that splits the header most often, outside quotes; a comma when none does."""
    bare = "".join(header.split('"')[::2])
    return max(DELIMITERS, key=bare.count)


def _encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if head.startswith(codecs.BOM_UTF8):
        return "utf-8"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < SAMPLE_BYTES)
    except UnicodeDecodeError:
        # Broken bytes beside proper UTF-8 letters are damage; without any, the file is in a Western code page.
        return "latin-1" if head.decode("utf-8", errors="ignore").isascii() else "utf-8"
    return "utf-8"


def _plain(path: Path) -> str:
    """The path with the characters escaped that DuckDB would take for a glob."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in str(path))


def stems(tables: Iterable[FileTable]) -> Iterator[str]:
    """A distinct short name per file: ``a/day1.csv.gz`` is ``day1``, or its path where two files share that."""
    names = [_stem(table.path) for table in tables]
    tables = list(tables)
    for table, stem in zip(tables, names, strict=True):
        yield stem if names.count(stem) == 1 else table.path.as_posix()


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name
