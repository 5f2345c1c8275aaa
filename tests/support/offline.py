"""Offline stores for tests, from URLs of servers."""

from __future__ import annotations

from fraudml.adapters.connections import postgres_session
from fraudml.adapters.connections.bigquery import BigQuerySession
from fraudml.adapters.connections.snowflake import SnowflakeSession
from fraudml.features.stores import OfflineStore

SETTING = "FRAUDML_OFFLINE_URL"


def open_postgres(url: str) -> OfflineStore:
    """A store in a PostgreSQL database."""
    from fraudml.adapters.offline.postgres import PostgresOfflineStore

    return PostgresOfflineStore(postgres_session.connector(url, SETTING))


def open_snowflake(url: str) -> OfflineStore:
    """A store in a schema of Snowflake."""
    from fraudml.adapters.offline.snowflake import SnowflakeOfflineStore

    return SnowflakeOfflineStore(SnowflakeSession(url, SETTING))


def open_bigquery(url: str) -> OfflineStore:
    """A store in a data set of BigQuery."""
    from fraudml.adapters.offline.bigquery import BigQueryOfflineStore

    return BigQueryOfflineStore(BigQuerySession(url, SETTING))
