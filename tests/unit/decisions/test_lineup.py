"""Champion and challengers decide together: each transaction by one model, and by the champion when that fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.lineup import Lineup
from fraudml.decisions.model import Model
from fraudml.decisions.policy import Policy
from fraudml.decisions.record import Action, Decision, Degradation, Trial
from fraudml.decisions.scorer import Scorer
from fraudml.errors import BundleError, ConfigError
from fraudml.features.spec import Aggregation, AttributeFeature, FeatureSet, WindowFeature
from fraudml.models.rollout import Challenger, Change, Experiment, Exploration, Kind, Mode, Rollout
from tests.support.scoring import FEATURES, SCHEMA, ReferenceStore, bundle, scores_of, transaction

CHANGE = Change(Kind.start, "", "", "a test")
HALF = ((0, 500_000),)


def document(mode: Mode = Mode.canary, exploration: Exploration | None = None, **changes: object) -> Rollout:
    values: dict[str, object] = {"entity": "customer", "challengers": (Challenger(2, HALF),)} | changes
    experiment = Experiment(mode, salt="s", since_us=0, **values)  # type: ignore[arg-type]
    return Rollout(1, CHANGE, experiment, exploration, revision=7)


def model(version: int, **changes: object) -> Model:
    return Model(bundle(str(version)), **changes)  # type: ignore[arg-type]


class World:
    def __init__(self, folder: Path) -> None:
        self.log = SqliteDecisionLog(f"sqlite:///{folder / 'log.db'}", SCHEMA)
        self.store = ReferenceStore()
        self.scorer = Scorer(model(1), self.store, self.log)
        self._number = 0

    def score(self, count: int = 100, customers: int = 20, amount: int = 1_000) -> list[Decision]:
        first, self._number = self._number, self._number + count
        return self.scorer.score(
            [transaction(first + i, customer=f"c{i % customers}", amount=amount) for i in range(count)]
        )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.log.close()


def test_entities_stay_in_their_arm_and_every_decision_is_by_one_version(world: World) -> None:
    lineup = Lineup({1: model(1), 2: model(2, policy=Policy(0.0, 2.0))}, document())
    world.scorer.use(lineup)
    decisions = world.score()
    arms: dict[str | None, set[str]] = {}
    for decision in decisions:
        arms.setdefault(decision.transaction.entities[0], set()).add(decision.arm)
        challenged = decision.arm == "challenger-2"
        assert decision.model_version == ("2" if challenged else "1")
        assert decision.trial == Trial(7, 0.5)
        assert decision.score == scores_of(decision.features()[None, :])[0]
        if challenged:
            assert decision.action is Action.review, "by its own policy"
    assert all(len(seen) == 1 for seen in arms.values())
    assert {arm for seen in arms.values() for arm in seen} == {"champion", "challenger-2"}
    assert [d.transaction.transaction_id for d in decisions] == [f"t{i}" for i in range(100)], "in the given order"
    assert world.scorer.score([d.transaction for d in decisions]) == decisions, "retries get the first answers"


def test_a_batch_of_one_and_no_history(world: World) -> None:
    world.scorer.use(Lineup({1: model(1), 2: model(2)}, document()))
    world.store.broken = True
    (decision,) = world.score(1)
    assert decision.degraded == (Degradation.online_store,)
    assert decision.arm in ("champion", "challenger-2")


def test_transactions_without_the_entity_are_assigned_by_their_id(world: World) -> None:
    world.scorer.use(Lineup({1: model(1), 2: model(2)}, document()))
    decisions = world.scorer.score([transaction(i, customer=None) for i in range(100)])
    assert 30 < sum(decision.arm == "challenger-2" for decision in decisions) < 70


@pytest.mark.parametrize("how", ["broken", "nonsense", "raises"])
def test_where_the_challenger_fails_the_champion_decides_and_says_so(world: World, how: str) -> None:
    failing = model(2)
    runtime = failing.bundle.runtime
    if how == "raises":
        failing.scores = None  # type: ignore[assignment, method-assign]
    else:
        setattr(runtime, how, True)
    world.scorer.use(Lineup({1: model(1), 2: failing}, document()))
    decisions = world.score()
    challenged = [decision for decision in decisions if decision.arm == "challenger-2"]
    assert challenged
    for decision in challenged:
        assert (decision.model_version, decision.degraded) == ("1", (Degradation.challenger,))
        assert decision.score == scores_of(decision.features()[None, :])[0]
    assert all(not decision.degraded for decision in decisions if decision.arm == "champion")


def test_some_scores_that_are_none_are_the_champions_alone(world: World) -> None:
    failing = model(2)
    whole = failing.scores
    failing.scores = lambda vectors: [None if i % 3 == 0 else s for i, s in enumerate(whole(vectors))]  # type: ignore[method-assign]
    world.scorer.use(Lineup({1: model(1), 2: failing}, document()))
    decisions = world.score()
    by = [(d.model_version, d.degraded) for d in decisions if d.arm == "challenger-2"]
    assert set(by) == {("2", ()), ("1", (Degradation.challenger,))}
    assert by.count(("1", (Degradation.challenger,))) == -(-len(by) // 3)


def test_a_champion_that_fails_too_leaves_a_review(world: World) -> None:
    broken = model(1), model(2)
    for each in broken:
        each.bundle.runtime.broken = True  # type: ignore[attr-defined]
    world.scorer.use(Lineup({1: broken[0], 2: broken[1]}, document()))
    for decision in world.score():
        assert (decision.score, decision.action) == (None, Action.review)
        assert Degradation.model in decision.degraded
        assert (Degradation.challenger in decision.degraded) == (decision.arm == "challenger-2")


FEWER = FeatureSet(
    SCHEMA,
    [
        AttributeFeature("amount", of="amount"),
        WindowFeature("total", "customer", Aggregation.sum, "1d", of="amount", text="the same by another name"),
        WindowFeature("n", "customer", Aggregation.count, "1d"),
    ],
)


def test_a_challenger_may_read_less_than_the_store_keeps(world: World) -> None:
    fewer = Model(bundle("2", FEWER), kept=FEATURES)
    world.scorer.use(Lineup({1: model(1), 2: fewer}, document()))
    decisions = world.score()
    assert {d.fingerprint for d in decisions} == {FEATURES.fingerprint, FEWER.fingerprint}
    full = {d.transaction.transaction_id: d for d in decisions if d.arm == "champion"}
    assert full
    for decision in decisions:
        amount, *state = decision.features().tolist()
        events = [e for e in world.store.events if e.entities[0] == decision.transaction.entities[0]]
        earlier = [e for e in events if e.event_time_us < decision.transaction.event_time_us]
        count, total = (state[1], state[0]) if decision.arm == "challenger-2" else (state[1], state[2])
        assert (amount, count, total) == (1_000, len(earlier), sum(e.amount_minor or 0 for e in earlier))


def test_what_the_store_does_not_keep_is_named() -> None:
    more = FeatureSet(SCHEMA, [*FEATURES.features, WindowFeature("n_7d", "customer", Aggregation.count, "7d")])
    with pytest.raises(ConfigError, match=r"does not keep n_7d: declare what is missing in fraudml\.yaml"):
        Model(bundle("2", more), kept=FEATURES)
    with pytest.raises(BundleError, match="other features"):
        Lineup({1: model(1), 2: Model(bundle("2", more))}, document())
    with pytest.raises(ConfigError, match="the schema has: customer, terminal"):
        Lineup({1: model(1), 2: model(2)}, document(entity="device"))


def test_would_be_declines_are_explored_with_their_propensity(world: World) -> None:
    def explored(exploration: Exploration | None) -> list[Decision]:
        world.scorer.use(Lineup({1: model(1, policy=Policy(0.0, 0.0))}, Rollout(1, CHANGE, None, exploration, 3)))
        return world.score(400, amount=50_000)

    decisions = explored(Exploration(0.05))
    through = [d for d in decisions if d.action is Action.approve]
    assert 5 <= len(through) <= 40
    assert all(d.trial == Trial(0, 1.0, 0.05, let_through=True) for d in through)
    rest = [d for d in decisions if d.action is Action.decline]
    assert len(rest) + len(through) == 400
    assert all(d.trial == Trial(0, 1.0, 0.05) for d in rest)
    assert {d.action for d in explored(Exploration(0.05, most_minor=49_999))} == {Action.decline}, "too large an amount"
    assert all(d.trial is None and d.action is Action.decline for d in explored(None))


def test_what_is_let_through_is_drawn_by_the_salt() -> None:
    drawn = []
    for salt in ("one", "two", "one"):
        exploration = Exploration(0.05, salt=salt)
        lineup = Lineup({1: model(1, policy=Policy(0.0, 0.0))}, Rollout(1, CHANGE, None, exploration, 3))
        events = [transaction(n) for n in range(2_000)]
        drawn.append({event.transaction_id for event in events if lineup.explores(event)[1]})
    assert drawn[0] == drawn[2]
    assert 60 < len(drawn[0]) < 140
    assert len(drawn[0] & drawn[1]) < 20


def test_a_shadow_decides_on_nothing_and_sees_its_share(world: World) -> None:
    seen = []
    world.scorer.on_shadow = lambda lineup, facts, decisions: seen.append((lineup, facts, decisions))
    lineup = Lineup({1: model(1), 2: model(2)}, document(Mode.shadow))
    world.scorer.use(lineup)
    decisions = world.score()
    assert {(d.model_version, d.arm, d.trial) for d in decisions} == {("1", "champion", None)}
    ((_, facts, offered),) = seen
    assert (list(offered), list(facts.batch)) == (decisions, [d.transaction for d in decisions])
    (shadow,) = lineup.shadows
    customers = {f"c{i}" for i in range(20)}
    assert {c for c in customers if shadow.sees(c)} not in (set(), customers)
    assert lineup.shares == [("1", "champion", 1.0), ("2", "shadow-2", 0.5)]


def test_explanations_are_by_the_model_that_decides(world: World) -> None:
    world.scorer.use(Lineup({1: model(1), 2: model(2)}, document()))
    for decision in world.score(10):
        explained = world.scorer.explain_decided(decision.transaction.transaction_id)
        assert (explained.model_version, explained.score) == (decision.model_version, decision.score)
        fresh = transaction(10_000, customer=decision.transaction.entities[0])
        assert world.scorer.explain(fresh).model_version == decision.model_version


def test_vectors_of_the_state_that_was_read(world: World) -> None:
    """The rows of a part are its own: a mix-up would show in the features."""
    world.scorer.use(Lineup({1: model(1), 2: model(2)}, document()))
    first, second = world.score(40, customers=8), world.score(40, customers=8)
    counts = [decision.features()[2] for decision in (*first, *second)]
    np.testing.assert_array_equal(counts, [i // 8 for i in range(40)] + [5 + i // 8 for i in range(40)])
