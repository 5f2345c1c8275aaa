"""Facts about a Redis, alone or a cluster, found out by using it: for ``fraudml doctor``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import closing
from hashlib import sha1
from typing import Any
from urllib.parse import urlsplit

from redis import exceptions

from fraudml.adapters.connections._pings import Pings, ping
from fraudml.adapters.connections.redis import client
from fraudml.decisions.servers import ServerFacts, Trial, Trouble

_SCRIPT = "redis.call('TIME') return redis.call('GET', KEYS[1])"
TTL_MS = 10_000  # of keys that a trial leaves behind if it is cut off
INFO = ["maxmemory", "maxmemory_policy", "used_memory", "evicted_keys", "aof_enabled", "role"]
INFO += ["aof_last_write_status", "rdb_last_bgsave_status"]


def facts(url: str, timeout_ms: int, clock: Callable[[], float] = time.time) -> ServerFacts | Trouble:
    """What is there, and whether keys below ``fraudml:`` can be used. Of a cluster the worst of its primaries.

    Raises ``ConfigError`` and ``MissingExtra``.
    """
    place = _place(url)
    try:
        with closing(client(url, timeout_ms, retries=0)) as opened:
            return _facts(opened, place, clock)
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
        return _trouble(error, place)


def _facts(opened: Any, place: str, clock: Callable[[], float]) -> ServerFacts | Trouble:
    details: dict[str, str] = {}
    nodes = [opened]
    if hasattr(opened, "get_primaries"):
        primaries = opened.get_primaries()
        nodes = [opened.get_redis_connection(primary) for primary in primaries]
        state = opened.execute_command("CLUSTER INFO", target_nodes=primaries[0])
        details = {"cluster_state": str(state["cluster_state"]), "nodes": str(len(primaries))}
    pings = max((_ping(node, clock) for node in nodes), key=lambda found: abs(found.ahead_ms))
    product, version = "Redis", "of an unknown version"
    trials = []
    for node in nodes:
        try:
            info = node.info()
        except exceptions.ResponseError as error:
            trials.append(Trial("ask INFO", str(error)))
            continue
        if str(info.get("cluster_enabled")) == "1" and not details:
            return Trouble(f"{place} is a node of a cluster", "add ?cluster=true to FRAUDML_REDIS_URL")
        if "valkey_version" in info:
            product, version = "Valkey", str(info["valkey_version"])
        else:
            version = str(info["redis_version"])
        for name in INFO:
            if name in info:
                details[name] = _worse(name, details.get(name), str(info[name]))
    if (save := _saves(nodes[0])) is not None:
        details["save"] = save
    trials += _trials(opened, len(nodes))
    return ServerFacts(
        place=place,
        product=product,
        version=version,
        latency_ms=pings.latency_ms,
        ahead_ms=pings.ahead_ms,
        unsure_ms=pings.unsure_ms,
        trials=tuple(trials),
        details=details,
    )


def _ping(node: Any, clock: Callable[[], float]) -> Pings:
    def now_s() -> float:
        seconds, microseconds = node.time()
        return float(seconds + microseconds / 1e6)

    return ping(now_s, clock)


def _saves(node: Any) -> str | None:
    """When snapshots are made; ``None`` where that may not be asked, as with many providers."""
    try:
        return str(node.config_get("save").get("save", ""))
    except exceptions.ResponseError:
        return None


def _trials(opened: Any, nodes: int) -> list[Trial]:
    """What services do, with keys of our own that are removed at once. In a cluster many keys meet every node."""
    token = secrets.token_hex(8)
    keys = [f"fraudml:doctor:{{{token}{number}}}" for number in range(8 * nodes if nodes > 1 else 1)]

    def write(key: str) -> None:
        opened.set(key, b"1", px=TTL_MS)
        opened.append(key, b"2")
        opened.pexpire(key, TTL_MS)

    def read(key: str) -> None:
        opened.get(key)
        opened.mget([key])
        opened.pttl(key)
        opened.strlen(key)

    def script(key: str) -> None:
        opened.eval(_SCRIPT, 1, key)
        opened.evalsha(sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest(), 1, key)

    def delete(key: str) -> None:
        opened.delete(key)

    acts = {"write keys": write, "read keys": read, "run scripts": script, "delete keys": delete}
    return [Trial(what, _problem(act, keys)) for what, act in acts.items()]


def _problem(act: Callable[[str], None], keys: list[str]) -> str | None:
    try:
        for key in keys:
            act(key)
    except exceptions.ResponseError as error:
        return str(error)
    return None


def _worse(name: str, one: str | None, other: str) -> str:
    """Of two nodes' answers the one to worry about."""
    if one is None:
        return other
    if name in ("used_memory", "evicted_keys"):
        return max(one, other, key=int)
    if name == "maxmemory":
        return min(one, other, key=int)
    good = {"maxmemory_policy": "noeviction", "aof_enabled": "1", "role": "master"}.get(name, "ok")
    return other if one == good else one


def _place(url: str) -> str:
    """Where a URL leads, without user and password.

    >>> _place("redis://me:secret@cache.example/1"), _place("rediss://:secret@[::1]:7000?cluster=true")
    ('cache.example:6379/1', '[::1]:7000')
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if not host:
        return parts.path
    has_port = host.rpartition("]")[2].count(":") == 1
    return f"{host if has_port else host + ':6379'}{parts.path.rstrip('/')}"


def _trouble(error: Exception, place: str) -> Trouble:
    text = str(error).rpartition("caused error: ")[2]
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError) or "NOAUTH" in text:
        return Trouble(
            f"{place} refuses user and password: {text}",
            "write them into FRAUDML_REDIS_URL: redis://user:password@host:6379/0, with %40 for an @",
        )
    if isinstance(error, exceptions.BusyLoadingError):
        return Trouble(f"{place} is loading its data", "wait until it has; look at its log")
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return Trouble(f"{place} does not answer in time", "look whether it hangs, or a firewall drops what is sent")
    if isinstance(error, exceptions.ResponseError):
        return Trouble(f"{place} refuses: {text}", "ACL SETUSER ... ~fraudml:* +@all -@dangerous +info")
    do = "start it, or correct host, port and redis:// or rediss:// (TLS) in FRAUDML_REDIS_URL"
    return Trouble(f"{place} cannot be reached: {text}", do)
