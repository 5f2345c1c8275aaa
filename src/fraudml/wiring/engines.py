"""Engines that compute over history, and warehouses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fraudml.errors import ConfigError

if TYPE_CHECKING:
    from fraudml.decisions.warehouse import Warehouse
    from fraudml.features.stores import OfflineStore
    from fraudml.settings import Settings


def threads(settings: Settings) -> int:
    """Threads for offline work: as set, or all cores this process may use."""
    if settings.threads:
        return settings.threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def offline_store(settings: Settings) -> OfflineStore:
    """An empty offline store: as set, or DuckDB."""
    if settings.offline_url is not None:
        return _server(settings, settings.offline_url.get_secret_value())
    return local_store(settings)


def local_store(settings: Settings) -> OfflineStore:
    """An empty DuckDB, whose temporary files live in the home directory."""
    from fraudml.adapters.offline.duckdb import DuckDBOfflineStore

    return DuckDBOfflineStore(
        threads=threads(settings), memory_limit=settings.memory_limit, temp_directory=settings.home / "tmp"
    )


def _server(settings: Settings, url: str) -> OfflineStore:
    """The offline store that a URL names; nothing heavy is imported for the others."""
    name = "FRAUDML_OFFLINE_URL"
    match url.partition(":")[0].lower():
        case "postgresql" | "postgres" | "postgresql+psycopg":
            from fraudml.adapters.connections import postgres_session

            connect = postgres_session.connector(url, name)
            from fraudml.adapters.offline.postgres import PostgresOfflineStore

            return PostgresOfflineStore(connect)
        case "spark" | "sc" | "k8s" | "yarn":
            from fraudml.adapters.connections import spark

            scratch = settings.home / "tmp"
            session = spark.session(url, scratch, settings.memory_limit)
            from fraudml.adapters.offline.spark import SparkOfflineStore

            return SparkOfflineStore(session, settings.spark_directory or scratch, owned=True)
        case "snowflake":
            from fraudml.adapters.connections.snowflake import SnowflakeSession
            from fraudml.adapters.offline.snowflake import SnowflakeOfflineStore

            return SnowflakeOfflineStore(SnowflakeSession(url, name))
        case "bigquery":
            from fraudml.adapters.connections.bigquery import BigQuerySession
            from fraudml.adapters.offline.bigquery import BigQueryOfflineStore

            return BigQueryOfflineStore(BigQuerySession(url, name))
    raise ConfigError(f"{name} must start with postgresql:, spark:, snowflake: or bigquery:; unset it for DuckDB")


def exported_files(settings: Settings) -> str:
    """Where the Parquet files are that decisions are exported to: a path, or a URL."""
    from fraudml.adapters.connections import files

    name = "FRAUDML_WAREHOUSE_URL"
    url = "" if settings.warehouse_url is None else settings.warehouse_url.get_secret_value()
    if not files.is_files(url):
        raise ConfigError(f"set {name} to a URL of files: it starts with file:, s3: or gs:")
    return files.open_files(url, name).place.removeprefix("file://")


def warehouse(settings: Settings) -> Warehouse:
    """The warehouse that decisions are exported to, connected."""
    name = "FRAUDML_WAREHOUSE_URL"
    url = "" if settings.warehouse_url is None else settings.warehouse_url.get_secret_value()
    match url.partition(":")[0].lower():
        case "snowflake":
            from fraudml.adapters.connections.snowflake import SnowflakeSession
            from fraudml.adapters.warehouse.snowflake import SnowflakeWarehouse

            return SnowflakeWarehouse(SnowflakeSession(url, name))
        case "bigquery":
            from fraudml.adapters.connections.bigquery import BigQuerySession
            from fraudml.adapters.warehouse.bigquery import BigQueryWarehouse

            return BigQueryWarehouse(BigQuerySession(url, name))
    from fraudml.adapters.connections import files

    if files.is_files(url):
        opened = files.open_files(url, name)
        from fraudml.adapters.warehouse.parquet import ParquetWarehouse

        return ParquetWarehouse(opened)
    raise ConfigError(f"set {name} to a URL that starts with snowflake:, bigquery:, file:, s3: or gs:")
