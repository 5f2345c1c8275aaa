"""The decisions of a short while ago, in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from fraudml.decisions.record import Decision

MOST = 20_000
TOGETHER = 500  # forgotten at once: thousands would take milliseconds, for which everyone would wait


class Recent:
    """Remembers the last ``most`` decisions, give or take a batch. One thread adds, others may ask."""

    def __init__(self, most: int = MOST, together: int = TOGETHER) -> None:
        self._together = together
        self._held: deque[dict[str, Decision]] = deque([{}], most // together)  # the newest last

    def add(self, decisions: Iterable[Decision]) -> None:
        """Remember these."""
        newest = self._held[-1]
        for decision in decisions:
            newest[decision.transaction.transaction_id] = decision
        if len(newest) >= self._together:
            self._held.append({})

    def get(self, transaction_id: str) -> Decision | None:
        """The last decision added with this id, if it is remembered."""
        for held in reversed([*self._held]):  # a copy: another thread may add meanwhile
            if transaction_id in held:
                return held[transaction_id]
        return None
