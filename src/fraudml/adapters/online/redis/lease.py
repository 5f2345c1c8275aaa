"""Which process loads: a lock in Redis, renewed by a thread for as long as the process has something to load.

A load may wait many minutes for the decision log, and is not taken over meanwhile. A process that was stopped for so
long that the lock expired knows when it goes on that another one may have it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence

from fraudml.adapters.online.redis.link import Link
from fraudml.adapters.online.redis.wire import Command, Script
from fraudml.errors import OnlineStoreError

LOCK_MS = 300_000  # so long after the last renewal another process may load
CATCH_UP_LOCK_MS = 30_000  # the same where only the last events are missing: doing that twice does no harm
RENEWALS = 4  # in that time
SURE = 0.9  # of that time; what is being sent then arrives before another process has the lock
AGAIN_S = 1.0  # after a renewal that failed


class Lease:
    """The lock of one namespace, for one process. Not for several threads at once, but for its own."""

    def __init__(self, link: Link, key: bytes) -> None:
        self._link = link
        self._key = key
        self._script = Script.read("lease.lua")
        self._own = secrets.token_hex(8).encode()
        self._until = 0.0  # by time.monotonic: no other process has it before
        self._ended = threading.Event()

    @property
    def sure(self) -> bool:
        """Whether no other process can have it now, nor in a moment."""
        return time.monotonic() < self._until

    def take(self) -> bool:
        """Take it; true also where this process has it. :meth:`keep` has to follow, or :meth:`give_back`."""
        taken, holder = self._link.exchange(
            [
                Command(self._key, ("SET", self._key, self._own, "NX", "PX", LOCK_MS)),
                Command(self._key, ("GET", self._key)),
            ]
        )
        return bool(taken) or holder == self._own  # the answer to the first of two attempts may have been lost

    def keep(self, lock_ms: int) -> bool:
        """Keep it until it is given back; false where another process was faster."""
        self._ended.set()
        self._ended = threading.Event()
        self._until = self._renewed(lock_ms)
        if self.sure:
            threading.Thread(target=self._run, args=(lock_ms, self._ended), name="load-lease", daemon=True).start()
        return self.sure

    def give_back(self, beside: Sequence[bytes] = ()) -> None:
        """Let others have it, and delete what is ``beside`` it; nothing of that where others have it already."""
        self._ended.set()
        self._until = 0.0
        self._link.exchange([self._call(0, beside)])

    def _run(self, lock_ms: int, ended: threading.Event) -> None:
        pause_s = lock_ms / 1_000 / RENEWALS
        while not ended.wait(pause_s) and self.sure:
            try:
                until = self._renewed(lock_ms)
            except OnlineStoreError:
                pause_s = AGAIN_S
                continue
            pause_s = lock_ms / 1_000 / RENEWALS
            if not ended.is_set():
                self._until = until

    def _renewed(self, lock_ms: int) -> float:
        """Until when it is this process's now."""
        asked = time.monotonic()
        held = self._link.exchange([self._call(lock_ms)], insist=True)[0]
        return asked + SURE * lock_ms / 1_000 if held else 0.0

    def _call(self, lock_ms: int, beside: Sequence[bytes] = ()) -> Command:
        keys = (self._key, *beside)
        return Command(self._key, (len(keys), *keys, self._own, lock_ms), self._script)
