"""Token buckets in Redis, one for each API key, for all processes that serve it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol

# KEYS: buckets. ARGV: tokens a second, the most in a bucket, then what to take out of each. A bucket is "tokens when",
# by the server's clock in microseconds; one that is full again need not be kept. Returns what is left, possibly a debt.
_SPEND = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local rate, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local left = {}
for i = 1, #KEYS do
  local tokens = most
  local had, at = string.match(redis.call('GET', KEYS[i]) or '', '^(%S+) (%S+)$')
  if had then
    tokens = math.min(most, had + math.max(now - at, 0) * rate / 1000000)
  end
  tokens = tokens - ARGV[i + 2]
  local full_ms = math.ceil((most - tokens) / rate * 1000) + 1000
  redis.call('SET', KEYS[i], string.format('%.17g %.0f', tokens, now), 'PX', string.format('%.0f', full_ms))
  left[i] = string.format('%.17g', tokens)
end
return left
"""


class Scripts(Protocol):
    """Redis, see :class:`fraudml.adapters.connections.shared_redis.SharedRedis`; raises ``StoreError``."""

    def run(self, script: str, keys: Sequence[bytes], arguments: Sequence[bytes | int | float]) -> Any:
        """What a Lua script returns."""
        ...


class RedisTokenBank:
    """See :class:`fraudml.service.shared_limit.TokenBank`. Buckets fill by the clock of Redis.

    ``namespace``: of processes with the same API keys. Names of keys are hashed, tokens are never seen here. All
    buckets are in one part of a cluster: there are few, and one script settles all of them.
    """

    def __init__(self, redis: Scripts, namespace: str, per_second: float) -> None:
        self._redis = redis
        self._prefix = f"fraudml:{{{namespace}}}:".encode()
        self._limit = [per_second, max(per_second, 1.0)]

    def spend(self, counts: Mapping[str, int]) -> dict[str, float]:
        """See ``TokenBank``. One round trip."""
        keys = [self._prefix + blake2b(name.encode(), digest_size=16).hexdigest().encode() for name in counts]
        left = self._redis.run(_SPEND, keys, [*self._limit, *counts.values()])
        return {name: float(tokens) for name, tokens in zip(counts, left, strict=True)}
