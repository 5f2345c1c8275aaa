"""A Redis that comes back with older data: what is missing is noticed, and comes back from the decision log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from fraudml.decisions import rebuild
from fraudml.decisions.rebuild import bring_up
from fraudml.decisions.refill import Refiller
from fraudml.errors import StateLost
from fraudml.events.label import Label
from tests.integration.test_redis_outages import DAY_US, World, is_degraded
from tests.support.scoring import T0, transaction
from tests.support.servers.redis import RedisServer


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(rebuild, "COMMIT_S", 0.0)  # nobody commits late here
    with closing(RedisServer()) as server, closing(World(tmp_path, server)) as world:
        yield world


def no_history() -> Iterator[pa.RecordBatch]:
    raise AssertionError("only the last events are missing: history must not be read")


def snapshot(world: World) -> None:
    with world.server.client() as client:
        client.save()


def restore(world: World) -> None:
    """Killed, and started again with the last snapshot."""
    world.server.process.kill()
    world.server.process.start()


def test_a_server_restored_from_a_snapshot_gets_what_it_lacks_from_the_log(world: World) -> None:
    world.score(1, 2)
    world.look()
    snapshot(world)
    assert not is_degraded(world.score(3, 4))
    label = Label("t1", True, T0 + 4_500_000, transaction(1).entities)
    world.scorer.add_labels([label])
    restore(world)
    assert is_degraded(world.score(5))  # not answered as if nothing were missing
    assert world.store.lost()
    with pytest.raises(StateLost, match="or the last of it"):
        world.another_store().read([transaction(6)])
    world.look(no_history)
    assert not is_degraded(world.score(7))
    world.check_all([label])


def test_a_process_that_starts_later_notices_it_too(world: World) -> None:
    world.score(1, 2)
    snapshot(world)
    world.score(3, 4)
    restore(world)  # and all processes with it
    store = world.another_store()
    assert store.lost()
    bring_up(store, world.log, no_history, DAY_US)
    assert not store.lost()
    world.check_all()


def test_a_server_that_comes_back_older_twice(world: World) -> None:
    world.score(1, 2)
    snapshot(world)
    world.score(3, 4)
    restore(world)
    claimed = world.another_store()
    assert claimed.lost()
    assert claimed.claim_load()
    since = claimed.behind()
    assert since
    restore(world)
    claimed.loaded()  # it does not know better
    assert world.store.lost()
    again = world.another_store()
    assert again.claim_load()
    assert again.behind() == since
    again.loaded()
    restore(world)
    world.look(no_history)
    assert not is_degraded(world.score(5))
    world.check_all()


def test_a_server_that_restarts_with_all_its_data_costs_a_moment(world: World) -> None:
    world.score(1, 2)
    snapshot(world)
    restore(world)
    world.look(no_history)
    assert not is_degraded(world.score(3))
    world.check_all()


def test_a_replica_that_was_not_in_step_takes_over(world: World) -> None:
    with closing(RedisServer()) as replica, replica.client() as client:
        world.score(1, 2)
        client.replicaof("127.0.0.1", world.server.port)
        while client.info("replication")["master_link_status"] != "up":
            pass
        client.replicaof("NO", "ONE")  # it gets nothing any more
        assert not is_degraded(world.score(3, 4))
        world.server.process.kill()
        client.config_set("port", world.server.port)
        world.look(no_history)
        assert not is_degraded(world.score(5))
        world.check_all()


def test_only_one_process_brings_the_last_events(world: World) -> None:
    world.score(1, 2)
    snapshot(world)
    world.score(3)
    restore(world)
    other = world.another_store()
    assert other.lost()
    assert other.claim_load()
    world.look(no_history)
    assert is_degraded(world.score(4))
    Refiller(other, world.log, no_history, DAY_US).check()  # it may begin again
    assert not is_degraded(world.score(5))
    world.check_all()


def test_a_load_does_not_go_on_where_its_server_is_older_than_it(world: World) -> None:
    world.score(*range(1, 30))
    with world.server.client() as client:
        client.flushall()
    assert world.store.claim_load()
    first, *others = world.log.replay(batch_size=10)
    world.store.load(first)
    world.store._loader.flush()
    snapshot(world)
    for batch in others:
        world.store.load(batch)
        world.store._loader.flush()
    restore(world)
    with pytest.raises(StateLost, match="from its begin"):
        world.store.loaded()
    assert world.store.lost()
    world.look()
    assert not is_degraded(world.score(50))
    world.check_all()
