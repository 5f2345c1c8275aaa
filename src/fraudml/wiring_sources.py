"""URLs of tables and queries to the adapters that read them: a part of ``wiring``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fraudml.errors import ConfigError, MissingExtra, SourceError
from fraudml.events import address
from fraudml.events.address import Address

if TYPE_CHECKING:
    from fraudml.adapters.source.relation import Relation
    from fraudml.settings import Settings

NAMED = "the source"  # what messages call a URL that cannot be repeated


def relations(settings: Settings, paths: str | Sequence[str]) -> list[Relation]:
    """The tables and queries that URLs name, none of them opened yet; an empty list when files are named."""
    named = [paths] if isinstance(paths, str) else list(paths)
    urls = [path for path in named if address.is_url(path)]
    if urls and len(urls) < len(named):
        raise ConfigError("name files or URLs of databases, not both at once")
    return [_relation(settings, address.parse(url)) for url in urls]


def _relation(settings: Settings, found: Address) -> Relation:
    password = settings.source_password.get_secret_value() if settings.source_password is not None else ""
    match found.scheme:
        case "postgresql":
            from fraudml.adapters.connections import postgres

            try:
                from fraudml.adapters.source.postgres import PostgresRelation
            except ImportError:
                raise MissingExtra("postgres") from None
            server = found.server(password)
            opened = partial(postgres.open_connection, server, setting=NAMED, failure=SourceError, autocommit=True)
            return PostgresRelation(found, opened, settings.source_timeout_s)
        case "duckdb":
            from fraudml.adapters.connections import duckdb
            from fraudml.adapters.source.duckdb import DuckDBRelation

            return DuckDBRelation(found, partial(duckdb.open_connection, Path(found.places[0])))
        case "snowflake":
            from fraudml.adapters.connections.snowflake import SnowflakeSession

            session = SnowflakeSession(found.server(password), NAMED)
            from fraudml.adapters.source.snowflake import SnowflakeRelation

            return SnowflakeRelation(found, session.connect)
    from fraudml.adapters.connections.bigquery import BigQuerySession

    clients = BigQuerySession(found.server(), NAMED)
    from fraudml.adapters.source.bigquery import BigQueryRelation

    return BigQueryRelation(found, clients.open, settings.source_timeout_s)
