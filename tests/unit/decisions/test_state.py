"""A shared online store that fails or is emptied: nothing is missed in the end, and nothing counts twice."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions import rebuild as rebuilding
from fraudml.decisions import refill, state
from fraudml.decisions.model import Model
from fraudml.decisions.rebuild import catch_up, rebuild
from fraudml.decisions.record import Decision, Degradation
from fraudml.decisions.refill import Refiller
from fraudml.decisions.scorer import Scorer
from fraudml.errors import StateLost
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.features.stores import StateRead
from tests.support.scoring import SCHEMA, T0, ReferenceStore, bundle, decision, transaction

DAY_US = 86_400_000_000


class SharedStore(ReferenceStore):
    """The reference as a store that others use too: told apart by id, and emptied at will."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = True
        self.is_complete = False
        self.claimed = False
        self.noted: str | None = None
        self.loads: list[int] = []

    def empty(self) -> None:
        self.events.clear()
        self.labels.clear()
        self.is_complete = self.claimed = False
        self.noted = None

    def set_mark(self, text: str) -> None:
        self.noted = text

    def mark(self) -> str | None:
        return self.noted

    def lost(self) -> bool:
        self._check()
        return not self.is_complete

    def claim_load(self) -> bool:
        mine, self.claimed = not self.claimed, True
        return mine

    def give_up_load(self) -> None:
        self.claimed = False

    def loaded(self) -> None:
        self._check()
        self.is_complete = True

    def read_then_update(self, transactions: Sequence[Transaction], *, trace: bool = False) -> StateRead:
        read = super().read_then_update(transactions)
        self._tell_apart()
        return read

    def add_labels(self, labels: Sequence[Label], *, again: bool = False) -> None:
        super().add_labels([label for label in labels if label not in self.labels])
        self._tell_apart()

    def load(self, events: pa.RecordBatch) -> None:
        super().load(events)
        self.loads.append(events.num_rows)
        self.events = list({event.transaction_id: event for event in self.events}.values())
        self.labels = list(dict.fromkeys(self.labels))

    def _tell_apart(self) -> None:
        self.events = list({event.transaction_id: event for event in self.events}.values())
        if not self.is_complete:
            raise StateLost("the store is empty")


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "COMMIT_S", 0.0)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteDecisionLog]:
    log = SqliteDecisionLog(f"sqlite:///{tmp_path / 'log.db'}", SCHEMA)
    yield log
    log.close()


def start(log: SqliteDecisionLog, store: SharedStore) -> Scorer:
    return Scorer(Model(bundle()), store, log)


def ids(store: SharedStore) -> list[str]:
    return sorted(event.transaction_id for event in store.events)


def test_an_emptied_store_is_no_history_until_it_is_loaded_again(log: SqliteDecisionLog) -> None:
    store = SharedStore()
    rebuild(store, log, [])
    scorer = start(log, store)
    scorer.score([transaction(1), transaction(2)])
    scorer.add_labels([Label("t1", True, T0 + 5_000_000)])
    store.empty()
    (blind,) = scorer.score([transaction(3)])
    assert blind.degraded == (Degradation.online_store,)
    assert scorer.degraded == (Degradation.online_store,)
    assert ids(store) == ["t3"]  # what is decided meanwhile is in state
    refiller = Refiller(store, log, lambda: [], 365 * DAY_US)
    refiller.check()
    (seeing,) = scorer.score([transaction(4)])
    assert (seeing.degraded, scorer.degraded) == ((), ())
    assert ids(store) == ["t1", "t2", "t3", "t4"]
    assert [label.transaction_id for label in store.labels] == ["t1"]
    refiller.check()  # nothing to do
    refiller.stop()


def test_only_one_process_loads(log: SqliteDecisionLog) -> None:
    store = SharedStore()
    store.claimed = True  # by another process
    Refiller(store, log, lambda: [], 365 * DAY_US).check()
    assert store.lost()


def test_what_a_process_kept_for_a_store_when_it_ended_comes_from_the_log(log: SqliteDecisionLog) -> None:
    store = SharedStore()
    rebuild(store, log, [])
    scorer = start(log, store)
    scorer.score([transaction(1)])
    store.broken = True
    (blind,) = scorer.score([transaction(2)])
    scorer.add_labels([Label("t1", True, T0 + 5_000_000)])
    assert isinstance(blind, Decision)
    store.broken = False
    assert ids(store) == ["t1"]
    assert catch_up(store, log, 365 * DAY_US) == 1  # as the next process does when it starts
    assert ids(store) == ["t1", "t2"]
    assert [label.transaction_id for label in store.labels] == ["t1"]
    (third,) = scorer.score([transaction(3)])  # the process lives after all, and gives it what it kept
    assert third.degraded == ()
    assert ids(store) == ["t1", "t2", "t3"]
    assert len(store.labels) == 1


def test_after_a_failure_others_may_still_keep_events_for_the_store(
    log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill, "GRACE_S", 0.0)
    store = SharedStore()
    rebuild(store, log, [])
    one, other = start(log, store), Scorer(Model(bundle()), store, log, writer=1)
    refiller = Refiller(store, log, lambda: [], 365 * DAY_US, one.state)
    one.state.watch()
    store.broken = True
    one.score([transaction(1)])
    other.score([transaction(2)])
    store.broken = False
    (blind,) = one.score([transaction(3)])  # which gave the store its own one, but not that of the other
    assert blind.degraded == one.degraded == (Degradation.online_store,)
    assert ids(store) == ["t1", "t3"]
    refiller.check()
    assert ids(store) == ["t1", "t2", "t3"]
    (seeing,) = one.score([transaction(4)])
    assert seeing.degraded == one.degraded == ()
    other.score([transaction(5)])
    assert ids(store) == ["t1", "t2", "t3", "t4", "t5"]


def test_a_store_gets_what_it_missed_piece_by_piece(log: SqliteDecisionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "GIVEN_AT_ONCE", 2)
    monkeypatch.setattr(state, "GIVING_S", 0.0)
    store = SharedStore()
    rebuild(store, log, [])
    scorer = start(log, store)
    store.broken = True
    scorer.score([transaction(n) for n in range(1, 6)])
    store.broken = False
    assert [bool(scorer.score([transaction(n)])[0].degraded) for n in range(6, 20)] == [True] * 3 + [False] * 11
    assert len(ids(store)) == 19


def test_an_interrupted_load_goes_on_behind_its_mark(log: SqliteDecisionLog) -> None:
    old = SqliteDecisionLog("sqlite:///" + str(log._engine.url.database) + ".old", SCHEMA)
    old.append([decision(transaction(n), n) for n in range(100, 106)])
    past = list(old.replay(batch_size=2))
    old.close()
    log.append([decision(transaction(n), n) for n in range(1, 4)])
    store = SharedStore()

    def interrupted() -> Iterator[pa.RecordBatch]:
        yield from past[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(store, log, interrupted())
    assert (store.loads, store.lost()) == ([2, 2], True)
    told: list[int] = []
    assert rebuild(store, log, past, lambda done, total: told.append(done)) == 9
    assert store.loads == [2, 2, 2, 3]
    assert told == [6, 9]
    assert ids(store) == sorted(f"t{n}" for n in (1, 2, 3, *range(100, 106)))
    store.empty()
    store.loads.clear()
    rebuild(store, log, past)
    assert store.loads == [2, 2, 2, 3]


def test_what_others_commit_while_history_is_loaded_is_loaded_as_well(
    log: SqliteDecisionLog,
) -> None:
    store = SharedStore()

    def load(events: pa.RecordBatch) -> None:
        log.append([decision(transaction(2), time.time_ns() // 1_000)])  # it was in state before that was emptied
        patch.undo()
        store.load(events)

    log.append([decision(transaction(1), 1)])
    patch = pytest.MonkeyPatch()
    patch.setattr(store, "load", load)
    rebuild(store, log, [])
    assert ids(store) == ["t1", "t2"]
