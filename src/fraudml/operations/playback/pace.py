"""When the next event of a replay is due."""

from __future__ import annotations

import time
from collections.abc import Callable

BURST_S = 0.1  # what was missed for so long at most is made up for; more would be above the rate


class Pace:
    """The clock of a replay. ``speed``: 60 plays an hour in a minute; ``rate``: counted events a second at most. With
    neither, everything is due at once.

    A timer that is late, or a send that took long, does not slow a rate down: what came due meanwhile follows at once,
    as far as :data:`BURST_S` allows. A speed that the receiver cannot follow is made up for without bound.

    >>> pace = Pace(speed=60, clock=lambda: 7.0)
    >>> pace.delay_s(0), pace.delay_s(120_000_000)
    (0.0, 2.0)
    """

    def __init__(
        self, speed: float | None = None, rate: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._speed = speed
        self._gap_s = 1 / rate if rate else 0.0
        self._clock = clock
        self._started: tuple[float, int] | None = None
        self._free_s = 0.0  # from when on the rate allows another one

    def delay_s(self, time_us: int, *, counts: bool = True) -> float:
        """How long to wait with the next event, which is of this time. ``counts``: for the rate."""
        now = self._clock()
        if self._started is None:
            self._started, self._free_s = (now, time_us), now
        due = now
        if self._speed:
            started, first_us = self._started
            due = started + (time_us - first_us) / 1e6 / self._speed
        if self._gap_s and counts:
            due = max(due, self._free_s) if self._speed else self._free_s
            self._free_s = max(due, now - BURST_S) + self._gap_s
        return max(0.0, due - now)
