"""Brings a PostgreSQL database to the tables of this version while older processes go on using it.

Every revision only adds: a column that may be null, a table, an index. What an older process writes stays valid, so the
order is: ``fraudml db upgrade``, then the new processes. A release later, when no process of the older one is left, a
revision may take away what nobody uses any more.

A change that needs a lock waits for it no longer than :data:`LOCK_MS`, since all traffic queues up behind it, and is
tried again. What takes long (an index, filling a column) is done outside of a transaction, where it holds up nobody.

Since revision 0006 ``transactions`` and ``decisions`` may be hypertables (:mod:`timescale`): there is no CREATE INDEX
CONCURRENTLY for them, but ``WITH (timescaledb.transaction_per_chunk)``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from psycopg.errors import LockNotAvailable

from fraudml.adapters.log import _migrate
from fraudml.adapters.log._migrate import Tables
from fraudml.adapters.log.postgres.failures import failures
from fraudml.adapters.log.postgres.long_work import LONG_S
from fraudml.errors import DecisionLogError

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK_MS = 2_000
STATEMENT_S = 60  # of changes that hold a lock; the others have no limit
TRIES = 10
PAUSE_S = 1.0  # between them, for the traffic that queued up
WAIT_S = 60.0  # for another process that upgrades
_KEY = "hashtext('fraudml upgrade ' || current_schema())"


def tables(engine: sa.Engine) -> Tables:
    """Which tables the database has; ``DecisionLogError`` when a newer fraudml made them."""
    with failures("opening"), engine.connect() as connection:
        return _migrate.tables(connection, MIGRATIONS)


def ready(engine: sa.Engine, place: str) -> None:
    """Return when the tables are those of this version; an empty database gets them.

    Older ones are a ``DecisionLogError``: it is for a person, or a deployment, to say when they change.
    """
    found = tables(engine)
    if found.found is None:
        upgrade(engine, place)
    elif found.missing:
        raise DecisionLogError(
            f"the database {place} has tables of an older fraudml (revision {found.found}; this one needs "
            f"{found.current}): run: fraudml db upgrade"
        )


def upgrade(engine: sa.Engine, place: str) -> Tables:
    """Run the missing migrations; which they were. May be called by several processes at once."""
    with _alone(engine, place):
        before = tables(engine)
        for tried in range(1, TRIES + 1):
            try:
                with failures("upgrading its tables"):
                    _run(engine, place)
                break
            except DecisionLogError as error:
                if not isinstance(error.__cause__, LockNotAvailable) or tried == TRIES:
                    raise
            time.sleep(PAUSE_S)
    return before


def _run(engine: sa.Engine, place: str) -> None:
    with engine.connect() as connection:
        try:
            driver: Any = connection.connection.driver_connection
            driver.patience_s = LONG_S
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
            if encoding != "UTF8":
                raise DecisionLogError(
                    f"the database {place} holds {encoding} and not every text: create one with ENCODING 'UTF8'"
                )
            connection.exec_driver_sql(f"SET lock_timeout = {LOCK_MS}")
            connection.exec_driver_sql(f"SET statement_timeout = '{STATEMENT_S}s'")
            connection.commit()
            _migrate.upgrade(connection, MIGRATIONS, one_by_one=True)
        finally:
            connection.invalidate()  # what was set is not for others


@contextmanager
def _alone(engine: sa.Engine, place: str) -> Iterator[None]:
    """One process at a time. It is asked again and again, as a statement that waits would be a transaction that an
    index made outside of one waits for."""
    alone = engine.execution_options(isolation_level="AUTOCOMMIT")
    with failures("upgrading its tables"), alone.connect() as connection:
        until = time.monotonic() + WAIT_S
        while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({_KEY})").scalar_one():
            if time.monotonic() >= until:
                raise DecisionLogError(f"another process upgrades {place}: wait for its end, then try again")
            time.sleep(0.1)
        try:
            yield
        finally:
            connection.invalidate()  # ends the session, and its lock with it
