"""A limit over several processes and a real Redis: how far it can be exceeded, and what a request waits for."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from fraudml.adapters.connections.shared_redis import shared_redis
from fraudml.adapters.limits.redis import RedisTokenBank
from fraudml.service.problems import ProblemError
from fraudml.service.shared_limit import SharedRateLimit
from tests.support.server import Service
from tests.support.servers.redis import RedisServer

PROCESSES = 2
RATE = 200.0
SECONDS = 2.0
NAMESPACE = "rate:test"

# Asks as fast as it can, the way requests do, and prints how often it was let through.
HAMMER = f"""
import asyncio, sys, time
from fraudml.adapters.connections.shared_redis import shared_redis
from fraudml.adapters.limits.redis import RedisTokenBank
from fraudml.service.problems import ProblemError
from fraudml.service.shared_limit import SharedRateLimit

async def story():
    limit = SharedRateLimit({RATE}, RedisTokenBank(shared_redis(sys.argv[1], 1000), "{NAMESPACE}", {RATE}), wait_s=5)
    print("ready", flush=True)
    sys.stdin.readline()
    admitted, until = 0, time.monotonic() + {SECONDS}
    while time.monotonic() < until:
        try:
            if not limit.take("shop", 1):
                await limit.admit("shop", 1)
            admitted += 1
        except ProblemError:
            await asyncio.sleep(0.001)
    await asyncio.to_thread(limit.close)
    print(admitted, flush=True)

asyncio.run(story())
"""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    made = RedisServer()
    yield made
    made.close()


def test_processes_exceed_the_limit_by_no_more_than_is_said(server: RedisServer) -> None:
    command = [sys.executable, "-c", HAMMER, server.url]
    pipe = subprocess.PIPE
    hammers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(PROCESSES)]
    for hammer in hammers:
        assert hammer.stdout is not None
        assert hammer.stdout.readline() == "ready\n"
    started = time.monotonic()
    for hammer in hammers:
        assert hammer.stdin is not None
        hammer.stdin.write("\n")
        hammer.stdin.flush()
    admitted = [int(hammer.communicate(timeout=60)[0]) for hammer in hammers]
    took = time.monotonic() - started
    over = PROCESSES * RATE / 10
    assert sum(admitted) <= RATE + RATE * took + over
    assert sum(admitted) >= RATE + RATE * SECONDS * 0.5  # and it is no tighter limit, either
    assert min(admitted) > 0
    redis = shared_redis(server.url, 1_000)
    (left,) = RedisTokenBank(redis, NAMESPACE, RATE).spend({"shop": 0}).values()
    redis.close()
    at_most = min(RATE, RATE + RATE * (time.monotonic() - started) - sum(admitted))
    assert left <= at_most + 1  # every single one was counted


Start = Callable[[str, float], Service]


@pytest.fixture
def start(tmp_path: Path, server: RedisServer) -> Iterator[Start]:
    """Starts services with a limit of their own and the same Redis."""
    started = []

    def start(name: str, rate: float) -> Service:
        folder = tmp_path / name
        folder.mkdir()
        redis = shared_redis(server.url, 200)
        limit = SharedRateLimit(rate, RedisTokenBank(redis, NAMESPACE, rate), wait_s=2.0)
        service = Service(folder, shared=redis, limit=limit)
        started.append(service)
        return service

    yield start
    for service in started:
        service.stop()


def explain(service: Service) -> httpx.Response:
    return service.client.post("/v1/explain", json={"tx_id": "unknown"})


def test_a_key_has_one_limit_at_all_replicas(start: Start) -> None:
    one, two = start("one", 0.01), start("two", 0.01)
    assert explain(one).status_code == 404  # that was the one token
    assert explain(one).status_code == 429
    assert explain(two).status_code == 404  # the first that a process lets through is on trust
    until = time.monotonic() + 30
    while True:  # until Redis has told it of the other's spending: that was a debt, and has to be paid back
        refused = explain(two)
        assert refused.status_code == 429
        if int(refused.headers["retry-after"]) > 100:
            break
        assert time.monotonic() < until
    assert int(refused.headers["retry-after"]) <= 200


def test_without_redis_requests_go_on_and_each_replica_limits_by_itself(start: Start, server: RedisServer) -> None:
    one = start("one", 5.0)
    server.process.send(signal.SIGSTOP)
    started = time.monotonic()
    statuses = [explain(one).status_code for _ in range(12)]
    assert time.monotonic() - started < 4
    assert statuses.count(404) >= 5
    assert statuses[:5] == [404] * 5
    assert 429 in statuses
    text = one.as_("read").get("/metrics").text
    assert 'fraud_dependency_up{dependency="redis"} 0.0' in text
    server.process.send(signal.SIGCONT)


def test_taking_a_token_waits_for_nobody(server: RedisServer) -> None:
    """The hot path runs in the event loop: there a hanging Redis must not be felt."""
    redis = shared_redis(server.url, 1_000)
    limit = SharedRateLimit(10_000.0, RedisTokenBank(redis, NAMESPACE, 10_000.0), wait_s=5.0)
    limit.take("shop", 1)
    server.process.send(signal.SIGSTOP)

    async def story() -> float:
        longest = 0.0
        for _ in range(3_000):
            before = time.perf_counter()
            try:
                limit.take("shop", 1)
            except ProblemError:
                break
            longest = max(longest, time.perf_counter() - before)
        return longest

    assert asyncio.run(story()) < 0.5
    server.process.send(signal.SIGCONT)
    limit.close()
    redis.close()
