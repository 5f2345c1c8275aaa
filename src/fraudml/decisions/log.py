"""Port: the decision log, the only durable truth. Adapters live in ``adapters/log``.

Everything else (online state, metrics, reports) can be rebuilt from it. What is in it is never changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

import pyarrow as pa

from fraudml.decisions.chain import Link
from fraudml.decisions.keys import KeyStore
from fraudml.decisions.record import Decision, LabelReport, ShadowScore
from fraudml.events.label import Label
from fraudml.events.schema import EVENT_TIME, IS_FRAUD, KNOWN_AT, TRANSACTION_ID, Schema
from fraudml.events.source import arrow_schema

ARRIVAL = "arrival"
LABEL_ARRIVAL = "label_arrival"
WRITERS = 64  # processes that may append at the same time; their arrival numbers keep up to 15,000 decisions a second


class Durability(StrEnum):
    """What a commit survives."""

    process = "process"  # the end of the process (kill -9)
    power = "power"  # also a power cut: every commit waits for the disk


class StoredRow(NamedTuple):
    """A row of the log, read to be compared with its link. ``row``: what :func:`fraudml.decisions.chain.seal` takes;
    ``None`` where columns that are kept twice differ."""

    arrival: int
    transaction_id: object
    row: Sequence[object] | None


class DecisionLog(Protocol):
    """Decisions with their transactions, and label reports.

    Safe for use by several threads; only processes with a claim append. Raises ``DecisionLogError`` when the backend
    fails, and nothing of the call is then stored, unless the connection broke during the commit: then it may be.
    """

    @property
    def connections(self) -> int | None:
        """How many connections of its pool are in use; ``None`` without a pool. Answers at once."""
        ...

    @property
    def keys(self) -> KeyStore:
        """The API keys, kept in the same database."""
        ...

    @property
    def waits(self) -> bool:
        """Whether a commit waits, for a disk or a network, so that other work could be done meanwhile."""
        ...

    def claim(self, *, shared: bool = False) -> int:
        """Become a process that appends, until this log is closed or the process ends, however it ends.

        It is the only one, or one of at most :data:`WRITERS` that all claimed ``shared``. Returns its number among
        them, from 0. Raises ``ConfigError`` when others stand against it. Reading and API keys need no claim.
        """
        ...

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        """The decisions with these ids, by id; unknown ids are left out. Any number of ids."""
        ...

    def decision(self, transaction_id: str) -> Decision:
        """One decision; raises ``NotFoundError``."""
        ...

    def append(self, decisions: Sequence[Decision], *, chained: bool = True) -> dict[str, Decision]:
        """Store decisions and their transactions in one commit, durable before this returns. ``chained``: with a link
        of :mod:`fraudml.decisions.chain`, here and below; without one only for :meth:`carry`.

        The caller has looked the ids up before, so they are new, unless another process was faster. What is in the
        log is never changed: such a decision is not stored, and the one that stands is returned by its id.
        """
        ...

    def append_labels(self, reports: Sequence[LabelReport], *, chained: bool = True) -> list[LabelReport]:
        """Store the reports that are news (:func:`is_news`) in one commit, and return them, in the given order.

        The transactions must be in the log: otherwise ``DecisionLogError``, and nothing is stored.
        """
        ...

    def label_history(self, transaction_id: str) -> list[LabelReport]:
        """All reports about a transaction in order of arrival; ``entities`` are not filled in."""
        ...

    def last_arrival(self, *, labels: bool = True) -> int:
        """The greatest arrival number in the log; 0 when it is empty. ``labels``: those of reports count, too."""
        ...

    def decisions(self, batch_size: int = 1_000, after: int = 0) -> Iterator[list[Decision]]:
        """All decisions as they were appended, in order of arrival, in lists. ``after``: see :meth:`replay`."""
        ...

    def transaction_ids(self) -> Iterator[str]:
        """The ids of all transactions, in no order."""
        ...

    def replay(self, batch_size: int = 50_000, after: int = 0, *, blind: bool = False) -> Iterator[pa.RecordBatch]:
        """All transactions in order of arrival, in ``events.source.arrow_schema``, each with its first label report.

        With :meth:`later_labels` this is all an online store needs to be rebuilt. ``after``: only those with a greater
        arrival number, here and below. ``blind``: only those decided without the online store, which may lack them.
        """
        ...

    def labels(self, after: int = 0) -> Iterator[Label]:
        """All reports in order of arrival, with their entities."""
        ...

    def later_labels(self, after: int = 0) -> Iterator[Label]:
        """The reports that a :meth:`replay` has no place for, in order of arrival, with their entities: the second and
        further ones about its transactions, and those about transactions that ``after`` leaves out of it.
        """
        ...

    def audit_batches(
        self, batch_size: int = 50_000, after: int = 0, *, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """All decisions in order of arrival: batches of :func:`audit_schema`.

        ``limit``: no more rows than that, here and below. To read a part of a large log say so: the log then looks for
        no others.
        """
        ...

    def audit_labels(
        self, batch_size: int = 50_000, after: int = 0, *, limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """All label reports in order of arrival: batches of :data:`AUDIT_LABELS`."""
        ...

    def entered_before(self) -> dict[int, int]:
        """The few decisions that have ``entered_us``, by arrival."""
        ...

    def append_shadow(self, scores: Sequence[ShadowScore]) -> None:
        """Store what another model said about decisions; of one that is there already, by arrival and version, the
        first one stands. Needs no claim. They are figures for a comparison, no part of what the log answers for.
        """
        ...

    def shadow_scores(self, after: int = 0, batch_size: int = 50_000) -> Iterator[pa.RecordBatch]:
        """Shadow scores beside what was decided, in order of arrival: batches of :data:`SHADOW_SCORES`. Those whose
        decision is not in the log, yet or for good, are left out.
        """
        ...

    def outcomes(self, after: int = 0, batch_size: int = 10_000, *, labelled: bool = False) -> Iterator[pa.RecordBatch]:
        """What experiments are judged by, without vectors: batches of :data:`OUTCOMES`.

        All decisions in order of arrival, the columns of labels null; or, ``labelled``, all label reports in order of
        theirs, each with its decision, and ``after`` is the arrival of a report. Asking for what is new costs only
        that. Several writers commit out of order: who must miss nothing asks again from a little before.
        """
        ...

    def chain(self, *, by_arrival: bool = False) -> Iterator[list[Link]]:
        """All links, by writer and number, or by their least arrival, in lists. Raises ``DecisionLogError`` also where
        a link is none that a fraudml wrote."""
        ...

    def carry(self, links: Sequence[Link]) -> None:
        """Store links of another log, whose rows this one has without a chain. Those that are here stay."""
        ...

    def stored_decisions(self, since_us: int = 0) -> Iterator[list[StoredRow]]:
        """All decisions in order of arrival, in lists, as they are stored and whatever that is.

        After them what only one of several tables has, which nobody can have written; where retention removes from one
        table before the other, not what is about transactions before ``since_us``.
        """
        ...

    def stored_labels(self) -> Iterator[list[StoredRow]]:
        """All label reports in order of arrival, in lists, likewise."""
        ...

    def model_versions(self) -> set[str]:
        """The versions that decisions name, and those that scored in the shadow. Reads the whole log."""
        ...

    def ping(self) -> None:
        """Return when the log can be read; raises ``DecisionLogError``."""
        ...

    def close(self) -> None:
        """Release connections and files."""
        ...


def audit_schema(schema: Schema) -> pa.Schema:
    """The columns of ``events.source.arrow_schema`` without the label, then the decision's.

    ``vector`` is float64 of variable length: a log may hold decisions of several FeatureSets (``fingerprint``).
    ``blind``: made without the online store, so its history is missing.
    """
    columns = [field for field in arrow_schema(schema) if field.name not in (IS_FRAUD, KNOWN_AT)]
    return pa.schema(
        [
            *columns,
            pa.field(ARRIVAL, pa.int64()),
            pa.field("decided_at_us", pa.int64()),
            pa.field("score", pa.float64()),
            pa.field("action", pa.string()),
            pa.field("model_version", pa.string()),
            pa.field("arm", pa.string()),
            pa.field("fingerprint", pa.string()),
            pa.field("late", pa.bool_()),
            pa.field("blind", pa.bool_()),
            pa.field("vector", pa.list_(pa.float64())),
        ]
    )


AUDIT_LABELS = pa.schema(
    [
        (TRANSACTION_ID, pa.string()),
        (EVENT_TIME, pa.int64()),
        (IS_FRAUD, pa.bool_()),
        (KNOWN_AT, pa.int64()),
        (ARRIVAL, pa.int64()),
    ]
)

SHADOW_SCORES = pa.schema(
    [
        (ARRIVAL, pa.int64()),
        ("model_version", pa.string()),
        ("score", pa.float64()),
        ("action", pa.string()),
        ("model_us", pa.int64()),
        ("served_version", pa.string()),
        ("served_score", pa.float64()),
        ("served_action", pa.string()),
    ]
)

# ``entities``, ``degraded`` and ``trial`` are JSON as it is stored; ``batch`` and ``model_us`` are of the timings.
OUTCOMES = pa.schema(
    [
        (TRANSACTION_ID, pa.string()),
        (ARRIVAL, pa.int64()),
        (EVENT_TIME, pa.int64()),
        ("amount_minor", pa.int64()),
        ("entities", pa.string()),
        ("score", pa.float64()),
        ("action", pa.string()),
        ("model_version", pa.string()),
        ("arm", pa.string()),
        ("degraded", pa.string()),
        ("batch", pa.int64()),
        ("model_us", pa.int64()),
        ("trial", pa.string()),
        (IS_FRAUD, pa.bool_()),
        (KNOWN_AT, pa.int64()),
        (LABEL_ARRIVAL, pa.int64()),
    ]
)


def is_news(history: Sequence[LabelReport], label: Label) -> bool:
    """Whether a report says something new, given those about its transaction that are stored, in any order.

    A repeat of the verdict that arrived last is none, nor is a report that was received before (a retry).

    >>> first = LabelReport(Label("t1", True, 10), 1)
    >>> is_news([first], Label("t1", True, 20)), is_news([first], Label("t1", False, 20))
    (False, True)
    """
    if not history:
        return True
    last = max(history, key=lambda report: report.arrival)
    return last.label.is_fraud != label.is_fraud and all(
        (report.label.is_fraud, report.label.known_at_us) != (label.is_fraud, label.known_at_us) for report in history
    )


class Arrivals:
    """Numbers for decisions and label reports: strictly increasing, also over restarts, and close to the time.

    The next number is the time in microseconds, or more where the clock is behind the last. So an audit can ask of a
    label "was it known when this was scored?" without trusting any clock's order. Each of several writers takes the
    numbers that leave its own as the rest of a division by :data:`WRITERS`: no two take the same one, and between
    writers the order is that of their clocks.

    >>> arrivals = Arrivals(last=2**62, writer=3)
    >>> arrivals.take(2) == [2**62 + 3, 2**62 + 3 + WRITERS], arrivals.take(1) == [2**62 + 3 + 2 * WRITERS]
    (True, True)
    """

    def __init__(self, last: int, writer: int = 0) -> None:
        self._last = last
        self._writer = writer

    def take(self, count: int) -> list[int]:
        """The next ``count`` numbers. Not for several threads at once."""
        least = max(time.time_ns() // 1_000, self._last + 1)
        first = least + (self._writer - least) % WRITERS
        numbers = list(range(first, first + count * WRITERS, WRITERS))
        self._last = numbers[-1] if numbers else self._last
        return numbers
