"""A decision log is copied into another: all of it, once, also after an interruption, or it is said that it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.keys import Scope, new_key
from fraudml.decisions.log import DecisionLog
from fraudml.decisions.record import Decision, Degradation, LabelReport
from fraudml.errors import ConflictError
from fraudml.events.label import Label
from fraudml.operations.migrate import contents, copy
from tests.support.scoring import SCHEMA, T0, decision, transaction

Open = Callable[[], DecisionLog]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[SqliteDecisionLog]:
    log = SqliteDecisionLog(f"sqlite:///{tmp_path / 'source.db'}", SCHEMA)
    blind = {"degraded": (Degradation.online_store,), "score": None}
    log.append([decision(transaction(n), 10 * n, **(blind if n % 7 == 0 else {})) for n in range(1, 2_501)])
    log.append_labels([report(n, 10 * n + 25, n % 2 == 0) for n in range(3, 2_000, 3)])
    log.append_labels([report(6, 90_000, False)])
    for name in ("one", "two"):
        log.keys.add(new_key(name, [Scope.score])[1])
    log.keys.revoke("two")
    yield log
    log.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[DecisionLog]:
    log = SqliteDecisionLog(f"sqlite:///{tmp_path / 'target.db'}", SCHEMA)
    yield log
    log.close()


def report(number: int, arrival: int, fraud: bool) -> LabelReport:
    return LabelReport(Label(f"t{number}", fraud, T0 + 10**12 + arrival), arrival)


def test_everything_is_copied_and_the_hashes_agree(source: DecisionLog, target: DecisionLog) -> None:
    assert copy(source, target) == 2_500
    assert contents(target) == contents(source)
    assert (contents(source).decisions, contents(source).labels, contents(source).keys) == (2_500, 667, 2)
    assert copy(source, target) == 0
    assert contents(target) == contents(source)


def test_a_copy_goes_on_where_it_was_interrupted(
    source: DecisionLog, target: DecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, calls = target.append, iter(range(10))

    def interrupted(decisions: list[Decision]) -> dict[str, Decision]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return append(decisions)

    with monkeypatch.context() as patch:
        patch.setattr(target, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy(source, target)
    assert copy(source, target) == 500
    assert contents(target) == contents(source)


def test_what_the_source_got_meanwhile_follows(source: DecisionLog, target: DecisionLog) -> None:
    copy(source, target)
    source.append([decision(transaction(9_001), 100_000)])
    source.append_labels([report(9_001, 100_001, True), report(1, 100_002, True)])
    assert contents(target) != contents(source)
    assert copy(source, target) == 1
    assert contents(target) == contents(source)


def test_a_target_that_holds_something_else_is_refused(source: DecisionLog, target: DecisionLog) -> None:
    target.append([decision(transaction(77), 5)])
    with pytest.raises(ConflictError, match="empty database"):
        copy(source, target)


def test_a_target_with_other_keys_is_refused(source: DecisionLog, target: DecisionLog) -> None:
    target.keys.add(new_key("one", [Scope.score])[1])
    with pytest.raises(ConflictError, match="'one'"):
        copy(source, target)
