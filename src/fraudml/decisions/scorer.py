"""The hot path: a batch of transactions in, decisions out.

known ids -> state -> vectors -> model -> policy -> log -> answers. HTTP, files and streams all call this.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from fraudml.decisions import explanation
from fraudml.decisions.explanation import Explained
from fraudml.decisions.identity import conflict, difference, unknown
from fraudml.decisions.log import Arrivals, DecisionLog
from fraudml.decisions.model import Model, degradations
from fraudml.decisions.record import Decision, LabelReport, Timings, pack_vector
from fraudml.decisions.state import OnlineState
from fraudml.errors import (
    BundleError,
    ConflictError,
    DataError,
    FieldProblem,
    FraudmlError,
    NotFoundError,
    RowError,
)
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.features.stores import OnlineStore

# Told how long each stage of a batch took: (find | state | model | log, seconds).
OnStage = Callable[[str, float], None]


class Scorer:
    """Turns transactions into decisions that are durable before they are returned.

    Safe for use by several threads, one batch at a time. Each event enters state once, whatever is retried and
    whatever fails: decisions that the log did not take stay in ``_unlogged`` and are logged before anything else
    is done, so state never runs ahead of the log by more than one batch. Label reports enter state after the log;
    where it is not known whether it took them, they stay in ``_unsure`` until it can be asked.
    """

    def __init__(self, model: Model, store: OnlineStore, log: DecisionLog, *, on_stage: OnStage | None = None) -> None:
        self._model = model
        self._store = store
        self._state = OnlineState(store)
        self._log = log
        self._on_stage = on_stage or (lambda stage, seconds: None)
        self._arrivals = Arrivals(log.last_arrival())
        self._unlogged: list[Decision] = []
        self._unsure: list[LabelReport] = []
        self._lock = threading.Lock()

    @property
    def model(self) -> Model:
        """The model that serves now."""
        return self._model

    def use(self, model: Model) -> None:
        """Serve another model from the next batch on; raises BundleError when its features are others."""
        if model.bundle.feature_set.fingerprint != self._model.bundle.feature_set.fingerprint:
            raise BundleError(
                f"model {model.version} reads other features than the online store keeps: restart to serve it"
            )
        with self._lock:
            self._model = model

    def score(self, batch: Sequence[Transaction]) -> list[Decision]:
        """The decision for each transaction, in order; a known id gets its first decision.

        Raises ``ConflictError`` when an id was decided with other content (the rest of the batch is decided all
        the same), and ``DecisionLogError`` when the log fails: then a retry is safe.
        """
        outcomes = self.try_score(batch)
        for outcome in outcomes:
            if isinstance(outcome, ConflictError):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, Decision)]

    def try_score(self, batch: Sequence[Transaction]) -> list[Decision | ConflictError]:
        """The same with conflicts in the place of decisions, for batches whose items fail one by one."""
        with self._lock:
            self._log_leftovers()
            started = time.perf_counter()
            known = self._log.find([transaction.transaction_id for transaction in batch])
            self._on_stage("find", time.perf_counter() - started)
            fresh: dict[str, Transaction] = {}
            for transaction in batch:
                if transaction.transaction_id not in known:
                    fresh.setdefault(transaction.transaction_id, transaction)
            if fresh:
                self._unlogged = self._decide(list(fresh.values()))
                known.update((decision.transaction.transaction_id, decision) for decision in self._unlogged)
                self._write()
            return [self._answer(transaction, known[transaction.transaction_id]) for transaction in batch]

    def add_labels(self, labels: Sequence[Label]) -> list[bool | FraudmlError]:
        """Record reports about decided transactions; their entities are looked up in the log.

        For each: True when recorded, False for a repeat (:func:`fraudml.decisions.log.is_news`), or the error:
        ``NotFoundError`` for an unknown transaction, ``RowError`` when known before the event itself.
        """
        with self._lock:
            self._log_leftovers()
            decided = self._log.find([label.transaction_id for label in labels])
            found = [_resolve(label, decided.get(label.transaction_id)) for label in labels]
            good = [label for label in found if isinstance(label, Label)]
            arrivals = iter(self._arrivals.take(len(good)))
            reports = [LabelReport(label, next(arrivals)) if isinstance(label, Label) else label for label in found]
            self._unsure = [report for report in reports if isinstance(report, LabelReport)]
            news = self._log.append_labels(self._unsure)
            self._unsure = []
            if news:
                self._state.add_labels([report.label for report in news])
            recorded = {report.arrival for report in news}
            return [r.arrival in recorded if isinstance(r, LabelReport) else r for r in reports]

    def explain(self, transaction: Transaction) -> Explained:
        """See :func:`fraudml.decisions.explanation.explain_transaction`; does not wait for batches."""
        return explanation.explain_transaction(self._model, self._log, self._store, transaction)

    def explain_decided(self, transaction_id: str) -> Explained:
        """See :func:`fraudml.decisions.explanation.explain_decided`."""
        return explanation.explain_decided(self._model, self._log, transaction_id)

    def _log_leftovers(self) -> None:
        """After a failure: log what is in state but not known to be in the log, and the other way round."""
        if self._unsure:
            ids = {report.label.transaction_id for report in self._unsure}
            logged = {report.arrival for key in ids for report in self._log.label_history(key)}
            self._state.add_labels([report.label for report in self._unsure if report.arrival in logged])
            self._unsure = []
        if self._unlogged:
            known = self._log.find([decision.transaction.transaction_id for decision in self._unlogged])
            self._unlogged = [d for d in self._unlogged if d.transaction.transaction_id not in known]
            self._write()

    def _write(self) -> None:
        started = time.perf_counter()
        if self._unlogged:
            self._log.append(self._unlogged)
        self._unlogged = []
        self._on_stage("log", time.perf_counter() - started)

    def _decide(self, batch: list[Transaction]) -> list[Decision]:
        model = self._model
        started = time.perf_counter()
        state = self._state.read_then_update(batch)
        read = time.perf_counter()
        vectors = model.vectors(batch, state)
        scores = model.scores(vectors)
        scored = time.perf_counter()
        self._on_stage("state", read - started)
        self._on_stage("model", scored - read)
        timings = Timings(len(batch), int((read - started) * 1e6), int((scored - read) * 1e6))
        late = [False] * len(batch) if state is None else state.late.tolist()
        decided_at_us = time.time_ns() // 1_000
        arrivals = self._arrivals.take(len(batch))
        decisions = []
        for i, transaction in enumerate(batch):
            degraded = degradations(state, scores[i])
            decision = Decision(
                transaction=transaction,
                vector=pack_vector(vectors[i]),
                score=scores[i],
                action=model.policy.action(scores[i], degraded),
                model_version=model.version,
                fingerprint=model.bundle.feature_set.fingerprint,
                arrival=arrivals[i],
                decided_at_us=decided_at_us,
                timings=timings,
                arm=model.arm,
                late=late[i],
                degraded=degraded,
            )
            decisions.append(decision)
        return decisions

    def _answer(self, transaction: Transaction, decision: Decision) -> Decision | ConflictError:
        field = difference(self._model.bundle.feature_set.schema, decision.transaction, transaction)
        return decision if field is None else conflict(transaction.transaction_id, field)


def _resolve(label: Label, decision: Decision | None) -> Label | DataError | NotFoundError:
    """The label with the entities of its transaction."""
    if decision is None:
        return unknown(label.transaction_id)
    event = decision.transaction
    if label.known_at_us < event.event_time_us:
        return RowError([FieldProblem("known_at", "expected a time that is not before the transaction's")])
    return Label(label.transaction_id, label.is_fraud, label.known_at_us, event.entities)
