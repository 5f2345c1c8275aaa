"""A retry at another replica gets the first answer while the decision log is gone, and nobody waits for Redis."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraudml.adapters.connections.shared_redis import SharedRedis, shared_redis
from fraudml.adapters.log.journal import FileJournal
from fraudml.adapters.recent import redis as recent_module
from fraudml.adapters.recent.redis import RedisRecentDecisions
from fraudml.decisions import recorder as recorder_module
from fraudml.decisions.model import Model
from fraudml.decisions.record import Decision, Degradation
from fraudml.decisions.recorder import Recorder
from fraudml.decisions.scorer import Scorer
from fraudml.errors import DecisionLogError
from tests.conformance.test_recent_decisions import Outcomes
from tests.support.scoring import SCHEMA, ReferenceStore, bundle, decision, transaction
from tests.support.servers.redis import RedisServer, advance
from tests.unit.decisions.test_recorder import GoneLog

TIMEOUT_MS = 200


@pytest.fixture
def server() -> Iterator[RedisServer]:
    made = RedisServer()
    yield made
    made.close()


@pytest.fixture
def redis(server: RedisServer) -> Iterator[SharedRedis]:
    made = shared_redis(server.url, TIMEOUT_MS)
    yield made
    made.close()


class Replica:
    """A scorer with a journal of its own and a log that others have, too."""

    def __init__(self, folder: Path, name: str, redis: SharedRedis) -> None:
        self.outcomes = Outcomes()
        self.log = GoneLog(f"sqlite:///{folder / 'log.db'}", SCHEMA)
        self.recent = RedisRecentDecisions(redis, "recent:test", ttl_s=60.0, most=10_000, on_outcome=self.outcomes)
        self.recorder = Recorder(self.log, FileJournal(folder / f"{name}.journal"), self.recent)
        self.scorer = Scorer(Model(bundle()), ReferenceStore(), self.log, recorder=self.recorder)

    def score(self, *numbers: int) -> list[Decision]:
        return self.scorer.score([transaction(number) for number in numbers])

    def close(self) -> None:
        self.recorder.close()
        self.log.close()


@pytest.fixture
def replicas(tmp_path: Path, redis: SharedRedis, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Replica, Replica]]:
    monkeypatch.setattr(recorder_module, "PROBE_S", 0.0)  # the log is asked with every commit
    made = Replica(tmp_path, "one", redis), Replica(tmp_path, "two", redis)
    yield made
    for replica in made:
        replica.close()


def gone(replicas: tuple[Replica, Replica], is_gone: bool = True) -> None:
    for replica in replicas:
        replica.log.gone = is_gone


def test_a_retry_at_another_replica_gets_the_first_answer(replicas: tuple[Replica, Replica]) -> None:
    first, second = replicas
    (before,) = first.score(1)
    gone(replicas)
    (journaled,) = first.score(2)
    first.outcomes.wait("shared", 2)
    assert second.score(1, 2, 3)[:2] == [before, journaled]
    assert journaled.degraded == (Degradation.decision_log,)
    assert second.outcomes.counts["found"] == 2
    gone(replicas, False)
    for replica in replicas:
        replica.recorder.replay()
    assert first.score(1, 2) == second.score(1, 2) == [before, journaled]
    assert (first.recorder.superseded, second.recorder.superseded) == (0, 0)
    assert len(list(first.log.transaction_ids())) == 3


def test_also_while_the_log_answers_but_lacks_what_is_in_another_journal(replicas: tuple[Replica, Replica]) -> None:
    first, second = replicas
    first.log.full = second.log.full = True  # it answers, and takes nothing
    (journaled,) = first.score(1)
    second.score(2)
    first.outcomes.wait("shared", 1)
    assert second.score(1) == [journaled]
    second.log.full = False
    second.recorder.replay()  # the first has not put its journal into the log yet
    assert second.score(1) == [journaled]


def test_what_is_not_durable_is_not_shared(replicas: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = replicas
    gone(replicas)
    with monkeypatch.context() as broken:
        broken.setattr(FileJournal, "append", lambda self, decisions: _fail())
        with pytest.raises(DecisionLogError, match="disk full"):
            first.score(1)
    assert not first.recent.find(["t1"])
    second.score(1)
    second.outcomes.wait("shared", 1)
    assert first.outcomes.counts["shared"] == 0
    gone(replicas, False)
    second.recorder.replay()
    assert first.score(1) == second.score(1)  # the log's is the one that stands
    first.outcomes.wait("shared", 1)


def _fail() -> None:
    raise DecisionLogError("disk full")


def test_without_redis_decisions_go_on_as_fast(
    replicas: tuple[Replica, Replica], server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = replicas
    first.score(1)
    first.outcomes.wait("shared", 1)
    server.process.send(signal.SIGSTOP)
    started = time.monotonic()
    for number in range(2, 30):
        first.score(number)
    assert time.monotonic() - started < 5  # 28 timeouts would be more
    gone(replicas)
    started = time.monotonic()
    for number in range(30, 60):
        second.score(number)
    assert time.monotonic() - started < 5
    assert second.outcomes.counts["error"] >= 30
    assert first.outcomes.counts["dropped"] == 0
    server.process.send(signal.SIGCONT)
    first.outcomes.wait("shared", 29)  # what it did not take it gets later
    (found,) = second.recent.find(["t29"]).values()
    assert found == first.recent.get("t29")


def shared(redis: SharedRedis, most: int, clock: list[float], ttl_s: float = 1_000.0) -> RedisRecentDecisions:
    return RedisRecentDecisions(
        redis, "recent:test", ttl_s=ttl_s, most=most, on_outcome=Outcomes(), clock=lambda: clock[0]
    )


def add(recent: RedisRecentDecisions, first: int, count: int) -> None:
    """Add decisions and wait until Redis has them."""
    outcomes = recent._on_outcome
    assert isinstance(outcomes, Outcomes)
    before = outcomes.counts["shared"]
    recent.add([decision(transaction(number), number) for number in range(first, first + count)])
    outcomes.wait("shared", before + count)


def test_redis_keeps_a_bounded_number_of_all_processes(server: RedisServer, redis: SharedRedis) -> None:
    clock = [1_000.0]
    one, two = (shared(redis, 500, clock) for _ in range(2))
    held, number = [], 0
    for _ in range(60):  # 60 s with 40 decisions a second, of two processes
        for each in (one, two):
            add(each, number, 20)
            number += 20
        clock[0] += 1.5
        advance(server.url, 1.5)
        with server.client() as client:
            held.append(client.dbsize())
    assert max(held) < 2 * 500
    assert 300 < max(held[-20:]) < 700
    newest = [f"t{n}" for n in range(number - 40, number)]
    assert len(two.find(newest)) == 40
    for each in (one, two):
        each.close()


def test_few_are_kept_as_long_as_is_set(server: RedisServer, redis: SharedRedis) -> None:
    clock = [1_000.0]
    recent = shared(redis, 500, clock, ttl_s=100.0)
    add(recent, 1, 5)
    other = shared(redis, 500, clock)
    advance(server.url, 95)
    assert len(other.find(["t1", "t5"])) == 2
    advance(server.url, 5)
    assert other.find(["t1", "t5"]) == {}
    recent.close()


def test_when_redis_does_not_take_them_the_oldest_are_dropped_and_counted(
    server: RedisServer, redis: SharedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_module, "MOST_WAITING", 10)
    server.process.kill()
    recent = shared(redis, 500, [0.0])
    outcomes = recent._on_outcome
    assert isinstance(outcomes, Outcomes)
    for number in range(30):
        recent.add([decision(transaction(number), number)])
    outcomes.wait("dropped", 1)
    server.process.start()
    outcomes.wait("shared", 5)
    recent.close()
    assert outcomes.counts["shared"] + outcomes.counts["dropped"] == 30
    assert set(shared(redis, 500, [0.0]).find([f"t{number}" for number in range(25, 30)])) == {
        f"t{number}" for number in range(25, 30)
    }


def test_what_another_version_wrote_is_unknown(server: RedisServer, redis: SharedRedis) -> None:
    recent = shared(redis, 500, [0.0])
    add(recent, 1, 2)
    other = shared(redis, 500, [0.0])
    with server.client() as client:
        client.set(other._key("t1"), b"\xc1")
        client.set(other._key("t2"), client.get(other._key("t1")) or b"")
        client.set(other._key("t3"), b"")
    assert other.find(["t1", "t2", "t3"]) == {}
    recent.close()


def test_the_end_of_the_process_shares_what_waits(redis: SharedRedis) -> None:
    recent = shared(redis, 10_000, [0.0])
    recent.add([decision(transaction(number), number) for number in range(2_000)])
    recent.close()
    assert len(shared(redis, 10_000, [0.0]).find(["t0", "t1999"])) == 2
