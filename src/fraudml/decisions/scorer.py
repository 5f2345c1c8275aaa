"""The hot path: a batch of transactions in, decisions out.

known ids -> state -> vectors -> model -> policy -> log -> answers. HTTP, files and streams all call this.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from fraudml.decisions import explanation
from fraudml.decisions.deciding import Read, decide
from fraudml.decisions.explanation import Explained
from fraudml.decisions.identity import conflict, difference, unknown
from fraudml.decisions.lineup import Lineup
from fraudml.decisions.log import Arrivals, DecisionLog
from fraudml.decisions.model import Model
from fraudml.decisions.record import Decision, Degradation, LabelReport
from fraudml.decisions.recorder import Recorder
from fraudml.decisions.state import OnlineState
from fraudml.errors import (
    BundleError,
    ConflictError,
    DataError,
    DecisionLogError,
    FieldProblem,
    FraudmlError,
    NotFoundError,
    RowError,
)
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.features.stores import OnlineStore

logger = logging.getLogger(__name__)

# Told how long each stage of a batch took: (find | state | model | log, seconds).
OnStage = Callable[[str, float], None]
# Gets each batch that shadow models are to score, too; must return at once and raise nothing.
OnShadow = Callable[[Lineup, Read, Sequence[Decision]], None]


class Decided:
    """A batch between :meth:`Scorer.decide` and :meth:`Scorer.commit`; ``stages``: seconds that each took."""

    __slots__ = ("fresh", "known", "stages", "transactions")

    def __init__(self, transactions: Sequence[Transaction], known: dict[str, Decision]) -> None:
        self.transactions = transactions
        self.known = known
        self.fresh: list[Decision] = []
        self.stages: dict[str, float] = {}


class Scorer:
    """Turns transactions into decisions that are durable before they are returned.

    Safe for use by several threads, one batch at a time; :meth:`score` and :meth:`try_score` do all of it, while
    :meth:`decide` and :meth:`commit` are its halves for those who decide on a batch while the one before is committed.
    Each event enters state once, whatever is retried and whatever fails (see :class:`Recorder`). Label reports enter
    state after the log; where it is not known whether it took them, they stay in ``_unsure`` until it can be asked.
    ``recorder`` is one of the same log that has a journal, ``writer`` the number that ``log.claim`` gave;
    ``registry_gone`` is set by whoever looks for newer models and cannot, ``on_shadow`` by who scores in the shadow.
    """

    def __init__(
        self,
        serving: Lineup | Model,
        store: OnlineStore,
        log: DecisionLog,
        *,
        recorder: Recorder | None = None,
        on_stage: OnStage | None = None,
        writer: int = 0,
    ) -> None:
        self._lineup = serving if isinstance(serving, Lineup) else Lineup(serving)
        self._store = store
        self._state = OnlineState(store)
        self._log = log
        self.recorder = recorder or Recorder(log)
        self.registry_gone = False
        self.on_shadow: OnShadow = lambda lineup, facts, decisions: None
        self._on_stage = on_stage or (lambda stage, seconds: None)
        self._arrivals = Arrivals(log.last_arrival(), writer)
        self._unsure: list[LabelReport] = []
        self._lock = threading.RLock()

    @property
    def lineup(self) -> Lineup:
        """The models that serve now."""
        return self._lineup

    @property
    def model(self) -> Model:
        """The champion that serves now."""
        return self._lineup.champion

    @property
    def state(self) -> OnlineState:
        """The online store as batches use it."""
        return self._state

    @property
    def degraded(self) -> tuple[Degradation, ...]:
        """What is not available now, as far as the last batch has shown."""
        gone = {
            Degradation.online_store: self._state.gone,
            Degradation.decision_log: self.recorder.degraded,
            Degradation.registry: self.registry_gone,
            Degradation.model_server: not all(model.server_up for model in self._lineup.models),
        }
        return tuple(name for name, is_gone in gone.items() if is_gone)

    def use(self, serving: Lineup | Model) -> None:
        """Serve other models from the next batch on; raises BundleError when the store does not keep what they read."""
        lineup = serving if isinstance(serving, Lineup) else Lineup(serving)
        self.check(lineup)
        with self._lock:
            self._lineup = lineup

    def check(self, lineup: Lineup) -> None:
        """Raise BundleError when the online store does not keep what these models read."""
        if lineup.champion.kept.fingerprint != self.model.kept.fingerprint:
            raise BundleError(
                f"model {lineup.version} reads other features than the online store keeps: restart to serve it"
            )

    def score(self, batch: Sequence[Transaction]) -> list[Decision]:
        """The decision for each transaction, in order; a known id gets its first decision.

        Raises ``ConflictError`` when an id was decided with other content (the rest of the batch is decided all
        the same), and ``DecisionLogError`` when nothing can be made durable: then a retry is safe.
        """
        outcomes = self.try_score(batch)
        for outcome in outcomes:
            if isinstance(outcome, ConflictError):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, Decision)]

    def try_score(
        self, batch: Sequence[Transaction], sources: Sequence[str] | None = None
    ) -> list[Decision | ConflictError]:
        """The same with conflicts in the place of decisions, for batches whose items fail one by one.

        ``sources``: which message of a stream brought each; new decisions keep theirs.
        """
        with self._lock:
            return self.commit(self.decide(batch, sources))

    def decide(self, batch: Sequence[Transaction], sources: Sequence[str] | None = None) -> Decided:
        """The first half: decide, and take the transactions into state. :meth:`commit` has to follow, in order."""
        with self._lock:
            self._clear_doubts()
            started = time.perf_counter()
            names = [transaction.transaction_id for transaction in batch]
            decided = Decided(batch, self.recorder.known(names))
            self._time(decided, "find", started)
            known = decided.known
            fresh: dict[str, int] = {}  # ids and where they are first
            for place, name in enumerate(names):
                if name not in known:
                    fresh.setdefault(name, place)
            if fresh:
                some = [batch[place] for place in fresh.values()]
                brought = None if sources is None else [sources[place] for place in fresh.values()]
                decided.fresh = self._decide(some, brought, decided)
                self.recorder.take(decided.fresh)
            return decided

    def commit(self, decided: Decided) -> list[Decision | ConflictError]:
        """The second half: an answer for each transaction, durable. Does not wait for another batch's first half.

        Raises ``DecisionLogError`` when nothing can be made durable. The decisions go first with the next commit.
        """
        started = time.perf_counter()
        durable = self.recorder.commit(decided.fresh)
        if durable or self.recorder.unsettled:
            self._time(decided, "log", started)
        known = decided.known
        if known:  # retries: of a batch that was under way, the decision may have been marked as degraded since
            for name in known:
                known[name] = self.recorder.recent(name) or known[name]
        known.update([(decision.transaction.transaction_id, decision) for decision in durable])
        return [self._answer(transaction, known[transaction.transaction_id]) for transaction in decided.transactions]

    def add_labels(self, labels: Sequence[Label], *, again: bool = False) -> list[bool | FraudmlError]:
        """Record reports about decided transactions; their entities are looked up in the log. ``again``: a process that
        ended may have logged some that state does not have.

        For each: True when recorded, False for a repeat (:func:`fraudml.decisions.log.is_news`), or the error:
        ``NotFoundError`` for an unknown transaction, ``RowError`` when known before the event itself. Raises
        ``DecisionLogError`` when the log fails: then a retry is safe.
        """
        with self._lock:
            self.recorder.settle()
            self._clear_doubts()
            if self._unsure:
                raise DecisionLogError("it is not known which earlier label reports the decision log has")
            decided = self._log.find([label.transaction_id for label in labels])
            found = [_resolve(label, decided.get(label.transaction_id)) for label in labels]
            good = [label for label in found if isinstance(label, Label)]
            arrivals = iter(self._arrivals.take(len(good)))
            reports = [LabelReport(label, next(arrivals)) if isinstance(label, Label) else label for label in found]
            told = [report for report in reports if isinstance(report, LabelReport)]
            self._unsure += told
            news = self._log.append_labels(told)
            self._unsure = []
            if news:
                self._state.add_labels([report.label for report in news])
            recorded = {report.arrival for report in news}
            if again and self._store.shared and len(recorded) < len(told):
                repeated = {report.label.transaction_id for report in told if report.arrival not in recorded}
                self._state.add_labels(self._logged_labels(repeated, decided), again=True)
            return [r.arrival in recorded if isinstance(r, LabelReport) else r for r in reports]

    def explain(self, transaction: Transaction) -> Explained:
        """See :func:`fraudml.decisions.explanation.explain_transaction`; does not wait for batches."""
        return explanation.explain_transaction(self._lineup, self.recorder, self._store, transaction)

    def explain_decided(self, transaction_id: str) -> Explained:
        """See :func:`fraudml.decisions.explanation.explain_decided`."""
        return explanation.explain_decided(self._lineup, self.recorder, transaction_id)

    def _clear_doubts(self) -> None:
        """After a failure: bring the label reports into state that the log has after all, once it can be asked."""
        if self._unsure:
            ids = {report.label.transaction_id for report in self._unsure}
            try:
                logged = {report.arrival for key in ids for report in self._log.label_history(key)}
            except DecisionLogError as error:
                if not self.recorder.has_journal:
                    raise
                logger.warning("it is still not known which label reports the log has: %s", error)
                return  # decisions go on
            self._state.add_labels([report.label for report in self._unsure if report.arrival in logged])
            self._unsure = []

    def _logged_labels(self, ids: Iterable[str], decided: Mapping[str, Decision]) -> list[Label]:
        """All that is reported about these transactions, with their entities."""
        return [
            msgspec.structs.replace(report.label, entities=decided[key].transaction.entities)
            for key in ids
            for report in self._log.label_history(key)
        ]

    def _time(self, decided: Decided, stage: str, started: float) -> float:
        now = time.perf_counter()
        decided.stages[stage] = now - started
        self._on_stage(stage, now - started)
        return now

    def _decide(self, batch: list[Transaction], sources: list[str] | None, decided: Decided) -> list[Decision]:
        lineup = self._lineup
        started = time.perf_counter()
        state = self._state.read_then_update(batch, trace=sources is not None)  # a stream gives them again
        read = self._time(decided, "state", started)
        parts = lineup.score(batch, state)
        self._time(decided, "model", read)
        stale = (Degradation.registry,) if self.registry_gone else ()
        facts = Read(batch, state, int((read - started) * 1e6), sources)
        decisions = decide(lineup, parts, facts, self._arrivals.take(len(batch)), stale)
        if lineup.shadows:
            self.on_shadow(lineup, facts, decisions)
        return decisions

    def _answer(self, transaction: Transaction, decision: Decision) -> Decision | ConflictError:
        if decision.transaction is transaction:
            return decision
        field = difference(self.model.bundle.feature_set.schema, decision.transaction, transaction)
        return decision if field is None else conflict(transaction.transaction_id, field)


def _resolve(label: Label, decision: Decision | None) -> Label | DataError | NotFoundError:
    """The label with the entities of its transaction."""
    if decision is None:
        return unknown(label.transaction_id)
    event = decision.transaction
    if label.known_at_us < event.event_time_us:
        return RowError([FieldProblem("known_at", "expected a time that is not before the transaction's")])
    return Label(label.transaction_id, label.is_fraud, label.known_at_us, event.entities)
