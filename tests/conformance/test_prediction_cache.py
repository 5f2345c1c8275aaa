"""What every ``PredictionCache`` promises, over every adapter in ``adapters/cache``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fraudml.adapters.cache
from fraudml.decisions.cache import PredictionCache

TTL_S = 60.0
SIZE = 8


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def open_memory(clock: Clock, size: int) -> PredictionCache:
    from fraudml.adapters.cache.memory import MemoryPredictionCache

    return MemoryPredictionCache(size, TTL_S, clock=clock)


OPEN: dict[str, Callable[[Clock, int], PredictionCache]] = {"memory": open_memory}


def test_every_adapter_is_here() -> None:
    folder = Path(fraudml.adapters.cache.__path__[0])
    assert {path.stem for path in folder.glob("*.py") if not path.name.startswith("_")} == set(OPEN)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=sorted(OPEN))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cache(kind: str, clock: Clock) -> PredictionCache:
    return OPEN[kind](clock, SIZE)


def test_nothing_is_in_an_empty_one(cache: PredictionCache) -> None:
    assert cache.get([b"a", b"b"]) == [None, None]
    assert cache.get([]) == []
    cache.put({})


def test_scores_come_back_exactly_in_the_order_asked(cache: PredictionCache) -> None:
    scores = {b"a": 0.1 + 0.2, b"b\x00\n\xff": 5e-324, b"": 0.0, b"c" * 2_000: 1.0}
    cache.put(scores)
    asked = [b"c" * 2_000, b"b", b"a", b"", b"b\x00\n\xff", b"a"]
    assert cache.get(asked) == [scores.get(key) for key in asked]


def test_a_score_put_again_is_the_new_one(cache: PredictionCache) -> None:
    cache.put({b"a": 0.1})
    cache.put({b"a": 0.2})
    assert cache.get([b"a"]) == [0.2]


def test_no_score_is_older_than_the_limit(cache: PredictionCache, clock: Clock) -> None:
    cache.put({b"old": 0.1})
    clock.now += TTL_S / 2
    cache.put({b"new": 0.2})
    clock.now += TTL_S / 2 - 0.5
    assert cache.get([b"old", b"new"]) == [0.1, 0.2]
    clock.now += 0.5
    assert cache.get([b"old", b"new"]) == [None, 0.2]


def test_being_read_makes_nothing_younger_but_being_put_does(cache: PredictionCache, clock: Clock) -> None:
    cache.put({b"read": 0.1, b"put": 0.2})
    clock.now += TTL_S - 1
    assert cache.get([b"read"]) == [0.1]
    cache.put({b"put": 0.2})
    clock.now += 1
    assert cache.get([b"read", b"put"]) == [None, 0.2]


@pytest.mark.parametrize("together", [True, False])
def test_it_is_bounded_and_the_newest_stay(cache: PredictionCache, together: bool) -> None:
    scores = {f"{i}".encode(): i / 100 for i in range(5 * SIZE)}
    for part in [scores] if together else [{key: score} for key, score in scores.items()]:
        cache.put(part)
    held = cache.get(list(scores))
    assert sum(score is not None for score in held) <= SIZE
    assert held[-1] == scores[list(scores)[-1]]


def test_it_may_be_used_by_several_threads(kind: str, clock: Clock) -> None:
    cache = OPEN[kind](clock, 1_000)
    start = threading.Barrier(4)

    def use(worker: int) -> bool:
        start.wait()
        for i in range(300):
            keys = [f"{(worker * 37 + i + j) % 500}".encode() for j in range(20)]
            for key, found in zip(keys, cache.get(keys), strict=True):
                if found not in (None, float(key)):
                    return False
            cache.put({key: float(key) for key in keys})
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(4)))
