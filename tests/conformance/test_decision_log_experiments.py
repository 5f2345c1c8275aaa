"""What every decision log promises about experiments: shadow scores and outcomes."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from fraudml.decisions.log import OUTCOMES, SHADOW_SCORES, DecisionLog
from fraudml.decisions.record import Action, Degradation, LabelReport, ShadowScore, Timings, Trial
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from tests.support.logs import Open
from tests.support.scoring import T0, decision, transaction


def rows(batches: Any) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_pylist()]


def shadow(arrival: int, version: str = "2", score: float | None = 0.25) -> ShadowScore:
    return ShadowScore(arrival, version, score, Action.review, 40)


def test_shadow_scores_stand_beside_what_was_decided(reopen: Open) -> None:
    log = reopen()
    log.append([decision(transaction(n), n, score=None if n == 3 else n / 10) for n in (1, 2, 3)])
    log.append_shadow([])
    log.append_shadow([shadow(3, score=None), shadow(1), shadow(1, "9"), shadow(2), shadow(77)])
    batches = list(reopen().shadow_scores())
    assert {batch.schema == SHADOW_SCORES for batch in batches} == {True}
    assert [tuple(row.values()) for row in rows(batches)] == [
        (1, "2", 0.25, "review", 40, "1", 0.1, "approve"),
        (1, "9", 0.25, "review", 40, "1", 0.1, "approve"),
        (2, "2", 0.25, "review", 40, "1", 0.2, "approve"),
        (3, "2", None, "review", 40, "1", None, "approve"),
    ]


def test_a_shadow_score_that_is_there_stands(log: DecisionLog) -> None:
    log.append([decision(transaction(n), n) for n in (1, 2)])
    log.append_shadow([shadow(1)])
    log.append_shadow([shadow(2), shadow(1, score=0.75), shadow(1, "3")])
    assert [(r["arrival"], r["model_version"], r["score"]) for r in rows(log.shadow_scores())] == [
        (1, "2", 0.25),
        (1, "3", 0.25),
        (2, "2", 0.25),
    ]


def test_the_versions_that_are_named(log: DecisionLog) -> None:
    assert log.model_versions() == set()
    log.append([decision(transaction(n), n, model_version=str(n % 2)) for n in (1, 2, 3)])
    log.append_shadow([shadow(3, "9")])
    assert log.model_versions() == {"0", "1", "9"}


@pytest.mark.parametrize("count", [1, 255, 700])
def test_any_number_of_shadow_scores_is_read_in_batches(log: DecisionLog, count: int) -> None:
    log.append([decision(transaction(n), n) for n in range(1, count + 1)])
    log.append_shadow([shadow(n) for n in range(count, 0, -1)])
    batches = list(log.shadow_scores(after=count // 2, batch_size=100))
    assert all(batch.num_rows <= 100 for batch in batches)
    assert [row["arrival"] for row in rows(batches)] == list(range(count // 2 + 1, count + 1))


def test_a_shadow_score_may_come_before_its_decision(log: DecisionLog) -> None:
    """Which waits in a journal."""
    log.append_shadow([shadow(5)])
    assert rows(log.shadow_scores()) == []
    log.append([decision(transaction(1), 5)])
    assert [row["arrival"] for row in rows(log.shadow_scores())] == [5]


def test_outcomes_are_decisions_without_their_vectors(log: DecisionLog) -> None:
    assert list(log.outcomes()) == list(log.outcomes(labelled=True)) == []
    log.append(
        [
            decision(
                transaction(2, customer=None, amount=-5),
                20,
                score=None,
                action=Action.review,
                degraded=(Degradation.model, Degradation.registry),
                timings=Timings(16, 100, 250),
            ),
            decision(transaction(1), 21, arm="challenger", model_version="7", trial=Trial(3, 0.1, 0.02, True)),
        ]
    )
    batches = list(log.outcomes())
    assert {batch.schema == OUTCOMES for batch in batches} == {True}
    first, second = (tuple(row.values()) for row in rows(batches))
    assert first == (
        *("t2", 20, T0 + 2_000_000, -5, '{"terminal":"term-1"}', None, "review", "1", "champion"),
        *('["model","registry"]', 16, 250, None, None, None, None),
    )
    assert second == (
        *("t1", 21, T0 + 1_000_000, 1_000, '{"customer":"c1","terminal":"term-1"}', 0.1 + 0.2, "approve", "7"),
        *("challenger", "[]", 1, 3, '{"revision":3,"share":0.1,"explore":0.02,"let_through":true}', None, None, None),
    )


def test_labelled_outcomes_are_reports_with_their_decisions(log: DecisionLog) -> None:
    log.append([decision(transaction(n), n, score=n / 10) for n in (1, 2, 3)])
    log.append_labels([report(3, 10), report(1, 11)])
    log.append_labels([report(3, 12, fraud=False)])
    found = list(log.outcomes(labelled=True))
    assert {batch.schema == OUTCOMES for batch in found} == {True}
    told = [(r["transaction_id"], r["arrival"], *list(r.values())[-3:]) for r in rows(found)]
    assert told == [("t3", 3, True, T0 + 10, 10), ("t1", 1, True, T0 + 11, 11), ("t3", 3, False, T0 + 12, 12)]
    assert [row["score"] for row in rows(found)] == [0.3, 0.1, 0.3]
    assert [row["label_arrival"] for row in rows(log.outcomes(after=11, labelled=True))] == [12]


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("size", [3, 5, 10, 11])
def test_what_is_new_is_read_in_order_and_in_batches(log: DecisionLog, labelled: bool, size: int) -> None:
    """Of all times, and ids of any length."""
    day = 86_400_000_000
    names = [f"{'x' * 3_000 * (n % 3 == 0)}t{n}" for n in range(10)]
    events = [Transaction(name, T0 + n * n * day, (None, None), n, ("DE", 1.0, 1)) for n, name in enumerate(names)]
    log.append([decision(event, 100 - n) for n, event in enumerate(events)])
    log.append_labels([LabelReport(Label(name, True, T0 + n), 200 + n) for n, name in enumerate(names)])
    column, wanted = ("label_arrival", names) if labelled else ("arrival", names[::-1])
    after = 0
    batches: list[pa.RecordBatch] = list(log.outcomes(batch_size=size, labelled=labelled))
    assert all(batch.num_rows <= size for batch in batches)
    assert [row["transaction_id"] for row in rows(batches)] == wanted
    for n, name in enumerate(wanted):
        (first, *_) = log.outcomes(after, labelled=labelled)
        assert first.num_rows == 10 - n
        assert first.column("transaction_id")[0].as_py() == name
        after = first.column(column)[0].as_py()


def report(number: int, arrival: int, fraud: bool = True) -> LabelReport:
    return LabelReport(Label(f"t{number}", fraud, T0 + arrival), arrival)
