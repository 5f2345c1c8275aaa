"""Ends that a machine writes are written, whatever the reason looks like."""

from __future__ import annotations

from typing import Any, cast

import pytest

from fraudml.errors import ConfigError
from fraudml.models import lifecycle, rollout
from fraudml.models.registry import Registry
from fraudml.models.rollout import LONGEST_REASON, Change, Kind, Mode, Plan, Rollout


class FakeRegistry:
    """Keeps revisions, and nothing else."""

    def __init__(self) -> None:
        first = rollout.promoted(None, 1, Change(Kind.promote, "", "ann", "first"))
        started = rollout.started(first, Plan(Mode.canary, {2: 0.1}), Change(Kind.start, "", "ann", "a test"), 5)
        self.revisions = [first, started]

    def rollouts(self) -> list[Rollout]:
        return self.revisions

    def revise(self, document: Rollout) -> Rollout:
        self.revisions.append(document)
        return document


def end(fake: Any, reason: str) -> None:
    lifecycle.end_breached(cast(Registry, fake), fake.revisions[1], reason, "guardrails@here")


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("it is\n  corrupt ", "it is corrupt"),
        ("x" * LONGEST_REASON, "x" * LONGEST_REASON),
        ("places_in: a is missing; " * 120, ("places_in: a is missing; " * 120)[: LONGEST_REASON - 1] + "…"),
        ("x" * 3_000, "x" * (LONGEST_REASON - 1) + "…"),
    ],
)
def test_an_experiment_ends_whatever_the_reason(reason: str, kept: str) -> None:
    registry = FakeRegistry()
    end(registry, reason)
    last = registry.revisions[-1]
    assert (last.experiment, last.change.kind, last.change.reason) == (None, Kind.breach, kept)
    end(registry, reason)
    assert len(registry.revisions) == 3, "once"


def test_people_are_told_of_a_reason_that_is_too_long() -> None:
    with pytest.raises(ConfigError, match="the reason is too long"):
        lifecycle.abort(cast(Registry, FakeRegistry()), "x" * 3_000)
