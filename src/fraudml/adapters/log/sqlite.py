"""The decision log and the API keys in one SQLite file: tier 1.

WAL mode: readers never wait for the writer nor it for them. A commit costs tens of microseconds with
``Durability.process`` (``synchronous=NORMAL``: the kernel has the data, so ``kill -9`` loses nothing) and an fsync
with ``Durability.machine`` (``synchronous=FULL``).
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from fraudml.adapters.log._migrate import upgrade
from fraudml.adapters.log._rows import Row, RowCodec, report
from fraudml.adapters.log._tables import api_keys, decisions, labels, transactions
from fraudml.decisions.keys import ApiKey, Scope
from fraudml.decisions.log import AUDIT_LABELS, Durability, is_news
from fraudml.decisions.record import Decision, LabelReport
from fraudml.errors import ConfigError, ConflictError, DecisionLogError, NotFoundError
from fraudml.events.label import Label
from fraudml.events.schema import Schema

BUSY_TIMEOUT_MS = 5_000  # how long a writer waits for another process's commit
MOST_IDS = 256  # ids per statement; statements come in three sizes, so that the driver keeps them prepared
_SYNCHRONOUS = {Durability.process: "NORMAL", Durability.machine: "FULL"}


def connect(url: str, durability: Durability = Durability.process) -> sa.Engine:
    """An engine for the SQLite file of a URL such as ``sqlite:///fraudml.db``, its tables made or migrated.

    The file is made readable by its owner only. Raises ``DecisionLogError`` when it cannot be opened, is no SQLite
    database, or was made by a newer fraudml.
    """
    name = sa.make_url(url).database
    if not name or name == ":memory:":
        raise ConfigError("the decision log needs a file: sqlite:///path/to/fraudml.db")
    engine = sa.create_engine(url)

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not by the driver's guess
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            f"synchronous={_SYNCHRONOUS[durability]}",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # a writer takes its lock at once: upgrading a read to a write may fail instead of waiting
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    with _failures("opening"):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # -wal and -shm get the same mode
        with engine.execution_options(immediate=True).begin() as connection:
            upgrade(connection)
    return engine


class SqliteDecisionLog:
    """:class:`fraudml.decisions.log.DecisionLog` in the file of a URL; opening it is :func:`connect`."""

    def __init__(self, url: str, schema: Schema, *, durability: Durability = Durability.process) -> None:
        self._engine = connect(url, durability)
        self._writer = self._engine.execution_options(immediate=True)
        self._rows = RowCodec(schema)
        self.keys = SqliteKeyStore(self._engine)
        # The two calls of every batch, find and append, talk to the driver themselves: through SQLAlchemy's
        # connection they would take ten times as long as SQLite needs for them.
        self._hot = self._engine.raw_connection()
        self._hot_lock = threading.Lock()
        self._claim: sqlite3.Connection | None = None

    def claim(self) -> None:
        """Hold SQLite's own lock on an empty file beside the log's: it works on every system, and ends with the
        process that holds it."""
        if self._claim is not None:
            return
        name = f"{self._engine.url.database}.lock"
        with _failures("claiming it"):
            lock = sqlite3.connect(name, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError as error:
                lock.close()
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                raise ConfigError(
                    f"another fraudml process serves from {self._engine.url.database} already; "
                    "stop it, or use another FRAUDML_HOME or FRAUDML_DATABASE_URL"
                ) from None
            self._claim = lock

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        """The known ones among the ids."""
        found: dict[str, Decision] = {}
        if transaction_ids:
            with _failures("reading"), self._hot_lock:
                rows = list(_by_ids(self._hot.driver_connection, _FIND, transaction_ids))
            for decision in map(self._rows.decision, rows):
                found[decision.transaction.transaction_id] = decision
        return found

    def decision(self, transaction_id: str) -> Decision:
        """One decision."""
        found = self.find([transaction_id])
        if not found:
            raise NotFoundError(f"transaction {transaction_id!r} has not been scored here")
        return found[transaction_id]

    def append(self, decisions: Sequence[Decision]) -> None:
        """One commit for all."""
        if not decisions:
            return
        first = [self._rows.transaction_row(decision) for decision in decisions]
        second = [self._rows.decision_row(decision) for decision in decisions]
        with _failures("writing decisions"), self._hot_lock:
            driver: Any = self._hot.driver_connection
            driver.execute("BEGIN IMMEDIATE")
            try:
                driver.executemany(_INSERT_TRANSACTION, first)
                driver.executemany(_INSERT_DECISION, second)
                driver.execute("COMMIT")
            except BaseException:
                if driver.in_transaction:
                    driver.execute("ROLLBACK")
                raise

    def append_labels(self, reports: Sequence[LabelReport]) -> list[LabelReport]:
        """What is news, in one commit."""
        if not reports:
            return []
        news = []
        with _failures("writing labels"), self._writer.begin() as connection:
            known: dict[str, list[LabelReport]] = {}
            ids = {item.label.transaction_id for item in reports}
            for row in _by_ids(connection.connection.driver_connection, _HISTORY, list(ids)):
                known.setdefault(row[0], []).append(report(row))
            rows = []
            for item in reports:
                label = item.label
                history = known.setdefault(label.transaction_id, [])
                if is_news(history, label):
                    history.append(item)
                    news.append(item)
                    rows.append((item.arrival, label.transaction_id, len(history), label.is_fraud, label.known_at_us))
            if rows:
                connection.exec_driver_sql(_INSERT_LABEL, rows)
        return news

    def label_history(self, transaction_id: str) -> list[LabelReport]:
        """The reports about one transaction."""
        with _failures("reading"), self._engine.connect() as connection:
            rows = _by_ids(connection.connection.driver_connection, _HISTORY, [transaction_id])
            return [report(row) for row in rows]

    def last_arrival(self) -> int:
        """The greatest arrival number."""
        query = sa.select(
            sa.func.max(
                sa.select(sa.func.coalesce(sa.func.max(transactions.c.arrival), 0)).scalar_subquery(),
                sa.select(sa.func.coalesce(sa.func.max(labels.c.arrival), 0)).scalar_subquery(),
            )
        )
        with _failures("reading"), self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def transaction_ids(self) -> Iterator[str]:
        """The ids, streamed."""
        for rows in self._stream(sa.select(transactions.c.transaction_id), 50_000):
            yield from (row[0] for row in rows)

    def replay(self, batch_size: int = 50_000) -> Iterator[pa.RecordBatch]:
        """History for an online store, streamed."""
        first = (labels.c.transaction_id == transactions.c.transaction_id) & (labels.c.nth == 1)
        query = (
            sa.select(*_NORMAL, labels.c.is_fraud, labels.c.known_at_us)
            .select_from(transactions.outerjoin(labels, first))
            .order_by(transactions.c.arrival)
        )
        for rows in self._stream(query, batch_size):
            yield self._rows.history(rows)

    def later_labels(self) -> Iterator[Label]:
        """The reports that ``replay`` has no place for."""
        query = (
            sa.select(*_LABEL, transactions.c.entities)
            .select_from(labels.join(transactions))
            .where(labels.c.nth > 1)
            .order_by(labels.c.arrival)
        )
        for rows in self._stream(query, 50_000):
            yield from (self._rows.label(row) for row in rows)

    def audit_batches(self, batch_size: int = 50_000) -> Iterator[pa.RecordBatch]:
        """Decisions with their logged vectors, streamed."""
        d = decisions.c
        own = (d.score, d.action, d.model_version, d.arm, d.fingerprint, d.late, d.degraded, d.vector)
        query = (
            sa.select(*_NORMAL, d.arrival, d.decided_at_us, *own)
            .select_from(transactions.join(decisions))
            .order_by(transactions.c.arrival)
        )
        for rows in self._stream(query, batch_size):
            yield self._rows.audit(rows)

    def audit_labels(self, batch_size: int = 50_000) -> Iterator[pa.RecordBatch]:
        """Label reports, streamed."""
        query = (
            sa.select(
                labels.c.transaction_id,
                transactions.c.event_time_us,
                labels.c.is_fraud,
                labels.c.known_at_us,
                labels.c.arrival,
            )
            .select_from(labels.join(transactions))
            .order_by(labels.c.arrival)
        )
        for rows in self._stream(query, batch_size):
            ids, times, frauds, known, arrivals = zip(*rows, strict=True)
            columns = [ids, times, [bool(fraud) for fraud in frauds], known, arrivals]
            arrays = [pa.array(c, field.type) for c, field in zip(columns, AUDIT_LABELS, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=AUDIT_LABELS)

    def ping(self) -> None:
        """Read one row."""
        with _failures("reading"), self._engine.connect() as connection:
            connection.execute(sa.select(transactions.c.arrival).limit(1)).all()

    def close(self) -> None:
        """Close the file; the write-ahead log is folded into it."""
        with self._hot_lock:
            self._hot.close()
        self._engine.dispose()
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def _stream(self, query: sa.Select[Any], batch_size: int) -> Iterator[Sequence[Row]]:
        with _failures("reading"), self._engine.connect() as connection:
            cursor = connection.connection.cursor()  # plain tuples: a third less time per row
            try:
                cursor.execute(_sql(query, literal_binds=True))
                while rows := cursor.fetchmany(batch_size):
                    yield rows
            finally:
                cursor.close()


class SqliteKeyStore:
    """:class:`fraudml.decisions.keys.KeyStore` in the file that ``engine`` is connected to."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(immediate=True)

    def add(self, key: ApiKey) -> None:
        """Store a key."""
        row = {
            "name": key.name,
            "token_hash": key.token_hash,
            "scopes": " ".join(key.scopes),
            "created_at_us": key.created_at_us,
            "revoked_at_us": key.revoked_at_us,
        }
        with _failures("writing keys"), self._writer.begin() as connection:
            try:
                connection.execute(api_keys.insert(), row)
            except IntegrityError:
                raise ConflictError(f"there is a key named {key.name!r} already; choose another name") from None

    def all(self) -> list[ApiKey]:
        """Every key."""
        with _failures("reading keys"), self._engine.connect() as connection:
            rows = connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at_us, api_keys.c.name)).all()
        return [ApiKey(r.name, r.token_hash, tuple(Scope(s) for s in r.scopes.split()), *r[3:]) for r in rows]

    def revoke(self, name: str) -> None:
        """Revoke a key."""
        change = (
            api_keys.update()
            .where(api_keys.c.name == name)
            .values(revoked_at_us=sa.func.coalesce(api_keys.c.revoked_at_us, time.time_ns() // 1_000))
        )
        with _failures("writing keys"), self._writer.begin() as connection:
            if connection.execute(change).rowcount == 0:
                raise NotFoundError(f"there is no key named {name!r}")


def _sql(statement: sa.Select[Any] | sa.Insert, *, literal_binds: bool = False) -> str:
    """The statement as text with ``?`` for parameters: compiled once instead of at each call."""
    options = {"literal_binds": literal_binds}
    return str(statement.compile(dialect=SQLiteDialect_pysqlite(), compile_kwargs=options))


_NORMAL = (
    transactions.c.transaction_id,
    transactions.c.event_time_us,
    transactions.c.amount_minor,
    transactions.c.entities,
    transactions.c.attributes,
)
_LABEL = (labels.c.transaction_id, labels.c.is_fraud, labels.c.known_at_us, labels.c.arrival)
_INSERT_TRANSACTION = _sql(transactions.insert())
_INSERT_DECISION = _sql(decisions.insert())
_INSERT_LABEL = _sql(labels.insert())
_decided = [column for column in decisions.c if column.name != "arrival"]
_FIND = _sql(sa.select(*transactions.c, *_decided).select_from(transactions.join(decisions)))
_FIND += " WHERE transactions.transaction_id IN ({})"
_HISTORY = _sql(sa.select(*_LABEL)) + " WHERE transaction_id IN ({}) ORDER BY arrival"


def _by_ids(driver: Any, sql: str, ids: Sequence[str]) -> Iterator[Row]:
    """The rows for these ids. Lists are filled up to 1, 16 or 256 ids by repeating the last one: with few
    different statements the driver finds each already prepared."""
    for start in range(0, len(ids), MOST_IDS):
        chunk = list(ids[start : start + MOST_IDS])
        size = next(size for size in (1, 16, MOST_IDS) if size >= len(chunk))
        chunk += chunk[-1:] * (size - len(chunk))
        yield from driver.execute(sql.format(",".join("?" * size)), chunk).fetchall()


@contextmanager
def _failures(doing: str) -> Iterator[None]:
    """Driver errors become DecisionLogErrors that say what was being done."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        raise DecisionLogError(
            f"the decision log failed while {doing}: {reason}; check its file, its permissions and the free disk space"
        ) from error
