"""A limit for all processes together, without a network call in anybody's way.

A process spends tokens of its own accord, as far ahead of the shared bucket as a tenth of a second's worth, and a
thread tells the bucket what was spent and learns what is left, some dozen times a second. So for a key the processes
together may for a moment exceed the limit by at most

    processes x (max(1, a tenth of a second's worth) + the largest request - 1)

tokens, and what they exceed it by is a debt that has to be paid back: over time the average is exact.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from fraudml.errors import StoreError
from fraudml.service.limits import burst, too_often

AHEAD_S = 0.1  # of the limit, for each process
PACE_S = 0.02  # what is spent within this time is told together, unless somebody waits

logger = logging.getLogger(__name__)


class TokenBank(Protocol):
    """Port: buckets that processes share, one a key. Adapters live in ``adapters/limits``."""

    def spend(self, counts: Mapping[str, int]) -> Mapping[str, float]:
        """Take so many tokens out of the bucket of each key, all at once; what is left in each, below 0 a debt.

        A bucket holds one second's worth, or one token where that is more, and starts full. Raises ``StoreError`` when
        the backend fails: they may or may not have been taken.
        """
        ...


class _Account:
    """What a process knows of one key's bucket: ``tokens`` at the time ``at``, less ``unsettled`` spent since."""

    __slots__ = ("at", "tokens", "unsettled")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at
        self.unsettled = 0


class Ledger:
    """What this process spends ahead of the bank. Safe for use by several threads; ``now`` is in seconds.

    ``alone``: while the bank fails each process limits by itself, and nobody is told afterwards what it let through: a
    debt of an hour would lock everyone out.
    """

    def __init__(self, per_second: float) -> None:
        self.rate = per_second
        self.ahead = max(int(per_second * AHEAD_S), 1)
        self.alone = False
        self._burst = burst(per_second)
        self._accounts: dict[str, _Account] = {}
        self._lock = threading.Lock()

    def take(self, key: str, count: int, now: float, *, wait: bool = True) -> int | None:
        """Spend tokens and return how many are not settled yet; ``None`` when those must be settled before.

        ``wait``: false lets it through all the same. Raises the 429.
        """
        with self._lock:
            account = self._accounts.get(key)
            if account is None:
                account = self._accounts[key] = _Account(self._burst, now)
            account.tokens = min(self._burst, account.tokens + (now - account.at) * self.rate)
            account.at = now
            if account.tokens < 1:
                raise too_often(self.rate, account.tokens)
            if account.unsettled >= self.ahead and wait and not self.alone:
                return None
            account.tokens -= count
            account.unsettled += count
            return account.unsettled

    def unsettled(self) -> dict[str, int]:
        """What the bank has to be told."""
        with self._lock:
            return {key: account.unsettled for key, account in self._accounts.items() if account.unsettled}

    def settled(self, told: Mapping[str, int], left: Mapping[str, float], now: float) -> None:
        """The bank was told this, and has that left."""
        with self._lock:
            self.alone = False
            for key, count in told.items():
                account = self._accounts[key]
                account.unsettled -= count
                account.tokens = left[key] - account.unsettled
                account.at = now

    def failed(self, told: Mapping[str, int]) -> None:
        """The bank could not be told."""
        with self._lock:
            self.alone = True
            for key, count in told.items():
                self._accounts[key].unsettled -= count


class SharedRateLimit:
    """See :class:`fraudml.service.limits.RateLimiter`. ``wait_s``: how long a request waits for the bank at most.

    While the bank does not answer the limit is that of each process by itself.
    """

    def __init__(
        self, per_second: float, bank: TokenBank, *, wait_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = Ledger(per_second)
        self._bank = bank
        self._wait_s = wait_s
        self._clock = clock
        self._spent = threading.Event()
        self._hurry = threading.Event()
        self._closing = threading.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def take(self, key: str, count: int) -> bool:
        """See ``RateLimiter``."""
        return self._took(self._ledger.take(key, count, self._clock()))

    async def admit(self, key: str, count: int) -> None:
        """See ``RateLimiter``."""
        until = self._clock() + self._wait_s
        while not self.take(key, count):
            settled = self._next_settlement()
            if self.take(key, count):  # it was settled meanwhile
                return
            try:
                await asyncio.wait_for(settled, until - self._clock())
            except TimeoutError:
                self._took(self._ledger.take(key, count, self._clock(), wait=False))
                return

    def close(self) -> None:
        """Tell the bank the rest, if it answers soon."""
        self._closing.set()
        self._hurry.set()
        self._spent.set()
        if self._thread is not None:
            self._thread.join(self._wait_s)

    def _took(self, unsettled: int | None) -> bool:
        if self._thread is None:
            self._thread = threading.Thread(target=self._settle_all, name="limit", daemon=True)
            self._thread.start()
        if unsettled is None or unsettled >= self._ledger.ahead / 2:
            self._hurry.set()
        if not self._spent.is_set():
            self._spent.set()
        return unsettled is not None

    def _next_settlement(self) -> asyncio.Future[None]:
        self._loop = asyncio.get_running_loop()
        future = self._loop.create_future()
        with self._lock:
            self._waiting.append(future)
        return future

    def _settle_all(self) -> None:
        """The thread that talks to the bank."""
        while not self._closing.is_set():
            self._spent.wait()
            self._hurry.wait(PACE_S)
            self._spent.clear()
            self._hurry.clear()
            try:
                self._settle()
            except Exception:  # a thread that ends would leave everyone without the others' spending
                logger.exception("settling failed")
            self._tell_waiting()

    def _settle(self) -> None:
        counts = self._ledger.unsettled()
        if not counts:
            return
        was_alone = self._ledger.alone
        try:
            left = self._bank.spend(counts)
        except StoreError as error:
            self._ledger.failed(counts)
            if not was_alone:
                logger.warning("rates are not shared, each process limits by itself: %s", error)
        else:
            self._ledger.settled(counts, left, self._clock())
            if was_alone:
                logger.info("rates are shared again")

    def _tell_waiting(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        if waiting and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_wake, waiting)


def _wake(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
