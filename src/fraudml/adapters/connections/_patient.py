"""A connection to PostgreSQL that never waits for ever. Only imported where psycopg is installed."""

from __future__ import annotations

from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

Result = TypeVar("Result")


class PatientConnection(psycopg.Connection[Any]):
    """Every call ends within ``patience_s``: a server that hangs, or a network that swallows packets, is an
    ``OperationalError``, and the connection is closed, because an answer that comes later would be taken for that to
    another question."""

    patience_s = 15.0

    def wait(self, gen: PQGen[Result], interval: float = 0.1, timeout: float | None = None) -> Result:
        """What the generator returns."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.patience_s)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer within {self.patience_s:g} s") from None
