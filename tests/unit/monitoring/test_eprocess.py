"""The test martingales: expectation 1 or less by counting every outcome, and what they say of real trouble."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fraudml.monitoring.rollouts.eprocess import BLOCK, Evidence, FailureRates

Bools = NDArray[np.bool_]


def feed(rates: FailureRates, challenger: Bools, bad: Bools, batch: NDArray[np.int64] | None = None) -> Evidence:
    return rates.add(challenger, bad, np.ones(len(bad), np.int64) if batch is None else batch)


def block(challenger_calls: int, champion_calls: int, size: int) -> tuple[Bools, NDArray[np.int64], NDArray[np.int64]]:
    """A block with so many calls of ``size`` rows whose outcome is free, filled up with rows that hardly count."""
    rows = (challenger_calls + champion_calls) * size
    challenger = np.zeros(BLOCK, np.bool_)
    challenger[: challenger_calls * size] = True
    batch = np.full(BLOCK, size)
    batch[rows:] = 10**9
    return challenger, batch, np.arange(rows) // size


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("rate", [0.0001, 0.01, 0.3, 0.9])
@pytest.mark.parametrize("calls", [(1, 1), (2, 5), (4, 2)])
def test_expected_evidence_is_at_most_one_when_arms_are_equal(calls: tuple[int, int], rate: float, size: int) -> None:
    challenger, batch, call_of = block(*calls, size)
    expected = 0.0
    for outcome in itertools.product([False, True], repeat=sum(calls)):
        bad = np.zeros(BLOCK, np.bool_)
        bad[: len(call_of)] = np.array(outcome)[call_of]
        chance = math.prod(rate if failed else 1 - rate for failed in outcome)
        expected += chance * math.exp(feed(FailureRates(0.01), challenger, bad, batch).relative[0])
    assert expected <= 1 + 1e-6


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.05])
def test_expected_evidence_is_at_most_one_up_to_the_tolerated_rate(rate: float) -> None:
    challenger, batch, _ = block(4, 0, 1)
    expected = 0.0
    for outcome in itertools.product([False, True], repeat=4):
        bad = np.zeros(BLOCK, np.bool_)
        bad[:4] = outcome
        chance = math.prod(rate if failed else 1 - rate for failed in outcome)
        expected += chance * math.exp(feed(FailureRates(0.05), challenger, bad, batch).absolute[0])
    assert expected <= 1 + 1e-6


@given(st.lists(st.integers(0, 400), max_size=6), st.integers(0, 2**32 - 1))
def test_cuts_change_nothing(cuts: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    challenger, bad, batch = random.random(400) < 0.3, random.random(400) < 0.1, random.integers(1, 9, 400)
    whole, parts = FailureRates(0.01), FailureRates(0.01)
    at_once = whole.add(challenger, bad, batch)
    ends = [0, *sorted(cuts), 400]
    seen = [parts.add(challenger[a:b], bad[a:b], batch[a:b]) for a, b in itertools.pairwise(ends)]
    for name in ("absolute", "relative", "rows", "calls", "bad"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in seen]), getattr(at_once, name))
    assert [a + p for a, part in zip(ends, seen, strict=False) for p in part.place] == at_once.place.tolist()


def test_an_outage_of_both_arms_is_rarely_blamed_on_one() -> None:
    """Every third call fails for 2,000 rows, in both arms."""
    random = np.random.default_rng(0)
    blamed = 0
    for _ in range(300):
        challenger = random.random(6_000) < 0.2
        bad = (random.random(6_000) < 0.33) & (np.arange(6_000) // 2_000 == 1)
        seen = feed(FailureRates(0.0001), challenger, bad)
        assert seen.absolute.max() > 100
        blamed += seen.relative.max() >= math.log(20)
    assert blamed <= 300 * 0.05


def test_a_failing_call_counts_once_however_many_rows_it_has() -> None:
    challenger = np.arange(BLOCK) % 2 == 0
    bad = np.zeros(BLOCK, np.bool_)
    bad[[0, 2, 4, 6]] = True
    assert feed(FailureRates(0.01), challenger, bad, np.full(BLOCK, 4)).bad.tolist() == [[0.0, 1.0]]
