"""Makes decisions durable: in the log or, while the log is gone, in a local journal that is replayed into it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from itertools import islice

import msgspec

from fraudml.decisions.identity import unknown
from fraudml.decisions.journal import Journal
from fraudml.decisions.log import DecisionLog
from fraudml.decisions.record import Decision, Degradation
from fraudml.errors import DecisionLogError

PROBE_S = 1.0  # when a log that is gone is asked again; each time it is still gone, this doubles
MOST_PROBE_S = 10.0
REPLAY_AT_ONCE = 2_000  # journaled decisions put into the log before the next batch: nobody waits for all of them
MOST_JOURNALED = 500_000  # they are also held in memory, about 1 KB each; beyond, requests are refused
RECENT = 10_000  # decisions remembered to answer retries while the log cannot be asked
SETTLE_S = 10.0

logger = logging.getLogger(__name__)


class Recorder:
    """Where every decision goes from ``taken`` (in state, not durable) to durable, in the order of arrival.

    Two threads may use it at once: one that decides (:meth:`known`, :meth:`take`, :meth:`settle`) and one that commits
    (:meth:`commit`). A decision moves ``pending -> (journal ->) log`` and is looked for in that order, so that none is
    missed on its way. Decisions whose commit failed stay pending and go first with the next commit; until they are
    durable :meth:`known` raises, so state never runs ahead of the log by more than the batches under way.

    Without a journal a log that fails is an error; with one, decisions go there, marked as degraded, until the log
    works again and has taken all of them.
    """

    def __init__(self, log: DecisionLog, journal: Journal | None = None) -> None:
        self._log = log
        self._journal = journal
        self._log_gone = False
        self._probe_at = 0.0
        self._probes = 0
        self._pending: dict[str, Decision] = {}
        self._failed: list[Decision] = []
        self._journaled: dict[str, Decision] = {}
        if journal is not None:
            self._journaled = {decision.transaction.transaction_id: decision for decision in journal.read()}
        self._recent: dict[str, Decision] = {}
        self._before: dict[str, Decision] = {}  # the recent ones of a while ago: forgetting all at once is cheap
        self._changed = threading.Condition()
        self.superseded = 0  # journaled decisions on ids that the log, when it could be asked, had decided before

    @property
    def has_journal(self) -> bool:
        """Whether decisions can do without the log for a while."""
        return self._journal is not None

    @property
    def degraded(self) -> bool:
        """Whether decisions go to the journal: the log is gone, or has not yet taken all of the journal."""
        return self._log_gone or bool(self._journaled)

    @property
    def stuck(self) -> bool:
        """Whether there are decisions that neither the log nor the journal took."""
        return bool(self._failed)

    @property
    def unsettled(self) -> bool:
        """Whether :meth:`commit` has something to do even without new decisions."""
        return self.degraded or self.stuck

    @property
    def journaled(self) -> int:
        """The number of decisions that wait in the journal."""
        return len(self._journaled)

    def known(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        """The decisions with these ids, by id, wherever they are; unknown ones are left out.

        While the log is gone only the recent ones are known. Raises ``DecisionLogError`` when earlier decisions can
        be made durable nowhere, or the log fails and there is no journal.
        """
        if self._failed:
            self.commit([])
        return self.find(transaction_ids)

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        """The same, whatever the state of earlier decisions: for those who only read."""
        found: dict[str, Decision] = {}
        rest = transaction_ids
        for held in (self._pending, self._journaled):
            if held:
                rest = _take_from(held, rest, found)
        if not self._log_gone:
            try:
                found.update(self._log.find(rest))
            except DecisionLogError as error:
                self.lost(error)
            else:
                return found
        for held in (self._recent, self._before):
            rest = _take_from(held, rest, found)
        return found

    def decision(self, transaction_id: str) -> Decision:
        """One decision; raises ``NotFoundError``."""
        found = self.find([transaction_id])
        if not found:
            raise unknown(transaction_id)
        return found[transaction_id]

    def recent(self, transaction_id: str) -> Decision | None:
        """A decision as it became durable, when that was a short while ago."""
        return self._recent.get(transaction_id) or self._before.get(transaction_id)

    def take(self, decisions: Sequence[Decision]) -> None:
        """From now on these are known; :meth:`commit` makes them durable."""
        self._pending.update([(decision.transaction.transaction_id, decision) for decision in decisions])

    def commit(self, decisions: Sequence[Decision]) -> Sequence[Decision]:
        """Make taken decisions durable, after those whose commit failed before; raises ``DecisionLogError``.

        Returned is what is durable: the same decisions, marked as degraded where they went to the journal.
        """
        with self._changed:
            batch = [*self._failed, *decisions]
            try:
                if self.degraded:
                    self._replay()
                if batch and not self.degraded:
                    self._to_log(batch)
                if batch and self.degraded:
                    batch = self._to_journal(batch)
            except BaseException:
                self._failed = batch
                raise
            else:
                self._failed = []
                self._settled(batch)
            finally:
                self._changed.notify_all()
        return batch[len(batch) - len(decisions) :]

    def settle(self) -> None:
        """Wait until all that was taken is in the log; raises ``DecisionLogError`` when that cannot be now."""
        with self._changed:
            self._changed.wait_for(lambda: self._failed or not self._pending, SETTLE_S)
        if self.unsettled:
            self.commit([])
        if self._pending or self.degraded:
            raise DecisionLogError("the decision log is unavailable")

    def replay(self) -> None:
        """Put the whole journal into the log, as a process does before it rebuilds state; raises
        ``DecisionLogError``."""
        with self._changed:
            while self.degraded:
                self._replay_some()

    def close(self) -> None:
        """Close the journal; the log is its owner's."""
        if self._journal is not None:
            self._journal.close()

    def _to_log(self, batch: list[Decision]) -> None:
        try:
            if self._failed:  # the log may have some of them: a commit can fail after it happened
                have = self._log.find([decision.transaction.transaction_id for decision in self._failed])
                batch = [decision for decision in batch if decision.transaction.transaction_id not in have]
            if batch:
                self._log.append(batch)
        except DecisionLogError as error:
            self.lost(error)

    def _to_journal(self, batch: list[Decision]) -> list[Decision]:
        if self._journal is None or len(self._journaled) + len(batch) > MOST_JOURNALED:
            raise DecisionLogError("the decision log is gone and the journal is full")
        marked = [_marked(decision) for decision in batch]
        self._journal.append(marked)
        self._journaled.update([(decision.transaction.transaction_id, decision) for decision in marked])
        return marked

    def _settled(self, batch: list[Decision]) -> None:
        """They are durable; remember them for retries."""
        remember = self._journal is not None
        for decision in batch:
            name = decision.transaction.transaction_id
            if remember:
                self._recent[name] = decision
            self._pending.pop(name, None)
        if len(self._recent) >= RECENT:
            self._before, self._recent = self._recent, {}

    def lost(self, error: DecisionLogError) -> None:
        """The log failed; raises the error when there is no journal."""
        if self._journal is None:
            raise error
        if not self._log_gone:
            logger.error("the decision log failed; decisions go to the journal until it works again: %s", error)
        # asking may hold up a batch until it times out
        self._probe_at = time.monotonic() + min(PROBE_S * 2**self._probes, MOST_PROBE_S)
        self._probes = min(self._probes + 1, 10)
        self._log_gone = True

    def _replay(self) -> None:
        """Ask a log that is gone again, from time to time; raises nothing."""
        if self._log_gone and time.monotonic() < self._probe_at:
            return
        try:
            self._replay_some()
        except DecisionLogError as error:
            self.lost(error)

    def _replay_some(self) -> None:
        """The next decisions of the journal into the log, in order; the last ones end the outage."""
        batch = list(islice(self._journaled.values(), REPLAY_AT_ONCE))
        names = [decision.transaction.transaction_id for decision in batch]
        have = self._log.find(names)
        self._log.append([d for d in batch if d.transaction.transaction_id not in have])
        self._log.ping()
        if self._journal is not None and len(batch) == len(self._journaled):
            self._journal.clear()
        for decision in batch:
            name = decision.transaction.transaction_id
            self.superseded += name in have and have[name].arrival != decision.arrival
            del self._journaled[name]
        self._log_gone = False
        self._probes = 0
        if not self._journaled:
            logger.warning("the decision log works again and has all of the journal; superseded: %d", self.superseded)


def _take_from(held: dict[str, Decision], transaction_ids: Sequence[str], found: dict[str, Decision]) -> Sequence[str]:
    """Move what is held into ``found``; the ids that are left. Another thread may change ``held``."""
    left = []
    for name in transaction_ids:
        decision = held.get(name)
        if decision is None:
            left.append(name)
        else:
            found[name] = decision
    return left


def _marked(decision: Decision) -> Decision:
    if Degradation.decision_log in decision.degraded:
        return decision
    return msgspec.structs.replace(decision, degraded=(*decision.degraded, Degradation.decision_log))
