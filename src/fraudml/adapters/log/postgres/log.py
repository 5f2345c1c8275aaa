"""The decision log and the API keys in a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import sqlalchemy as sa

from fraudml.adapters.log._chain import link, values
from fraudml.adapters.log._keys import SqlKeyStore
from fraudml.adapters.log._rows import (
    Row,
    RowCodec,
    audit_labels,
    linked_decision,
    linked_label,
    outcomes,
    shadow_scores,
)
from fraudml.adapters.log.postgres import reading, statements, upgrade
from fraudml.adapters.log.postgres.failures import failures
from fraudml.adapters.log.postgres.hot import HotPath
from fraudml.adapters.log.postgres.keys import key_of
from fraudml.decisions.chain import Link
from fraudml.decisions.log import ARRIVAL, LABEL_ARRIVAL, StoredRow
from fraudml.decisions.record import Decision, LabelReport, ShadowScore
from fraudml.errors import NotFoundError
from fraudml.events.label import Label
from fraudml.events.schema import Schema

STREAM_S = 900.0  # for the next rows of a stream: the first ones may take a sort

# Of the transaction of a stream: who reads it may take as long as he likes between two batches.
_AT_LEISURE = (
    f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = '{STREAM_S:.0f}s'; "
    "SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL jit = off"
)
Made = TypeVar("Made")


class PostgresDecisionLog:
    """:class:`fraudml.decisions.log.DecisionLog` in the database of an engine, which is closed with it.

    A commit waits for the server's disk. ``timeout_ms``: how long a call of the hot path waits for the server, and for
    another call. ``place``: the database's name in messages. An empty database gets its tables; one with tables of
    another version is refused: see :mod:`upgrade`.
    """

    def __init__(self, engine: sa.Engine, schema: Schema, *, place: str, timeout_ms: int = 1_000) -> None:
        self._engine = engine
        self._rows = RowCodec(schema)
        try:
            upgrade.ready(engine, place)
            self._hot = HotPath(engine, self._rows, timeout_ms, place)
        except BaseException:
            engine.dispose()
            raise
        self.keys = SqlKeyStore(engine, failures)

    @property
    def connections(self) -> int | None:
        """How many are checked out."""
        pool = self._engine.pool
        return pool.checkedout() if isinstance(pool, sa.pool.QueuePool) else None

    @property
    def waits(self) -> bool:
        """For the network and the server's disk."""
        return True

    def claim(self, *, shared: bool = False) -> int:
        """Hold locks of the server, which end with the connection."""
        return self._hot.claim(shared=shared)

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        """The known ones among the ids."""
        return self._hot.find(transaction_ids) if transaction_ids else {}

    def decision(self, transaction_id: str) -> Decision:
        """One decision."""
        found = self.find([transaction_id])
        if not found:
            raise NotFoundError(f"transaction {transaction_id!r} has not been scored here")
        return found[transaction_id]

    def append(self, decisions: Sequence[Decision], *, chained: bool = True) -> dict[str, Decision]:
        """One commit for all."""
        return self._hot.append(decisions, chained=chained) if decisions else {}

    def append_labels(self, reports: Sequence[LabelReport], *, chained: bool = True) -> list[LabelReport]:
        """What is news, in one commit."""
        return self._hot.append_labels(reports, chained=chained) if reports else []

    def label_history(self, transaction_id: str) -> list[LabelReport]:
        """The reports about one transaction."""
        return self._hot.label_history(transaction_id)

    def last_arrival(self, *, labels: bool = True) -> int:
        """The greatest arrival number."""
        with failures("reading"), self._engine.connect() as connection:
            text = statements.LAST_ARRIVAL if labels else statements.LAST_DECISION
            return int(connection.exec_driver_sql(text).scalar_one())

    def decisions(self, batch_size: int = 1_000, after: int = 0) -> Iterator[list[Decision]]:
        """Decisions, streamed."""

        def made(rows: Sequence[Row]) -> list[Decision]:
            return [self._rows.decision((arrival, name.decode(), *rest)) for arrival, name, *rest in rows]

        yield from self._stream(statements.DECISIONS, after, batch_size, made)

    def transaction_ids(self) -> Iterator[str]:
        """The ids, streamed."""
        for names in self._stream(statements.IDS, None, 50_000, lambda rows: [row[0] for row in rows]):
            yield from names
        for long in self._stream(statements.LONG_IDS, None, 1_000, lambda rows: [row[0].decode() for row in rows]):
            yield from long

    def replay(self, batch_size: int = 50_000, after: int = 0, *, blind: bool = False) -> Iterator[pa.RecordBatch]:
        """History for an online store, streamed."""
        text = statements.REPLAY_BLIND if blind else statements.REPLAY
        yield from self._stream(text, after, batch_size, self._rows.history)

    def later_labels(self, after: int = 0) -> Iterator[Label]:
        """The reports that ``replay`` has no place for."""
        return self._labels(statements.LATER_LABELS, after)

    def labels(self, after: int = 0) -> Iterator[Label]:
        """Reports with their entities, streamed."""
        return self._labels(statements.LABELS, after)

    def audit_batches(
        self, batch_size: int = 50_000, after: int = 0, *, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Decisions with their logged vectors, streamed."""
        yield from self._stream(statements.AUDIT, after, batch_size, self._rows.audit, limit)

    def audit_labels(
        self, batch_size: int = 50_000, after: int = 0, *, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Label reports, streamed."""
        yield from self._stream(statements.AUDIT_LABELS, after, batch_size, audit_labels, limit)

    def entered_before(self) -> dict[int, int]:
        """Those of another order in state."""
        found = self._stream(statements.ENTERED_BEFORE, None, 50_000, list)
        return {arrival: entered_us for rows in found for arrival, entered_us in rows}

    def append_shadow(self, scores: Sequence[ShadowScore]) -> None:
        """What is new, in one commit, by a connection of the pool: no decision waits for it."""
        columns = zip(*((s.arrival, s.model_version, s.score, s.action.value, s.model_us) for s in scores), strict=True)
        if scores:
            with failures("writing shadow scores"), self._engine.begin() as connection:
                connection.exec_driver_sql(statements.APPEND_SHADOW, tuple(map(list, columns)))

    def shadow_scores(self, after: int = 0, batch_size: int = 50_000) -> Iterator[pa.RecordBatch]:
        """Shadow scores beside decisions, streamed."""
        yield from self._stream(statements.SHADOW_SCORES, after, batch_size, shadow_scores)

    def outcomes(self, after: int = 0, batch_size: int = 10_000, *, labelled: bool = False) -> Iterator[pa.RecordBatch]:
        """Decisions, or reports with theirs: part by part, so that the pieces of no other times are opened."""

        def made(rows: Sequence[Row]) -> pa.RecordBatch:
            return outcomes([(row[0].decode(), *row[1:]) for row in rows])

        text = statements.LABELLED_OUTCOMES if labelled else statements.OUTCOMES
        order = LABEL_ARRIVAL if labelled else ARRIVAL
        while batches := [*self._stream(text, after, batch_size, made, batch_size)]:
            yield from batches
            after = batches[-1].column(order)[-1].as_py()

    def chain(self, *, by_arrival: bool = False) -> Iterator[list[Link]]:
        """Links, streamed."""
        order = '"first", writer, seq' if by_arrival else "writer, seq"
        yield from self._stream(statements.CHAIN + order, None, 1_000, lambda rows: list(map(link, rows)))

    def carry(self, links: Sequence[Link]) -> None:
        """One commit."""
        with failures("writing the chain"), self._engine.begin() as connection:
            for each in links:
                connection.exec_driver_sql(statements.CARRY, values(each))

    def stored_decisions(self, since_us: int = 0) -> Iterator[list[StoredRow]]:
        """Rows of all tables, streamed."""
        yield from self._stream(statements.STORED_DECISIONS, 0, 5_000, lambda rows: list(map(_stored_decision, rows)))
        strays = statements.STRAYS
        yield from self._stream(strays, since_us, 5_000, lambda rows: [StoredRow(row[0], row[1], None) for row in rows])

    def stored_labels(self) -> Iterator[list[StoredRow]]:
        """Rows, streamed."""
        yield from self._stream(statements.STORED_LABELS, 0, 5_000, lambda rows: list(map(_stored_label, rows)))

    def model_versions(self) -> set[str]:
        """The versions named."""
        found = self._stream(statements.MODEL_VERSIONS, None, 1_000, lambda rows: {row[0] for row in rows})
        return {version for versions in found for version in versions}

    def ping(self) -> None:
        """Read one row."""
        with failures("reading"), self._engine.connect() as connection:
            connection.exec_driver_sql(statements.PING).all()

    def close(self) -> None:
        """Close the connections."""
        self._hot.close()
        self._engine.dispose()

    def _labels(self, text: str, after: int) -> Iterator[Label]:
        def made(rows: Sequence[Row]) -> list[Label]:
            return [self._rows.label((row[0].decode(), *row[1:])) for row in rows]

        for found in self._stream(text, after, 50_000, made):
            yield from found

    def _stream(
        self,
        text: str,
        after: int | None,
        batch_size: int,
        made: Callable[[Sequence[Row]], Made],
        limit: int | None = None,
    ) -> Iterator[Made]:
        """What is made of the rows, batch by batch. They stay on the server until then."""
        with failures("reading"), self._engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            patience, driver.patience_s = driver.patience_s, STREAM_S
            try:
                driver.execute(_AT_LEISURE)
                statement, parameters = reading.planned(driver, text, after, limit)
                with driver.cursor("fraudml_stream") as cursor:
                    cursor.execute(statement, parameters, binary=True)
                    while rows := cursor.fetchmany(batch_size):
                        yield made(rows)
            finally:
                driver.patience_s = patience


def _stored_decision(row: Row) -> StoredRow:
    """From a row of ``statements.STORED_DECISIONS``."""
    arrival, key, name, *columns, differs = row
    transaction_id = _text(name)
    first = (columns[0], transaction_id, *columns[1:5])
    second = [*columns[5:]]
    second[7] = _number(second[7])
    found = linked_decision(first, second)
    return StoredRow(arrival, transaction_id, found if _is_key(key, transaction_id) and not differs else None)


def _stored_label(row: Row) -> StoredRow:
    """From a row of ``statements.STORED_LABELS``."""
    arrival, key, name, nth, is_fraud, known_at_us, differs = row
    transaction_id = _text(name)
    found = linked_label((arrival, transaction_id, nth, _number(is_fraud), known_at_us))
    return StoredRow(arrival, transaction_id, found if _is_key(key, transaction_id) and not differs else None)


def _is_key(key: str, transaction_id: str | None) -> bool:
    """Whether a row is found by its id."""
    return transaction_id is not None and key_of(transaction_id)[0].decode(errors="replace") == key


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _number(flag: bool | None) -> int | None:
    return None if flag is None else int(flag)
