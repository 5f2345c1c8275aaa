"""Where decisions, labels and keys are kept, and journals for when that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fraudml.adapters.connections import postgres
from fraudml.errors import ConfigError
from fraudml.events.schema import Schema
from fraudml.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from fraudml.adapters.log._migrate import Tables
    from fraudml.decisions.journal import Journal
    from fraudml.decisions.keys import KeyStore
    from fraudml.decisions.log import DecisionLog


def decision_log(settings: Settings, schema: Schema) -> DecisionLog:
    """The decision log. One in SQLite is migrated to this version's tables, one in PostgreSQL if it is empty."""
    url = settings.log_url()
    if postgres.is_postgres(url):
        engine = _log_engine(settings)
        from fraudml.adapters.log.postgres import PostgresDecisionLog

        return PostgresDecisionLog(engine, schema, place=postgres.place(url), timeout_ms=settings.log_timeout_ms)
    _check_sqlite(url)
    from fraudml.adapters.log.sqlite import SqliteDecisionLog
    from fraudml.decisions.log import Durability

    return SqliteDecisionLog(
        url, schema, durability=Durability(settings.durability), timeout_ms=settings.log_timeout_ms
    )


class Database(NamedTuple):
    """A database for decisions: its name for people, and its tables (see :class:`fraudml.adapters.log._migrate.Tables`)
    as they are, or were before :func:`upgrade_database`."""

    place: str
    tables: Tables


def database(settings: Settings) -> Database:
    """Which tables the decision log's database has. Nothing is made or changed."""
    url = settings.log_url()
    if postgres.is_postgres(url):
        from fraudml.adapters.log.postgres import upgrade

        with _disposed(_log_engine(settings)) as engine:
            return Database(postgres.place(url), upgrade.tables(engine))
    _check_sqlite(url)
    from fraudml.adapters.log import _connection

    return Database(str(_connection.database_file(url)), _connection.tables(url))


def upgrade_database(settings: Settings) -> Database:
    """Bring the decision log's database to this version's tables."""
    url = settings.log_url()
    if postgres.is_postgres(url):
        from fraudml.adapters.log.postgres import upgrade

        with _disposed(_log_engine(settings)) as engine:
            return Database(postgres.place(url), upgrade.upgrade(engine, postgres.place(url)))
    before = database(settings)
    from fraudml.adapters.log import _connection

    _connection.connect(url).dispose()
    return before


@contextmanager
def keys(settings: Settings, schema: Schema) -> Iterator[KeyStore]:
    """The API keys, kept beside the decision log."""
    log = decision_log(settings, schema)
    try:
        yield log.keys
    finally:
        log.close()


def journals(settings: Settings, schema: Schema) -> tuple[Journal, list[Journal]]:
    """Where this process keeps decisions while the decision log cannot take them, and the journals that processes of
    this home directory which ended have left.

    A database inside the home directory is told by its path in there, so that home can be moved or restored elsewhere;
    one in PostgreSQL by host, port and name, so that its password can change.
    """
    from fraudml.adapters.log import journal
    from fraudml.decisions.log import WRITERS

    home, url = settings.home.resolve(), settings.log_url()
    place = f"postgresql://{postgres.place(url)}" if postgres.is_postgres(url) else _place_of_file(home, url)
    name = f"decisions-{sha256(place.encode()).hexdigest()[:12]}.journal"
    own, left = journal.claim(home / "journal" / name, names(schema), WRITERS)
    return own, [*left]


def names(schema: Schema) -> list[str]:
    """What tells the values of a transaction apart: those of other names cannot be read as ours."""
    entities = [f"entity {entity}" for entity in schema.entity_names]
    return entities + [f"attribute {attribute}" for attribute in schema.attribute_names]


def _place_of_file(home: Path, url: str) -> str:
    from fraudml.adapters.log._connection import database_file

    file = database_file(url).resolve()
    return (file.relative_to(home) if file.is_relative_to(home) else file).as_posix()


def _log_engine(settings: Settings) -> Engine:
    pool = postgres.Pool(
        settings.db_pool_size,
        settings.db_pool_overflow,
        settings.db_pool_recycle_s,
        settings.db_pool_timeout_ms / 1_000,
    )
    return postgres.engine(settings.log_url(), pool)


@contextmanager
def _disposed(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


def _check_sqlite(url: str) -> None:
    if not url.startswith("sqlite:"):
        raise ConfigError("FRAUDML_DATABASE_URL must start with sqlite:// or postgresql://")
