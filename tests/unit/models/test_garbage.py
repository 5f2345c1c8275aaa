"""What garbage collection may take."""

from __future__ import annotations

from fraudml.models.garbage import unreferenced
from fraudml.models.registry import ModelVersion
from fraudml.models.rollout import Challenger, Change, Experiment, Kind, Mode, Rollout


def version(number: int, *aliases: str) -> ModelVersion:
    return ModelVersion(number, "linear", "", "", aliases, {})


def test_only_what_nothing_refers_to() -> None:
    change = Change(Kind.promote, "", "", "a test")
    experiment = Experiment(Mode.canary, (Challenger(4, ((0, 1),)),), None, "s", 0)
    history = [Rollout(1, change), Rollout(1, change, experiment), Rollout(3, change)]
    versions = [version(number) for number in range(1, 10)] + [version(10, "candidate"), version(11), version(12)]
    found = unreferenced(versions, history, {"6", "7"}, keep=2)
    assert [each.version for each in found] == [9, 8, 5, 2]
    assert unreferenced(versions, history, {"6", "7"}, keep=20) == []
    assert unreferenced([], [], set(), keep=0) == []
