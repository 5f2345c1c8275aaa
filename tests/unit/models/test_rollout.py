"""The rollout document: what can be said in it, and what its changes make of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fraudml.errors import ConfigError
from fraudml.models import rollout
from fraudml.models.rollout import Challenger, Change, Experiment, Exploration, Kind, Mode, Plan, Rollout, check
from fraudml.models.rollout_guardrails import Guardrails


def because(reason: str = "a test", kind: Kind = Kind.set) -> Change:
    return Change(kind, "2024-05-01T00:00:00+00:00", "ann", reason)


FIRST = rollout.promoted(None, 1, because("first", Kind.promote))


def start(mode: Mode = Mode.canary, last: Rollout = FIRST, **shares: float) -> Rollout:
    plan = Plan(mode, {int(name[1:]): share for name, share in shares.items()}, "customer")
    return rollout.started(last, plan, because(kind=Kind.start), 5)


def shares_of(document: Rollout) -> dict[int, float]:
    return {challenger.version: challenger.share for challenger in rollout.running(document).challengers}


def test_an_experiment_starts_changes_and_ends() -> None:
    started = start(v2=0.05, v3=0.1)
    assert (started.versions, shares_of(started)) == ((1, 2, 3), {2: 0.05, 3: 0.1})
    experiment = rollout.running(started)
    assert experiment.champion_share == pytest.approx(0.85)
    assert (experiment.entity, experiment.since_us, experiment.guardrails) == ("customer", 5, Guardrails())
    raised = rollout.resized(started, {2: 0.5}, because())
    assert shares_of(raised) == {2: 0.5, 3: 0.1}
    assert rollout.running(raised).salt == experiment.salt, "the same draw goes on"
    ended = rollout.ended(raised, because(kind=Kind.abort))
    assert (ended.champion, ended.experiment) == (1, None)
    assert rollout.promoted(raised, 2, because(kind=Kind.promote)).versions == (2,)
    assert rollout.running(start(v2=0.05)).salt != experiment.salt, "another experiment is another draw"


def test_a_shadow_takes_nothing_from_the_champion() -> None:
    document = start(Mode.shadow, v2=1.0, v3=1.0)
    assert shares_of(document) == {2: 1.0, 3: 1.0}
    assert rollout.running(document).champion_share == 1.0


def test_exploration_stays_over_experiments() -> None:
    document = rollout.explored(FIRST, Exploration(0.01, 5_000), because())
    assert start(last=document, v2=0.1).exploration == document.exploration
    assert rollout.promoted(document, 2, because()).exploration == document.exploration
    assert rollout.explored(document, None, because()).exploration is None


def test_who_explores_draws_by_a_secret() -> None:
    first, other = (rollout.explored(FIRST, Exploration(0.01), because()) for _ in range(2))
    assert first.exploration is not None
    assert other.exploration is not None
    assert len(first.exploration.salt) == 16
    assert first.exploration.salt != other.exploration.salt
    more = rollout.explored(first, Exploration(0.02), because()).exploration
    assert more == Exploration(0.02, salt=first.exploration.salt), "the same draw goes on"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: start(v2=0.6, v3=0.6), "add up to 120.0000%, above 100 %"),
        (lambda: start(v2=1.5), "between 0 and 100 %"),
        (lambda: start(v2=-0.1), "between 0 and 100 %"),
        (lambda: start(v2=float("nan")), "between 0 and 100 %"),
        (lambda: start(v1=0.1), "champion or challenger, and only once"),
        (start, "1 to 8 challengers"),
        (lambda: start(last=start(v2=0.1), v3=0.1), "is under way: promote or abort it first"),
        (lambda: rollout.resized(start(v2=0.1), {5: 0.1}, because()), "version 5 is no challenger"),
        (lambda: rollout.resized(start(v2=0.1), {2: 1.1}, because()), "between 0 and 100 %"),
        (lambda: rollout.resized(FIRST, {2: 0.1}, because()), "no rollout is under way"),
        (lambda: rollout.ended(FIRST, because()), "no rollout is under way"),
        (lambda: rollout.promoted(FIRST, 2, because(" \n")), "needs a reason"),
        (lambda: rollout.promoted(FIRST, 2, because("x" * 3_000)), "too long"),
        (lambda: rollout.explored(FIRST, Exploration(0.06), because()), "at most 5%"),
        (lambda: rollout.explored(FIRST, Exploration(0.0), because()), "above 0"),
        (lambda: rollout.explored(FIRST, Exploration(0.01, -1), because()), "must not be negative"),
    ],
)
def test_what_cannot_be_is_said(make: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make()


@pytest.mark.parametrize(
    "slots",
    [
        [((0, 10),), ((5, 20),)],
        [((10, 10),)],
        [((20, 10),)],
        [((-1, 10),)],
        [((0, 1_000_001),)],
        [((10, 20), (0, 5))],
    ],
)
def test_a_document_written_by_hand_is_checked(slots: list[Any]) -> None:
    challengers = tuple(Challenger(version, own) for version, own in enumerate(slots, 2))
    document = Rollout(1, because(), Experiment(Mode.canary, challengers, None, "s", 0))
    if slots == [((10, 20), (0, 5))]:
        check(document)  # in any order
        return
    with pytest.raises(ConfigError, match="slots of the challengers"):
        check(document)


def test_a_document_reads_back() -> None:
    document = rollout.explored(start(v2=0.05), Exploration(0.01, 5_000), because())
    assert msgspec.json.decode(msgspec.json.encode(document), type=Rollout) == document


def test_the_way_to_the_champion() -> None:
    def history(*champions: int) -> list[Rollout]:
        return [Rollout(version, because()) for version in champions]

    assert rollout.way_to_champion(history(1, 1, 2, 2, 3, 2)) == [1, 2]
    assert rollout.way_to_champion(history(1, 2, 3, 2, 4)) == [1, 2, 4]
    assert rollout.way_to_champion([]) == []
