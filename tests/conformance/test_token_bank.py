"""What every ``TokenBank`` promises, over every adapter in ``adapters/limits``. Buckets go by the server's clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fraudml.adapters.limits
from fraudml.adapters.connections.shared_redis import shared_redis
from fraudml.adapters.limits.redis import RedisTokenBank
from fraudml.errors import StoreError
from fraudml.service.shared_limit import TokenBank
from tests.support.servers.redis import RedisServer
from tests.support.servers.redis_cluster import RedisClusterServers

SLOW = 0.001  # tokens a second: none comes back while a test runs

Open = Callable[[float], TokenBank]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RedisClusterServers]:
    servers = RedisClusterServers()
    yield servers
    servers.close()


@pytest.fixture(params=["redis", "cluster"])
def bank(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens banks with a limit, of which all have the same buckets."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
    else:
        nodes: RedisClusterServers = request.getfixturevalue("nodes")
        nodes.flush()
        url = nodes.url
    redis = shared_redis(url, 5_000)
    yield lambda per_second: RedisTokenBank(redis, "rate:test", per_second)
    redis.close()


def test_every_adapter_is_here() -> None:
    folder = Path(fraudml.adapters.limits.__path__[0])
    assert {path.stem for path in folder.glob("*.py") if not path.name.startswith("_")} == {"redis"}


def test_a_bucket_starts_full_and_may_become_a_debt(bank: Open) -> None:
    spend = bank(SLOW).spend
    assert spend({"a": 0, "b": 1}) == pytest.approx({"a": 1, "b": 0}, abs=0.1)
    assert spend({"a": 1_000, "b": 0}) == pytest.approx({"a": -999, "b": 0}, abs=0.1)
    assert bank(SLOW).spend({"b": 2, "a": 1}) == pytest.approx({"b": -2, "a": -1_000}, abs=0.1)


def test_a_second_holds_what_the_limit_says_and_no_more_is_saved_up(bank: Open) -> None:
    limited = bank(500.0)
    before = time.monotonic()
    assert limited.spend({"a": 500}) == {"a": 0.0}
    earliest = time.monotonic()
    while True:
        latest = time.monotonic()
        (left,) = limited.spend({"a": 0}).values()
        assert 500 * (latest - earliest) - 1 <= left <= 500 * (time.monotonic() - before) + 1 or left == 500
        if left == 500:
            break
    assert limited.spend({"a": 0}) == {"a": 500.0}


def test_nothing_is_lost_between_threads(bank: Open) -> None:
    def use(worker: int) -> None:
        own = bank(SLOW)
        for i in range(100):
            own.spend({"all": 3, f"key {i % 5}": 1})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    left = bank(SLOW).spend({"all": 0} | {f"key {i}": 0 for i in range(5)})
    assert left == pytest.approx({"all": 1 - 1_200} | {f"key {i}": 1 - 80 for i in range(5)}, abs=0.5)


def test_limits_of_others_are_others(redis_url: str) -> None:
    redis = shared_redis(redis_url, 5_000)
    RedisTokenBank(redis, "rate:one", SLOW).spend({"a": 100})
    assert RedisTokenBank(redis, "rate:two", SLOW).spend({"a": 0}) == {"a": 1.0}
    redis.close()


def test_redis_forgets_a_bucket_when_it_is_full_and_never_sees_names() -> None:
    server = RedisServer()
    redis = shared_redis(server.url, 5_000)
    try:
        limited = RedisTokenBank(redis, "rate:test", 10.0)
        limited.spend({"the shop": 0, "another": 1_000})
        with server.client() as client:
            keys: list[bytes] = client.keys()
            ends = sorted(client.pttl(key) for key in keys)
            told = b"".join(keys) + b"".join(client.get(key) or b"" for key in keys)
            assert 0 < ends[0] <= 1_000
            assert 99_000 < ends[1] <= 101_000
            assert b"shop" not in told
            for key in keys:
                client.set(key, "broken")
            assert limited.spend({"the shop": 1}) == {"the shop": 9.0}
            for key in keys:
                client.delete(key)
                client.lpush(key, "not a text")
            with pytest.raises(StoreError, match="refused"):
                limited.spend({"the shop": 1})
    finally:
        redis.close()
        server.close()
