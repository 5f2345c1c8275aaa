"""A Redis cluster for tests: three servers that share the slots, without replicas."""

from __future__ import annotations

import redis

from tests.support.servers.process import LOOPBACK, free_port
from tests.support.servers.redis import RedisServer
from tests.support.waiting import until

SLOTS = 16_384
NODES = 3
OPTIONS = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port")


class RedisClusterServers:
    """The servers of one cluster, in :attr:`nodes`."""

    def __init__(self) -> None:
        buses = [free_port() for _ in range(NODES)]  # by default 10,000 above the port, which may be too high
        self.nodes = [RedisServer(*OPTIONS, str(bus)) for bus in buses]
        for place, node in enumerate(self.nodes):
            first, last = place * SLOTS // NODES, (place + 1) * SLOTS // NODES - 1
            with node.client() as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
                client.execute_command("CLUSTER MEET", LOOPBACK, self.nodes[0].port, buses[0])
        self.wait()

    def wait(self) -> None:
        """Until each node knows all others and serves."""
        until(lambda: all(self._is_whole(node) for node in self.nodes), "the nodes do not find each other")

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.nodes[0].port}?cluster=true"

    def flush(self) -> None:
        """Empty it."""
        for node in self.nodes:
            with node.client() as client:
                client.flushall()

    def add(self) -> RedisServer:
        """A further node, without slots."""
        bus = free_port()
        node = RedisServer(*OPTIONS, str(bus))
        with self.nodes[0].client() as client:
            client.execute_command("CLUSTER MEET", LOOPBACK, node.port, bus)
        self.nodes.append(node)
        self.wait()
        return node

    def close(self) -> None:
        """End the servers and remove their folders."""
        for node in self.nodes:
            node.close()

    def _is_whole(self, node: RedisServer) -> bool:
        with node.client() as client:
            knows = client.execute_command("CLUSTER NODES")
            return len(knows) == len(self.nodes) and client.execute_command("CLUSTER INFO")["cluster_state"] == "ok"


def move_slot(slot: int, source: RedisServer, target: RedisServer, *, finish: bool = True) -> None:
    """Move a slot with its keys; without ``finish`` it is under way, half of its keys moved."""
    with source.client() as old, target.client() as new:
        ids = [_id(old), _id(new)]
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
        keys = old.execute_command("CLUSTER GETKEYSINSLOT", slot, 1_000)
        for key in keys if finish else keys[: len(keys) // 2]:
            old.execute_command("MIGRATE", LOOPBACK, target.port, key, 0, 5_000)
        if finish:
            for client in (new, old):
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])


def replicate(source: RedisServer, target: RedisServer) -> None:
    """Make a node without slots a replica of another one; returns when it has all data."""
    with source.client() as old, target.client() as new:
        old.config_set("repl-diskless-sync-delay", 0)
        new.execute_command("CLUSTER REPLICATE", _id(old))
        until(lambda: new.info("replication").get("master_link_status") == "up", "the replica does not get in step")


def _id(client: redis.Redis) -> str:
    told = client.execute_command("CLUSTER MYID")
    return told.decode() if isinstance(told, bytes) else str(told)
