"""Makes decisions durable: in the log or, while the log is gone, in a local journal that is replayed into it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice

import msgspec

from fraudml.decisions.identity import unknown
from fraudml.decisions.journal import Journal
from fraudml.decisions.log import DecisionLog
from fraudml.decisions.recent import Recent, RecentDecisions
from fraudml.decisions.record import Decision, Degradation
from fraudml.errors import DecisionLogError

PROBE_S = 1.0  # when a log that is gone is asked again; each time it is still gone, this doubles
MOST_PROBE_S = 10.0
HANDED_AT_ONCE = 1_000
REPLAY_AT_ONCE = 2_000  # journaled decisions put into the log before the next batch: nobody waits for all of them
MOST_JOURNALED = 500_000  # they are also held in memory, about 1 KB each; beyond, requests are refused
SETTLE_S = 10.0
DOUBT_S = 60.0  # after an outage of ours, how long decisions may be in the journals of other processes

logger = logging.getLogger(__name__)


class Recorder:
    """Where every decision goes from ``taken`` (in state, not durable) to durable, in the order of arrival.

    Two threads may use it at once: one that decides (:meth:`known`, :meth:`take`, :meth:`settle`) and one that commits
    (:meth:`commit`). A decision moves ``pending -> (journal ->) log`` and is looked for in that order, so that none is
    missed on its way. Decisions whose commit failed stay pending and go first with the next commit; until they are
    durable :meth:`known` raises, so state never runs ahead of the log by more than the batches under way.

    Without a journal a log that fails is an error; with one, decisions go there, marked as degraded, until the log
    works again and has taken all of them. ``keep``: the journal holds them still, until :meth:`hand_on`.
    """

    def __init__(
        self,
        log: DecisionLog,
        journal: Journal | None = None,
        recent: RecentDecisions | None = None,
        *,
        keep: bool = False,
    ) -> None:
        self._log = log
        self._journal = journal
        self._keep = keep
        self._kept = False  # the log has all that the journal holds
        self._log_gone = False  # it did not take what was written; it may still answer
        self._probe_at = 0.0
        self._probes = 0
        self._read_at = 0.0  # not to be read before: reading failed
        self._pending: dict[str, Decision] = {}
        self._failed: list[Decision] = []
        self._journaled: dict[str, Decision] = {}
        if journal is not None:
            self._journaled = {decision.transaction.transaction_id: decision for decision in journal.read()}
        self._recent = recent or Recent()  # to answer retries while the log cannot be asked
        self._doubt_until = 0.0  # until then the log may lack what others have decided
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
        """The decisions with these ids, by id, durable or not; unknown ones are left out.

        While the log cannot be read only the recent ones are known. Raises ``DecisionLogError`` when earlier decisions
        can be made durable nowhere, or the log fails and there is no journal.
        """
        if self._failed:
            self.commit([])
        found: dict[str, Decision] = {}
        self._look(_take_from(self._pending, transaction_ids, found), found)
        return found

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        """The durable ones, for those who only read; ``DecisionLogError`` when it cannot be told which are unknown."""
        found: dict[str, Decision] = {}
        asked = self._look(transaction_ids, found)
        if not asked and len(found) < len(set(transaction_ids)):
            raise DecisionLogError("the decision log cannot be read now")
        return found

    def decision(self, transaction_id: str) -> Decision:
        """One durable decision; raises ``NotFoundError``, and ``DecisionLogError`` when it cannot be told."""
        found = self.find([transaction_id])
        if not found:
            raise unknown(transaction_id)
        return found[transaction_id]

    def recent(self, transaction_id: str) -> Decision | None:
        """A decision as it became durable, when that was a short while ago."""
        return self._recent.get(transaction_id)

    def take(self, decisions: Sequence[Decision]) -> None:
        """From now on these are known; :meth:`commit` makes them durable."""
        self._pending.update([(decision.transaction.transaction_id, decision) for decision in decisions])

    def commit(self, decisions: Sequence[Decision]) -> Sequence[Decision]:
        """Make taken decisions durable, after those whose commit failed before; raises ``DecisionLogError``.

        Returned is what is durable: the same decisions, marked as degraded where they went to the journal, and where
        another process was first with an id, its decision.
        """
        with self._changed:
            batch = [*self._failed, *decisions]
            try:
                if self.degraded:
                    self._replay()
                stand, rest = ({}, batch) if self.degraded else self._to_log(batch)
                if rest:
                    stand = stand | self._to_journal(rest)
                if stand:
                    batch = [stand.get(decision.transaction.transaction_id, decision) for decision in batch]
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

    def hand_on(self, take: Callable[[Sequence[Decision]], object]) -> int:
        """Once the log has all of the journal: give that to ``take``, as the log has it, and forget it.

        Returns the number of decisions. May be called by another thread; a process that ends before does it when it
        starts again. Raises ``DecisionLogError``, and what ``take`` does; then it has to be called again.
        """
        if self._journal is None or not self._kept or self._journaled:
            return 0
        held, handed = len(self._journal), 0
        reading = self._journal.read()
        while some := [decision.transaction.transaction_id for decision in islice(reading, HANDED_AT_ONCE)]:
            take(list(self._log.find(some).values()))
            handed += len(some)
        with self._changed:
            if len(self._journal) == held and not self._journaled:  # else all of it once more, the new ones too
                self._journal.clear()
                self._kept = False
        return handed

    def close(self) -> None:
        """Close the journal and what remembers decisions; the log is its owner's."""
        self._recent.close()
        if self._journal is not None:
            self._journal.close()

    def _look(self, transaction_ids: Sequence[str], found: dict[str, Decision]) -> bool:
        """Add the durable decisions to ``found``; whether the log could be asked. Without it the recent are found."""
        rest = _take_from(self._journaled, transaction_ids, found)
        if time.monotonic() >= self._read_at:
            try:
                found.update(self._log.find(rest))
            except DecisionLogError as error:
                if self._journal is None:
                    raise
                logger.warning("the decision log cannot be read: %s", error)
                self._read_at = time.monotonic() + PROBE_S
            else:
                if self._recent.shared and (self.degraded or time.monotonic() < self._doubt_until):
                    found.update(self._recent.find([name for name in rest if name not in found]))
                return True
        found.update(self._recent.find(rest))
        return False

    def _to_log(self, batch: list[Decision]) -> tuple[dict[str, Decision], list[Decision]]:
        """Append to the log; the decisions of others that stand for some, and what it did not take."""
        stand: dict[str, Decision] = {}
        try:
            fresh = batch
            if self._failed:  # a commit can fail after it happened
                stand, fresh = self._in_log(batch)
            if fresh:
                stand = stand | self._log.append(fresh)
        except DecisionLogError as error:
            if self._journal is None:
                raise
            self._lost(error)
            try:
                return self._in_log(batch)
            except DecisionLogError:
                return stand, [decision for decision in batch if decision.transaction.transaction_id not in stand]
        return stand, []

    def _in_log(self, batch: list[Decision]) -> tuple[dict[str, Decision], list[Decision]]:
        """What the log has for these ids, and the decisions on ids that it does not know."""
        have = self._log.find([decision.transaction.transaction_id for decision in batch])
        return have, [decision for decision in batch if decision.transaction.transaction_id not in have]

    def _to_journal(self, batch: list[Decision]) -> dict[str, Decision]:
        if self._journal is None or len(self._journaled) + len(batch) > MOST_JOURNALED:
            raise DecisionLogError("the decision log is gone and the journal is full")
        marked = {decision.transaction.transaction_id: _marked(decision) for decision in batch}
        self._journal.append([*marked.values()])
        self._journaled.update(marked)
        return marked

    def _settled(self, batch: list[Decision]) -> None:
        """They are durable; remember them for retries."""
        if self._journal is not None:
            self._recent.add(batch)
        for decision in batch:
            self._pending.pop(decision.transaction.transaction_id, None)

    def _lost(self, error: DecisionLogError) -> None:
        if not self._log_gone:
            logger.error("the decision log failed; decisions go to the journal until it works again: %s", error)
        # asking may hold up a batch until it times out
        self._probe_at = time.monotonic() + min(PROBE_S * 2**self._probes, MOST_PROBE_S)
        self._probes = min(self._probes + 1, 10)
        self._log_gone = True

    def _replay(self) -> None:
        """Try a log that is gone again, from time to time; raises nothing."""
        if self._log_gone and time.monotonic() < self._probe_at:
            return
        try:
            self._replay_some()
        except DecisionLogError as error:
            self._lost(error)

    def _replay_some(self) -> None:
        """The next decisions of the journal into the log, in order; the last ones end the outage."""
        batch = list(islice(self._journaled.values(), REPLAY_AT_ONCE))
        have = self._log.find([decision.transaction.transaction_id for decision in batch])
        fresh = [decision for decision in batch if decision.transaction.transaction_id not in have]
        if fresh:
            have.update(self._log.append(fresh))
        if self._journal is not None and len(batch) == len(self._journaled):
            self._kept = self._kept or (self._keep and bool(batch))
            if not self._kept:
                self._journal.clear()
        self._log_gone, self._probes, self._read_at = False, 0, 0.0
        self._doubt_until = time.monotonic() + DOUBT_S
        for decision in batch:
            name = decision.transaction.transaction_id
            if name in have and not _is_in(have, decision):
                self.superseded += 1
                self._recent.add([have[name]])  # the first decision is the one that counts
            del self._journaled[name]
        if batch and not self._journaled:
            logger.warning("the decision log works again and has all of the journal; superseded: %d", self.superseded)


def _take_from(held: dict[str, Decision], transaction_ids: Sequence[str], found: dict[str, Decision]) -> Sequence[str]:
    """Move what is held into ``found``; the ids that are left. Another thread may change ``held``."""
    if not held:
        return transaction_ids
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


def _is_in(have: dict[str, Decision], decision: Decision) -> bool:
    """Whether it is this very decision that the log has, not another one on the same id."""
    found = have.get(decision.transaction.transaction_id)
    return found is not None and found.arrival == decision.arrival
