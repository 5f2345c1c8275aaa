"""Where transactions of the past come from: files, and the tables and queries of databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fraudml.errors import ConfigError, MissingExtra, SourceError
from fraudml.events import address
from fraudml.events.address import Address
from fraudml.events.cards import CardHasher
from fraudml.events.schema import LabelColumn, Schema
from fraudml.events.source import Rejects, TransactionSource
from fraudml.settings import Settings
from fraudml.wiring.engines import threads

if TYPE_CHECKING:
    import pyarrow as pa

    from fraudml.adapters.source.relation import Relation
    from fraudml.events.profile import TableProfile
    from fraudml.project import Project

NAMED = "the source"  # what messages call a URL that cannot be repeated


def card_hasher(settings: Settings) -> CardHasher:
    """The hasher of card numbers, under this installation's key."""
    return CardHasher(settings.secret_hash_key())


def profile(settings: Settings, paths: str | Sequence[str]) -> TableProfile:
    """The facts about the columns of files, or of databases' tables or queries, that ``fraudml init`` guesses from."""
    from fraudml.adapters.source import profile as profiler

    options: dict[str, Any] = {"threads": threads(settings), "memory_limit": settings.memory_limit}
    if found := _relations(settings, paths):
        return profiler.profile_relations(found, **options)
    return profiler.profile(paths, **options)


def label_purity(
    settings: Settings, paths: str | Sequence[str], label: LabelColumn, columns: Sequence[str]
) -> dict[str, float]:
    """How well each column alone tells the label, from 0 to 1."""
    from fraudml.adapters.source import profile as profiler

    options: dict[str, Any] = {"threads": threads(settings), "memory_limit": settings.memory_limit}
    if found := _relations(settings, paths):
        return profiler.label_purity_of_relations(found, label.column, columns, fraud=label.fraud, **options)
    return profiler.label_purity(paths, label.column, columns, fraud=label.fraud, **options)


def source(settings: Settings, schema: Schema, paths: Sequence[str], rejects: Path) -> TransactionSource:
    """History from files, or from the tables or queries of databases that URLs name; broken rows go to ``rejects``."""
    from fraudml.adapters.source.database import DatabaseSource
    from fraudml.adapters.source.files import FileSource

    options: dict[str, Any] = {
        "max_reject_share": settings.max_reject_share,
        "rejects_path": rejects,
        "threads": threads(settings),
        "memory_limit": settings.memory_limit,
    }
    if found := _relations(settings, paths):
        return DatabaseSource(found, schema, card_hasher(settings), **options)
    return FileSource(paths, schema, card_hasher(settings), **options)


class History(NamedTuple):
    """What online state is built from before the log: ``read`` reads it anew, ``rejects`` tells what the last reading
    refused. A reading is opened with its first batch: a start that fails before leaves nothing open."""

    read: Callable[[], Iterator[pa.RecordBatch]]
    rejects: Callable[[], Rejects]


def history(settings: Settings, declared: Project, paths: Sequence[str] | None, rejects: Path) -> History:
    """The files named, else the project's source; nothing for ``[""]``. A source that the project names but that is not
    there is an error: a service with empty windows would score otherwise than the model was trained.
    """
    chosen = declared.source if paths is None else paths
    if not chosen or list(chosen) == [""]:
        return History(lambda: iter(()), lambda: Rejects(0, 0, {}, None))
    found = source(settings, declared.schema, chosen, rejects)

    def read() -> Iterator[pa.RecordBatch]:
        yield from found.read()

    return History(read, found.rejects)


def _relations(settings: Settings, paths: str | Sequence[str]) -> list[Relation]:
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
