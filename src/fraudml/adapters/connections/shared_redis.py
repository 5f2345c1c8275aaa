"""Values that processes share in Redis for a while, many in one command: what caches and the like need of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fraudml.adapters.connections.guard import Guard
from fraudml.adapters.connections.redis import guarded

PUT = "for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[1]) end"


class SharedRedis:
    """Redis, alone or a cluster, for what decisions can do without. Safe for use by several threads.

    Keys have a part in braces, and only a few parts between them: in a cluster each part is one command, and a node
    that hangs holds up a call for its timeout times the parts on it. Whatever fails is a ``StoreError``; see
    :class:`Guard` for how long it takes.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    @property
    def up(self) -> bool:
        """Whether Redis was there when it was last asked."""
        return self._guard.up

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of these keys, ``None`` where there is none. One round trip."""
        found: list[bytes | None]
        found = self._guard(lambda client: _get(client, keys)) if keys else []
        return found

    def put(self, values: Mapping[bytes, bytes], ttl_ms: int) -> None:
        """Keep these for so long. One round trip."""
        if values:
            self._guard(lambda client: _put(client, values, ttl_ms))

    def run(self, script: str, keys: Sequence[bytes], arguments: Sequence[bytes | int | float]) -> Any:
        """What a Lua script returns. Its keys have the same part."""
        return self._guard(lambda client: client.eval(script, len(keys), *keys, *arguments))

    def close(self) -> None:
        """Close the connections."""
        self._guard.close()


def shared_redis(url: str, timeout_ms: int) -> SharedRedis:
    """Nothing is sent before the first call; raises as :func:`fraudml.adapters.connections.redis.client` does."""
    return SharedRedis(guarded(url, timeout_ms))


def _get(client: Any, keys: Sequence[bytes]) -> list[bytes | None]:
    found: list[bytes | None]
    found = client.mget_nonatomic(keys) if _is_cluster(client) else client.mget(keys)
    return found


def _put(client: Any, values: Mapping[bytes, bytes], ttl_ms: int) -> None:
    # by a script: of a pipeline each command takes 20 us in Python
    if not _is_cluster(client):
        client.eval(PUT, len(values), *values, ttl_ms, *values.values())
        return
    pipeline = client.pipeline()
    for keys in _parts(values):
        pipeline.execute_command("EVAL", PUT, len(keys), *keys, ttl_ms, *[values[key] for key in keys])
    pipeline.execute()


def _parts(keys: Iterable[bytes]) -> Iterable[list[bytes]]:
    """Keys by their part in braces, which says where a cluster keeps them.

    >>> list(_parts([b"a:{1}", b"b:{2}", b"c:{1}"]))
    [[b'a:{1}', b'c:{1}'], [b'b:{2}']]
    """
    parts: dict[bytes, list[bytes]] = {}
    for key in keys:
        parts.setdefault(key.partition(b"{")[2].partition(b"}")[0], []).append(key)
    return parts.values()


def _is_cluster(client: Any) -> bool:
    return hasattr(client, "mget_nonatomic")
