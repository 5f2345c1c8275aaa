"""Scores in Redis, for all processes that use it: bounded, and each for a limited time."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from fraudml.errors import CacheError, StoreError

DIGEST = 16  # bytes; that two of a billion keys have the same one has a probability of 1e-21
# Of all places: those of a part are in one slot of a cluster, so one command reads or writes them. A node that hangs
# holds up the first call for its timeout times the parts on it, hence few.
PARTS = 8

# One command for many keys: in Python each command of a pipeline takes 20 us
_PUT = "for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[1]) end"
_SCORE = struct.Struct(f"<{DIGEST}sd")

# Gives a client of Redis to a function and returns what that returns; raises StoreError.
Ask = Callable[[Callable[[Any], Any]], Any]


class RedisPredictionCache:
    """The prediction cache in Redis; see :class:`fraudml.decisions.cache.PredictionCache`.

    There are ``size`` places, each a key of its own that ends ``ttl_s`` seconds after it was put. The digest of a
    score's key says which place is its own, so there are never more, and no list of them has to be kept; of two scores
    with one place the one put last is held. Neither inputs nor the model's name can be read from Redis.
    """

    def __init__(self, redis: Ask, size: int, ttl_s: float) -> None:
        self._redis = redis
        self._size = size
        self._ttl_ms = max(int(ttl_s * 1_000), 1)

    def get(self, keys: Sequence[bytes]) -> list[float | None]:
        """See ``PredictionCache``. One round trip."""
        if not keys:
            return []
        digests = [_digest(key) for key in keys]
        places = [self._place(digest) for digest in digests]
        held = self._asked(lambda client: _read(client, places))
        return [_score(value, digest) for value, digest in zip(held, digests, strict=True)]

    def put(self, scores: Mapping[bytes, float]) -> None:
        """See ``PredictionCache``. One round trip."""
        if not scores:
            return
        digests = [_digest(key) for key in scores]
        held = {self._place(d): _SCORE.pack(d, score) for d, score in zip(digests, scores.values(), strict=True)}
        self._asked(lambda client: _write(client, held, self._ttl_ms))

    def _place(self, digest: bytes) -> bytes:
        place = int.from_bytes(digest[:8]) % self._size
        return b"fraudml:cache:{%d}:%x" % (place % PARTS, place)

    def _asked(self, call: Callable[[Any], Any]) -> Any:
        try:
            return self._redis(call)
        except StoreError as error:
            raise CacheError(str(error)) from error


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=DIGEST).digest()


def _score(value: bytes | None, digest: bytes) -> float | None:
    if value is None or len(value) != _SCORE.size:
        return None
    found, score = _SCORE.unpack(value)
    return score if found == digest else None


def _read(client: Any, places: list[bytes]) -> list[bytes | None]:
    found: list[bytes | None]
    found = client.mget_nonatomic(places) if _is_cluster(client) else client.mget(places)
    return found


def _write(client: Any, held: Mapping[bytes, bytes], ttl_ms: int) -> None:
    if not _is_cluster(client):
        client.eval(_PUT, len(held), *held, ttl_ms, *held.values())
        return
    pipeline = client.pipeline()
    for places in _parts(held):
        values = [held[place] for place in places]
        pipeline.execute_command("EVAL", _PUT, len(places), *places, ttl_ms, *values)
    pipeline.execute()


def _parts(places: Iterable[bytes]) -> Iterable[list[bytes]]:
    """Places by what is in braces, which says where a cluster keeps them."""
    parts: dict[bytes, list[bytes]] = {}
    for place in places:
        parts.setdefault(place.partition(b"}")[0], []).append(place)
    return parts.values()


def _is_cluster(client: Any) -> bool:
    return hasattr(client, "mget_nonatomic")
