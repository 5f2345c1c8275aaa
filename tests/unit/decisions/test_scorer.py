"""The hot path: idempotent, durable before answered, and one event enters state once whatever fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.log import WRITERS, Arrivals
from fraudml.decisions.model import Model
from fraudml.decisions.policy import Policy, WhenDegraded
from fraudml.decisions.record import Action, Decision, Degradation, LabelReport
from fraudml.decisions.scorer import Scorer
from fraudml.decisions.state import OnlineState
from fraudml.errors import BundleError, ConfigError, ConflictError, DecisionLogError, NotFoundError, RowError
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.features.spec import AttributeFeature, FeatureSet
from tests.support.scoring import (
    FEATURES,
    SCHEMA,
    SECOND,
    T0,
    ReferenceStore,
    bundle,
    decision,
    scores_of,
    transaction,
)


class BreakableLog(SqliteDecisionLog):
    """A log whose append fails: before the commit, or after it, so that it is not known whether it happened."""

    fails: str | None = None

    def append(self, decisions: Sequence[Decision]) -> dict[str, Decision]:
        if self.fails == "before":
            raise DecisionLogError("disk full")
        stand = super().append(decisions)
        if self.fails == "after":
            raise DecisionLogError("connection lost")
        return stand

    def append_labels(self, reports: Sequence[LabelReport]) -> list[LabelReport]:
        if self.fails == "before":
            raise DecisionLogError("disk full")
        news = super().append_labels(reports)
        if self.fails == "after":
            raise DecisionLogError("connection lost")
        return news


class World:
    """A scorer with its parts; ``restart`` makes a new process of it, with state rebuilt from the log."""

    def __init__(self, folder: Path) -> None:
        self._url = f"sqlite:///{folder / 'log.db'}"
        self.log = BreakableLog(self._url, SCHEMA)
        self.stages: list[str] = []
        self.start()

    def start(self) -> None:
        self.store = ReferenceStore()
        for batch in self.log.replay():
            self.store.load(batch)
        self.store.add_labels(list(self.log.later_labels()))
        self.model = Model(bundle())
        self.scorer = Scorer(
            self.model, self.store, self.log, on_stage=lambda stage, seconds: self.stages.append(stage)
        )

    def restart(self) -> None:
        self.log.close()
        self.log = BreakableLog(self._url, SCHEMA)
        self.start()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.log.close()


def test_a_decision_holds_what_was_seen_and_decided(world: World) -> None:
    first, second = world.scorer.score([transaction(1), transaction(5, amount=5_000)])
    assert first.features().tolist() == [1_000, 2.5, 0, 0, 0]
    assert second.features().tolist() == [5_000, 2.5, 1, 1_000, 0]  # sees the first of its own batch
    expected = scores_of(np.array([first.features(), second.features()]))
    assert [first.score, second.score] == expected
    assert [first.action, second.action] == [Action.approve, Action.decline]
    assert (first.model_version, first.fingerprint, first.arm) == ("1", FEATURES.fingerprint, "champion")
    assert (first.late, first.degraded, first.timings.batch) == (False, (), 2)
    assert first.arrival < second.arrival
    assert world.log.find(["t1", "t5"]) == {"t1": first, "t5": second}
    assert world.stages == ["find", "state", "model", "log"]


def test_a_retry_gets_the_first_answer_also_after_a_restart(world: World) -> None:
    (first,) = world.scorer.score([transaction(1)])
    world.scorer.score([transaction(2)])
    assert world.scorer.score([transaction(1)]) == [first]
    world.restart()
    assert world.scorer.score([transaction(1)]) == [first]
    assert [event.transaction_id for event in world.store.events] == ["t1", "t2"]


def test_a_repeat_inside_a_batch_is_one_event(world: World) -> None:
    decisions = world.scorer.score([transaction(1), transaction(2), transaction(1)])
    assert decisions[0] == decisions[2]
    assert len(world.store.events) == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"amount": 2}, "amount"),
        ({"customer": "other"}, "cust_no"),
        ({"distance": None}, "dist_km"),
        ({"country": "FR"}, "country"),
    ],
)
def test_the_same_id_with_other_content_is_a_conflict_that_names_the_field(
    world: World, changes: dict[str, object], field: str
) -> None:
    world.scorer.score([transaction(1)])
    with pytest.raises(ConflictError, match=f"'t1' was decided before with another '{field}'"):
        world.scorer.score([transaction(1, **changes)])
    assert len(world.store.events) == 1


def test_a_conflict_fails_alone(world: World) -> None:
    outcomes = world.scorer.try_score([transaction(1), transaction(1, amount=7), transaction(2)])
    assert [type(outcome) for outcome in outcomes] == [Decision, ConflictError, Decision]
    assert set(world.log.find(["t1", "t2"])) == {"t1", "t2"}


def test_an_empty_batch(world: World) -> None:
    assert world.scorer.score([]) == []
    assert world.scorer.add_labels([]) == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_the_log_refuses_is_not_acknowledged_and_counts_once(world: World, moment: str) -> None:
    world.log.fails = moment
    with pytest.raises(DecisionLogError):
        world.scorer.score([transaction(1), transaction(2)])
    for number in (3, 4, 5):
        with pytest.raises(DecisionLogError):
            world.scorer.score([transaction(number)])
    # while nothing can be logged, nothing further is taken into state
    assert len(world.store.events) == (2 if moment == "before" else 5)
    world.log.fails = None
    retried = world.scorer.score([transaction(2), transaction(1)])
    ids = [event.transaction_id for event in world.store.events]
    assert len(ids) == len(set(ids))
    assert retried == [world.log.decision("t2"), world.log.decision("t1")]
    assert retried[0].features().tolist() == [1_000, 2.5, 1, 1_000, 0]
    state, logged = world.store.events, world.log
    assert {event.transaction_id for event in state} == set(logged.find([f"t{i}" for i in range(9)]))


def test_a_failed_append_does_not_lose_its_event_when_nobody_retries(world: World) -> None:
    world.log.fails = "before"
    with pytest.raises(DecisionLogError):
        world.scorer.score([transaction(1)])
    world.log.fails = None
    (second,) = world.scorer.score([transaction(2)])
    assert second.features()[2] == 1
    assert world.log.decision("t1").arrival < second.arrival  # the log holds what the second one saw


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_label_that_the_log_may_have_is_in_state_as_in_the_log(world: World, moment: str) -> None:
    world.scorer.score([transaction(1)])
    label = Label("t1", True, T0 + 2 * SECOND)
    world.log.fails = moment
    with pytest.raises(DecisionLogError):
        world.scorer.add_labels([label])
    assert world.store.labels == []
    world.log.fails = None
    assert world.scorer.add_labels([label]) == [moment == "before"]
    assert world.store.labels == [label_of(transaction(1), label)]
    assert world.scorer.add_labels([label]) == [False]
    assert len(world.store.labels) == 1


def label_of(event: Transaction, label: Label) -> Label:
    return Label(label.transaction_id, label.is_fraud, label.known_at_us, event.entities)


def test_a_broken_store_degrades_and_catches_up(world: World) -> None:
    world.scorer.score([transaction(1)])
    world.store.broken = True
    (blind,) = world.scorer.score([transaction(2)])
    assert blind.degraded == (Degradation.online_store,)
    assert np.isnan(blind.features()[2:]).all()
    assert blind.features()[0] == 1_000
    assert world.scorer.add_labels([Label("t1", True, T0 + 2 * SECOND)]) == [True]
    world.store.broken = False
    (after,) = world.scorer.score([transaction(3)])
    assert after.degraded == ()
    assert after.features().tolist() == [1_000, 2.5, 2, 2_000, 1]


def test_more_missed_than_can_be_kept_is_counted_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraudml.decisions.state.MISSED_LIMIT", 3)
    store = ReferenceStore()
    state = OnlineState(store)
    store.broken = True
    assert state.read_then_update([transaction(1), transaction(2)]) is None
    assert state.lost == 0
    assert state.read_then_update([transaction(3), transaction(4)]) is None
    assert state.lost == 1
    store.broken = False
    state.read_then_update([transaction(5)])
    assert [event.transaction_id for event in store.events] == ["t1", "t2", "t3", "t5"]


@pytest.mark.parametrize("failure", ["broken", "nonsense"])
def test_without_a_score_there_is_a_review(world: World, failure: str) -> None:
    setattr(world.model.bundle.runtime, failure, True)
    (made,) = world.scorer.score([transaction(1)])
    assert (made.score, made.action, made.degraded) == (None, Action.review, (Degradation.model,))
    setattr(world.model.bundle.runtime, failure, False)
    world.restart()
    assert world.scorer.score([transaction(1)]) == [made]


def test_labels_find_their_entities_and_reach_state_once(world: World) -> None:
    world.scorer.score([transaction(1), transaction(2)])
    known = T0 + 10 * SECOND
    outcome = world.scorer.add_labels(
        [
            Label("t1", True, known),
            Label("nobody", True, known),
            Label("t1", True, known + 5),
            Label("t2", False, T0),
            Label("t1", False, known + 9),
        ]
    )
    assert outcome[0] is True
    assert isinstance(outcome[1], NotFoundError)
    assert outcome[2] is False
    assert isinstance(outcome[3], RowError)
    assert outcome[4] is True
    assert world.store.labels == [
        Label("t1", True, known, ("c1", "term-1")),
        Label("t1", False, known + 9, ("c1", "term-1")),
    ]
    (later,) = world.scorer.score([transaction(11)])
    assert later.features()[4] == 1
    assert later.arrival > max(report.arrival for report in world.log.label_history("t1"))
    labels = list(world.store.labels)
    world.restart()
    assert sorted(world.store.labels, key=str) == sorted(labels, key=str)


def test_a_late_event_is_marked(world: World) -> None:
    _, late = world.scorer.score([transaction(9), transaction(3)])
    assert late.late
    assert late.features()[2] == 0


def test_another_model_serves_from_the_next_batch_on(world: World) -> None:
    world.scorer.score([transaction(1)])
    world.scorer.use(Model(bundle("2"), Policy(0.0, 2.0)))
    (made,) = world.scorer.score([transaction(2, amount=9_000)])
    assert (made.model_version, made.action) == ("2", Action.review)
    other = FeatureSet(SCHEMA, [AttributeFeature("amount", of="amount")])
    with pytest.raises(BundleError, match="other features"):
        world.scorer.use(Model(bundle("3", other)))


def test_threads_share_one_order(world: World) -> None:
    numbers = range(40)
    threads = [
        threading.Thread(target=lambda part=part: [world.scorer.score([transaction(n)]) for n in numbers[part::4]])
        for part in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    arrivals = [world.log.decision(event.transaction_id).arrival for event in world.store.events]
    assert arrivals == sorted(set(arrivals))
    assert len(arrivals) == 40


def test_arrivals_go_on_after_a_restart_with_a_clock_that_went_back(world: World) -> None:
    ahead = 2**61
    world.log.append([decision(transaction(1), ahead)])
    world.restart()
    (made,) = world.scorer.score([transaction(2)])
    assert made.arrival > ahead
    assert Arrivals(0).take(0) == []


def test_no_two_writers_take_the_same_arrival() -> None:
    writers = [Arrivals(2**61, writer) for writer in range(WRITERS)]
    taken = [writer.take(3) for _ in range(2) for writer in writers]
    assert len({number for numbers in taken for number in numbers}) == 6 * WRITERS
    assert all(numbers == sorted(numbers) for numbers in taken)


def test_an_explanation_of_a_decision_is_of_its_logged_features(world: World) -> None:
    world.scorer.score([transaction(1)])
    (made,) = world.scorer.score([transaction(2, amount=4_000)])
    world.scorer.score([transaction(3)])
    explained = world.scorer.explain_decided("t2")
    assert (explained.score, explained.action, explained.recorded) == (made.score, made.action, True)
    parts = explained.explanation
    assert parts.base_log_odds + sum(r.contribution for r in parts.reasons) == pytest.approx(parts.log_odds, abs=1e-9)
    assert 1 / (1 + np.exp(-parts.log_odds)) == pytest.approx(made.score)
    assert {r.feature: r.value for r in parts.reasons}["n_1d"] == 1
    assert world.scorer.explain(transaction(2, amount=4_000)) == explained
    with pytest.raises(NotFoundError):
        world.scorer.explain_decided("nobody")
    with pytest.raises(ConflictError, match="amount"):
        world.scorer.explain(transaction(2))


def test_explaining_a_new_transaction_records_nothing_and_says_what_scoring_would(world: World) -> None:
    world.scorer.score([transaction(1)])
    explained = world.scorer.explain(transaction(2))
    assert not explained.recorded
    assert world.log.find(["t2"]) == {}
    assert len(world.store.events) == 1
    (made,) = world.scorer.score([transaction(2)])
    assert (explained.score, explained.action) == (made.score, made.action)
    world.store.broken = True
    assert world.scorer.explain(transaction(3)).degraded == (Degradation.online_store,)


def test_a_decision_of_other_features_is_not_explained(world: World) -> None:
    world.log.append([decision(transaction(1), 1, fingerprint="other", model_version="0")])
    with pytest.raises(ConflictError, match="model 0 with other features"):
        world.scorer.explain_decided("t1")


def test_closed_means_nothing_is_approved_blind() -> None:
    policy = Policy(0.5, 0.9, WhenDegraded.closed)
    blind = (Degradation.online_store,)
    assert [policy.action(score, blind) for score in (0.1, 0.6, 0.95)] == ["review", "review", "decline"]
    assert policy.action(0.1) is Action.approve
    assert policy.overridden(review=0.05) == Policy(0.05, 0.9, WhenDegraded.closed)
    with pytest.raises(ConfigError, match="review <= decline"):
        policy.overridden(decline=0.4)
    with pytest.raises(ConfigError):
        Policy(float("nan"), 1)
