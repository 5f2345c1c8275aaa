"""Whether to ask a server that has failed: after a failure it is left alone for a while."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable

LEAST_S = 0.25  # how long it is left alone after a failure; each further one doubles that
MOST_S = 10.0


class Circuit:
    """A server that is gone or hangs costs one deadline, not one for every call.

    After a failure nobody asks for a short time that grows and has jitter, so that many processes do not come back at
    the same moment; then one call tries. Whoever may ask says :meth:`works` or :meth:`failed` afterwards. Safe for use
    by several threads.

    >>> now = 0.0
    >>> circuit = Circuit(1.0, 10.0, clock=lambda: now, chance=lambda: 1.0)
    >>> circuit.enter(), circuit.failed("timeout"), circuit.enter()
    (True, True, False)
    >>> now = 1.0
    >>> circuit.enter(), circuit.enter(), circuit.works(), circuit.enter()
    (True, False, True, True)
    """

    def __init__(
        self,
        least_s: float = LEAST_S,
        most_s: float = MOST_S,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.clock = clock
        self._least_s, self._most_s, self._chance = least_s, most_s, chance
        self._lock = threading.Lock()
        self._failures = 0  # since it last worked
        self._ask_at = 0.0
        self.why = ""

    @property
    def up(self) -> bool:
        """Whether the last call found the server there."""
        return self._failures == 0

    def enter(self) -> bool:
        """Whether to ask now; others then wait for what the caller finds."""
        if not self._failures:
            return True
        with self._lock:
            if self._failures:
                if self.clock() < self._ask_at:
                    return False
                self._ask_at = math.inf
        return True

    def works(self) -> bool:
        """The server answered; returns whether it had failed before."""
        if not self._failures:
            return False
        with self._lock:
            self._failures = 0
        return True

    def failed(self, why: str) -> bool:
        """The server did not answer; returns whether it had worked before."""
        with self._lock:
            wait_s = min(self._least_s * 2.0 ** min(self._failures, 30), self._most_s)
            self._ask_at = self.clock() + wait_s * (1 + self._chance()) / 2
            self._failures += 1
            self.why = why
            return self._failures == 1
