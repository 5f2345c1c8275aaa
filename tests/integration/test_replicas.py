"""Two services on one PostgreSQL and one Redis: one decision for each transaction, whoever dies."""

from __future__ import annotations

import itertools
import signal
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis

from fraudml.adapters.online.redis import marks
from fraudml.operations.doctor.places import JOURNAL_HEADER
from tests.support import trained
from tests.support.commands import refused, well
from tests.support.hammer import Hammer
from tests.support.servers.redis import RedisServer
from tests.support.serving import Running, an_example, serving
from tests.support.waiting import until

START = datetime(2026, 2, 1, tzinfo=UTC)
ROWS = 300  # the audit judges each late decision by the reference, which is slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion."""
    return trained.project(tmp_path_factory.mktemp("replicas"))


@pytest.fixture
def backends(postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of tier 3, for commands too."""
    monkeypatch.setenv("FRAUDML_DATABASE_URL", postgres_url)
    monkeypatch.setenv("FRAUDML_REDIS_URL", redis_url)


@pytest.fixture
def key(home: Path, backends: None) -> str:
    return well("keys", "create", "load", "--scope", "admin", cwd=home).out.strip()


def transaction(example: dict[str, Any], number: int) -> dict[str, Any]:
    """One of many whose customers and merchants are few, so that their windows meet."""
    moment = START + timedelta(seconds=number)
    return example | {
        "transaction_id": f"live-{number}",
        "event_time": moment.isoformat(),
        "customer_id": f"customer-{number % 50}",
        "merchant_id": f"merchant-{number % 30}",
        "amount": 10.0 + number % 1_000,
    }


def load(service: Running, key: str, example: dict[str, Any]) -> Hammer:
    """All rows in order, and then further ones for ever, until the service is killed."""
    rows = ((f"live-{number}", transaction(example, number)) for number in range(10**9))
    return Hammer(service.port, key, rows, ROWS)


def test_two_replicas_decide_once_and_one_may_be_killed(home: Path, key: str) -> None:
    well("features", "materialize", cwd=home)
    with ExitStack() as opened:
        services = [opened.enter_context(serving(home, as_users_do=True)) for _ in range(2)]
        clients = [opened.enter_context(service.client(key)) for service in services]
        example = an_example(clients[0])
        hammers = [load(service, key, example) for service in services]
        with ThreadPoolExecutor(2) as pool:
            loads = [pool.submit(hammer.run, 4) for hammer in hammers]
            assert all(hammer.enough.wait(240) for hammer in hammers)
            services[1].kill()
            loads[1].result(60)
            hammers[0].wait_for(50)
            services[0].kill()
            loads[0].result(60)
    both = hammers[0].acknowledged.keys() & hammers[1].acknowledged.keys()
    assert len(both) >= ROWS - 8
    assert all(hammers[0].acknowledged[name] == hammers[1].acknowledged[name] for name in both)
    assert [hammer.refused for hammer in hammers] == [[], []]
    with serving(home) as service, service.client(key) as client:
        sent = hammers[0].sent | hammers[1].sent
        answered = hammers[0].acknowledged | hammers[1].acknowledged
        for name in sorted(sent.keys() - answered.keys()):  # what was under way: the client sends it again
            assert client.post("/v1/predict", json=sent[name]).is_success
        for name in list(answered)[-100:]:
            assert client.post("/v1/predict", json=sent[name]).content == answered[name]
    audit = well("features", "audit", "--json", cwd=home).json
    assert audit["decisions"] == len(sent)
    assert audit["differing"] == 0, audit["examples"]


def test_an_emptied_redis_is_filled_again_while_replicas_decide(home: Path, key: str, redis_url: str) -> None:
    with ExitStack() as opened:
        services = [opened.enter_context(serving(home)) for _ in range(2)]
        clients = [opened.enter_context(service.client(key)) for service in services]
        example = an_example(clients[0])
        for number in range(100):
            assert score(clients[number % 2], transaction(example, number))["degraded"] == []
        with redis.Redis.from_url(redis_url) as server:
            server.flushdb()
        degraded = [score(clients[n % 2], transaction(example, n))["degraded"] for n in range(100, 110)]
        assert ["online_store"] in degraded
        recovered = (n for n in range(110, 10_000) if not score(clients[n % 2], transaction(example, n))["degraded"])
        first = next(recovered)
        for number in range(first + 1, first + 51):
            assert score(clients[number % 2], transaction(example, number))["degraded"] == []
    audit = well("features", "audit", "--json", cwd=home).json
    assert audit["decisions"] + audit["skipped"] == first + 51
    assert audit["differing"] == 0, audit["examples"]


@pytest.fixture
def own_redis(monkeypatch: pytest.MonkeyPatch, key: str) -> Iterator[RedisServer]:
    """A Redis to be stopped and killed, in place of the one that tests share."""
    with closing(RedisServer()) as server:
        monkeypatch.setenv("FRAUDML_REDIS_URL", server.url)
        yield server


def test_a_redis_that_hangs_and_comes_back_older_costs_history_and_nothing_else(
    home: Path, key: str, own_redis: RedisServer
) -> None:
    numbers = itertools.count()
    with ExitStack() as opened:
        services = [opened.enter_context(serving(home)) for _ in range(2)]
        clients = [opened.enter_context(service.client(key)) for service in services]
        example = an_example(clients[0])

        def decide() -> list[str]:
            number = next(numbers)
            found: list[str] = score(clients[number % 2], transaction(example, number))["degraded"]
            return found

        def decide_until_history_is_back() -> None:
            while decide() or decide():  # at both
                pass

        assert [decide() for _ in range(60)] == [[]] * 60
        with own_redis.client() as client:
            client.save()
        assert [decide() for _ in range(60)] == [[]] * 60
        own_redis.process.send(signal.SIGSTOP)
        took = []
        for _ in range(100):
            began = time.monotonic()
            assert decide() == ["online_store"]
            took.append(time.monotonic() - began)
        assert statistics.median(took) < 0.1  # of a timeout of 0.25 s, which few of them wait for
        own_redis.process.send(signal.SIGCONT)
        decide_until_history_is_back()
        own_redis.process.kill()
        own_redis.process.start()  # with the snapshot
        assert decide() == ["online_store"]
        decide_until_history_is_back()
        assert [decide() for _ in range(60)] == [[]] * 60
    audit = well("features", "audit", "--json", cwd=home).json
    assert audit["decisions"] + audit["skipped"] == next(numbers)
    assert audit["differing"] == 0, audit["examples"]


@pytest.mark.parametrize("killed", [False, True])
def test_a_redis_that_is_loaded_without_what_is_in_journals_gets_that_too(
    home: Path, key: str, postgres_url: str, own_redis: RedisServer, killed: bool
) -> None:
    """From the services that wrote the journals, or from one that starts after them: one journal becomes its own, the
    other one has been left."""
    with ExitStack() as opened:
        services = [opened.enter_context(serving(home)) for _ in range(2)]
        clients = [opened.enter_context(service.client(key)) for service in services]
        example = an_example(clients[0])

        def decide(numbers: range) -> list[list[str]]:
            return [
                score(clients[number % len(clients)], transaction(example, number))["degraded"] for number in numbers
            ]

        assert decide(range(40)) == [[]] * 40
        with psycopg.connect(postgres_url) as somebody:
            somebody.execute("LOCK TABLE decisions IN EXCLUSIVE MODE")  # it can be read
            assert decide(range(40, 80)) == [["decision_log"]] * 40
            with own_redis.client() as client:
                client.flushall()
                until(lambda: is_loaded(client))
            assert waiting_in_journals(home) == 2
            for service in services if killed else []:
                service.kill()
        if killed:
            clients[:] = [opened.enter_context(opened.enter_context(serving(home)).client(key))]
        until(lambda: waiting_in_journals(home) == 0)
        assert decide(range(80, 180)) == [[]] * 100
    audit = well("features", "audit", "--json", cwd=home).json
    assert audit["decisions"] + audit["skipped"] == 180
    assert audit["differing"] == 0, audit["examples"]


def is_loaded(client: Any) -> bool:
    return any(client.get(key).startswith(marks.READY) for key in client.scan_iter("fraudml:*:epoch:*"))


def waiting_in_journals(home: Path) -> int:
    """How many journals hold decisions that the log, or Redis, may lack."""
    return sum(path.stat().st_size > JOURNAL_HEADER for path in (home / ".fraudml" / "journal").glob("*.journal"))


def test_a_wrong_password_of_redis_is_told_at_the_start(
    home: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_redis.client() as client:
        client.config_set("requirepass", "secret")
    monkeypatch.setenv("FRAUDML_REDIS_URL", own_redis.url.replace("redis://", "redis://:guess@"))
    said = refused("serve", "--port", "0", cwd=home)
    assert "FRAUDML_REDIS_URL" in said
    assert "guess" not in said


def score(client: httpx.Client, row: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/predict", json=row)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found
