"""Scores in Redis, for all processes that use it: bounded, and each for a limited time."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Protocol

from fraudml.errors import CacheError, StoreError

DIGEST = 16  # bytes; that two of a billion keys have the same one has a probability of 1e-21
PARTS = 8  # of all places, for clusters

_SCORE = struct.Struct(f"<{DIGEST}sd")


class Values(Protocol):
    """Redis, see :class:`fraudml.adapters.connections.shared_redis.SharedRedis`; raises ``StoreError``."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of these keys."""
        ...

    def put(self, values: Mapping[bytes, bytes], ttl_ms: int) -> None:
        """Keep these for so long."""
        ...


class RedisPredictionCache:
    """The prediction cache in Redis; see :class:`fraudml.decisions.cache.PredictionCache`.

    There are ``size`` places, each a key of its own that ends ``ttl_s`` seconds after it was put. The digest of a
    score's key says which place is its own, so there are never more, and no list of them has to be kept; of two scores
    with one place the one put last is held. Neither inputs nor the model's name can be read from Redis.
    """

    def __init__(self, redis: Values, size: int, ttl_s: float) -> None:
        self._redis = redis
        self._size = size
        self._ttl_ms = max(int(ttl_s * 1_000), 1)

    def get(self, keys: Sequence[bytes]) -> list[float | None]:
        """See ``PredictionCache``. One round trip."""
        digests = [_digest(key) for key in keys]
        try:
            held = self._redis.get([self._place(digest) for digest in digests])
        except StoreError as error:
            raise CacheError(str(error)) from error
        return [_score(value, digest) for value, digest in zip(held, digests, strict=True)]

    def put(self, scores: Mapping[bytes, float]) -> None:
        """See ``PredictionCache``. One round trip."""
        digests = [_digest(key) for key in scores]
        held = {self._place(d): _SCORE.pack(d, score) for d, score in zip(digests, scores.values(), strict=True)}
        try:
            self._redis.put(held, self._ttl_ms)
        except StoreError as error:
            raise CacheError(str(error)) from error

    def _place(self, digest: bytes) -> bytes:
        place = int.from_bytes(digest[:8]) % self._size
        return b"fraudml:cache:{%d}:%x" % (place % PARTS, place)


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=DIGEST).digest()


def _score(value: bytes | None, digest: bytes) -> float | None:
    if value is None or len(value) != _SCORE.size:
        return None
    found, score = _SCORE.unpack(value)
    return score if found == digest else None
