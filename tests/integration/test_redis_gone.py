"""What decisions can do without does not hold them up when its Redis is gone, hangs or refuses."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest

from fraudml.adapters.cache.redis import RedisPredictionCache
from fraudml.adapters.connections import guard as guard_module
from fraudml.adapters.connections.guard import Guard
from fraudml.adapters.connections.redis import guarded
from fraudml.adapters.connections.shared_redis import SharedRedis, shared_redis
from fraudml.decisions.cache import ScoreCache
from fraudml.errors import CacheError, ConfigError
from tests.support.servers.redis import RedisServer
from tests.support.servers.redis_cluster import RedisClusterServers

TIMEOUT_MS = 200
AT_MOST_S = 3 * TIMEOUT_MS / 1_000  # a busy machine may be slow, but three deadlines are not one


@pytest.fixture
def server() -> Iterator[RedisServer]:
    made = RedisServer()
    yield made
    made.close()


@pytest.fixture
def guard(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    monkeypatch.setattr(guard_module, "LEAST_S", 60.0)  # nobody asks again before the test says so
    monkeypatch.setattr(guard_module, "MOST_S", 60.0)
    now = [0.0]
    made = guarded(server.url, TIMEOUT_MS)
    made._circuit.clock = lambda: now[0]
    made.now = now  # type: ignore[attr-defined]
    yield made
    made.close()


def later(guard: Guard) -> None:
    """The time for which a server is left alone has passed."""
    guard.now[0] += 61  # type: ignore[attr-defined]


def failed(cache: RedisPredictionCache, what: str) -> float:
    """The seconds that it takes to fail."""
    started = time.monotonic()
    with pytest.raises(CacheError, match=what):
        cache.get([b"a"])
    return time.monotonic() - started


def test_a_cache_that_hangs_costs_one_deadline_and_then_nothing(server: RedisServer, guard: Guard) -> None:
    cache = RedisPredictionCache(SharedRedis(guard), 100, 60.0)
    cache.put({b"a": 0.5})
    server.process.send(signal.SIGSTOP)
    assert failed(cache, "does not answer") < AT_MOST_S
    started = time.monotonic()
    for _ in range(1_000):
        with pytest.raises(CacheError, match="not asked for a moment"):
            cache.put({b"a": 0.5})
    assert time.monotonic() - started < AT_MOST_S
    later(guard)
    assert failed(cache, "does not answer") < AT_MOST_S
    server.process.send(signal.SIGCONT)
    later(guard)
    assert cache.get([b"a"]) == [0.5]


def test_a_cache_that_was_killed_comes_back_empty(server: RedisServer, guard: Guard) -> None:
    cache = RedisPredictionCache(SharedRedis(guard), 100, 60.0)
    cache.put({b"a": 0.5})
    server.process.kill()
    assert failed(cache, "does not answer") < AT_MOST_S
    server.process.start()
    later(guard)
    assert cache.get([b"a"]) == [None]
    cache.put({b"a": 0.5})
    assert cache.get([b"a"]) == [0.5]


def test_a_server_that_is_full_refuses_and_is_still_asked(server: RedisServer, guard: Guard) -> None:
    cache = RedisPredictionCache(SharedRedis(guard), 100, 60.0)
    cache.put({b"a": 0.5})
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
    with pytest.raises(CacheError, match="refused"):
        cache.put({b"b": 0.5})
    assert cache.get([b"a", b"b"]) == [0.5, None]
    assert guard.up


def test_without_its_cache_a_model_scores(server: RedisServer, guard: Guard) -> None:
    outcomes: list[tuple[str, int]] = []
    scores = ScoreCache(RedisPredictionCache(SharedRedis(guard), 100, 60.0), lambda *outcome: outcomes.append(outcome))
    rows = np.array([[1.0], [2.0]], np.float32)

    def score(inputs: np.ndarray) -> np.ndarray:
        return inputs[:, 0].astype(np.float64) / 10

    for stopped in (False, False, True, True):
        if stopped:
            server.process.kill()
        assert scores.scores(b"model", rows, score) == [0.1, 0.2]
    assert outcomes == [("miss", 2), ("hit", 2), ("error", 2), ("error", 2)]


def test_what_is_no_score_is_none(server: RedisServer, guard: Guard) -> None:
    cache = RedisPredictionCache(SharedRedis(guard), 1, 60.0)
    cache.put({b"a": 0.5})
    with server.client() as client:
        (place,) = client.keys()
        client.set(place, b"something else")
        assert cache.get([b"a"]) == [None]
        client.delete(place)
        client.lpush(place, b"not even a text")
        assert cache.get([b"a"]) == [None]


def test_a_cluster_that_is_not_there_keeps_nobody_from_starting() -> None:
    nowhere = shared_redis("redis://127.0.0.1:1?cluster=true", TIMEOUT_MS)
    assert failed(RedisPredictionCache(nowhere, 100, 60.0), "does not answer") < AT_MOST_S


def test_a_node_of_a_cluster_that_hangs_holds_up_one_call() -> None:
    servers = RedisClusterServers()
    guard = guarded(servers.url, TIMEOUT_MS)
    try:
        cache = RedisPredictionCache(SharedRedis(guard), 1_000, 60.0)
        scores = {f"{i}".encode(): 0.5 for i in range(256)}
        cache.put(scores)
        servers.nodes[1].process.send(signal.SIGSTOP)
        started = time.monotonic()
        for _ in range(2):
            with pytest.raises(CacheError):
                cache.put(scores)
        assert time.monotonic() - started < 10 * TIMEOUT_MS / 1_000  # a deadline for each part on that node
    finally:
        guard.close()
        servers.close()


@pytest.mark.parametrize("url", ["http://u:secret@host", "redis://u:secret@host:port", "redis:/u:secret@host"])
@pytest.mark.parametrize("more", ["", "?cluster=true"])
def test_a_url_that_is_none_is_told_at_once_and_not_shown(url: str, more: str) -> None:
    with pytest.raises(ConfigError, match="FRAUDML_REDIS_URL") as refused:
        shared_redis(url + more, TIMEOUT_MS)
    assert "secret" not in str(refused.value)
