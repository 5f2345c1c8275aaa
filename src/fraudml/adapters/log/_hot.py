"""The calls of every batch: find, append, append_labels.

They talk to the driver themselves: through SQLAlchemy's connection they would take ten times as long as SQLite needs
for them. The driver gives the interpreter lock away in every call into SQLite and, where other threads are busy, waits
up to 5 ms to get it back. So a batch is a few statements of many rows, never a statement for each row.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from fraudml.adapters.log._chain import CARRY, Chain, values
from fraudml.adapters.log._checkpoint import Checkpointer
from fraudml.adapters.log._connection import failures
from fraudml.adapters.log._rows import Row, RowCodec, label_row, linked_label, members, report
from fraudml.adapters.log._tables import decisions, labels, shadow_scores, transactions
from fraudml.decisions.chain import Kind, Link, seal
from fraudml.decisions.log import is_news
from fraudml.decisions.record import Decision, LabelReport, ShadowScore
from fraudml.errors import DecisionLogError

# Statements are made for 1, 2, 4, ... ids or rows, so that the driver finds each prepared: it keeps 128 of them.
MOST_IDS = 1_024
MOST_ROWS = 256  # times 12 columns: SQLite takes at most 32,766 parameters
# The writer's page cache, for the index of transaction ids: SQLite's default of 2 MB holds that of 40,000. It does
# nothing for the reader, because another connection's commit empties its cache.
CACHE_KIB = 65_536


def sql(statement: sa.Select[Any]) -> str:
    """The statement as text: compiled once instead of at each call."""
    return str(statement.compile(dialect=SQLiteDialect_pysqlite(), compile_kwargs={"literal_binds": True}))


_decided = [column for column in decisions.c if column.name != "arrival"]
_TIMES = sql(sa.select(transactions.c.transaction_id, transactions.c.event_time_us))
_TIMES += " WHERE transaction_id IN ({})"
_KNOWN = sql(sa.select(transactions.c.transaction_id)) + " WHERE transaction_id IN ({})"
_FIND = sql(sa.select(*transactions.c, *_decided).select_from(transactions.join(decisions)))
_FIND += " WHERE transactions.transaction_id IN ({})"
_reported = (labels.c.transaction_id, labels.c.is_fraud, labels.c.known_at_us, labels.c.arrival)
_HISTORY = sql(sa.select(*_reported)) + " WHERE transaction_id IN ({}) ORDER BY arrival"


class Line:
    """One connection, used by one thread at a time.

    A call waits ``timeout_ms`` for another thread's call, and then as long again for the lock of another process; a
    wait that ends in vain is a ``DecisionLogError``. ``cache_kib``: of the page cache, instead of SQLite's default.
    """

    def __init__(self, engine: sa.Engine, timeout_ms: int, cache_kib: int | None = None) -> None:
        self._timeout_ms = timeout_ms
        self.lock = threading.Lock()
        with failures("opening"):
            self._pooled = engine.raw_connection()
            driver: Any = self._pooled.driver_connection
            driver.execute(f"PRAGMA busy_timeout={timeout_ms}").close()
            if cache_kib is not None:
                driver.execute(f"PRAGMA cache_size=-{cache_kib}").close()
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

    @property
    def at_rest(self) -> bool:
        """Whether nobody uses it, and no failed rollback left what was never committed for it to see."""
        return not self.lock.locked() and not self._driver.in_transaction

    def close(self) -> None:
        """Give the connection back."""
        with self.lock:
            self._pooled.close()


@contextmanager
def one_commit(driver: Any) -> Iterator[None]:
    """All of what is done inside, or nothing."""
    if driver.in_transaction:  # a rollback failed before
        driver.execute("ROLLBACK")
    driver.execute("BEGIN IMMEDIATE")
    try:
        yield
        driver.execute("COMMIT")
    except BaseException:
        if driver.in_transaction:
            driver.execute("ROLLBACK")
        raise


class HotPath:
    """The calls of every batch. Reading has a connection of its own, so that it does not wait for a commit.

    The thread that commits finds ids by the writer's connection, whose cache is warm, unless a checkpoint holds it up.
    """

    def __init__(self, engine: sa.Engine, codec: RowCodec, timeout_ms: int) -> None:
        self._engine = engine
        self._codec = codec
        self._reader = Line(engine, timeout_ms)
        self._writer = Line(engine, timeout_ms, CACHE_KIB)
        self._checkpointer = Checkpointer(engine, self._writer.lock)
        self._chain = Chain()
        self._commits: int | None = None  # the thread that made the last commit

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        """The known ones among the ids. Most often there are none, which the index alone can tell."""
        own = threading.get_ident() == self._commits and self._writer.at_rest
        with (self._writer if own else self._reader).turn("reading") as driver:
            known = [row[0] for row in _by_ids(driver, _KNOWN, transaction_ids)]
            rows = list(_by_ids(driver, _FIND, known))
        with failures("reading"):  # outside the turn: others may read meanwhile
            found = list(map(self._codec.decision, rows))
        return {decision.transaction.transaction_id: decision for decision in found}

    def append(self, batch: Sequence[Decision], *, chained: bool = True) -> dict[str, Decision]:
        """One commit for all that are new; the decisions that stand for the others."""
        known: dict[str, Decision] = {}
        try:
            self._append(batch, chained)
        except DecisionLogError as error:
            if not isinstance(error.__cause__, sqlite3.IntegrityError):
                raise
            known = self.find([decision.transaction.transaction_id for decision in batch])
            if not known and "chain." not in str(error.__cause__):  # else another log of this process has gone on
                raise
            fresh = [decision for decision in batch if decision.transaction.transaction_id not in known]
            if fresh:
                self._append(fresh, chained)
        return known

    def _append(self, batch: Sequence[Decision], chained: bool) -> None:
        with failures("writing decisions"):
            rows = self._codec.rows(batch)
            linked = members(rows) if chained else []
        with self._writer.turn("writing decisions") as driver:
            with self._one_commit(driver):
                _insert(driver, transactions, [*chain.from_iterable(first for first, _ in rows)])
                _insert(driver, decisions, [*chain.from_iterable(second for _, second in rows)])
                self._chain.add(driver, Kind.decisions, linked)
            self._commits = threading.get_ident()
            self._checkpointer.wrote(len(batch))

    def append_labels(self, reports: Sequence[LabelReport], *, chained: bool = True) -> list[LabelReport]:
        """What is news, in one commit."""
        news = []
        rows: list[Row] = []
        ids = list({item.label.transaction_id for item in reports})
        with self._writer.turn("writing labels") as driver:
            self._chain.forget()
            with self._one_commit(driver):
                known: dict[str, list[LabelReport]] = {}
                for row in _by_ids(driver, _HISTORY, ids):
                    known.setdefault(row[0], []).append(report(row))
                for item in reports:
                    history = known.setdefault(item.label.transaction_id, [])
                    if is_news(history, item.label):
                        history.append(item)
                        news.append(item)
                        rows.append(label_row(item, len(history)))
                _insert(driver, labels, [*chain.from_iterable(rows)])
                if chained:
                    times = {row[0]: row[1] for row in _by_ids(driver, _TIMES, ids)}
                    self._chain.add(
                        driver, Kind.labels, [(row[0], times[row[1]], seal(linked_label(row))) for row in rows]
                    )
            self._checkpointer.wrote(len(news))
        return news

    def carry(self, links: Sequence[Link]) -> None:
        """Links of another log, in one commit."""
        with self._writer.turn("writing the chain") as driver:
            self._chain.forget()
            with one_commit(driver):
                driver.executemany(CARRY, [values(each) for each in links])

    def append_shadow(self, scores: Sequence[ShadowScore]) -> None:
        """What is new, in one commit."""
        flat: list[Any] = []
        for each in scores:
            flat += each.arrival, each.model_version, each.score, each.action._value_, each.model_us
        with self._writer.turn("writing shadow scores") as driver:
            with one_commit(driver):
                _insert(driver, shadow_scores, flat, repeats="IGNORE")
            self._checkpointer.wrote(len(scores))

    def label_history(self, transaction_id: str) -> list[LabelReport]:
        """The reports about one transaction."""
        with self._reader.turn("reading") as driver:
            return [report(row) for row in _by_ids(driver, _HISTORY, [transaction_id])]

    @contextmanager
    def _one_commit(self, driver: Any) -> Iterator[None]:
        try:
            with one_commit(driver):
                yield
        except BaseException:
            self._chain.forget()
            raise

    def close(self) -> None:
        """Close the engine's connections, after the thread that makes checkpoints; other calls must have ended."""
        self._checkpointer.close()
        self._writer.close()
        self._reader.close()
        self._engine.dispose()
        self._checkpointer.close_file()


def _by_ids(driver: Any, text: str, ids: Sequence[str]) -> Iterator[Row]:
    """The rows for these ids. Lists are filled up by repeating an id."""
    for start in range(0, len(ids), MOST_IDS):
        chunk = list(ids[start : start + MOST_IDS])
        size = _power_of_two(len(chunk))
        chunk += chunk[:1] * (size - len(chunk))
        yield from driver.execute(_placeholders(text, size), chunk).fetchall()


def _insert(driver: Any, table: sa.Table, values: list[Any], repeats: str = "ROLLBACK") -> None:
    """Insert rows, given as one flat list. Statements are filled up with rows that their limit cuts off. ``repeats``:
    what SQLite does about a row whose key is taken."""
    columns = ",".join(table.columns.keys())
    width = len(table.columns)
    for start in range(0, len(values), MOST_ROWS * width):
        chunk = values[start : start + MOST_ROWS * width]
        count = len(chunk) // width
        size = _power_of_two(count)
        chunk += [0] * ((size - count) * width)
        chunk.append(count)
        driver.execute(_inserting(repeats, f"{table.name} ({columns})", width, size), chunk)


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
def _inserting(repeats: str, place: str, width: int, size: int) -> str:
    """``place``: the table and its columns.

    ``OR ROLLBACK``: a refused row undoes the whole transaction, which is what the caller does anyway. So SQLite keeps
    no copy of each page to undo this statement alone, which took a third of the time.
    """
    rows = ",".join(["(" + ",".join("?" * width) + ")"] * size)
    return f"INSERT OR {repeats} INTO {place} SELECT * FROM (VALUES {rows}) LIMIT ?"  # noqa: S608 - our own name
