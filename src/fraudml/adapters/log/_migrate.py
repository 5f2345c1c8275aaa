"""Brings a database to the tables that this version of fraudml uses, with Alembic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from fraudml.errors import DecisionLogError

MIGRATIONS = Path(__file__).parent / "migrations"
# Not Alembic's default name, which MLflow uses: both may live in one database.
VERSION_TABLE = "fraudml_schema_version"


def upgrade(connection: sa.Connection) -> None:
    """Run the missing migrations inside the connection's open transaction.

    Raises ``DecisionLogError`` when the database was made by a newer fraudml.
    """
    found = revision(connection)
    script = ScriptDirectory(str(MIGRATIONS))
    known = {step.revision for step in script.walk_revisions()}
    if found is not None and found not in known:
        raise DecisionLogError(
            f"the database has tables of a newer fraudml (revision {found}; this one knows up to "
            f"{script.get_current_head()}): install the newer fraudml, or use another database"
        )
    if found == script.get_current_head():
        return

    def steps(current: Any, context: MigrationContext) -> Iterator[Any]:
        del context
        yield from script._upgrade_revs("head", current)

    with EnvironmentContext(Config(), script, fn=steps) as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE, transactional_ddl=True)
        environment.run_migrations()


def revision(connection: sa.Connection) -> str | None:
    """The revision that the database is at; ``None`` for an empty one."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()
