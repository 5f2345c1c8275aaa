"""Recent decisions in Redis, so that a retry at another process gets the first answer while the log is gone."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

from fraudml.decisions.recent import Recent
from fraudml.decisions.record import Decision
from fraudml.errors import StoreError

TOGETHER = 500  # decisions in one command
MOST_WAITING = 20_000  # decisions that Redis has not taken yet, about 1 KB each
AGAIN_S = 0.25  # how soon it is offered what it did not take
CLOSE_S = 2.0  # how long the end of the process waits for what is still to be shared
SLICE_S = 10  # decisions are counted in slices of time
COUNT_S = 1.0  # how often
PARTS = 8  # of all keys, for clusters

# Counts decisions of all processes in this slice of time; returns that, and the count of the slice before.
_COUNT = """
local now = redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {now, tonumber(redis.call('GET', KEYS[2]) or 0)}
"""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Decision).decode

logger = logging.getLogger(__name__)


class Values(Protocol):
    """Redis, see :class:`fraudml.adapters.connections.shared_redis.SharedRedis`; raises ``StoreError``."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of these keys."""
        ...

    def put(self, values: Mapping[bytes, bytes], ttl_ms: int) -> None:
        """Keep these for so long."""
        ...

    def run(self, script: str, keys: Sequence[bytes], arguments: Sequence[bytes | int | float]) -> Any:
        """What a Lua script returns."""
        ...


class RedisRecentDecisions:
    """Decisions of all processes with one ``namespace``; see :class:`fraudml.decisions.recent.RecentDecisions`.

    A thread of its own gives them to Redis, in the order added, so nobody waits for that; what Redis does not take
    waits for it, and the oldest are dropped beyond :data:`MOST_WAITING`. Each is kept for ``ttl_s`` seconds, or less
    where that would be more than about ``most`` decisions in Redis (twice that for a while when traffic grows at once).
    ``namespace``: of processes with the same log and schema, as a decision's values have no names. ``on_outcome`` is
    told how many decisions were ``shared`` or ``dropped``, and of those looked up how many were ``found``, or could not
    be looked up (``error``).
    """

    shared = True

    def __init__(
        self,
        redis: Values,
        namespace: str,
        *,
        ttl_s: float,
        most: int,
        on_outcome: Callable[[str, int], None] = lambda outcome, count: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._namespace = namespace.encode()
        self._ttl_s = self._ttl_now_s = ttl_s
        self._most = most
        self._on_outcome = on_outcome
        self._clock = clock
        self._own = Recent()
        self._waiting: deque[Decision] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._uncounted = 0
        self._count_at = 0.0
        self._thread: threading.Thread | None = None

    def add(self, decisions: Sequence[Decision]) -> None:
        """See ``RecentDecisions``."""
        self._own.add(decisions)
        self._waiting.extend(decisions)
        over = len(self._waiting) - MOST_WAITING
        if over > 0:
            self._drop(over)
        if self._thread is None:
            self._thread = threading.Thread(target=self._share_all, name="recent", daemon=True)
            self._thread.start()
        self._wake.set()

    def get(self, transaction_id: str) -> Decision | None:
        """See ``RecentDecisions``."""
        return self._own.get(transaction_id)

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        """See ``RecentDecisions``. One round trip for those that this process did not make."""
        found = self._own.find(transaction_ids)
        rest = [name for name in transaction_ids if name not in found]
        try:
            values = self._redis.get([self._key(name) for name in rest])
        except StoreError:  # Redis says so itself
            self._on_outcome("error", len(rest))
            return found
        theirs = {name: self._decoded(name, value) for name, value in zip(rest, values, strict=True) if value}
        known = {name: decision for name, decision in theirs.items() if decision is not None}
        if known:
            self._on_outcome("found", len(known))
        return found | known

    def close(self) -> None:
        """See ``RecentDecisions``."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _share_all(self) -> None:
        """The thread that gives decisions to Redis."""
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                while self._waiting:
                    self._share_next()
            except StoreError:
                self._closing.wait(AGAIN_S)
                self._wake.set()
            except Exception:  # a thread that ends would share nothing any more
                logger.exception("sharing recent decisions failed")

    def _share_next(self) -> None:
        """Give Redis the decisions that wait longest; raises ``StoreError``, and they wait on."""
        batch = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
        values = {self._key(decision.transaction.transaction_id): _encode(decision) for decision in batch}
        try:
            self._count(len(batch))
            self._redis.put(values, max(int(self._ttl_now_s * 1_000), 1))
        except StoreError:
            self._waiting.extendleft(reversed(batch))
            raise
        self._on_outcome("shared", len(batch))

    def _count(self, count: int) -> None:
        """See to it that the decisions of all processes are not too many."""
        self._uncounted += count
        now = self._clock()
        if now < self._count_at:
            return
        this = int(now // SLICE_S)
        keys = [b"fraudml:%b:{count}:%d" % (self._namespace, number) for number in (this, this - 1)]
        counted = self._redis.run(_COUNT, keys, [self._uncounted, 3 * SLICE_S * 1_000])
        self._uncounted, self._count_at = 0, now + COUNT_S
        a_second = max(counted) / SLICE_S
        self._ttl_now_s = min(self._ttl_s, self._most / a_second)

    def _drop(self, count: int) -> None:
        dropped = 0
        while dropped < count and self._waiting:
            self._waiting.popleft()
            dropped += 1
        self._on_outcome("dropped", dropped)

    def _key(self, transaction_id: str) -> bytes:
        digest = blake2b(transaction_id.encode(), digest_size=16)
        return b"fraudml:%b:{%d}:%b" % (self._namespace, digest.digest()[0] % PARTS, digest.hexdigest().encode())

    def _decoded(self, name: str, value: bytes) -> Decision | None:
        try:
            decision = _decode(value)
        except msgspec.DecodeError:  # of another version of fraudml
            self._on_outcome("error", 1)
            return None
        return decision if decision.transaction.transaction_id == name else None
