"""Which process loads a store in Redis, when processes and connections fail meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fraudml.adapters.online.redis import RedisOnlineStore, epoch, load, post
from fraudml.decisions import rebuild
from fraudml.decisions.rebuild import bring_up, catch_up
from fraudml.errors import DecisionLogError, StateLost
from tests.integration.test_redis_loads import DAY_US, HOUR_US, World, reports
from tests.support.scoring import decision
from tests.support.servers.proxy import proxy
from tests.support.servers.redis import RedisServer

SOON_MS = 400


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(rebuild, "COMMIT_S", 0.0)
    monkeypatch.setattr(post, "RING", 4)
    monkeypatch.setattr(load, "ROWS", 20)
    with closing(RedisServer()) as server:
        made = World(tmp_path, server)
        with closing(made.log):
            made.log_events([made.event(number, 5 * DAY_US) for number in range(60)], ago_us=HOUR_US)
            yield made


def stop(store: RedisOnlineStore, server: RedisServer) -> None:
    """What a process that is stopped does not do, until its lock is gone."""
    lease = store._epoch._lease
    lease._ended.set()
    with server.client() as client:
        while client.exists(lease._key):
            pass


def test_a_claim_whose_answer_was_lost_is_made(world: World) -> None:
    broken: list[bytes] = []

    def breaks(data: bytes) -> bool:
        if b"\r\nNX\r\n" in data and not broken:
            broken.append(data)
            return True
        return False

    with proxy(world.server.port) as between:
        between.breaks = breaks
        store = world.another_store(between.port)
        assert store.claim_load()
        assert broken
        assert not world.store.claim_load()
        store.loaded()


def test_a_process_whose_load_failed_leaves_it_to_others_and_works_with_what_they_loaded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = world.another_store()

    def fails(after: int = 0, **options: Any) -> Iterator[pa.RecordBatch]:
        yield next(iter(replay(batch_size=30, after=after, **options)))
        raise DecisionLogError("gone")

    replay = world.log.replay
    monkeypatch.setattr(world.log, "replay", fails)
    with pytest.raises(DecisionLogError):
        bring_up(failed, world.log, lambda: iter(()), 40 * DAY_US)
    monkeypatch.setattr(world.log, "replay", replay)
    world.load()
    assert world.counts() == [60, 0]
    blind = world.event(100, DAY_US)
    world.log.append([decision(blind, world.now_us, degraded=("online_store",))])
    catch_up(failed, world.log, 40 * DAY_US)
    assert world.counts() == [61, 0]


def test_a_process_that_lost_its_claim_gathers_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "LOCK_MS", SOON_MS)
    stopped = world.another_store()
    assert stopped.claim_load()
    stop(stopped, world.server)
    assert world.store.claim_load()
    assert not stopped.claim_load()
    (batch,) = world.log.replay()
    world.store.loaded()
    stopped.load(batch)
    assert world.counts() == [60, 0]


def test_a_claim_is_kept_while_nothing_comes_from_the_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "LOCK_MS", SOON_MS)
    store = world.another_store()
    assert store.claim_load()
    until = time.monotonic() + 4 * SOON_MS / 1_000
    while time.monotonic() < until:
        assert not world.store.claim_load()
    for batch in world.log.replay():
        store.load(batch)
    store.loaded()
    assert world.counts() == [60, 0]


@pytest.mark.parametrize("knows", [True, False])
def test_a_process_that_was_stopped_while_another_took_over_loads_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch, knows: bool
) -> None:
    """``knows``: by its own clock; else from the marks, after it has sent what it was about to send."""
    monkeypatch.setattr(epoch, "LOCK_MS", SOON_MS)
    world.log_labels(reports([world.event(number, 5 * DAY_US) for number in range(60)]))
    batches = list(world.log.replay(batch_size=20))
    stopped = world.another_store()
    assert stopped.claim_load()
    stopped.load(batches[0])
    stopped.set_mark("20")
    stop(stopped, world.server)
    assert world.store.claim_load()
    assert world.store.mark() == "20"
    if not knows:
        stopped._epoch._lease._until = time.monotonic() + 60
    before = held(world.server)
    with pytest.raises(StateLost, match="another process loads"):
        stopped.load(batches[1])
    assert (held(world.server) == before) is knows
    stopped.give_up_load()
    assert not stopped.claim_load()  # the lock is the other's
    world.store.load(batches[1])
    world.store.load(batches[2])
    world.store.loaded()
    assert world.counts() == [60, 60]
    assert not stopped.lost()


def held(server: RedisServer) -> dict[object, int]:
    """How many bytes each key has."""
    with server.client() as client:
        return {key: client.strlen(key) for key in client.scan_iter()}
