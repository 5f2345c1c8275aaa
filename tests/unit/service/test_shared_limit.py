"""A limit that processes share: what they may exceed it by, and that nobody waits for the bank."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudml.errors import StoreError
from fraudml.service import shared_limit
from fraudml.service.limits import RateLimit, burst
from fraudml.service.problems import ProblemError
from fraudml.service.shared_limit import Ledger, SharedRateLimit

KEY = "k"
NOW = 5.0  # where no time passes


class Bucket:
    """What a bank should keep: exactly, in the most obvious way."""

    def __init__(self, rate: float) -> None:
        self.rate, self.most = rate, burst(rate)
        self.tokens, self.at = self.most, 0.0

    def spend(self, count: int, now: float) -> float:
        self.tokens = min(self.most, self.tokens + (now - self.at) * self.rate) - count
        self.at = now
        return self.tokens


class World:
    """Processes with one bucket, whose settlements begin and end when the test says so."""

    def __init__(self, rate: float, processes: int) -> None:
        self.now = 0.0
        self.bucket = Bucket(rate)
        self.ledgers = [Ledger(rate) for _ in range(processes)]
        self.under_way: list[tuple[dict[str, int], dict[str, float]] | None] = [None] * processes
        self.admitted = 0

    def take(self, place: int, count: int) -> str:
        try:
            taken = self.ledgers[place].take(KEY, count, self.now)
        except ProblemError:
            return "refused"
        self.admitted += count if taken is not None else 0
        return "wait" if taken is None else "taken"

    def settle(self, place: int) -> None:
        """Begin a settlement, or end the one under way."""
        if (under_way := self.under_way[place]) is not None:
            self.ledgers[place].settled(*under_way, self.now)
            self.under_way[place] = None
        elif told := self.ledgers[place].unsettled():
            self.under_way[place] = (told, {KEY: self.bucket.spend(told[KEY], self.now)})

    def settle_all(self) -> None:
        for place in range(len(self.ledgers)):
            for _ in range(3):
                self.settle(place)


ACTIONS = st.one_of(
    st.tuples(st.just("pass"), st.floats(0, 3), st.just(0)),
    st.tuples(st.just("take"), st.integers(0, 3), st.integers(1, 9)),
    st.tuples(st.just("rush"), st.integers(0, 3), st.integers(1, 9)),
    st.tuples(st.just("settle"), st.integers(0, 3), st.just(0)),
)


@given(rate=st.sampled_from([0.3, 1.0, 15.0, 200.0]), processes=st.integers(1, 4), story=st.lists(ACTIONS, max_size=80))
def test_the_limit_is_exceeded_by_no_more_than_is_said_and_that_is_paid_back(
    rate: float, processes: int, story: list[tuple[str, float, int]]
) -> None:
    world = World(rate, processes)
    largest = max((count for what, _, count in story), default=1)
    over = processes * (world.ledgers[0].ahead + largest - 1)
    for what, number, count in story:
        place = int(number) % processes
        if what == "pass":
            world.now += number
        elif what == "settle":
            world.settle(place)
        elif what == "take":
            world.take(place, count)
        else:
            while world.take(place, count) == "taken":
                pass
        assert world.admitted <= world.bucket.most + rate * world.now - 1 + over + 1e-6
    world.settle_all()
    # the bank knows of every single token
    spent_exactly = world.bucket.tokens <= world.bucket.most + rate * world.now - world.admitted + 1e-6
    assert spent_exactly
    assert world.bucket.tokens >= 1 - over - 1e-6
    assert not any(ledger.unsettled() for ledger in world.ledgers)


@given(counts=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 30)), max_size=60))
def test_one_process_that_settles_at_once_limits_as_one_without_a_bank(counts: list[tuple[float, int]]) -> None:
    world, alone = World(10.0, 1), RateLimit(10.0)
    clock = type("Clock", (), {"monotonic": lambda self: world.now})()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fraudml.service.limits.time", clock)
        for passed, count in counts:
            world.now += passed
            try:
                expected = "taken" if alone.take(KEY, count) else "wait"
            except ProblemError:
                expected = "refused"
            assert world.take(0, count) == expected
            world.settle_all()


def test_what_another_process_spent_is_known_after_the_next_settlement() -> None:
    world = World(10.0, 2)
    assert world.take(0, 1) == world.take(1, 9) == "taken"
    world.settle_all()
    world.settle_all()
    assert world.take(0, 1) == "taken"  # of the second's settlement it does not know yet: one is let through
    assert world.take(0, 1) == "wait"
    world.settle(0)
    assert world.take(0, 1) == "wait"  # told, and not answered
    world.settle(0)
    assert world.take(0, 1) == "refused"
    world.now += 0.2
    assert world.take(0, 1) == "taken"


def test_while_the_bank_fails_each_process_limits_by_itself_and_owes_nothing_afterwards() -> None:
    world = World(10.0, 1)
    ledger = world.ledgers[0]
    for _ in range(200):  # 20 s
        world.take(0, 1)
        ledger.failed(ledger.unsettled())
        world.now += 0.1
    assert 10 + 190 <= world.admitted <= 10 + 200
    world.take(0, 1)
    world.settle_all()
    assert world.bucket.tokens == 9.0  # no debt of 200
    assert not ledger.alone


class Bank:
    """A bank in this process; ``gate`` holds its calls, ``broken`` makes them fail."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._buckets: dict[str, Bucket] = {}
        self.calls: list[dict[str, int]] = []
        self.broken = False
        self.gate = threading.Event()
        self.gate.set()
        self.called = threading.Semaphore(0)

    def spend(self, counts: Mapping[str, int]) -> dict[str, float]:
        self.calls.append(dict(counts))
        self.called.release()
        assert self.gate.wait(30)
        if self.broken:
            raise StoreError("no connection")
        buckets = {key: self._buckets.setdefault(key, Bucket(self._rate)) for key in counts}
        return {key: buckets[key].spend(count, NOW) for key, count in counts.items()}


@pytest.fixture
def bank() -> Bank:
    return Bank(10.0)


@pytest.fixture
def limit(bank: Bank) -> Iterator[SharedRateLimit]:
    made = SharedRateLimit(10.0, bank, wait_s=20.0, clock=lambda: NOW)
    yield made
    bank.gate.set()
    made.close()


def play(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 60))


async def many(limit: SharedRateLimit, count: int) -> None:
    for _ in range(count):
        await limit.admit(KEY, 1)


async def called(bank: Bank) -> None:
    assert await asyncio.to_thread(bank.called.acquire, timeout=30)


def test_a_request_waits_for_the_bank_only_where_it_is_too_far_ahead(bank: Bank, limit: SharedRateLimit) -> None:
    async def story() -> None:
        bank.gate.clear()
        assert limit.take(KEY, 1)
        await called(bank)
        assert not limit.take(KEY, 1)
        assert limit.take("other", 1)
        waiting = [asyncio.create_task(limit.admit(KEY, 1)) for _ in range(3)]
        while len(limit._waiting) < 3:
            await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        bank.gate.set()
        await asyncio.gather(*waiting)
        for _ in range(6):
            await limit.admit(KEY, 1)
        with pytest.raises(ProblemError, match="10 transactions a second") as refused:
            await many(limit, 10)
        assert refused.value.problem.status == 429

    play(story())
    limit.close()
    assert sum(call.get(KEY, 0) for call in bank.calls) >= 10
    assert sum(call.get("other", 0) for call in bank.calls) == 1


def test_a_bank_that_takes_too_long_is_not_waited_for(bank: Bank) -> None:
    limit = SharedRateLimit(10.0, bank, wait_s=0.01, clock=lambda: NOW)

    async def story() -> None:
        bank.gate.clear()
        assert limit.take(KEY, 1)
        await called(bank)
        for _ in range(9):
            await limit.admit(KEY, 1)
        with pytest.raises(ProblemError):
            await limit.admit(KEY, 1)
        bank.gate.set()

    play(story())
    limit.close()


def test_it_says_once_that_the_bank_fails_and_goes_on(
    bank: Bank, limit: SharedRateLimit, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, shared_limit.__name__)

    async def story() -> None:
        bank.broken = True
        for _ in range(10):
            await limit.admit(KEY, 1)
        with pytest.raises(ProblemError):
            await limit.admit(KEY, 1)
        bank.broken = False
        await limit.admit("other", 1)
        while not caplog.messages[-1].endswith("again"):
            await asyncio.sleep(0)

    play(story())
    assert caplog.messages == [
        "rates are not shared, each process limits by itself: no connection",
        "rates are shared again",
    ]


def test_a_defect_of_the_bank_does_not_end_the_thread(
    bank: Bank, limit: SharedRateLimit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        with monkeypatch.context() as broken:
            broken.setattr(bank, "spend", lambda counts: 1 / 0)
            assert limit.take(KEY, 1)
            while "settling failed" not in caplog.text:
                await asyncio.sleep(0)
        await limit.admit(KEY, 1)
        await called(bank)

    play(story())


def test_many_requests_are_told_together(bank: Bank) -> None:
    bank._rate = 100_000.0
    limit = SharedRateLimit(100_000.0, bank, wait_s=20.0)
    for _ in range(2_000):
        assert limit.take(KEY, 1)
    limit.close()
    assert sum(call.get(KEY, 0) for call in bank.calls) == 2_000
    assert len(bank.calls) < 100
