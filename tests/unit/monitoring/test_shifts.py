"""Shifts of scores and actions: exact where they can be, calm at the limit, quick beyond it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from fraudml.decisions.record import Action
from fraudml.monitoring.rollouts.rows import Rows
from fraudml.monitoring.rollouts.shifts import ActionCheck, ScoreCheck, shift_root
from tests.support.rollouts import World, simulate


def with_scores(rows: Rows, edges_of: float, share_high: float, seed: int) -> Rows:
    """Uniform scores of the champion; the challenger's are above ``edges_of`` with probability ``share_high``."""
    random = np.random.default_rng(seed)
    high = random.random(len(rows)) < share_high
    shifted = np.where(high, random.uniform(edges_of, 1, len(rows)), random.uniform(0, edges_of, len(rows)))
    return replace(rows, score=np.where(rows.challenger, shifted, random.random(len(rows))))


def scores(rows: Rows, limit: float = 0.25, alpha: float = 0.001) -> ScoreCheck:
    check = ScoreCheck(limit, alpha, 20)
    check.observe(rows)
    return check


def test_the_index_is_the_textbook_sum() -> None:
    """Half of the challenger's scores are in the two highest of ten bins: (0.5 - 0.2) ln(0.5 / 0.2) + ..."""
    rows = with_scores(simulate(400_000, 0, World(share=0.5, per_entity=1)), 0.8, 0.5, 0)
    expected = 0.3 * np.log(0.5 / 0.2) - 0.3 * np.log(0.5 / 0.8)
    assert scores(rows, limit=9).status().challenger == pytest.approx(expected, rel=0.1)


def test_at_the_limit_alarms_are_rarer_than_alpha_and_beyond_it_they_come() -> None:
    limit = 0.3 * np.log(0.5 / 0.2) - 0.3 * np.log(0.5 / 0.8)
    alarms = beyond = 0
    for seed in range(60):
        rows = with_scores(simulate(4_000, seed, World(share=0.3, per_entity=1)), 0.8, 0.5, seed)
        alarms += scores(rows, limit=limit, alpha=0.05).breach is not None
        beyond += scores(rows, limit=limit / 3, alpha=0.05).breach is not None
    assert alarms <= 6  # 3 are expected at most; the edges of the bins are estimates themselves
    assert beyond >= 57


def test_a_champion_with_one_score_gives_nothing_to_compare() -> None:
    rows = simulate(3_000, 0, World(share=0.5))
    status = scores(replace(rows, score=np.where(rows.challenger, rows.score, 0.5))).status()
    assert status.challenger is None or status.challenger < 9
    constant = scores(replace(rows, score=np.full(len(rows), 0.5)))
    assert constant.breach is None


def test_without_champion_rows_there_is_no_verdict() -> None:
    rows = simulate(3_000, 0, World(share=0.5))
    check = scores(rows.take(rows.challenger))
    assert check.breach is None
    assert check.status().challenger is None


@pytest.mark.parametrize("rates", [(0.01, 0.2), (0.3, 0.5), (0.9, 0.2), (0.0, 0.3)])
def test_the_root_is_the_least_divergence_to_the_limit(rates: tuple[float, float]) -> None:
    champion, challenger = rates
    sizes, limit = np.array([800.0, 90.0]), 0.05
    toward = 0.5 / 90 * np.sign(champion - challenger)
    challenger += toward

    def divergence(p: float, q: float) -> float:
        q = min(max(q, 1e-12), 1 - 1e-12)
        return sum(a * np.log(a / b) for a, b in ((p, q), (1 - p, 1 - q)) if a > 0)

    step = limit if challenger > champion else -limit
    best = minimize_scalar(
        lambda x: 800 * divergence(champion, x) + 90 * divergence(challenger, x + step),
        bounds=(max(0.0, -step), min(1.0, 1 - step)),
        method="bounded",
        options={"xatol": 1e-12},
    )
    assert shift_root(rates[0], rates[1], sizes, limit) == pytest.approx(np.sqrt(2 * best.fun), rel=1e-4)


def test_the_root_is_normal_in_the_tail_at_the_limit() -> None:
    random = np.random.default_rng(0)
    champion, challenger = random.binomial(2_000, 0.02, 3_000) / 2_000, random.binomial(100, 0.07, 3_000) / 100
    roots = [shift_root(a, b, np.array([2_000.0, 100.0]), 0.05) for a, b in zip(champion, challenger, strict=True)]
    for alpha in (0.01, 0.002):
        assert np.mean(np.array(roots) > norm.isf(alpha)) <= 1.5 * alpha


def test_declines_that_double_are_found_and_named() -> None:
    rows = simulate(5_000, 1, World(share=0.2))
    rows = replace(rows, level=np.where(rows.challenger & (np.arange(5_000) % 4 == 0), 2, rows.level).astype(np.int8))
    check = ActionCheck({Action.decline: 0.02, Action.review: 0.05}, 0.001, 20)
    check.observe(rows)
    assert check.breach is not None
    assert check.breach.check == "decline_rate"
    assert "tolerated" in check.breach.reason
