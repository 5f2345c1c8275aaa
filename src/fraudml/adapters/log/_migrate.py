"""Brings a database to the tables that this version of fraudml uses, with Alembic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from fraudml.errors import DecisionLogError

MIGRATIONS = Path(__file__).parent / "migrations"  # of SQLite; each database has its own
# Not Alembic's default name, which MLflow uses: both may live in one database.
VERSION_TABLE = "fraudml_schema_version"


class Step(NamedTuple):
    """A migration: its revision, and what it does in a line."""

    revision: str
    title: str


class Tables(NamedTuple):
    """Which tables a database has: ``found``, ``None`` for none, and ``current``, those of this version. ``missing``
    leads from one to the other."""

    found: str | None
    current: str
    missing: tuple[Step, ...]


def upgrade(connection: sa.Connection, folder: Path = MIGRATIONS, *, one_by_one: bool = False) -> None:
    """Run the missing migrations inside the connection's open transaction; ``one_by_one`` in one of its own each.

    Raises ``DecisionLogError`` when the database was made by a newer fraudml.
    """
    if not tables(connection, folder).missing:
        return
    script = ScriptDirectory(str(folder))

    def steps(current: Any, context: MigrationContext) -> Iterator[Any]:
        del context
        yield from script._upgrade_revs("head", current)

    if one_by_one:
        connection.commit()  # of having looked: Alembic begins its own
    with EnvironmentContext(Config(), script, fn=steps) as environment:
        environment.configure(
            connection=connection,
            version_table=VERSION_TABLE,
            transactional_ddl=True,
            transaction_per_migration=one_by_one,
        )
        if one_by_one:
            with environment.begin_transaction():
                environment.run_migrations()
        else:
            environment.run_migrations()


def tables(connection: sa.Connection, folder: Path = MIGRATIONS) -> Tables:
    """Which tables a database has; ``DecisionLogError`` when a newer fraudml made them."""
    return compared(revision(connection), folder)


def compared(found: str | None, folder: Path = MIGRATIONS) -> Tables:
    """The same for a revision."""
    script = ScriptDirectory(str(folder))
    steps = [*script.walk_revisions()]  # the newest first
    current = steps[0].revision
    known = [step.revision for step in steps]
    if found is not None and found not in known:
        raise DecisionLogError(
            f"the database has tables of a newer fraudml (revision {found}; this one knows up to "
            f"{current}): install the newer fraudml, or use another database"
        )
    newer = steps if found is None else steps[: known.index(found)]
    missing = tuple(Step(step.revision, str(step.doc).rstrip(".")) for step in reversed(newer))
    return Tables(found, current, missing)


def revision(connection: sa.Connection) -> str | None:
    """The revision that the database is at; ``None`` for an empty one."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()
