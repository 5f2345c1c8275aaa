"""A decision log is copied into another: all of it, once, also after an interruption, or it is said that it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import permutations, product
from pathlib import Path

import pytest

from fraudml.adapters.connections.postgres import engine
from fraudml.adapters.log.postgres import PostgresDecisionLog
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.keys import Scope, new_key
from fraudml.decisions.log import DecisionLog
from fraudml.decisions.record import Decision, Degradation, LabelReport
from fraudml.errors import ConflictError
from fraudml.events.label import Label
from fraudml.operations.migrate import contents, copy
from fraudml.operations.verify import verify
from tests.support.scoring import SCHEMA, T0, decision, transaction
from tests.support.servers import postgres

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


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens empty logs of one kind."""
    with ExitStack() as opened:

        def new() -> DecisionLog:
            log: SqliteDecisionLog | PostgresDecisionLog
            if request.param == "sqlite":
                file = tmp_path / f"{len(list(tmp_path.glob('*-empty.db')))}-empty.db"
                log = SqliteDecisionLog(f"sqlite:///{file}", SCHEMA)
            else:
                url = postgres.new_database(request.getfixturevalue("postgres_server"))
                log = PostgresDecisionLog(engine(url), SCHEMA, place="here", timeout_ms=10_000)
            return opened.enter_context(closing(log))

        yield new


def report(number: int, arrival: int, fraud: bool) -> LabelReport:
    return LabelReport(Label(f"t{number}", fraud, T0 + 10**12 + arrival), arrival)


def test_everything_is_copied_and_the_hashes_agree(source: DecisionLog, target: DecisionLog) -> None:
    assert copy(source, target) == 2_500
    assert contents(target) == contents(source)
    assert verify(target) == verify(source)
    assert (contents(source).decisions, contents(source).labels, contents(source).keys) == (2_500, 667, 2)
    assert copy(source, target) == 0
    assert contents(target) == contents(source)
    assert verify(target) == verify(source)


def test_a_copy_goes_on_where_it_was_interrupted(
    source: DecisionLog, target: DecisionLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, calls = target.append, iter(range(10))

    def interrupted(decisions: list[Decision], *, chained: bool) -> dict[str, Decision]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return append(decisions, chained=chained)

    with monkeypatch.context() as patch:
        patch.setattr(target, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy(source, target)
    assert copy(source, target) == 500
    assert contents(target) == contents(source)
    assert verify(target) == verify(source)


def test_what_the_source_got_meanwhile_follows(source: DecisionLog, target: DecisionLog) -> None:
    copy(source, target)
    source.append([decision(transaction(9_001), 100_000)])
    source.append_labels([report(9_001, 100_001, True), report(1, 100_002, True)])
    assert contents(target) != contents(source)
    assert copy(source, target) == 1
    assert contents(target) == contents(source)
    assert verify(target) == verify(source)


def test_a_target_that_holds_something_else_is_refused(source: DecisionLog, target: DecisionLog) -> None:
    target.append([decision(transaction(77), 5)])
    with pytest.raises(ConflictError, match="empty database"):
        copy(source, target)


def test_a_target_with_other_keys_is_refused(source: DecisionLog, target: DecisionLog) -> None:
    target.keys.add(new_key("one", [Scope.score])[1])
    with pytest.raises(ConflictError, match="'one'"):
        copy(source, target)


def test_a_decision_that_another_writer_committed_late_is_copied_by_the_next_run(empty: Open) -> None:
    source, target = empty(), empty()
    source.append([decision(transaction(n), 100 * n) for n in range(2, 2_000)])
    assert copy(source, target, idle=False) == 1_998
    late = [(1, 100), (3_000, 250), (3_001, 150_050)]  # before the first, after it, far behind
    source.append([decision(transaction(number), arrival) for number, arrival in late])
    source.append([decision(transaction(4_000), 900_000)])
    source.append_labels([report(number, 900_001 + number, True) for number, _ in late])
    assert copy(source, target) == 4
    assert contents(target) == contents(source)
    assert verify(target) == verify(source)
    assert [d.arrival for batch in target.decisions() for d in batch][:3] == [100, 200, 250]


def test_a_copy_of_late_decisions_goes_on_after_an_interruption(empty: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = empty(), empty()
    source.append([decision(transaction(n), 10 * n) for n in range(1, 4_000, 2)])
    copy(source, target, idle=False)
    source.append([decision(transaction(n), 10 * n) for n in range(2, 4_000, 2)])
    append, calls = target.append, iter(range(10))

    def interrupted(decisions: list[Decision], *, chained: bool) -> dict[str, Decision]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return append(decisions, chained=chained)

    with monkeypatch.context() as patch:
        patch.setattr(target, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy(source, target)
    copy(source, target)
    assert contents(target) == contents(source)
    assert verify(target) == verify(source)


def test_a_label_of_a_transaction_that_was_decided_during_the_copy_waits_for_the_next_run(
    empty: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = empty(), empty()
    source.append([decision(transaction(1), 10)])
    source.append_labels([report(1, 15, True)])
    append = target.append

    def meanwhile(decisions: list[Decision], *, chained: bool) -> dict[str, Decision]:
        source.append([decision(transaction(2), 20)])
        source.append_labels([report(2, 30, True)])
        return append(decisions, chained=chained)

    with monkeypatch.context() as patch:
        patch.setattr(target, "append", meanwhile)
        assert copy(source, target, idle=False) == 1
    assert copy(source, target) == 1
    assert contents(target) == contents(source)
    assert verify(target) == verify(source)


def test_reports_that_arrived_in_another_order_than_they_were_stored_are_copied(empty: Open) -> None:
    """Clocks of two writers differ: what is news by what was stored need not be by the numbers of arrival."""
    source, target = empty(), empty()
    source.append([decision(transaction(1), 1)])
    for arrival, fraud in ((100, False), (110, True), (90, False)):
        assert source.append_labels([report(1, arrival, fraud)])
    copy(source, target)
    assert contents(target) == contents(source)
    assert verify(target) == verify(source)
    assert contents(target).labels == 3


@pytest.mark.parametrize("stages", [(4,), (2, 4)], ids=["at once", "in two runs"])
def test_reports_in_every_order_are_copied_and_the_first_stays_the_first(
    source: DecisionLog, target: DecisionLog, stages: tuple[int, ...]
) -> None:
    orders = [
        list(zip(arrivals, frauds, strict=True))
        for count in (2, 3, 4)
        for arrivals in permutations(range(count))
        for frauds in product((False, True), repeat=count)
    ]
    numbered = list(enumerate(orders, 10_001))
    source.append([decision(transaction(number), 100_000 + number) for number, _ in numbered])
    for already in stages:
        for number, order in numbered:
            for arrival, fraud in order[:already]:
                source.append_labels([report(number, 10 * number + arrival + 10**6, fraud)])
        copy(source, target)
        assert contents(target) == contents(source)
        assert verify(target) == verify(source)
        assert labels_as_loaded(target) == labels_as_loaded(source)


def labels_as_loaded(log: DecisionLog) -> tuple[list[object], list[Label]]:
    firsts = [row["is_fraud"] for batch in log.replay() for row in batch.to_pylist()]
    return firsts, list(log.later_labels())


@pytest.mark.parametrize("arrival", [15, 10**6 - 1], ids=["between", "behind all others"])
def test_a_target_with_one_decision_too_many_is_refused(source: DecisionLog, target: DecisionLog, arrival: int) -> None:
    copy(source, target)
    target.append([decision(transaction(77_777), arrival)])
    source.append([decision(transaction(n), at) for n, at in ((88_887, 25), (88_888, 35), (88_889, 10**6))])
    with pytest.raises(ConflictError, match="'t77777'"):
        copy(source, target)
