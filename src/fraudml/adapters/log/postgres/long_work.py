"""A session of one's own for work that may take hours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from fraudml.adapters.log.postgres.failures import failures

LONG_S = 86_400.0


@contextmanager
def long_work(engine: sa.Engine, doing: str) -> Iterator[Any]:
    """psycopg's connection, where each statement is a commit and none has a limit. It never returns to the pool."""
    with failures(doing), engine.connect() as connection:
        try:
            driver: Any = connection.connection.driver_connection
            driver.rollback()
            driver.autocommit = True
            driver.patience_s = LONG_S
            driver.execute("SET statement_timeout = 0")
            yield driver
        finally:
            connection.invalidate()  # what was set is not for others
