"""How often a key may ask a process."""

from __future__ import annotations

import pytest

from fraudml.service import limits
from fraudml.service.limits import RateLimit
from fraudml.service.problems import ProblemError


class Clock:
    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(limits, "time", made)
    return made


def wait_of(limit: RateLimit, count: int = 1) -> int:
    with pytest.raises(ProblemError) as refused:
        limit.take("k", count)
    assert refused.value.problem.status == 429
    return int(refused.value.headers["Retry-After"])


def test_one_second_may_be_spent_at_once_and_comes_back(clock: Clock) -> None:
    limit = RateLimit(10)
    for _ in range(10):
        limit.take("k", 1)
    assert wait_of(limit) == 1
    limit.take("other", 1)
    clock.now += 0.1
    limit.take("k", 1)
    wait_of(limit)
    clock.now += 3_600
    for _ in range(10):
        limit.take("k", 1)  # no more than one second's worth is saved up
    wait_of(limit)


def test_a_large_batch_is_paid_back_before_the_next_request(clock: Clock) -> None:
    limit = RateLimit(10)
    limit.take("k", 1_000)
    assert wait_of(limit) == 100
    clock.now += 99
    assert wait_of(limit) == 1
    clock.now += 0.2
    limit.take("k", 1)


def test_without_a_rate_nothing_is_limited() -> None:
    limit = RateLimit(0)
    for _ in range(100):
        limit.take("k", 1_000_000)
