"""Statements over one connection to PostgreSQL, each with a deadline on silence.

By libpq's own functions, as psycopg gives them: its ``copy()`` waits for ever on a server that hangs, and takes nearly
twice as long for a row.
"""

from __future__ import annotations

import selectors
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

CANCEL_S = 5.0
BLOCK_BYTES = 32 * 2**20  # of rows at a time: few of them, where they are wide
_FINE = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK, ExecStatus.COPY_OUT)


class Silent(Exception):
    """The server sent nothing for the time given."""


class Statements:
    """Runs statements; ``silence_s``: how long the server may send nothing before ``Silent`` is raised.

    Everything else that goes wrong is a ``psycopg.Error``.
    """

    def __init__(self, connection: psycopg.Connection[Any], silence_s: float) -> None:
        self._connection = connection
        self._pg = connection.pgconn
        self._silence_s = silence_s
        self._hangs = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pg.socket, selectors.EVENT_READ)

    def run(self, sql: str) -> PGresult:
        """Run one statement; its last result."""
        self._pg.send_query_params(sql.encode(), None)
        return self._result()

    def value(self, sql: str) -> str:
        """The single value of a statement, as text."""
        return (self.run(sql).get_value(0, 0) or b"").decode()

    def describe(self, sql: str) -> PGresult:
        """The columns that a statement would give; it is not run."""
        self._pg.send_prepare(b"", sql.encode())
        self._result()
        self._pg.send_describe_prepared(b"")
        return self._result()

    def copy(self, sql: str, block_rows: int) -> Iterator[list[bytes]]:
        """The rows of a query as lines of CSV, in blocks. Raises when fewer arrive than the server has sent."""
        self.run(f"COPY ({sql}\n) TO STDOUT (FORMAT csv)")
        get, total, size, block = self._pg.get_copy_data, 0, 0, []
        while True:
            length, data = get(1)
            if length > 0:
                block.append(bytes(data))
                size += length
                if len(block) >= block_rows or size >= BLOCK_BYTES:
                    total += len(block)
                    yield block
                    size, block = 0, []
            elif length == 0:
                self._wait()
            else:
                break
        done = self._result()
        if block:
            yield block
        if done.command_tuples != total + len(block):
            raise psycopg.OperationalError(f"the server sent {done.command_tuples} rows, {total + len(block)} arrived")

    def close(self) -> None:
        """End the connection, and what the server may still be doing for it."""
        self._selector.close()
        if self._pg.transaction_status == TransactionStatus.ACTIVE and not self._hangs:
            with suppress(psycopg.Error):
                self._connection.cancel_safe(timeout=CANCEL_S)
        self._connection.close()

    def _result(self) -> PGresult:
        last: PGresult | None = None
        while True:
            while self._pg.is_busy():
                self._wait()
            result = self._pg.get_result()
            if result is None:
                if last is None or last.status not in _FINE:
                    raise self._error(last)
                return last
            last = result if last is None or last.status in _FINE else last
            if result.status == ExecStatus.COPY_OUT:
                return result

    def _error(self, result: PGresult | None) -> psycopg.Error:
        if result is None:
            return psycopg.OperationalError("the connection is lost")
        return psycopg.errors.error_from_result(result, encoding="utf-8")

    def _wait(self) -> None:
        self._pg.flush()
        if not self._selector.select(self._silence_s):
            self._hangs = True
            raise Silent
        self._pg.consume_input()
