"""Metrics against figures worked out by hand or by the plainest code."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudml.training import evaluate
from fraudml.training.dataset import Dataset

DAY_US = 86_400_000_000


def dataset(y: list[int], *, days: list[float] | None = None, entity: list[int] | None = None) -> Dataset:
    times = (np.array(days if days is not None else [0.0] * len(y)) * DAY_US).astype(np.int64)
    keys = np.array(entity if entity is not None else [-1] * len(y), dtype=np.int64)
    return Dataset(np.zeros((len(y), 1), np.float32), np.array(y, np.int8), times, times, np.full(len(y), np.nan), keys)


def test_card_precision_by_hand() -> None:
    """Day 0: cards by best score are 2 (.9, fraud), 1 (.8, its fraud has the lower score), 3; day 1: 1, 4."""
    data = dataset(
        [0, 1, 1, 0, 0, 1, 0],
        days=[0.1, 0.2, 0.3, 0.4, 1.0, 1.5, 1.9],
        entity=[1, 1, 2, 3, 4, 4, 1],
    )
    scores = np.array([0.8, 0.1, 0.9, 0.7, 0.2, 0.3, 0.6])
    assert evaluate.entity_precision(data, scores, 1) == (1 / 1 + 0 / 1) / 2
    assert evaluate.entity_precision(data, scores, 2) == (2 / 2 + 1 / 2) / 2
    assert evaluate.entity_precision(data, scores, 4) == (2 / 4 + 1 / 4) / 2, "a day with fewer cards pays for k checks"


def test_card_precision_ignores_rows_without_a_card() -> None:
    data = dataset([1, 0], entity=[-1, 5])
    assert evaluate.entity_precision(data, np.array([0.9, 0.1]), 1) == 0.0
    assert "card_precision_at_100" not in evaluate.metrics(dataset([1, 0]), np.array([0.9, 0.1]))


labelled = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.8, 1.0])), min_size=2, max_size=60
).filter(lambda rows: {y for y, _ in rows} == {0, 1})


@given(labelled)
def test_recall_at_a_false_positive_rate_is_the_best_that_any_threshold_gives(rows: list[tuple[int, float]]) -> None:
    y, scores = (np.array(column) for column in zip(*rows, strict=True))
    found = evaluate.metrics(dataset(y.tolist()), scores)
    for rate in evaluate.FALSE_POSITIVE_RATES:
        best = max(
            (scores[y == 1] >= threshold).mean()
            for threshold in [*np.unique(scores), 2.0]
            if (scores[y == 0] >= threshold).mean() <= rate
        )
        assert found[f"recall_at_fpr_{rate:g}"] == pytest.approx(best)


def test_recall_counts_thresholds_on_a_straight_stretch_of_the_curve() -> None:
    """1,000 genuine and 100 frauds in ten equal steps: at 5 % every step up to the fifth is allowed."""
    y = np.tile([1] * 10 + [0] * 10, 10)
    scores = np.repeat(np.linspace(0.9, 0.1, 10), 20)
    genuine = np.zeros(900)
    found = evaluate.metrics(dataset([*y, *genuine.astype(int)]), np.concatenate([scores, genuine]))
    assert found["recall_at_fpr_0.05"] == pytest.approx(0.5)
    assert found["recall_at_fpr_0.01"] == pytest.approx(0.1)
    assert found["recall_at_fpr_0.001"] == 0.0


def test_ranking_metrics_by_hand() -> None:
    found = evaluate.metrics(dataset([0, 1, 0, 1]), np.array([0.1, 0.4, 0.5, 0.9]))
    assert found["roc_auc"] == 0.75  # 3 of 4 pairs in order
    assert found["average_precision"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.25 + 0.01) / 4)
    assert (found["rows"], found["frauds"]) == (4, 2)


def test_calibration_error_by_hand() -> None:
    y = np.array([0, 0, 0, 1, 1, 1])
    scores = np.array([0.1, 0.1, 0.1, 0.7, 0.7, 0.7])
    assert evaluate.reliability(y, scores, 2) == [
        (0.5, pytest.approx(0.1), 0.0),
        (0.5, pytest.approx(0.7), 1.0),
    ]
    assert evaluate.calibration_error(y, scores, 2) == pytest.approx(0.5 * 0.1 + 0.5 * 0.3)


def test_a_constant_score_at_the_base_rate_is_calibrated_whatever_the_order() -> None:
    y = np.array([1] * 10 + [0] * 90)
    assert evaluate.calibration_error(y, np.full(100, 0.1)) == pytest.approx(0.0)


@given(labelled, st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_the_order_of_rows(rows: list[tuple[int, float]], shuffler: random.Random) -> None:
    mixed = list(rows)
    shuffler.shuffle(mixed)
    found = [
        evaluate.metrics(dataset([y for y, _ in each]), np.array([score for _, score in each]))
        for each in (rows, mixed)
    ]
    assert found[0] == pytest.approx(found[1])
    assert 0 <= found[0]["calibration_error"] <= 1


def test_the_bins_of_the_calibration_error_have_equal_count() -> None:
    scores = np.linspace(0, 1, 1_000)
    shares = [share for share, _, _ in evaluate.reliability(np.zeros(1_000, dtype=np.int64), scores)]
    assert shares == pytest.approx([0.1] * 10)


def test_weeks_count_from_the_start_of_the_period() -> None:
    data = dataset([1, 0, 0, 0, 1, 0], days=[3, 4, 9.9, 10, 16.9, 17.1])
    weeks = evaluate.by_week(data, np.array([0.9, 0.1, 0.2, 0.8, 0.4, 0.3]))
    assert [(week["rows"], week["frauds"]) for week in weeks] == [(3, 1), (2, 1), (1, 0)]
    assert [week["start_us"] / DAY_US for week in weeks] == pytest.approx([3, 10, 17.1])
    assert [week["average_precision"] for week in weeks] == [1.0, 0.5, None]
