"""One connection of the hot path, spoken to through libpq itself.

A cursor of psycopg spends several times as long on a statement of one row as PostgreSQL does, and its waits have no
end. Here every call has a deadline. When it is over the connection is closed: an answer that comes later would be taken
for that to another question.
"""

from __future__ import annotations

import selectors
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg
from psycopg.pq import ExecStatus

from fraudml.adapters.log.postgres.cells import BIGINT, BOOL, BYTEA, FLOAT, TEXT
from fraudml.adapters.log.postgres.statements import Statement

BINARY = 1
_float8 = struct.Struct("!d").unpack
_READ: dict[int, Callable[[bytes], Any]] = {
    BIGINT: lambda value: int.from_bytes(value, "big", signed=True),
    BOOL: lambda value: value == b"\x01",
    BYTEA: lambda value: value,
    FLOAT: lambda value: _float8(value)[0],
    TEXT: lambda value: value.decode(),
}


class NoAnswer(psycopg.OperationalError):
    """The server did not answer in time; whether it did what it was asked is not known."""


class Session:
    """Statements on one connection (``driver``, in autocommit mode), within ``timeout_s`` from each :meth:`begin`."""

    def __init__(self, driver: Any, timeout_s: float) -> None:
        self.driver = driver
        self._pgconn = driver.pgconn
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._prepared: set[bytes] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pgconn.socket, selectors.EVENT_READ)

    @property
    def broken(self) -> bool:
        """Whether nothing more can be asked."""
        return bool(self.driver.closed)

    @property
    def lost(self) -> bool:
        """Whether it broke, perhaps while nobody used it: the server was stopped, or ended this connection."""
        try:
            while not self.broken and self._selector.select(0):
                self._pgconn.consume_input()
        except psycopg.Error:
            return True
        return self.broken

    def begin(self) -> None:
        """A call begins: its time runs from now on."""
        self._deadline = time.monotonic() + self._timeout_s

    def run(self, statement: Statement, parameters: Sequence[bytes]) -> Any:
        """The result of a statement; its parameters and its rows are in binary format."""
        if statement.name not in self._prepared:
            self._pgconn.send_prepare(statement.name, statement.text, statement.types)
            self._only_result()
            self._prepared.add(statement.name)
        self._pgconn.send_query_prepared(statement.name, parameters, [BINARY] * len(parameters), BINARY)
        return self._only_result()

    def rows(self, statement: Statement, parameters: Sequence[bytes], kinds: Sequence[int]) -> list[tuple[Any, ...]]:
        """The rows of a statement whose columns are of these types."""
        result = self.run(statement, parameters)
        read = [_READ[kind] for kind in kinds]
        get = result.get_value
        return [
            tuple(
                [None if (value := get(row, column)) is None else of_kind(value) for column, of_kind in enumerate(read)]
            )
            for row in range(result.ntuples)
        ]

    def copy(self, statements: bytes, parts: Iterable[bytes]) -> None:
        """COPY statements, sent as one, and what each of them reads: all of it, or nothing."""
        self._pgconn.send_query(statements)
        for part in parts:
            if self._result(ExecStatus.COPY_IN) is None:
                break
            while self._pgconn.put_copy_data(part) == 0:
                self._flush()
            while self._pgconn.put_copy_end() == 0:
                self._flush()
            if self._result(ExecStatus.COMMAND_OK) is None:
                break
        self._drain()

    def close(self) -> None:
        """Close the connection."""
        self._selector.close()
        self.driver.close()

    def _only_result(self) -> Any:
        result = self._result(ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)
        self._drain()
        return result

    def _result(self, *wanted: ExecStatus) -> Any:
        """The next result; raises what it says if it is not of the kind wanted."""
        result = self._next()
        if result is not None and result.status not in wanted:
            self._drain()
            raise psycopg.errors.error_from_result(result)
        return result

    def _drain(self) -> None:
        """Take what is left, so that the connection can be asked again."""
        while (result := self._next()) is not None:
            if result.status == ExecStatus.FATAL_ERROR:
                self._drain()
                raise psycopg.errors.error_from_result(result)

    def _next(self) -> Any:
        self._flush()
        pgconn = self._pgconn
        while pgconn.is_busy():
            self._wait()
            pgconn.consume_input()
        return pgconn.get_result()

    def _flush(self) -> None:
        if self._pgconn.flush() == 0:
            return
        socket = self._pgconn.socket
        self._selector.modify(socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
        try:
            while self._pgconn.flush() != 0:
                if self._wait() & selectors.EVENT_READ:
                    self._pgconn.consume_input()
        finally:
            if not self.broken:
                self._selector.modify(socket, selectors.EVENT_READ)

    def _wait(self) -> int:
        """Until the connection can be read or written; which of them. Raises ``NoAnswer`` when the time is over."""
        while (left := self._deadline - time.monotonic()) > 0:
            for _, ready in self._selector.select(left):
                return ready
        self.driver.close()
        raise NoAnswer(f"no answer within {self._timeout_s * 1_000:g} ms")
