"""The calls of every batch: find, append, append_labels. Each is one round trip, but for COPY and for ids that are
known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import sqlalchemy as sa
from psycopg.errors import DeadlockDetected, UniqueViolation

from fraudml.adapters.log._rows import Row, RowCodec, label_row, linked_label, members, report
from fraudml.adapters.log.postgres import cells, statements
from fraudml.adapters.log.postgres.claim import Claim
from fraudml.adapters.log.postgres.failures import failures
from fraudml.adapters.log.postgres.keys import key_of
from fraudml.adapters.log.postgres.line import Line, Patience
from fraudml.adapters.log.postgres.session import Session
from fraudml.decisions.chain import Head, Kind, Link, Member, linked, seal
from fraudml.decisions.log import is_news
from fraudml.decisions.record import Decision, LabelReport
from fraudml.errors import DecisionLogError

# From so many decisions on COPY is faster than one INSERT of arrays: per row it takes a few microseconds less, and it
# costs three more round trips (docs/concepts/durability-and-idempotency.md has the figures).
COPY_FROM = 128
MOST_IDS = 10_000  # asked for at once
MOST_TRIES = 20  # of a commit that others are ahead of
CHAIN_KEY = "chain_pkey"


class HotPath:
    """The calls of every batch. Reading has a connection of its own, so that it does not wait for a commit.

    But after a commit whose end is not known the connection that appends is asked: a new one of these has ended the
    server's side of the one before, so nothing can appear in the log afterwards.
    """

    def __init__(self, engine: sa.Engine, codec: RowCodec, timeout_ms: int, place: str) -> None:
        self._codec = codec
        self._claim = Claim(place)
        patience = Patience(timeout_ms)
        self._reader = Line(engine, patience)
        self._writer = Line(engine, patience, self._claim.renew)
        self._in_doubt = False
        self._head: Head | None = None  # of the chain of this process's number; None: to be looked up

    def claim(self, *, shared: bool) -> int:
        """Become one that appends."""
        with self._writer.turn("claiming it") as session:
            self._head = None  # somebody else may have had the number
            return self._claim.take(session.driver, shared=shared)

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        """The known ones among the ids."""
        found: dict[str, Decision] = {}
        for start in range(0, len(transaction_ids), MOST_IDS):
            with failures("reading"):
                keys = cells.key_array(transaction_ids[start : start + MOST_IDS])
            with self._asking() as session:
                ((first, last),) = session.rows(statements.KNOWN, [keys], statements.BETWEEN)
                if first is None:
                    continue
                times = [value.to_bytes(8, "big", signed=True) for value in (first, last)]
                rows = session.rows(statements.FIND, [keys, *times], statements.FOUND)
            with failures("reading"):  # outside the turn: others may read meanwhile
                for arrival, name, *rest in rows:
                    transaction_id = name.decode()
                    found[transaction_id] = self._codec.decision((arrival, transaction_id, *rest))
        return found

    def append(self, batch: Sequence[Decision], *, chained: bool = True) -> dict[str, Decision]:
        """One commit for all that are new; the decisions that stand for the others."""
        stands: dict[str, Decision] = {}
        # by id: two processes with the same ids then wait for each other's commit, but never in a circle
        rest = sorted(batch, key=lambda decision: decision.transaction.transaction_id)
        overtaken = 0
        while rest:
            try:
                self._append(rest, chained)
                break
            except DecisionLogError as error:
                if _is_of_chain(error.__cause__) and overtaken < MOST_TRIES:  # another log of this process has gone on
                    overtaken += 1
                    continue
                if not isinstance(error.__cause__, (UniqueViolation, DeadlockDetected)):
                    raise
                known = self.find([decision.transaction.transaction_id for decision in rest])
                if not known:
                    raise
                stands |= known
                rest = [decision for decision in rest if decision.transaction.transaction_id not in known]
        return stands

    def append_labels(self, reports: Sequence[LabelReport], *, chained: bool = True) -> list[LabelReport]:
        """What is news, in one commit."""
        with self._appending("writing labels") as session:
            for tried in range(1, MOST_TRIES + 1):
                news, numbered = _news(reports, _histories(session, reports))
                if not news:
                    break
                try:
                    arrays = cells.label_arrays(numbered)
                    if chained:
                        link = self._link(session, Kind.labels, _members(session, numbered))
                        session.run(statements.APPEND_LINKED_LABELS, [*arrays, *cells.link_values(link)])
                        self._head = link.head
                    else:
                        session.run(statements.APPEND_LABELS, arrays)
                    break
                except UniqueViolation:  # another process has reported about one of them meanwhile
                    self._head = None
                    if tried == MOST_TRIES:
                        raise
        return news

    def label_history(self, transaction_id: str) -> list[LabelReport]:
        """The reports about one transaction."""
        with self._asking() as session:
            rows = _reported(session, [transaction_id])
        return [report((transaction_id, *row[1:])) for row in rows]

    def close(self) -> None:
        """Close both connections; other calls must have ended."""
        try:
            with self._writer.turn("closing") as session:
                self._claim.release(session.driver)
        except DecisionLogError:
            pass  # its locks end with its connection
        self._writer.close()
        self._reader.close()

    def _append(self, batch: Sequence[Decision], chained: bool) -> None:
        with failures("writing decisions"):
            stored = self._codec.rows(batch)
            rows = cells.rows(batch, stored)
            sealed = members(stored) if chained else []
        with self._appending("writing decisions") as session:
            link = self._link(session, Kind.decisions, sealed) if chained else None
            if len(batch) >= COPY_FROM:
                session.copy(statements.COPY_LINKED if link else statements.COPY, statements.copied(rows, link))
            else:
                arrays = [cells.array(kind, getattr(rows, name)) for name, kind in statements.GIVEN.items()]
                given = [*arrays, *cells.link_values(link)] if link else arrays
                session.run(statements.APPEND_LINKED if link else statements.APPEND, given)
            if link is not None:
                self._head = link.head

    def _link(self, session: Session, kind: Kind, sealed: Sequence[Member]) -> Link:
        """The next link of this process's number."""
        writer = self._claim.number or 0
        if self._head is None:
            found = session.rows(statements.HEAD, [writer.to_bytes(8, "big")], statements.HEAD_KINDS)
            self._head = Head(*found[0]) if found else Head()
        return linked(writer, self._head, kind, sealed)

    def _asking(self) -> AbstractContextManager[Session]:
        return (self._writer if self._in_doubt else self._reader).turn("reading")

    @contextmanager
    def _appending(self, doing: str) -> Iterator[Session]:
        try:
            with self._writer.turn(doing) as session:
                yield session
        except BaseException:
            self._in_doubt = True
            self._head = None
            raise
        self._in_doubt = False


def _is_of_chain(error: BaseException | None) -> bool:
    return isinstance(error, UniqueViolation) and error.diag.constraint_name == CHAIN_KEY


def _members(session: Session, numbered: Sequence[tuple[LabelReport, int]]) -> list[Member]:
    """What a link has of reports; the time of a transaction that is unknown does not matter: they will be refused."""
    keys = cells.key_array([item.label.transaction_id for item, _ in numbered])
    times = dict(session.rows(statements.TIMES, [keys], statements.TIMES_KINDS))
    return [
        (
            item.arrival,
            times.get(key_of(item.label.transaction_id)[0].decode(), 0),
            seal(linked_label(label_row(item, nth))),
        )
        for item, nth in numbered
    ]


def _reported(session: Session, transaction_ids: Iterable[str]) -> list[Row]:
    """All reports about these transactions, in order of arrival."""
    keys = cells.key_array([*transaction_ids])
    return sorted(session.rows(statements.HISTORY, [keys], statements.REPORTED), key=lambda row: int(row[-1]))


def _histories(session: Session, reports: Sequence[LabelReport]) -> dict[bytes, list[LabelReport]]:
    """By key."""
    histories: dict[bytes, list[LabelReport]] = {}
    for row in _reported(session, {item.label.transaction_id for item in reports}):
        histories.setdefault(row[0].encode(), []).append(report(row))
    return histories


def _news(
    reports: Sequence[LabelReport], histories: dict[bytes, list[LabelReport]]
) -> tuple[list[LabelReport], list[tuple[LabelReport, int]]]:
    """Those that are news, in their order; and by id, each with its number for its transaction."""
    news = []
    numbered = []
    for item in reports:
        history = histories.setdefault(key_of(item.label.transaction_id)[0], [])
        if is_news(history, item.label):
            history.append(item)
            news.append(item)
            numbered.append((item, len(history)))
    return news, sorted(numbered, key=lambda each: (each[0].label.transaction_id, each[1]))
