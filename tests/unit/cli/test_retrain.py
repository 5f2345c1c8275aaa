"""What a run of ``fraudml retrain`` must not touch, and when labels are final."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fraudml.cli import retrain_run
from fraudml.cli.retrain_run import Decision, Run, Then, Wish
from fraudml.events.schema import LabelColumn
from fraudml.models import lifecycle, rollout
from fraudml.models.rollout import Change, Kind, Mode, Plan, Rollout
from tests.support.scoring import SCHEMA, bundle

WISH = Wish(None, None, False, None, 0.2, 0.01, 0.05, Then.canary, None, 1, 0, None, True)
CHANGE = Change(Kind.start, "2026-03-01T00:00:00+00:00", "ann", "try it")


def made(*documents: Rollout, wish: Wish = WISH, label: LabelColumn | None = None) -> Run:
    declared: Any = SimpleNamespace(schema=msgspec.structs.replace(SCHEMA, label=label))
    registry: Any = SimpleNamespace(rollouts=lambda: [*documents])
    nothing: Any = None
    return Run(wish, declared, nothing, nothing, registry, bundle("1"))


def test_nothing_is_in_the_way() -> None:
    assert retrain_run._in_the_way(made(lifecycle.alone(1))) == ""


@pytest.mark.parametrize("mode", Mode)
def test_a_rollout_is(mode: Mode) -> None:
    started = rollout.started(lifecycle.alone(1), Plan(mode, {2: 0.05}), CHANGE, 1)
    assert "under way" in retrain_run._in_the_way(made(lifecycle.alone(1), started))


def test_a_champion_that_was_not_compared_is() -> None:
    assert "version 2 has become the champion" in retrain_run._in_the_way(made(lifecycle.alone(1), lifecycle.alone(2)))


@pytest.mark.parametrize(
    ("label", "given", "maturity"),
    [
        (None, None, "30d"),
        (LabelColumn("fraud", delay="3d"), None, "30d"),
        (LabelColumn("fraud", delay="45d"), None, "45d"),
        (LabelColumn("fraud", delay="45d"), "10d", "10d"),
    ],
)
def test_when_labels_are_final(label: LabelColumn | None, given: str | None, maturity: str) -> None:
    run = made(wish=WISH._replace(maturity=given), label=label)
    assert run.maturity == maturity
    ended = run.ended(Decision.too_soon, "nothing matured")
    assert (ended.maturity, ended.champion, ended.version) == (maturity, 1, None)
