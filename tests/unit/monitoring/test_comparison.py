"""The A/B report: figures by hand, intervals that cover, and no conclusion where there is none to draw."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from fraudml.decisions.costs import Costs
from fraudml.models.assignment import Assignment, allot
from fraudml.monitoring.rollouts.comparison import UNKNOWN, compare, figures
from fraudml.monitoring.rollouts.resampling import ArmSums
from fraudml.monitoring.rollouts.results import Comparison, Figure
from fraudml.monitoring.rollouts.rows import Arms, Rows
from tests.support.rollouts import ARMS, DAY_US, OUTCOMES, World, labelled, record_batch, simulate, unlabelled

EVEN = World(share=0.5, per_entity=3)
LATER_US = 40 * DAY_US


def report(rows: Rows, *, mature_before_us: int = LATER_US, reported: Rows | None = None) -> Comparison:
    """Compare, with labels for what was labelled, in batches."""
    decisions = record_batch(unlabelled(rows))
    labels = record_batch(rows.take(labelled(rows)) if reported is None else reported, labels=True)
    halves = [decisions.slice(0, len(decisions) // 2), decisions.slice(len(decisions) // 2)]
    return compare(halves, [labels], ARMS, Costs(), 2, mature_before_us=mature_before_us, name="Challenger 7")


def sums(rows: Rows) -> list[ArmSums]:
    both = [ArmSums(), ArmSums()]
    for arm in (0, 1):
        both[arm].add(rows.take(rows.challenger == bool(arm)), Costs())
    return both


def test_figures_are_those_of_plain_arithmetic() -> None:
    rows = simulate(6_000, 1, EVEN)
    rows = replace(rows, fraud=np.where(rows.score > 0.2, np.arange(6_000) % 2, rows.fraud))
    found = report(rows)
    mine = rows.take(rows.challenger)
    weight, fraud, flagged = mine.label_weight, mine.fraud == 1, mine.level > 0
    precision, loss = found.figure("precision").challenger, found.figure("fraud_loss").challenger
    assert precision is not None
    assert loss is not None
    assert precision.value == pytest.approx((weight * (fraud & flagged)).sum() / (weight * flagged).sum())
    amount = mine.amount + 15
    lost = amount * fraud * np.where(mine.level == 1, 0.1, mine.level == 0)
    assert loss.value == pytest.approx(1_000 * lost.sum() / len(mine), rel=1e-6)
    recall = found.figure("recall_at_same_rate").challenger
    assert recall is not None
    rate = (rows.level[~rows.challenger] > 0).mean()
    top = mine.score >= np.quantile(mine.score, 1 - rate)
    assert recall.value == pytest.approx((weight * fraud * top).sum() / (weight * fraud).sum(), abs=0.03)
    assert found.champion.decisions + found.challenger.decisions == 6_000


def test_a_worse_challenger_is_to_be_aborted_and_a_better_one_promoted() -> None:
    rows = simulate(16_000, 2, World(share=0.5, per_entity=2, fault="blind"))
    rows = replace(rows, amount=np.clip(rows.amount, 20, 200))
    worse = report(rows)
    assert worse.conclusion.startswith("Challenger 7 costs ")
    assert worse.conclusion.endswith("abort it.")
    better = report(replace(rows, challenger=~rows.challenger))
    assert " less per 1,000 transactions (95 %: " in better.conclusion
    assert better.conclusion.endswith("promote it.")
    total = better.figure("total_cost").difference
    assert total is not None
    assert total.low < total.value < total.high < 0
    assert msgspec.json.decode(msgspec.json.encode(better), type=Comparison) == better


def test_equal_arms_allow_no_conclusion() -> None:
    found = report(simulate(8_000, 3, EVEN))
    assert found.conclusion.startswith("Nothing can be concluded")
    assert not found.figure("total_cost").concluded


def test_no_labels() -> None:
    rows = simulate(1_000, 0, EVEN)
    found = report(rows, reported=rows.take(slice(0, 0)))
    assert found.conclusion == "Nothing can be concluded: no label was reported for either arm."


def test_no_decisions_at_all() -> None:
    found = compare([], [], ARMS, Costs(), 2, mature_before_us=0)
    assert found.conclusion == "Nothing can be concluded yet: the arm champion has no mature decision."
    assert all(figure.difference is None for figure in found.figures)
    assert found.split.p_value is None


def test_an_empty_arm() -> None:
    rows = simulate(1_000, 0, World(share=0.001))
    found = report(rows.take(~rows.challenger))
    assert found.conclusion == "Nothing can be concluded yet: the arm challenger has no mature decision."


def test_decisions_that_are_not_mature_do_not_count() -> None:
    rows = simulate(2_000, 0, EVEN)
    found = report(rows, mature_before_us=10 * DAY_US)
    assert found.champion.decisions + found.challenger.decisions == int((rows.event_time_us < 10 * DAY_US).sum())
    assert found.days == pytest.approx(10)


def test_tiny_data_ask_for_more_days() -> None:
    rows = simulate(400, 1, EVEN)
    rows = replace(rows, fraud=(np.arange(400) % 40 == 0).astype(np.float64))
    found = report(rows)
    assert "entities with a known fraud and 20 are needed, about " in found.conclusion


def test_declines_that_nobody_let_through_leave_half_of_the_picture() -> None:
    rows = simulate(12_000, 4, EVEN)
    rows = replace(rows, explored=np.zeros(12_000, np.bool_), label_weight=np.ones(12_000))
    found = report(rows, reported=rows.take(rows.level < 2))
    assert found.champion.unknown_declines > 0
    for name in ("recall_at_same_rate", "precision", "false_decline_cost", "total_cost"):
        assert found.figure(name) == Figure(name, note=UNKNOWN)
    assert found.figure("fraud_loss").difference is not None
    assert "What declines cost cannot be known: " in found.conclusion
    told = report(rows, reported=rows)
    assert told.champion.unknown_declines == 0
    assert told.figure("total_cost").difference is not None


def test_the_last_report_about_a_transaction_counts() -> None:
    rows = simulate(1_000, 5, EVEN)
    rows = replace(rows, fraud=(np.arange(1_000) % 5 == 0).astype(np.float64))
    known = rows.take(labelled(rows))
    twice = Rows.concatenate([known, replace(known, fraud=np.zeros(len(known)))])
    assert report(rows, reported=twice).champion.frauds == 0


def test_changed_shares_are_no_reason_to_doubt_the_split_and_a_wrong_split_is() -> None:
    """First 10 %, then 50 %: those that need not move stay."""
    rows = simulate(6_000, 6, World(share=0.5, per_entity=2))
    late = np.arange(6_000) >= 3_000
    early_share = (rows.key // 7 % 5 == 0) & rows.challenger  # a fifth of the challenger's half
    challenger = np.where(late, rows.challenger, early_share)
    share = np.where(late, 0.5, np.where(challenger, 0.1, 0.9))
    rows = replace(rows, challenger=challenger, share=share, revision=np.where(late, 2, 1))
    found = report(rows)
    assert found.split.p_value is not None
    assert not found.split.flagged
    assert found.split.challenger == pytest.approx(found.split.expected_challenger, rel=0.15)
    off = report(replace(rows, share=np.where(rows.challenger, 0.3, 0.7), revision=np.ones(6_000, np.int64)))
    assert off.split.flagged
    assert off.conclusion.startswith("Nothing can be concluded: ")
    assert "find out why the split is off" in off.conclusion


def test_the_split_check_flags_one_in_a_thousand() -> None:
    low = 0
    for seed in range(200):
        found = report_split(simulate(600, seed, World(share=0.2, per_entity=3)))
        low += found < 0.1
    assert 8 <= low <= 34  # a tenth of 200, give or take three standard deviations


def report_split(rows: Rows) -> float:
    from fraudml.monitoring.rollouts.split import Split

    split = Split()
    split.add(rows)
    p_value = split.check().p_value
    assert p_value is not None
    return p_value


def test_intervals_cover_the_truth() -> None:
    """Against 800,000 rows of the same world: of 80 rollouts with about 20 defrauded entities in each arm, 95 % should
    cover. 88 % is three standard deviations below."""
    world = World(share=0.5, fault="blind")
    big = [ArmSums(), ArmSums()]
    for seed in range(2):
        rows = simulate(400_000, 10_000 + seed, world)
        for arm in (0, 1):
            big[arm].add(rows.take(rows.challenger == bool(arm)), Costs())
    truth = {figure.name: figure for figure in figures(*big, known=True)}
    covered, runs = Counter[str](), Counter[str]()
    for seed in range(80):
        for figure in figures(*sums(simulate(20_000, seed, world)), known=True):
            true = truth[figure.name].difference
            if figure.difference is not None and true is not None:
                covered[figure.name] += figure.difference.low <= true.value <= figure.difference.high
                runs[figure.name] += 1
    for name in ("recall_at_same_rate", "precision", "fraud_loss", "review_cost", "total_cost"):
        assert runs[name] > 72
        assert covered[name] / runs[name] >= 0.88, name


def test_batches_without_rows_of_the_arms_are_fine() -> None:
    empty = pa.RecordBatch.from_pylist([], schema=OUTCOMES)
    found = compare([empty], [empty], ARMS, Costs(), 2, mature_before_us=LATER_US)
    assert found.reports == 0


@pytest.mark.parametrize("off", [False, True])
def test_entities_that_leave_another_challenger_are_no_reason_to_doubt_the_split(off: bool) -> None:
    """20,000 entities with 7 and 8 at 5 % each; then 7 gets nothing, so its entities go to the champion, and 500 new
    ones come. ``off``: the service sends a third of 8's new entities to the champion from the start."""
    arms = [f"challenger-{version}" for version in (7, 8)]
    held = allot({}, {7: 50_000, 8: 50_000})
    batches = []
    for revision, slots, number in ((1, held, 20_000), (2, allot(held, {7: 0, 8: 50_000}), 20_500)):
        assignment = Assignment("salt", [slots[7], slots[8]])
        places = [assignment.arm(f"c{i}") for i in range(number)]
        if off:
            places = [None if place == 1 and i % 3 == 0 else place for i, place in enumerate(places)]
        batches.append(_decided(revision, ["champion" if place is None else arms[place] for place in places]))
    eight = Arms("champion", arms[1], "customer")
    split = compare(batches, [], eight, Costs(), 2, mature_before_us=LATER_US).split
    assert split.p_value is not None
    assert split.flagged is off
    if not off:
        assert split.p_value > 0.01
        new = [Assignment("salt", [held[7], held[8]]).arm(f"c{i}") for i in range(20_000)]
        later = [Assignment("salt", [(), held[8]]).arm(f"c{i}") for i in range(20_000, 20_500)]
        assert split.challenger == (new + later).count(1)
        assert split.champion == (new + later).count(None), "those that were first seen in 7 are not counted"


def _decided(revision: int, arms: list[str]) -> pa.RecordBatch:
    """One decision of each entity, with the shares of the test above."""
    shares = {"champion": 0.9 if revision == 1 else 0.95, "challenger-7": 0.05, "challenger-8": 0.05}
    start = revision * 1_000_000
    rows = [
        {
            "transaction_id": f"t{start + i}",
            "arrival": start + i,
            "event_time_us": start + i,
            "amount_minor": 100,
            "entities": f'{{"customer":"c{i}"}}',
            "score": 0.1,
            "action": "approve",
            "model_version": "1",
            "arm": arm,
            "degraded": "[]",
            "batch": 1,
            "model_us": 100,
            "trial": f'{{"revision":{revision},"share":{shares[arm]}}}',
        }
        for i, arm in enumerate(arms)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=OUTCOMES)
