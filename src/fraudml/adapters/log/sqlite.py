"""The decision log and the API keys in one SQLite file: tier 1.

WAL mode: readers never wait for the writer nor it for them. With ``Durability.process`` (``synchronous=NORMAL``) a
commit ends when the kernel has the data, so ``kill -9`` loses nothing; with ``Durability.power``
(``synchronous=FULL``) it waits for the disk. What every batch calls is in ``_hot.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import sqlalchemy as sa

from fraudml.adapters.log._chain import link
from fraudml.adapters.log._connection import connect, failures
from fraudml.adapters.log._hot import HotPath, sql
from fraudml.adapters.log._keys import SqlKeyStore
from fraudml.adapters.log._lock import FileLock
from fraudml.adapters.log._rows import (
    Row,
    RowCodec,
    audit_labels,
    linked_decision,
    linked_label,
    outcomes,
    shadow_scores,
)
from fraudml.adapters.log._tables import chain as links
from fraudml.adapters.log._tables import decisions, transactions
from fraudml.adapters.log._tables import labels as reports
from fraudml.adapters.log._tables import shadow_scores as shadows
from fraudml.decisions.chain import Link
from fraudml.decisions.log import Durability, StoredRow
from fraudml.decisions.record import Decision, Degradation, LabelReport, ShadowScore
from fraudml.errors import ConfigError, NotFoundError
from fraudml.events.label import Label
from fraudml.events.schema import Schema

_NORMAL = (
    transactions.c.transaction_id,
    transactions.c.event_time_us,
    transactions.c.amount_minor,
    transactions.c.entities,
    transactions.c.attributes,
)
_LABEL = (
    reports.c.transaction_id,
    reports.c.is_fraud,
    reports.c.known_at_us,
    reports.c.arrival,
)


Made = TypeVar("Made")


class SqliteDecisionLog:
    """:class:`fraudml.decisions.log.DecisionLog` in the file of a URL; opening it is :func:`connect`.

    ``timeout_ms``: how long a call of the hot path waits for another writer, or for another call.
    """

    def __init__(
        self, url: str, schema: Schema, *, durability: Durability = Durability.process, timeout_ms: int = 1_000
    ) -> None:
        self._durability = durability
        self._engine = connect(url, durability)
        self._rows = RowCodec(schema)
        self._hot = HotPath(self._engine, self._rows, timeout_ms)
        self.keys = SqlKeyStore(self._engine, failures)
        self._claim = FileLock(Path(f"{self._engine.url.database}.lock"))

    @property
    def connections(self) -> int | None:
        """There is no pool: a connection costs nothing to open."""
        return None

    @property
    def waits(self) -> bool:
        """Only for the disk: without that a commit is computing."""
        return self._durability is Durability.power

    def claim(self, *, shared: bool = False) -> int:
        """Hold SQLite's own lock on an empty file beside the log's: it works on every system, and ends with the
        process that holds it."""
        if shared:
            raise ConfigError("SQLite takes the decisions of one process: set FRAUDML_DATABASE_URL to postgresql://...")
        with failures("claiming it"):
            if not self._claim.acquire():
                raise ConfigError(
                    f"another fraudml process serves from {self._engine.url.database} already; "
                    "stop it, or use another FRAUDML_HOME or FRAUDML_DATABASE_URL"
                )
        return 0

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
        tables = (transactions, reports) if labels else (transactions,)
        with failures("reading"), self._engine.connect() as connection:
            greatest = [connection.execute(sa.select(sa.func.max(table.c.arrival))).scalar_one() for table in tables]
        return max(number or 0 for number in greatest)

    def decisions(self, batch_size: int = 1_000, after: int = 0) -> Iterator[list[Decision]]:
        """Decisions, streamed."""
        own = [column for column in decisions.c if column.name != "arrival"]
        query = (
            sa.select(*transactions.c, *own)
            .select_from(transactions.join(decisions))
            .where(transactions.c.arrival > after)
            .order_by(transactions.c.arrival)
        )
        yield from self._stream(query, batch_size, lambda rows: list(map(self._rows.decision, rows)))

    def transaction_ids(self) -> Iterator[str]:
        """The ids, streamed."""
        query = sa.select(transactions.c.transaction_id)
        for ids in self._stream(query, 50_000, lambda rows: [row[0] for row in rows]):
            yield from ids

    def replay(self, batch_size: int = 50_000, after: int = 0, *, blind: bool = False) -> Iterator[pa.RecordBatch]:
        """History for an online store, streamed."""
        first = (reports.c.transaction_id == transactions.c.transaction_id) & (reports.c.nth == 1)
        query = (
            sa.select(*_NORMAL, reports.c.is_fraud, reports.c.known_at_us)
            .select_from(transactions.outerjoin(reports, first))
            .where(transactions.c.arrival > after)
            .order_by(transactions.c.arrival)
        )
        if blind:
            without = decisions.c.degraded.contains(Degradation.online_store)
            query = query.where(sa.exists().where(decisions.c.arrival == transactions.c.arrival, without))
        yield from self._stream(query, batch_size, self._rows.history)

    def later_labels(self, after: int = 0) -> Iterator[Label]:
        """The reports that ``replay`` has no place for."""
        return self._labels((reports.c.arrival > after) & ((reports.c.nth > 1) | (transactions.c.arrival <= after)))

    def labels(self, after: int = 0) -> Iterator[Label]:
        """Reports with their entities, streamed."""
        return self._labels(reports.c.arrival > after)

    def audit_batches(
        self, batch_size: int = 50_000, after: int = 0, *, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Decisions with their logged vectors, streamed."""
        d = decisions.c
        own = (d.score, d.action, d.model_version, d.arm, d.fingerprint, d.late, d.degraded, d.vector)
        query = (
            sa.select(*_NORMAL, d.arrival, d.decided_at_us, *own)
            .select_from(transactions.join(decisions))
            .where(transactions.c.arrival > after)
            .order_by(transactions.c.arrival)
            .limit(limit)
        )
        yield from self._stream(query, batch_size, self._rows.audit)

    def audit_labels(
        self, batch_size: int = 50_000, after: int = 0, *, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Label reports, streamed."""
        query = (
            sa.select(
                reports.c.transaction_id,
                transactions.c.event_time_us,
                reports.c.is_fraud,
                reports.c.known_at_us,
                reports.c.arrival,
            )
            .select_from(reports.join(transactions))
            .where(reports.c.arrival > after)
            .order_by(reports.c.arrival)
            .limit(limit)
        )
        yield from self._stream(query, batch_size, audit_labels)

    def entered_before(self) -> dict[int, int]:
        """Those of another order in state."""
        d = decisions.c
        with failures("reading"), self._engine.connect() as connection:
            rows = connection.execute(sa.select(d.arrival, d.entered_us).where(d.entered_us.is_not(None)))
            return {row.arrival: row.entered_us for row in rows}

    def append_shadow(self, scores: Sequence[ShadowScore]) -> None:
        """What is new, in one commit."""
        if scores:
            self._hot.append_shadow(scores)

    def shadow_scores(self, after: int = 0, batch_size: int = 50_000) -> Iterator[pa.RecordBatch]:
        """Shadow scores beside decisions, streamed."""
        d = decisions.c
        query = (
            sa.select(*shadows.c, d.model_version, d.score, d.action)
            .select_from(shadows.join(decisions, d.arrival == shadows.c.arrival))
            .where(shadows.c.arrival > after)
            .order_by(shadows.c.arrival, shadows.c.model_version)
        )
        yield from self._stream(query, batch_size, shadow_scores)

    def outcomes(self, after: int = 0, batch_size: int = 10_000, *, labelled: bool = False) -> Iterator[pa.RecordBatch]:
        """Decisions, or reports with theirs, streamed."""
        t, d, r = transactions.c, decisions.c, reports.c
        event = (t.transaction_id, t.arrival, t.event_time_us, t.amount_minor, t.entities)
        own = (d.score, d.action, d.model_version, d.arm, d.degraded, d.timings, d.trial)
        label = (r.is_fraud, r.known_at_us, r.arrival) if labelled else (sa.null(), sa.null(), sa.null())
        both = transactions.join(decisions)
        order = r.arrival if labelled else t.arrival
        query = (
            sa.select(*event, *own, *label)
            .select_from(reports.join(both, r.transaction_id == t.transaction_id) if labelled else both)
            .where(order > after)
            .order_by(order)
        )
        yield from self._stream(query, batch_size, outcomes)

    def chain(self, *, by_arrival: bool = False) -> Iterator[list[Link]]:
        """Links, streamed."""
        c = links.c
        query = sa.select(links).order_by(*((c.first, c.writer, c.seq) if by_arrival else (c.writer, c.seq)))
        yield from self._stream(query, 1_000, lambda rows: list(map(link, rows)))

    def carry(self, links: Sequence[Link]) -> None:
        """One commit."""
        if links:
            self._hot.carry(links)

    def stored_decisions(self, since_us: int = 0) -> Iterator[list[StoredRow]]:
        """Rows of both tables, streamed."""
        both = transactions.outerjoin(decisions)
        query = sa.select(*transactions.c, *decisions.c).select_from(both).order_by(transactions.c.arrival)
        width = len(transactions.c)
        yield from self._stream(
            query,
            5_000,
            lambda rows: [StoredRow(row[0], row[1], linked_decision(row[:width], row[width:])) for row in rows],
            _any_text,
        )
        strays = sa.select(decisions.c.arrival).where(decisions.c.arrival.not_in(sa.select(transactions.c.arrival)))
        yield from self._stream(strays, 5_000, lambda rows: [StoredRow(row[0], None, None) for row in rows])

    def stored_labels(self) -> Iterator[list[StoredRow]]:
        """Rows, streamed."""
        query = sa.select(reports).order_by(reports.c.arrival)
        yield from self._stream(
            query, 5_000, lambda rows: [StoredRow(row[0], row[1], linked_label(row)) for row in rows], _any_text
        )

    def model_versions(self) -> set[str]:
        """The versions named."""
        named = sa.union(sa.select(decisions.c.model_version), sa.select(shadows.c.model_version))
        with failures("reading"), self._engine.connect() as connection:
            return set(connection.execute(named).scalars())

    def ping(self) -> None:
        """Read one row."""
        with failures("reading"), self._engine.connect() as connection:
            connection.execute(sa.select(transactions.c.arrival).limit(1)).all()

    def close(self) -> None:
        """Close the file; the write-ahead log is folded into it."""
        self._hot.close()
        self._claim.release()

    def _labels(self, condition: sa.ColumnElement[bool]) -> Iterator[Label]:
        query = (
            sa.select(*_LABEL, transactions.c.entities)
            .select_from(reports.join(transactions))
            .where(condition)
            .order_by(reports.c.arrival)
        )
        for found in self._stream(query, 50_000, lambda rows: list(map(self._rows.label, rows))):
            yield from found

    def _stream(
        self,
        query: sa.Select[Any],
        batch_size: int,
        made: Callable[[Sequence[Row]], Made],
        text: Callable[[bytes], str] = str,
    ) -> Iterator[Made]:
        """What is made of the rows, batch by batch. ``text``: how the driver makes it; by default UTF-8."""
        with failures("reading"), self._engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            cursor = driver.cursor()  # plain tuples: a third less time per row
            driver.text_factory = text
            try:
                cursor.execute(sql(query))
                while rows := cursor.fetchmany(batch_size):
                    yield made(rows)
            finally:
                cursor.close()
                driver.text_factory = str


def _any_text(found: bytes) -> str:
    """Also what is no UTF-8, which no fraudml wrote."""
    return found.decode(errors="replace")
