"""What every ``RecentDecisions`` promises: the one in memory, and every adapter in ``adapters/recent``."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

import fraudml.adapters.recent
from fraudml.decisions.recent import Recent, RecentDecisions
from fraudml.decisions.record import Action, Decision, Degradation
from tests.support.scoring import decision, transaction
from tests.support.servers.redis_cluster import RedisClusterServers

WITHIN_S = 30.0


class Outcomes:
    """Counts what it is told, and waits until enough was told."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._told = threading.Condition()

    def __call__(self, outcome: str, count: int) -> None:
        with self._told:
            self.counts[outcome] += count
            self._told.notify_all()

    def wait(self, outcome: str, count: int) -> None:
        with self._told:
            assert self._told.wait_for(lambda: self.counts[outcome] >= count, WITHIN_S), self.counts


class World(Protocol):
    """An adapter's stores."""

    def open(self) -> RecentDecisions: ...

    def settle(self, count: int) -> None:
        """Wait until so many decisions are where they belong."""
        ...

    def close(self) -> None: ...


class Memory:
    def open(self) -> RecentDecisions:
        return Recent()

    def settle(self, count: int) -> None: ...

    def close(self) -> None: ...


class Redis:
    def __init__(self, url: str) -> None:
        from fraudml.adapters.connections.shared_redis import shared_redis

        self.outcomes = Outcomes()
        self._redis = shared_redis(url, 5_000)
        self._opened: list[RecentDecisions] = []

    def open(self) -> RecentDecisions:
        from fraudml.adapters.recent.redis import RedisRecentDecisions

        made = RedisRecentDecisions(self._redis, "recent:test", ttl_s=60.0, most=10_000, on_outcome=self.outcomes)
        self._opened.append(made)
        return made

    def settle(self, count: int) -> None:
        self.outcomes.wait("shared", count)

    def close(self) -> None:
        for each in self._opened:
            each.close()
        self._redis.close()


@pytest.fixture(scope="module")
def nodes() -> Iterator[RedisClusterServers]:
    servers = RedisClusterServers()
    yield servers
    servers.close()


@pytest.fixture(params=["memory", "redis", "cluster"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made: World
    if request.param == "memory":
        made = Memory()
    elif request.param == "redis":
        made = Redis(request.getfixturevalue("redis_url"))
    else:
        nodes: RedisClusterServers = request.getfixturevalue("nodes")
        nodes.flush()
        made = Redis(nodes.url)
    yield made
    made.close()


@pytest.fixture
def recent(world: World) -> RecentDecisions:
    return world.open()


def made(*numbers: int) -> list[Decision]:
    return [decision(transaction(number), number) for number in numbers]


def test_every_adapter_is_here() -> None:
    folder = Path(fraudml.adapters.recent.__path__[0])
    assert {path.stem for path in folder.glob("*.py") if not path.name.startswith("_")} == {"redis"}


def test_nothing_is_in_an_empty_one(recent: RecentDecisions) -> None:
    assert recent.get("t1") is None
    assert recent.find([]) == {}
    assert recent.find(["t1", "t2"]) == {}
    recent.add([])
    recent.close()
    recent.close()


def test_what_was_added_is_found(recent: RecentDecisions) -> None:
    first, second = made(1, 2)
    recent.add([first])
    recent.add([second])
    assert recent.get("t1") == first
    assert recent.find(["t2", "t3", "t1", "t2"]) == {"t1": first, "t2": second}


def test_the_last_one_on_an_id_counts(recent: RecentDecisions, world: World) -> None:
    (first,) = made(1)
    other = msgspec.structs.replace(first, action=Action.decline, degraded=(Degradation.decision_log,))
    recent.add([first])
    recent.add([other])
    world.settle(2)
    assert recent.get("t1") == recent.find(["t1"])["t1"] == other
    if recent.shared:
        assert world.open().find(["t1"]) == {"t1": other}


def test_others_find_it_where_it_is_shared(recent: RecentDecisions, world: World) -> None:
    added = made(*range(300))
    recent.add(added)
    world.settle(300)
    other = world.open()
    found = other.find([f"t{number}" for number in range(400)])
    assert found == ({f"t{number}": added[number] for number in range(300)} if recent.shared else {})
    assert other.get("t1") is None  # of its own it has none


def test_a_decision_comes_back_to_the_last_bit(recent: RecentDecisions, world: World) -> None:
    event = transaction(1, customer=None, amount=-(2**62), country="Ünï\x00", distance=5e-324, items=2**53 + 1)
    exact = decision(event, 2**62, score=None, late=True, degraded=tuple(Degradation), vector=bytes(range(256)))
    recent.add([exact])
    world.settle(1)
    found = world.open().find(["t1"]) if recent.shared else recent.find(["t1"])
    assert found == {"t1": exact}
    assert [type(value) for value in found["t1"].transaction.attributes] == [str, float, int]


def test_one_adds_while_others_ask(recent: RecentDecisions, world: World) -> None:
    added = made(*range(2_000))
    asked: list[Decision | None] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            asked.append(recent.get("t1999"))

    reader = threading.Thread(target=ask)
    reader.start()
    for place in range(0, 2_000, 50):
        recent.add(added[place : place + 50])
    done.set()
    reader.join()
    world.settle(2_000)
    assert set(asked) <= {None, added[-1]}
    assert len(recent.find([f"t{number}" for number in range(2_000)])) == 2_000
