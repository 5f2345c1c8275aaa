"""Redis taken away from a scorer in every way: answers are degraded, and nothing is missing afterwards."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fraudml.adapters.connections import redis
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.adapters.online.redis import RedisOnlineStore, link, load
from fraudml.decisions import rebuild
from fraudml.decisions.log import WRITERS
from fraudml.decisions.model import Model
from fraudml.decisions.rebuild import ReadHistory, bring_up
from fraudml.decisions.record import Decision, Degradation, LabelReport
from fraudml.decisions.refill import Refiller
from fraudml.decisions.scorer import Scorer
from fraudml.errors import OnlineStoreError, StateLost
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.features.reference import as_float, state_value
from tests.support.scoring import FEATURES, SCHEMA, T0, bundle, transaction
from tests.support.servers.redis import RedisServer

TIMEOUT_MS = 1_000
SLOW_S = 1.5  # a machine that does much else takes so much longer
DAY_US = 86_400_000_000


class World:
    """A scorer over a Redis server of its own."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.server = server
        self.log = SqliteDecisionLog(f"sqlite:///{folder / 'log.db'}", SCHEMA)
        self.store = self.another_store()
        bring_up(self.store, self.log, lambda: iter(()), DAY_US)
        self.scorer = Scorer(Model(bundle()), self.store, self.log)
        self.decided: list[Transaction] = []

    def close(self) -> None:
        self.log.close()

    def another_store(self, **options: Any) -> RedisOnlineStore:
        connect = redis.connector(options.pop("url", self.server.url), TIMEOUT_MS)
        return RedisOnlineStore(FEATURES, connect, timeout_ms=TIMEOUT_MS, **options)

    def score(self, *numbers: int, **changes: Any) -> list[Decision]:
        batch = [transaction(number, **changes) for number in numbers]
        self.decided += batch
        found = self.scorer.score(batch)
        assert all(isinstance(each, Decision) for each in found)
        return [each for each in found if isinstance(each, Decision)]

    def look(self, history: ReadHistory = lambda: iter(())) -> None:
        """What a service's thread does every two seconds."""
        Refiller(self.store, self.log, history, DAY_US).check()

    def check_all(self, labels: list[Label] | None = None) -> None:
        """A further transaction sees each one decided so far."""
        targets = [transaction(5_000), transaction(5_001, customer="c2")]
        read = self.another_store().read(targets)
        for target, values in zip(targets, read.values, strict=True):
            wanted = [
                as_float(state_value(FEATURES, each, target, self.decided, labels or []))
                for each in FEATURES.state_features
            ]
            np.testing.assert_array_equal(values, wanted)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(rebuild, "COMMIT_S", 0.0)  # nobody commits late here
    with closing(RedisServer()) as server, closing(World(tmp_path, server)) as world:
        yield world


def is_degraded(decisions: list[Decision]) -> bool:
    without = [Degradation.online_store in each.degraded for each in decisions]
    assert all(without) or not any(without)
    return all(without)


def test_a_server_that_was_killed_costs_history_until_it_is_loaded_again(world: World) -> None:
    assert not is_degraded(world.score(1, 2))
    world.server.process.kill()
    began = time.monotonic()
    assert is_degraded(world.score(3, 4))
    assert time.monotonic() - began < TIMEOUT_MS / 1_000 + SLOW_S
    world.server.process.start()  # empty: it keeps nothing on disk
    assert is_degraded(world.score(5))  # the next call reaches it; history is missing
    assert world.store.lost()
    world.look()
    assert not world.store.lost()
    assert not is_degraded(world.score(6))
    world.check_all()


def test_a_server_that_hangs_costs_a_deadline_and_nothing_else(world: World) -> None:
    world.score(1, 2)
    world.server.process.send(signal.SIGSTOP)
    for number in (3, 4):
        began = time.monotonic()
        assert is_degraded(world.score(number))
        assert time.monotonic() - began < TIMEOUT_MS / 1_000 + SLOW_S
    began = time.monotonic()
    for number in range(10, 60):
        assert is_degraded(world.score(number))
    assert time.monotonic() - began < TIMEOUT_MS / 1_000 + SLOW_S  # all of them
    world.server.process.send(signal.SIGCONT)
    world.look()
    assert not is_degraded(world.score(100))  # what was sent before it hung may have been added: it counts once
    world.check_all()


def test_a_slow_server_makes_decisions_slow_but_not_worse(world: World) -> None:
    world.score(1, 2)
    with world.server.client() as client:
        client.client_pause(TIMEOUT_MS // 5)
        assert not is_degraded(world.score(3))
        client.client_pause(3 * TIMEOUT_MS)
        began = time.monotonic()
        assert is_degraded(world.score(4))
        assert time.monotonic() - began < TIMEOUT_MS / 1_000 + SLOW_S
        client.ping()  # answered when the pause ends
    world.look()
    assert not is_degraded(world.score(5))
    world.check_all()


def test_decisions_find_out_by_themselves_that_a_server_hangs_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "LEFT_ALONE_S", (0.001, 0.001))
    world.score(1, 2)
    world.server.process.send(signal.SIGSTOP)
    assert is_degraded(world.score(3))
    world.server.process.send(signal.SIGCONT)
    with world.server.client() as client:
        assert client.ping()
    numbers = iter(range(4, 1_000))
    while is_degraded(world.score(next(numbers))):
        pass
    world.check_all()


def test_what_a_hanging_server_was_sent_and_then_carries_out_is_added_once(world: World) -> None:
    world.score(1)
    world.server.process.send(signal.SIGSTOP)
    assert is_degraded(world.score(2))
    assert is_degraded(world.score(3))
    world.server.process.send(signal.SIGCONT)
    with world.server.client() as client:  # it has now carried out all that it was sent
        assert client.ping()
    world.look()
    decision = world.score(4)[0]
    assert decision.features()[2:4].tolist() == [3, 3_000]  # n_1d and sum_1d
    world.check_all()


def test_a_server_emptied_between_two_batches_is_noticed_by_the_next(world: World) -> None:
    world.score(1)
    with world.server.client() as client:
        client.flushall()
    assert is_degraded(world.score(2))
    world.look()
    assert not is_degraded(world.score(3))
    world.check_all()


def test_decisions_go_on_while_another_process_loads(world: World) -> None:
    world.score(*range(1, 40))
    with world.server.client() as client:
        client.flushall()
    assert is_degraded(world.score(40))
    loading = world.another_store()
    assert loading.claim_load()
    world.look()  # this process does not: another one does
    for number, batch in enumerate(world.log.replay(batch_size=7)):
        loading.load(batch)
        assert is_degraded(world.score(41 + number))
    loading.loaded()
    assert not is_degraded(world.score(100))
    world.check_all()


def test_a_load_that_the_server_lost_half_of_is_not_taken_for_complete(world: World) -> None:
    world.score(*range(1, 20))
    with world.server.client() as client:
        client.flushall()
    assert world.store.claim_load()
    for batch in world.log.replay():
        world.store.load(batch)
    with world.server.client() as client:
        client.flushall()
    with pytest.raises(StateLost, match="from its begin"):
        world.store.loaded()
    assert world.store.lost()
    world.look()
    world.check_all()


def test_a_load_that_fails_is_begun_again_by_the_same_process(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "TIMEOUT_S", 0.3)
    world.score(*range(1, 20))
    with world.server.client() as client:
        client.flushall()
    assert world.store.claim_load()
    world.server.process.send(signal.SIGSTOP)
    history = list(world.log.replay())
    world.store.load(history[0])
    with pytest.raises(OnlineStoreError):
        world.store.loaded()
    world.server.process.send(signal.SIGCONT)
    world.look()
    assert not world.store.lost()
    world.check_all()


def test_scripts_that_the_server_forgot_are_sent_again(world: World) -> None:
    world.score(1)
    with world.server.client() as client:
        client.script_flush()
    assert not is_degraded(world.score(2))
    world.check_all()


def test_full_memory_refuses_what_is_new_and_loses_nothing(world: World) -> None:
    world.score(1)
    with world.server.client() as client:
        client.config_set("maxmemory", 1)
        assert is_degraded(world.score(2))
        with pytest.raises(OnlineStoreError, match="maxmemory"):
            world.store.read_then_update([transaction(3)])
        client.config_set("maxmemory", 0)
    assert not is_degraded(world.score(4))
    world.decided.append(transaction(3))
    world.store.read_then_update([transaction(3)])
    world.check_all()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_may_forget_keys_is_refused(world: World, policy: str) -> None:
    with world.server.client() as client:
        client.config_set("maxmemory-policy", policy)
    with pytest.raises(OnlineStoreError, match=f"{policy}.*noeviction"):
        world.another_store().lost()


def test_a_wrong_password_is_told_without_repeating_it(world: World) -> None:
    with world.server.client() as client:
        client.config_set("requirepass", "secret")
        asked = world.server.url.replace("redis://", "redis://:guess@")
        for url, said in ((asked, "refuses the user or password"), (world.server.url, "password")):
            with pytest.raises(OnlineStoreError, match=said) as error:
                world.another_store(url=url).lost()
            assert "guess" not in str(error.value)
        right = world.server.url.replace("redis://", "redis://:secret@")
        assert not world.another_store(url=right).lost()


def test_a_replica_is_refused(world: World) -> None:
    with world.server.client() as client:
        client.replicaof("127.0.0.1", world.server.port)  # of itself: it will never be in step
        with pytest.raises(OnlineStoreError, match=r"replica|primary"):
            world.store.read_then_update([transaction(1)])


def test_nobody_there_is_an_error_that_says_so(tmp_path: Path, world: World) -> None:
    world.server.process.kill()
    with pytest.raises(OnlineStoreError, match="cannot be reached"):
        world.another_store().lost()
    world.server.process.start()
    assert world.another_store().lost()


def test_a_label_that_an_ended_process_had_only_logged_is_in_state_once_it_comes_again(world: World) -> None:
    world.score(1, 2)
    told = [Label("t1", True, T0 + 2_500_000), Label("t2", True, T0 + 2_500_000)]
    world.scorer.add_labels(told[1:])
    world.log.append_labels([LabelReport(told[0], world.log.last_arrival() + WRITERS)])  # and was killed
    assert world.scorer.add_labels(told, again=True) == [False, False]
    world.check_all([msgspec.structs.replace(label, entities=world.decided[0].entities) for label in told])


def test_labels_are_kept_for_a_server_that_is_gone(world: World) -> None:
    world.score(1)
    label = Label("t1", True, T0 + 2_000_000, transaction(1).entities)
    world.server.process.send(signal.SIGSTOP)
    world.scorer.add_labels([label])
    world.server.process.send(signal.SIGCONT)
    world.look()
    assert not is_degraded(world.score(3))
    world.check_all([label])
