"""Online state in a Redis Cluster of three nodes: the values are the reference's, whatever happens to a node."""

from __future__ import annotations

import gc
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import pytest
from redis.crc import key_slot

from fraudml.adapters.connections import redis
from fraudml.adapters.online.redis import RedisOnlineStore, epoch, tidy
from fraudml.errors import OnlineStoreError, StateLost
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.features.reference import as_float, state_value
from fraudml.features.spec import Aggregation, FeatureSet, LabelAggregation, LabelWindowFeature, WindowFeature
from tests.parity.strategies import record_batch
from tests.support.scoring import SCHEMA, T0, transaction
from tests.support.servers.redis import RedisServer
from tests.support.servers.redis_cluster import NODES, RedisClusterServers, move_slot, replicate

TIMEOUT_MS = 4_000  # of a machine that does much else; a node that hangs gets less
HANGS_MS = 1_000
FEATURES = FeatureSet(
    SCHEMA,
    [
        WindowFeature("n_1d", "customer", Aggregation.count, "1d"),
        WindowFeature("sum_1d", "customer", Aggregation.sum, "1d", of="amount"),
        WindowFeature("std_2d", "terminal", Aggregation.std, "2d", of="amount", resolution="1h"),
        WindowFeature("customers_2d", "terminal", Aggregation.nunique, "2d", of="customer", resolution="1h"),
        LabelWindowFeature("frauds_30d", "terminal", LabelAggregation.fraud_count, "30d"),
    ],
)


@pytest.fixture(scope="module")
def made() -> Iterator[RedisClusterServers]:
    cluster = RedisClusterServers()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(made: RedisClusterServers) -> Iterator[RedisClusterServers]:
    """All nodes up and empty."""
    for node in made.nodes:
        with node.client() as client:
            client.flushall()
            client.script_flush()
    yield made
    # redis-py leaves the connections that it replaces, after a MOVED say, to the collector of reference cycles, which
    # may come to a socket before it comes to the connection that would close it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def open_store(cluster: RedisClusterServers, *, ready: bool = True, timeout_ms: int = TIMEOUT_MS) -> RedisOnlineStore:
    store = RedisOnlineStore(FEATURES, redis.connector(cluster.url, timeout_ms), timeout_ms=timeout_ms)
    if ready:
        store.loaded()
    return store


def events(*numbers: int) -> list[Transaction]:
    """Of many customers, so that each node has some of them."""
    return [transaction(number, customer=f"c{number % 29}", amount=number * 7 % 100) for number in numbers]


def check(store: RedisOnlineStore, decided: Sequence[Transaction], labels: Sequence[Label] = ()) -> None:
    targets = [transaction(5_000 + number, customer=f"c{number}") for number in range(29)]
    read = store.read(targets)
    for target, values in zip(targets, read.values, strict=True):
        wanted = [as_float(state_value(FEATURES, each, target, decided, labels)) for each in FEATURES.state_features]
        np.testing.assert_allclose(values, wanted, rtol=4e-15)


def load(store: RedisOnlineStore, history: Sequence[Transaction]) -> None:
    store.load(record_batch(SCHEMA, list(history), {}))


def holds(node: RedisServer) -> int:
    with node.client() as client:
        return len(list(client.scan_iter(match="*:customer:*", count=1_000)))


def test_what_was_added_before_is_known_whichever_nodes_it_is_on(cluster: RedisClusterServers) -> None:
    first, then = open_store(cluster), open_store(cluster, ready=False)
    batch = events(*range(60))
    for event in batch[:20]:
        first.read_then_update([event], trace=True)
    entered_us = then.read_then_update(batch, trace=True).entered_us
    assert entered_us is not None
    assert np.flatnonzero(entered_us).tolist() == list(range(20))
    assert np.all(np.diff(entered_us[:20]) > 0)


def test_keys_lie_on_all_nodes_and_values_are_the_reference(cluster: RedisClusterServers) -> None:
    store = open_store(cluster)
    decided = events(*range(200))
    for first in range(0, 200, 40):
        read = store.read_then_update(decided[first : first + 40])
        assert not read.late.any()
    label = Label("t3", True, T0 + 2_000_000_000, decided[3].entities)
    store.add_labels([label])
    store.read_then_update(decided[:40])  # once more: it changes nothing
    check(store, decided, [label])
    assert all(holds(node) for node in cluster.nodes)
    assert store.stats() == {"entities": 30, "events": 200, "estimated": False}


def test_one_node_emptied_is_noticed_and_only_it_is_loaded_again(
    cluster: RedisClusterServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidy, "MOST_RAW", 10)
    monkeypatch.setattr(tidy, "KEPT_RAW", 4)
    store = open_store(cluster, ready=False)
    assert store.claim_load()
    load(store, events(*range(100)))
    store.loaded()
    for number in range(100, 150):  # the tiles of the terminal are folded now and then
        store.read_then_update(events(number))
    with cluster.nodes[1].client() as client:
        client.flushall()
    with pytest.raises(StateLost):
        store.read_then_update(events(*range(150, 180)))
    assert store.lost()
    assert open_store(cluster, ready=False).lost()
    assert store.claim_load()
    load(store, events(*range(150)))
    store.loaded()
    assert not store.lost()
    check(store, events(*range(180)))


def test_a_slot_that_moves_takes_its_state_along(cluster: RedisClusterServers) -> None:
    store = open_store(cluster)
    store.read_then_update(events(*range(60)))
    lane = f"fraudml:{{{store._layout.namespace}:terminal:term-1}}:l".encode()
    slot = key_slot(lane)
    source = next(node for node in cluster.nodes if slot in _slots(cluster, node))
    target = next(node for node in cluster.nodes if node is not source)
    move_slot(slot, source, target, finish=False)
    with pytest.raises(OnlineStoreError, match="moves these keys"):  # some of a lane's keys are here, some there
        store.read_then_update(events(*range(60, 90)))
    customer = Transaction("alone", T0 + 95_000_000, ("c28", None), 5, ("DE", 1.0, 1))
    store.read_then_update([customer])  # others are where they were
    move_slot(slot, source, target)
    store.read_then_update(events(*range(60, 90)))
    check(store, [*events(*range(90)), customer])
    store.read_then_update(events(*range(90, 120)))
    check(store, [*events(*range(120)), customer])
    check(open_store(cluster, ready=False), [*events(*range(120)), customer])
    assert not store.lost()
    move_slot(slot, target, source)


def test_a_node_that_hangs_costs_a_deadline_and_what_it_missed_is_added_later(cluster: RedisClusterServers) -> None:
    store = open_store(cluster)
    store.read_then_update(events(*range(30)))
    store = open_store(cluster, ready=False, timeout_ms=HANGS_MS)
    store.read(events(1))
    cluster.nodes[2].process.send(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(OnlineStoreError):
            store.read_then_update(events(*range(30, 90)))
        assert time.monotonic() - began < 3 * HANGS_MS / 1_000
    finally:
        cluster.nodes[2].process.send(signal.SIGCONT)
    cluster.wait()
    store = open_store(cluster, ready=False)
    store.read_then_update(events(*range(30, 90)))
    check(store, events(*range(90)))


def test_a_node_that_was_killed_and_comes_back_empty(cluster: RedisClusterServers) -> None:
    store = open_store(cluster)
    store.read_then_update(events(*range(30)))
    cluster.nodes[0].process.kill()
    with pytest.raises(OnlineStoreError):
        store.read_then_update(events(*range(30, 60)))
    cluster.nodes[0].process.start()
    cluster.wait()
    with pytest.raises(StateLost):
        store.read_then_update(events(*range(30, 60)))
    assert store.claim_load()
    load(store, events(*range(60)))
    store.loaded()
    check(store, events(*range(60)))


def test_a_node_that_comes_back_with_older_data_lacks_the_last_events_only(cluster: RedisClusterServers) -> None:
    store = open_store(cluster)
    store.read_then_update(events(*range(30)))
    store.confirm(1_000)
    with cluster.nodes[1].client() as client:
        client.save()
    store.read_then_update(events(*range(30, 60)))
    store.confirm(2_000)
    cluster.nodes[1].process.kill()
    cluster.nodes[1].process.start()
    cluster.wait()
    with pytest.raises(StateLost):
        store.read_then_update(events(*range(60, 90)))
    assert store.lost()
    assert store.claim_load()
    assert store.behind() == 1_000
    load(store, events(*range(30, 60)))
    store.loaded()
    assert not store.lost()
    store.confirm(3_000)
    check(store, events(*range(90)))


def test_a_node_that_slots_move_to_when_a_cluster_grows_lacks_the_last_events_only() -> None:
    with closing(RedisClusterServers()) as cluster:
        store = open_store(cluster)
        store.read_then_update(events(*range(30)))
        store.confirm(T0)
        node = cluster.add()
        owners = store._link.primaries(store._epoch.keys())
        marked = {key_slot(key) for keys in owners.values() for key in keys}
        with cluster.nodes[0].client() as client:
            unmarked = next(slot for slot in map(key_slot, client.keys()) if slot not in marked)
        move_slot(unmarked, cluster.nodes[0], node)
        with pytest.raises(StateLost):  # nothing says how old the data of the new node is
            open_store(cluster, ready=False).read(events(*range(30, 60)))
        slots = [key_slot(keys[-1]) for keys in owners.values()]
        slot = next(each for each in slots if each in _slots(cluster, cluster.nodes[0]))
        move_slot(slot, cluster.nodes[0], node)
        store = open_store(cluster, ready=False)
        assert store.lost()
        assert store.claim_load()
        assert store.behind() == T0
        store.loaded()
        assert not store.lost()
        check(store, events(*range(30)))
        gc.collect()


def test_a_replica_that_takes_over_is_trusted_by_its_mark_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "FRESH_S", 60.0)  # who has which marks was learnt before
    with closing(RedisClusterServers()) as cluster:
        store = open_store(cluster)
        store.read_then_update(events(*range(30)))
        heir = cluster.add()
        replicate(cluster.nodes[2], heir)
        with heir.client() as client:
            client.config_set("replica-read-only", "no")
            client.flushall()
            cluster.nodes[2].process.kill()
            client.execute_command("CLUSTER FAILOVER", "TAKEOVER")
        for number in range(3):
            with pytest.raises(OnlineStoreError) as lost:
                store.read_then_update(events(*range(30, 60)))
            assert number == 0 or isinstance(lost.value, StateLost)
        gc.collect()


def test_a_cluster_that_cannot_be_reached_is_an_error_that_says_so() -> None:
    store = RedisOnlineStore(FEATURES, redis.connector("redis://127.0.0.1:1?cluster=true", TIMEOUT_MS))
    with pytest.raises(OnlineStoreError, match="cluster"):
        store.lost()


def test_a_single_server_is_no_cluster(redis_url: str) -> None:
    store = RedisOnlineStore(FEATURES, redis.connector(f"{redis_url}?cluster=true", TIMEOUT_MS))
    with pytest.raises(OnlineStoreError, match="cluster"):
        store.lost()


def _slots(cluster: RedisClusterServers, node: RedisServer) -> range:
    number, most = cluster.nodes.index(node), NODES
    return range(16_384 * number // most, 16_384 * (number + 1) // most)
