"""A decision is never lost between state and the log: journal, replay, retries, in the order of arrival."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fraudml.adapters.log.journal import FileJournal
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions import recorder as recorder_module
from fraudml.decisions.model import Model
from fraudml.decisions.recent import Recent
from fraudml.decisions.record import Decision, Degradation
from fraudml.decisions.recorder import Recorder
from fraudml.decisions.scorer import Scorer
from fraudml.errors import ConflictError, DecisionLogError, NotFoundError
from fraudml.events.label import Label
from tests.support.scoring import SCHEMA, SECOND, T0, ReferenceStore, bundle, decision, transaction


class GoneLog(SqliteDecisionLog):
    """A log that can be ``gone``: no call answers; or ``full``: it only answers. ``after``: appends happen and fail all
    the same."""

    gone = False
    full = False
    after = False

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        self._check()
        return super().find(transaction_ids)

    def append(self, decisions: Sequence[Decision]) -> dict[str, Decision]:
        if self.after:
            super().append(decisions)
        self._check()
        if self.after:
            raise DecisionLogError("connection lost")
        if self.full:
            raise DecisionLogError("disk full")
        return super().append(decisions)

    def append_labels(self, reports: Any) -> Any:
        self._check()
        return super().append_labels(reports)

    def label_history(self, transaction_id: str) -> Any:
        self._check()
        return super().label_history(transaction_id)

    def ping(self) -> None:
        self._check()
        super().ping()

    def _check(self) -> None:
        if self.gone:
            raise DecisionLogError("the server is gone")


class World:
    """A scorer with a log and a journal; ``restart`` is a new process with the same files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.start()

    def start(self) -> None:
        self.log = GoneLog(f"sqlite:///{self._folder / 'log.db'}", SCHEMA)
        self.journal = FileJournal(self._folder / "decisions.journal")
        self.recorder = Recorder(self.log, self.journal)
        self.recorder.replay()
        self.store = ReferenceStore()
        for batch in self.log.replay():
            self.store.load(batch)
        self.store.add_labels(list(self.log.later_labels()))
        self.scorer = Scorer(Model(bundle()), self.store, self.log, recorder=self.recorder)

    def restart(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        self.recorder.close()
        self.log.close()

    def score(self, *numbers: int) -> list[Decision]:
        return self.scorer.score([transaction(number) for number in numbers])

    def logged(self) -> list[str]:
        return [key for batch in self.log.replay() for key in batch.column("transaction_id").to_pylist()]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(recorder_module, "PROBE_S", 0.0)  # the log is asked with every commit
    made = World(tmp_path)
    yield made
    made.stop()


def test_while_the_log_is_gone_decisions_go_to_the_journal_and_say_so(world: World) -> None:
    (before,) = world.score(1)
    assert before.degraded == ()
    world.log.gone = True
    first, second = world.score(2, 3)
    assert first.degraded == second.degraded == (Degradation.decision_log,)
    assert first.features()[2] == 1  # the features are whole
    assert world.scorer.degraded == (Degradation.decision_log,)
    assert (world.recorder.journaled, list(world.journal.read())) == (2, [first, second])
    assert world.score(2) == [first]  # a retry
    assert world.score(1) == [before]  # also of what was decided shortly before
    assert len(world.store.events) == 3


def test_the_log_gets_all_of_it_in_order_when_it_is_back(world: World) -> None:
    world.score(1)
    world.log.gone = True
    journaled = world.score(2) + world.score(3)
    world.log.gone = False
    (after,) = world.score(4)
    assert (after.degraded, world.scorer.degraded, world.recorder.journaled, len(world.journal)) == ((), (), 0, 0)
    assert world.logged() == ["t1", "t2", "t3", "t4"]
    assert [world.log.decision("t2"), world.log.decision("t3")] == journaled
    assert world.score(3) == journaled[1:]
    world.restart()
    assert world.score(3) == journaled[1:]
    assert len(world.store.events) == 4


def test_without_traffic_an_empty_commit_brings_it_back(world: World) -> None:
    world.log.gone = True
    world.score(1)
    assert world.recorder.unsettled
    world.recorder.commit([])
    assert world.recorder.degraded
    world.log.gone = False
    world.recorder.commit([])
    assert not world.recorder.unsettled
    assert world.logged() == ["t1"]


def test_a_restart_during_the_outage_replays_before_anything_else(world: World) -> None:
    world.score(1)
    world.log.gone = True
    journaled = world.score(2, 3)
    world.restart()  # the log is back
    assert (world.logged(), len(world.journal)) == (["t1", "t2", "t3"], 0)
    assert len(world.store.events) == 3
    assert world.score(2, 3) == journaled
    (after,) = world.score(4)
    assert after.features()[2] == 3


def test_a_long_journal_is_replayed_piece_by_piece_with_new_decisions_behind_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "REPLAY_AT_ONCE", 2)
    world.log.gone = True
    world.score(*range(5))
    world.log.gone = False
    (meanwhile,) = world.score(5)
    assert meanwhile.degraded == (Degradation.decision_log,)
    assert world.logged() == ["t0", "t1"]
    assert world.score(0, 4)[0].transaction.transaction_id == "t0"  # found wherever it is
    assert world.logged() == ["t0", "t1", "t2", "t3"]
    (last,) = world.score(6)
    assert last.degraded == ()
    assert world.logged() == [f"t{n}" for n in range(7)]
    assert world.recorder.superseded == 0


def test_a_commit_that_happened_and_failed_is_not_repeated(world: World) -> None:
    world.log.after = True
    (made,) = world.score(1)
    assert (made.degraded, world.recorder.journaled) == ((), 0)  # the log, when asked, has it
    world.log.after = False
    world.score(2)
    assert world.logged() == ["t1", "t2"]
    assert len(world.store.events) == 2
    world.restart()
    assert world.score(1) == [made]


def test_a_log_that_takes_nothing_but_answers_is_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.recorder, "_recent", Recent(most=2, together=1))
    (first,) = world.score(1)
    world.score(2)
    world.score(3)
    world.log.full = True
    assert world.score(4)[0].degraded == (Degradation.decision_log,)
    assert world.score(1) == [first]  # though it is not among the recent ones
    with pytest.raises(ConflictError):
        world.scorer.score([transaction(1, amount=7)])
    assert world.recorder.decision("t1") == first
    world.log.full = False
    world.score(5)
    assert (world.recorder.superseded, world.logged()) == (0, [f"t{n}" for n in range(1, 6)])


def test_a_reading_that_fails_does_not_send_decisions_to_the_journal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(transaction_ids: Any) -> Any:
        raise DecisionLogError("slow")

    with monkeypatch.context() as broken:
        broken.setattr(world.log, "find", fail)
        (made,) = world.score(1)
    assert (made.degraded, world.recorder.journaled, world.logged()) == ((), 0, ["t1"])


def test_readers_see_durable_decisions_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = world.scorer.decide([transaction(1)])
    with pytest.raises(NotFoundError):
        world.recorder.decision("t1")
    world.scorer.commit(decided)
    assert world.recorder.decision("t1").transaction == transaction(1)
    monkeypatch.setattr(recorder_module, "PROBE_S", 60.0)
    world.log.gone = True
    assert world.recorder.decision("t1").transaction == transaction(1)  # it is a recent one
    with pytest.raises(DecisionLogError):  # who knows
        world.recorder.decision("t2")


def test_an_id_decided_long_before_the_outage_is_decided_again_and_the_log_wins(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.recorder, "_recent", Recent(most=2, together=1))
    (first,) = world.score(1)
    world.score(2)
    world.score(3)  # the first is forgotten
    world.log.gone = True
    (again,) = world.score(1)
    assert again.arrival > first.arrival
    world.log.gone = False
    world.score(4)
    assert world.recorder.superseded == 1
    assert world.score(1) == [first]
    assert world.recorder.decision("t1") == first
    assert world.logged() == ["t1", "t2", "t3", "t4"]


def test_when_neither_takes_them_nothing_is_acknowledged_and_nothing_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.log.gone = True
    append = world.journal.append
    monkeypatch.setattr(world.journal, "append", _refuse)
    with pytest.raises(DecisionLogError):
        world.score(1, 2)
    for number in (3, 4):
        with pytest.raises(DecisionLogError):
            world.score(number)
    assert len(world.store.events) == 2  # nothing further is taken into state
    monkeypatch.setattr(world.journal, "append", append)
    first, third = world.score(1, 3)
    assert [d.transaction.transaction_id for d in world.journal.read()] == ["t1", "t2", "t3"]
    world.log.gone = False
    world.score(5)
    assert world.score(1, 3) == [first, third]
    assert world.logged() == ["t1", "t2", "t3", "t5"]


def test_a_full_journal_refuses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MOST_JOURNALED", 2)
    world.log.gone = True
    world.score(1, 2)
    with pytest.raises(DecisionLogError, match="full"):
        world.score(3)
    world.log.gone = False
    world.score(3)
    assert world.logged() == ["t1", "t2", "t3"]


def test_labels_wait_for_the_log(world: World) -> None:
    world.score(1)
    world.log.gone = True
    world.score(2)
    for name in ("t1", "t2"):
        with pytest.raises(DecisionLogError):
            world.scorer.add_labels([Label(name, True, T0 + 5 * SECOND)])
    world.log.gone = False
    assert world.scorer.add_labels([Label("t2", True, T0 + 5 * SECOND)]) == [True]
    assert world.scorer.degraded == ()


def test_a_label_in_doubt_does_not_stop_decisions_while_the_log_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.score(1)
    append = world.log.append_labels

    def happen_and_fail(reports: Any) -> Any:
        append(reports)
        world.log.gone = True
        raise DecisionLogError("connection lost")

    monkeypatch.setattr(world.log, "append_labels", happen_and_fail)
    with pytest.raises(DecisionLogError):
        world.scorer.add_labels([Label("t1", True, T0 + 5 * SECOND)])
    assert world.score(2)[0].degraded == (Degradation.decision_log,)
    world.log.gone = False
    world.score(3)
    world.score(4)
    assert len(world.store.labels) == 1


def test_an_explanation_finds_what_is_in_the_journal(world: World) -> None:
    world.log.gone = True
    (made,) = world.score(1)
    assert world.scorer.explain_decided("t1").score == made.score


def test_while_a_batch_is_committed_its_ids_are_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, release = threading.Event(), threading.Event()
    append = world.log.append

    def slow(decisions: Any) -> Any:
        entered.set()
        assert release.wait(30)
        return append(decisions)

    monkeypatch.setattr(world.log, "append", slow)
    first = world.scorer.decide([transaction(1)])
    thread = threading.Thread(target=_keep(world.scorer.commit, first))
    thread.start()
    assert entered.wait(30)
    second = world.scorer.decide([transaction(1), transaction(2), transaction(1, amount=9)])
    assert [d.transaction.transaction_id for d in second.fresh] == ["t2"]
    release.set()
    thread.join()
    outcomes = world.scorer.commit(second)
    assert outcomes[:2] == [world.log.decision("t1"), world.log.decision("t2")]
    assert isinstance(outcomes[2], ConflictError)


def test_where_another_process_was_first_its_decision_is_answered(world: World) -> None:
    """Between looking an id up and the commit, another writer decides on it."""
    theirs = decision(transaction(1), 7, score=0.25)
    batch = world.scorer.decide([transaction(1), transaction(2)])
    same = world.scorer.decide([transaction(1)])  # it waits for the first
    world.log.append([theirs])
    first, second = world.scorer.commit(batch)
    assert first == theirs
    assert second == world.log.decision("t2")
    assert world.scorer.commit(same) == [theirs]
    assert world.scorer.score([transaction(1)]) == [theirs]


def test_a_decision_that_could_be_kept_nowhere_gives_way_as_well(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = decision(transaction(1), 7, score=0.25)
    batch = world.scorer.decide([transaction(1), transaction(2)])
    with monkeypatch.context() as patch:
        patch.setattr(world.log, "append", _refuse)
        patch.setattr(world.journal, "append", _refuse)
        with pytest.raises(DecisionLogError):
            world.scorer.commit(batch)
    world.log.append([theirs])
    assert world.scorer.score([transaction(1)]) == [theirs]
    world.recorder.replay()
    assert set(world.log.find(["t1", "t2"])) == {"t1", "t2"}


def test_where_another_process_was_first_with_other_content_there_is_a_conflict(world: World) -> None:
    batch = world.scorer.decide([transaction(1)])
    world.log.append([decision(transaction(1, amount=9), 7)])
    (outcome,) = world.scorer.commit(batch)
    assert isinstance(outcome, ConflictError)
    assert world.log.decision("t1").transaction.amount_minor == 9


def test_a_journaled_decision_gives_way_to_one_that_another_process_made(world: World) -> None:
    world.log.full = True
    world.score(1)
    world.log.full = False
    theirs = decision(transaction(1), 7, score=0.25)
    world.log.append([theirs])
    world.recorder.replay()
    assert world.recorder.superseded == 1
    assert world.score(1) == [theirs]


def test_a_retry_under_way_sees_what_the_journal_made_of_the_first(world: World) -> None:
    first = world.scorer.decide([transaction(1)])
    second = world.scorer.decide([transaction(1)])
    world.log.gone = True
    (made,) = world.scorer.commit(first)
    world.log.gone = False
    assert isinstance(made, Decision)
    assert made.degraded == (Degradation.decision_log,)
    assert world.scorer.commit(second) == [made]


def _refuse(decisions: Any) -> None:
    raise DecisionLogError("disk full")


def _keep(call: Callable[[Any], Any], argument: Any) -> Callable[[], None]:
    return lambda: call(argument)
