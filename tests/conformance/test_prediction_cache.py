"""What every ``PredictionCache`` promises, over every adapter in ``adapters/cache``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pytest

import fraudml.adapters.cache
from fraudml.decisions.cache import PredictionCache
from tests.support.servers.redis import advance
from tests.support.servers.redis_cluster import RedisClusterServers

TTL_S = 60.0
SIZE = 8
ROOM = 10_000  # more than any test but that of the bound puts: a score may be gone at any time, these are not


class World(Protocol):
    """An adapter's caches, and the clock they go by."""

    def open(self, size: int) -> PredictionCache: ...

    def advance(self, seconds: float) -> None: ...


class Memory:
    """Seconds pass when the test says so."""

    def __init__(self) -> None:
        self._now = 1_000.0

    def open(self, size: int) -> PredictionCache:
        from fraudml.adapters.cache.memory import MemoryPredictionCache

        return MemoryPredictionCache(size, TTL_S, clock=lambda: self._now)

    def advance(self, seconds: float) -> None:
        self._now += seconds


class Redis:
    """The clock is the server's, so what is held is made older instead."""

    def __init__(self, url: str, *servers: str) -> None:
        from fraudml.adapters.connections.shared_redis import shared_redis

        self._servers = servers or (url,)
        self.redis = shared_redis(url, 5_000)

    def open(self, size: int) -> PredictionCache:
        from fraudml.adapters.cache.redis import RedisPredictionCache

        return RedisPredictionCache(self.redis, size, TTL_S)

    def advance(self, seconds: float) -> None:
        for server in self._servers:
            advance(server, seconds)


@pytest.fixture
def memory() -> World:
    return Memory()


@pytest.fixture
def redis(redis_url: str) -> Iterator[World]:
    world = Redis(redis_url)
    yield world
    world.redis.close()


@pytest.fixture(scope="module")
def nodes() -> Iterator[RedisClusterServers]:
    servers = RedisClusterServers()
    yield servers
    servers.close()


@pytest.fixture
def cluster(nodes: RedisClusterServers) -> Iterator[World]:
    nodes.flush()
    world = Redis(nodes.url, *(node.url for node in nodes.nodes))
    yield world
    world.redis.close()


@pytest.fixture(params=["memory", "redis", "cluster"])
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def cache(world: World) -> PredictionCache:
    return world.open(ROOM)


def test_every_adapter_is_here() -> None:
    folder = Path(fraudml.adapters.cache.__path__[0])
    adapters = {path.stem for path in folder.glob("*.py") if not path.name.startswith("_")}
    assert adapters == {"memory", "redis"}


def test_nothing_is_in_an_empty_one(cache: PredictionCache) -> None:
    assert cache.get([b"a", b"b"]) == [None, None]
    assert cache.get([]) == []
    cache.put({})


def test_scores_come_back_exactly_in_the_order_asked(cache: PredictionCache) -> None:
    scores = {b"a": 0.1 + 0.2, b"b\x00\n\xff": 5e-324, b"": 0.0, b"c" * 2_000: 1.0}
    cache.put(scores)
    asked = [b"c" * 2_000, b"b", b"a", b"", b"b\x00\n\xff", b"a"]
    assert cache.get(asked) == [scores.get(key) for key in asked]


def test_many_come_back_at_once(cache: PredictionCache) -> None:
    scores = {f"{i}".encode(): i / 256 for i in range(256)}
    cache.put(scores)
    held = cache.get([*scores, b"unknown"])
    assert held[-1] is None
    assert [value for value in held if value is not None] == [
        score for score, value in zip(scores.values(), held, strict=False) if value is not None
    ]
    assert sum(value is not None for value in held) > 240  # a bounded one may have let a few go


def test_a_score_put_again_is_the_new_one(cache: PredictionCache) -> None:
    cache.put({b"a": 0.1})
    cache.put({b"a": 0.2})
    assert cache.get([b"a"]) == [0.2]


def test_no_score_is_older_than_the_limit(cache: PredictionCache, world: World) -> None:
    cache.put({b"old": 0.1})
    world.advance(TTL_S / 2)
    cache.put({b"new": 0.2})
    world.advance(TTL_S / 2 - 5)
    assert cache.get([b"old", b"new"]) == [0.1, 0.2]
    world.advance(5)
    assert cache.get([b"old", b"new"]) == [None, 0.2]


def test_being_read_makes_nothing_younger_but_being_put_does(cache: PredictionCache, world: World) -> None:
    cache.put({b"read": 0.1, b"put": 0.2})
    world.advance(TTL_S - 5)
    assert cache.get([b"read"]) == [0.1]
    cache.put({b"put": 0.2})
    world.advance(5)
    assert cache.get([b"read", b"put"]) == [None, 0.2]


@pytest.mark.parametrize("together", [True, False])
def test_it_is_bounded_and_the_newest_stay(world: World, together: bool) -> None:
    cache = world.open(SIZE)
    scores = {f"{i}".encode(): i / 100 for i in range(5 * SIZE)}
    for part in [scores] if together else [{key: score} for key, score in scores.items()]:
        cache.put(part)
    held = cache.get(list(scores))
    assert sum(score is not None for score in held) <= SIZE
    assert held[-1] == scores[list(scores)[-1]]


def test_it_may_be_used_by_several_threads(world: World) -> None:
    cache = world.open(1_000)
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
