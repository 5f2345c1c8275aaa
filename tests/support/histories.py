"""The same history in every technology that history can be read from: an Arrow table becomes files or a table."""

# ruff: noqa: S608 - SQL of quoted names and literals of our own
from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.support.servers.postgres import execute


class History(Protocol):
    """Somewhere to put tables; ``put`` returns what names a table to ``fraudml``."""

    def put(self, table: pa.Table, name: str = "history") -> str: ...


class CsvFiles:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, table: pa.Table, name: str = "history") -> str:
        path = self.folder / f"{name}.csv"
        pa.csv.write_csv(table, path)
        return str(path)


class ParquetFiles:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, table: pa.Table, name: str = "history") -> str:
        path = self.folder / f"{name}.parquet"
        pq.write_table(table, path)
        return str(path)


class DuckDBFile:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "history.db"

    def put(self, table: pa.Table, name: str = "history") -> str:
        with duckdb.connect(self.path) as connection:
            connection.register("incoming", table)
            connection.execute(f'CREATE TABLE "{name}" AS SELECT * FROM incoming')
        return f"duckdb:///{self.path}?table={name}"


class Postgres:
    """In the database of a URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def put(self, table: pa.Table, name: str = "history") -> str:
        columns = ", ".join(f'"{field.name}" {postgres_type(field.type)}' for field in table.schema)
        execute(self.url, f'CREATE TABLE "{name}" ({columns})')
        put_rows(self.url, name, table)
        return f"{self.url}/{name}"


class BigQuery:
    """In a data set of an emulator."""

    def __init__(self, url: str) -> None:
        self.url = url

    def put(self, table: pa.Table, name: str = "history") -> str:
        from google.cloud import bigquery

        from fraudml.adapters.connections.bigquery import BigQuerySession

        session = BigQuerySession(self.url, "the emulator").open()
        file = io.BytesIO()
        pq.write_table(table, file)
        library: Any = bigquery  # it has no types
        how = library.LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_TRUNCATE")
        session.client.load_table_from_file(file, f"{session.dataset}.{name}", rewind=True, job_config=how).result()
        session.client.close()
        return self.url.replace("?", f"/{name}?")


class Snowflake:
    """In a schema of an emulator."""

    def __init__(self, url: str) -> None:
        self.url = url

    def put(self, table: pa.Table, name: str = "HISTORY") -> str:
        from fraudml.adapters.connections.snowflake import SnowflakeSession

        columns = ", ".join(f'"{field.name}" {snowflake_type(field.type)}' for field in table.schema)
        with SnowflakeSession(self.url, "the emulator").connect() as connection, connection.cursor() as cursor:
            cursor.execute(f'CREATE TABLE "{name}" ({columns})')
            rows = [", ".join(map(_literal, row.values())) for row in table.to_pylist()]
            if rows:
                cursor.execute(f'INSERT INTO "{name}" VALUES {", ".join(f"({row})" for row in rows)}')
        return self.url.replace("?", f"/{name}?")


def open_history(name: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[History]:
    """An empty place of a kind of :data:`KINDS`."""
    if name == "postgres":
        yield Postgres(request.getfixturevalue("postgres_url"))
    elif name == "snowflake":
        yield Snowflake(request.getfixturevalue("snowflake_url"))
    elif name == "bigquery":
        yield BigQuery(request.getfixturevalue("bigquery_server").url)
    else:
        yield {"csv": CsvFiles, "parquet": ParquetFiles, "duckdb": DuckDBFile}[name](folder)


KINDS = ("csv", "parquet", "duckdb", "postgres", "snowflake", "bigquery")


def put_rows(url: str, name: str, table: pa.Table) -> None:
    """Add rows to a table of PostgreSQL."""
    import psycopg

    into = f'COPY "{name}" FROM STDIN'.encode()
    with psycopg.connect(url) as connection, connection.cursor() as cursor, cursor.copy(into) as copy:
        for row in table.to_pylist():
            copy.write_row(list(row.values()))


def postgres_type(kind: pa.DataType) -> str:
    if pa.types.is_decimal(kind):
        return f"numeric({kind.precision},{kind.scale})"
    if pa.types.is_timestamp(kind):
        return "timestamptz" if kind.tz else "timestamp"
    return {"int64": "bigint", "int32": "integer", "double": "float8", "bool": "boolean", "date32[day]": "date"}.get(
        str(kind), "text"
    )


def snowflake_type(kind: pa.DataType) -> str:
    if pa.types.is_decimal(kind):
        return f"NUMBER({kind.precision},{kind.scale})"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP_TZ" if kind.tz else "TIMESTAMP_NTZ"
    return {"int64": "NUMBER(38,0)", "double": "FLOAT", "bool": "BOOLEAN", "date32[day]": "DATE"}.get(
        str(kind), "VARCHAR"
    )


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime) and value.tzinfo is not None:
        return f"'{value.astimezone(UTC).isoformat(sep=' ')}'"
    if isinstance(value, (int, float, Decimal)):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"
