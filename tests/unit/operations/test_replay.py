"""Logged decisions are made again, to the last bit, or the difference is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fraudml.decisions.cache import quantise
from fraudml.decisions.model import Model
from fraudml.decisions.policy import Policy, WhenDegraded
from fraudml.decisions.record import Action, Decision, Degradation, Trial, pack_vector
from fraudml.errors import BundleError, NotFoundError
from fraudml.features.derive import to_model
from fraudml.features.spec import AttributeFeature, FeatureSet
from fraudml.operations.replay import Inputs, Replayed, Replayer, Report
from tests.support.scoring import SCHEMA, CountingRuntime, bundle, decision, transaction

OTHER = FeatureSet(SCHEMA, [AttributeFeature("amount", of="amount")])
LET_THROUGH = Trial(1, 0.1, explore=0.02, let_through=True)
HIGH, MIDDLE, LOW = (np.array([amount, 1.0, 0.0, 0.0, 0.0]) for amount in (9_000.3, 3_000.1, 10.7))


def load(version: str) -> Model:
    if version == "1":
        return Model(bundle())
    if version == "2":
        return Model(bundle("2", OTHER))
    if version == "3":
        raise BundleError("its hash is another")
    raise NotFoundError(f"there is no version {version}")


def made(vector: NDArray[np.float64] = LOW, number: int = 1, **changes: Any) -> Decision:
    """A decision as the model makes it."""
    score = Model(bundle()).scores(vector[None, :])[0]
    values = {"vector": pack_vector(vector), "score": score, "action": Model(bundle()).policy.action(score)}
    return decision(transaction(number), number, **(values | changes))


def replayed(logged: Decision, policy: Policy | None = None) -> Replayed:
    (one,) = Replayer(load if policy is None else lambda _: Model(bundle(), policy)).replay([logged])
    return one


@pytest.mark.parametrize(("vector", "action"), [(LOW, "approve"), (MIDDLE, "review"), (HIGH, "decline")])
def test_a_decision_as_it_was_made_is_identical(vector: NDArray[np.float64], action: str) -> None:
    one = replayed(made(vector))
    assert (one.identical, one.inputs, one.action, one.score_again) == (True, Inputs.exact, action, one.score)


def test_a_score_that_differs_in_its_last_bit_differs() -> None:
    logged = made()
    assert logged.score is not None
    one = replayed(made(score=float(np.nextafter(logged.score, 1))))
    assert (one.identical, one.inputs, one.score_again) == (False, None, logged.score)


def test_an_action_that_does_not_follow_differs() -> None:
    one = replayed(made(HIGH, action=Action.approve))
    assert (one.identical, one.inputs, one.action_again) == (False, Inputs.exact, Action.decline)


def test_a_score_of_quantised_inputs_is_told() -> None:
    exact = to_model(HIGH[None, :])
    assert not np.array_equal(quantise(exact), exact)
    one = replayed(made(HIGH, score=CountingRuntime().score(quantise(exact)).tolist()[0]))
    assert (one.identical, one.inputs) == (True, Inputs.quantised)


@pytest.mark.parametrize(("vector", "right"), [(HIGH, True), (MIDDLE, False), (LOW, False)])
def test_only_a_decline_can_have_been_let_through(vector: NDArray[np.float64], right: bool) -> None:
    assert replayed(made(vector, action=Action.approve, trial=LET_THROUGH)).identical is right
    assert not replayed(made(vector, action=Action.decline, trial=LET_THROUGH)).identical


def test_what_was_explored_but_not_let_through_is_as_usual() -> None:
    assert replayed(made(HIGH, trial=Trial(1, 0.1, explore=0.02))).identical


def test_a_failed_model_means_a_review() -> None:
    failed = {"score": None, "degraded": (Degradation.model,)}
    assert replayed(made(action=Action.review, **failed)).identical
    assert not replayed(made(action=Action.approve, **failed)).identical


@pytest.mark.parametrize("now", list(WhenDegraded))
def test_what_was_decided_without_history_may_have_been_under_another_setting(now: WhenDegraded) -> None:
    policy = Policy(0.3, 0.9, now)
    for action, right in ((Action.approve, True), (Action.review, True), (Action.decline, False)):
        one = replayed(made(action=action, degraded=(Degradation.online_store,)), policy)
        assert one.identical is right
    assert not replayed(made(action=Action.review, degraded=(Degradation.challenger,)), policy).identical


def test_what_cannot_be_had_is_told_by_version() -> None:
    batch = [made(), made(number=2, model_version="2"), *(made(number=n, model_version=f"{n}") for n in (3, 4))]
    report = Replayer(load).run([batch, [made(number=9, model_version="3"), made(number=10, score=0.5)]])
    assert (report.decisions, report.identical, report.differing, report.unreplayable) == (6, 1, 1, 4)
    assert {version: counts.unreplayable for version, counts in report.versions.items()} == {
        "1": 0,
        "2": 1,
        "3": 2,
        "4": 1,
    }
    assert "other features" in str(report.versions["2"].problem)
    assert "its hash" in str(report.versions["3"].problem)
    assert "no version 4" in str(report.versions["4"].problem)
    assert [example.transaction_id for example in report.examples] == ["t10"]


def test_a_model_is_loaded_once_and_asked_about_all_at_once() -> None:
    loads: list[str] = []
    asked: list[int] = []

    class Counting(CountingRuntime):
        def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
            asked.append(len(vectors))
            return super().score(vectors)

    def counted(version: str) -> Model:
        loads.append(version)
        model = Model(bundle(version))
        model.bundle.runtime = Counting()  # type: ignore[assignment]
        return model

    batches: list[Sequence[Decision]] = [[made(number=n) for n in range(5)], [made(number=9)]]
    assert Replayer(counted).run(batches).identical == 6
    assert (loads, asked) == (["1"], [5, 1])


def test_nothing_is_a_report() -> None:
    assert Replayer(load).run([]) == Report()


def test_reasons_are_those_of_the_model_that_decided() -> None:
    replayer = Replayer(load)
    first, again = replayer.explain(made(HIGH)), Replayer(load).explain(made(HIGH))
    assert first is not None
    assert first == again
    assert first.reasons[0].feature == "amount"
    assert replayer.explain(made(model_version="3")) is None
    assert replayer.explain(made(model_version="2")) is None
