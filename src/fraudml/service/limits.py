"""How often an API key may ask. Port: ``RateLimiter``; the one of a single process is here."""

from __future__ import annotations

import math
import time
from typing import Protocol

from fraudml.service.problems import ProblemError


class RateLimiter(Protocol):
    """A token bucket per key: a rate of transactions on average, up to one second's worth at once.

    A batch larger than what is left is let through on credit; the next request waits until that is paid back, so a
    limit never makes a batch size impossible. Used from one event loop, which it never holds up.
    """

    def take(self, key: str, count: int) -> bool:
        """Spend ``count`` tokens at once, if that can be decided at once; if not, nothing was done: :meth:`admit`.

        Raises a 429 that says when to come back.
        """
        ...

    async def admit(self, key: str, count: int) -> None:
        """The same, also where it takes a moment to decide."""
        ...

    def close(self) -> None:
        """Let go of threads."""
        ...


class RateLimit:
    """The limit of one process; see :class:`RateLimiter`. A rate of 0 is no limit."""

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._burst = burst(per_second)
        self._buckets: dict[str, tuple[float, float]] = {}  # key name -> (tokens, when)

    def take(self, key: str, count: int) -> bool:
        """See ``RateLimiter``: it can always be decided at once."""
        if not self._rate:
            return True
        now = time.monotonic()
        tokens, when = self._buckets.get(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - when) * self._rate)
        if tokens < 1:
            self._buckets[key] = (tokens, now)
            raise too_often(self._rate, tokens)
        self._buckets[key] = (tokens - count, now)
        return True

    async def admit(self, key: str, count: int) -> None:
        """See ``RateLimiter``."""
        self.take(key, count)

    def close(self) -> None:
        """See ``RateLimiter``."""


def burst(per_second: float) -> float:
    """The most tokens that a key saves up."""
    return max(per_second, 1.0)


def too_often(per_second: float, tokens: float) -> ProblemError:
    """The 429 of a key that has so many tokens, less than one."""
    wait = math.ceil((1 - tokens) / per_second)
    return ProblemError(
        429,
        f"this key may score {per_second:g} transactions a second; retry in {wait} s",
        {"Retry-After": str(wait)},
    )
