"""The calls of every batch: find, append, append_labels.

They talk to the driver themselves: through SQLAlchemy's connection they would take ten times as long as SQLite needs
for them. The driver gives the interpreter lock away in every call into SQLite and, where other threads are busy, waits
up to 5 ms to get it back. So a batch is a few statements of many rows, never a statement for each row.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from fraudml.adapters.log._checkpoint import Checkpointer
from fraudml.adapters.log._connection import CACHE_KIB, failures
from fraudml.adapters.log._rows import Row, RowCodec, report
from fraudml.adapters.log._tables import decisions, labels, transactions
from fraudml.decisions.log import is_news
from fraudml.decisions.record import Decision, LabelReport
from fraudml.errors import DecisionLogError

# Statements are made for 1, 2, 4, ... ids or rows, so that the driver finds each prepared: it keeps 128 of them.
MOST_IDS = 1_024
MOST_ROWS = 256  # times 11 columns: SQLite takes at most 32,766 parameters
# Commits leave the checkpoint to another thread; this many pages of log mean that it does not keep up.
PAGES_UNTIL_COMMITS_HELP = 131_072


def sql(statement: sa.Select[Any]) -> str:
    """The statement as text: compiled once instead of at each call."""
    return str(statement.compile(dialect=SQLiteDialect_pysqlite(), compile_kwargs={"literal_binds": True}))


_decided = [column for column in decisions.c if column.name != "arrival"]
_KNOWN = sql(sa.select(transactions.c.transaction_id)) + " WHERE transaction_id IN ({})"
_FIND = sql(sa.select(*transactions.c, *_decided).select_from(transactions.join(decisions)))
_FIND += " WHERE transactions.transaction_id IN ({})"
_reported = (labels.c.transaction_id, labels.c.is_fraud, labels.c.known_at_us, labels.c.arrival)
_HISTORY = sql(sa.select(*_reported)) + " WHERE transaction_id IN ({}) ORDER BY arrival"


class Line:
    """One connection, used by one thread at a time.

    A call waits ``timeout_ms`` for another thread's, and as long for another process's; then it is a
    ``DecisionLogError``.
    """

    def __init__(self, engine: sa.Engine, timeout_ms: int) -> None:
        self._timeout_ms = timeout_ms
        self.lock = threading.Lock()
        with failures("opening"):
            self._pooled = engine.raw_connection()
            driver: Any = self._pooled.driver_connection
            for pragma in (
                f"busy_timeout={timeout_ms}",
                f"cache_size=-{CACHE_KIB}",
                f"wal_autocheckpoint={PAGES_UNTIL_COMMITS_HELP}",
            ):
                driver.execute(f"PRAGMA {pragma}").close()
        self._driver = driver

    @contextmanager
    def turn(self, doing: str) -> Iterator[Any]:
        """The driver's connection, for this thread alone."""
        if not self.lock.acquire(timeout=self._timeout_ms / 1_000):
            raise DecisionLogError(
                f"the decision log failed while {doing}: another call took longer than {self._timeout_ms} ms; "
                "try again, or raise FRAUDML_LOG_TIMEOUT_MS"
            )
        try:
            with failures(doing):
                yield self._driver
        finally:
            self.lock.release()

    @contextmanager
    def commit(self, doing: str) -> Iterator[Any]:
        """The same for one commit: all of it, or nothing."""
        with self.turn(doing) as driver:
            driver.execute("BEGIN IMMEDIATE")
            try:
                yield driver
                driver.execute("COMMIT")
            except BaseException:
                if driver.in_transaction:
                    driver.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Give the connection back."""
        with self.lock:
            self._pooled.close()


class HotPath:
    """The calls of every batch. Reading has a connection of its own, so that it does not wait for a commit."""

    def __init__(self, engine: sa.Engine, codec: RowCodec, timeout_ms: int) -> None:
        self._codec = codec
        self._reader = Line(engine, timeout_ms)
        self._writer = Line(engine, timeout_ms)
        self._checkpointer = Checkpointer(engine, self._writer.lock)

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        """The known ones among the ids. Most often there are none, which the index alone can tell."""
        with self._reader.turn("reading") as driver:
            known = [row[0] for row in _by_ids(driver, _KNOWN, transaction_ids)]
            rows = list(_by_ids(driver, _FIND, known))
        found = map(self._codec.decision, rows)
        return {decision.transaction.transaction_id: decision for decision in found}

    def append(self, batch: Sequence[Decision]) -> None:
        """One commit for all."""
        first, second = self._codec.rows(batch)
        with self._writer.commit("writing decisions") as driver:
            _insert(driver, transactions, first)
            _insert(driver, decisions, second)
        self._checkpointer.wrote(len(batch))

    def append_labels(self, reports: Sequence[LabelReport]) -> list[LabelReport]:
        """What is news, in one commit."""
        news = []
        values: list[Any] = []
        ids = list({item.label.transaction_id for item in reports})
        with self._writer.commit("writing labels") as driver:
            known: dict[str, list[LabelReport]] = {}
            for row in _by_ids(driver, _HISTORY, ids):
                known.setdefault(row[0], []).append(report(row))
            for item in reports:
                label = item.label
                history = known.setdefault(label.transaction_id, [])
                if is_news(history, label):
                    history.append(item)
                    news.append(item)
                    values += (
                        item.arrival,
                        label.transaction_id,
                        len(history),
                        int(label.is_fraud),
                        label.known_at_us,
                    )
            _insert(driver, labels, values)
        self._checkpointer.wrote(len(news))
        return news

    def label_history(self, transaction_id: str) -> list[LabelReport]:
        """The reports about one transaction."""
        with self._reader.turn("reading") as driver:
            return [report(row) for row in _by_ids(driver, _HISTORY, [transaction_id])]

    def close(self) -> None:
        """Give the connections back; ends the thread that makes checkpoints."""
        self._checkpointer.close()
        self._writer.close()
        self._reader.close()


def _by_ids(driver: Any, text: str, ids: Sequence[str]) -> Iterator[Row]:
    """The rows for these ids. Lists are filled up by repeating an id."""
    for start in range(0, len(ids), MOST_IDS):
        chunk = list(ids[start : start + MOST_IDS])
        size = _power_of_two(len(chunk))
        chunk += chunk[:1] * (size - len(chunk))
        yield from driver.execute(_placeholders(text, size), chunk).fetchall()


def _insert(driver: Any, table: sa.Table, values: list[Any]) -> None:
    """Insert rows, given as one flat list. Statements are filled up with rows that their limit cuts off."""
    width = len(table.columns)
    for start in range(0, len(values), MOST_ROWS * width):
        chunk = values[start : start + MOST_ROWS * width]
        count = len(chunk) // width
        size = _power_of_two(count)
        chunk += [0] * ((size - count) * width)
        chunk.append(count)
        driver.execute(_inserting(table.name, width, size), chunk)


def _power_of_two(count: int) -> int:
    """The least one that is not below ``count``.

    >>> [_power_of_two(n) for n in (1, 2, 3, 256)]
    [1, 2, 4, 256]
    """
    return 1 << (count - 1).bit_length()


@lru_cache(maxsize=64)
def _placeholders(text: str, size: int) -> str:
    return text.format(",".join("?" * size))


@lru_cache(maxsize=64)
def _inserting(table: str, width: int, size: int) -> str:
    """``OR ROLLBACK``: a refused row undoes the whole transaction, which is what the caller does anyway. So SQLite
    keeps no copy of each page to undo this statement alone, which took a third of the time."""
    rows = ",".join(["(" + ",".join("?" * width) + ")"] * size)
    return f"INSERT OR ROLLBACK INTO {table} SELECT * FROM (VALUES {rows}) LIMIT ?"  # noqa: S608 - our own name
