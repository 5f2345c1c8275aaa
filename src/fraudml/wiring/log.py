"""Where decisions, labels and keys are kept, and journals for when that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from fraudml.adapters.connections import postgres
from fraudml.events.schema import Schema
from fraudml.settings import Settings
from fraudml.wiring.databases import check_sqlite, log_engine

if TYPE_CHECKING:
    from fraudml.decisions.journal import Journal
    from fraudml.decisions.keys import KeyStore
    from fraudml.decisions.log import DecisionLog


def decision_log(settings: Settings, schema: Schema) -> DecisionLog:
    """The decision log. One in SQLite is migrated to this version's tables, one in PostgreSQL if it is empty."""
    url = settings.log_url()
    if postgres.is_postgres(url):
        engine = log_engine(settings)
        from fraudml.adapters.log.postgres import PostgresDecisionLog

        return PostgresDecisionLog(engine, schema, place=postgres.place(url), timeout_ms=settings.log_timeout_ms)
    check_sqlite(settings)
    from fraudml.adapters.log.sqlite import SqliteDecisionLog
    from fraudml.decisions.log import Durability

    return SqliteDecisionLog(
        url, schema, durability=Durability(settings.durability), timeout_ms=settings.log_timeout_ms
    )


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
