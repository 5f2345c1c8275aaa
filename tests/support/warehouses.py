"""The tables of a warehouse as tests look at them: not through the adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from fraudml.adapters.connections.bigquery import BigQuerySession
from fraudml.adapters.connections.files import open_files
from fraudml.adapters.connections.snowflake import SnowflakeSession, parameters
from fraudml.decisions.warehouse import Warehouse
from tests.support.servers.bigquery import BigQueryServer

SETTING = "FRAUDML_WAREHOUSE_URL"


@dataclass(frozen=True)
class Tables:
    """``open`` connects an adapter; ``rows`` gives the columns of a table by arrival; ``url`` is for settings."""

    url: str
    open: Callable[[], Warehouse]
    rows: Callable[[str, Sequence[str]], list[tuple[Any, ...]]]


def snowflake_tables(url: str) -> Tables:
    """Those in a schema of the emulator."""
    from snowflake.connector import connect

    from fraudml.adapters.warehouse.snowflake import SnowflakeWarehouse

    def rows(table: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        names = ", ".join(f'"{column.upper()}"' for column in columns)
        with connect(**parameters(url, SETTING)) as connection, connection.cursor() as cursor:
            return cursor.execute(f'SELECT {names} FROM {table} ORDER BY "ARRIVAL"').fetchall()  # noqa: S608

    return Tables(url, lambda: SnowflakeWarehouse(SnowflakeSession(url, SETTING)), rows)


def bigquery_tables(server: BigQueryServer) -> Tables:
    """Those in the data set of the emulator."""
    from fraudml.adapters.warehouse.bigquery import BigQueryWarehouse

    def rows(table: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        names = ", ".join(f'"{column}"' for column in columns)
        return server.rows(f"SELECT {names} FROM {server.table_of(table)} ORDER BY arrival")  # noqa: S608

    return Tables(server.url, lambda: BigQueryWarehouse(BigQuerySession(server.url, SETTING)), rows)


def parquet_tables(url: str) -> Tables:
    """Those in files below a URL, as one reads them who knows nothing of manifests: all files that are there."""
    from fraudml.adapters.warehouse.parquet import ParquetWarehouse

    system, root = fsspec.url_to_fs(url)

    def rows(table: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        names = system.find(f"{root}/{table.removeprefix('fraudml_')}")
        parts = [pq.read_table(pa.BufferReader(system.cat_file(name)), partitioning=None) for name in names]
        if not parts:
            return []
        whole = pa.concat_tables(parts, promote_options="default").sort_by("arrival")
        return [tuple(row.values()) for row in whole.select(list(columns)).to_pylist()]

    return Tables(url, lambda: ParquetWarehouse(open_files(url, SETTING)), rows)
