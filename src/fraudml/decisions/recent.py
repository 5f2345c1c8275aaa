"""The decisions of a short while ago: for retries while the decision log cannot be asked.

Port: ``RecentDecisions``. The one in this process's memory is here; those that processes share live in
``adapters/recent``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from fraudml.decisions.record import Decision

MOST = 20_000
TOGETHER = 500  # forgotten at once: thousands would take milliseconds, for which everyone would wait


class RecentDecisions(Protocol):
    """Remembers durable decisions for a while. Nothing here fails; who adds never waits.

    What was added may be forgotten at any time. One thread adds, others may ask.
    """

    @property
    def shared(self) -> bool:
        """Whether decisions of other processes are found, too."""
        ...

    def add(self, decisions: Sequence[Decision]) -> None:
        """Remember these, which are durable; a later one on the same id counts. Returns at once."""
        ...

    def get(self, transaction_id: str) -> Decision | None:
        """The last decision added here with this id, if it is remembered. Returns at once."""
        ...

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        """Those remembered with these ids, by id; where processes share them, those of the others too. May wait for a
        server, for a short time that the adapter bounds."""
        ...

    def close(self) -> None:
        """Share what was added, as far as that is possible soon."""
        ...


class Recent:
    """Remembers the last ``most`` decisions of this process, give or take a batch; see :class:`RecentDecisions`."""

    shared = False

    def __init__(self, most: int = MOST, together: int = TOGETHER) -> None:
        self._together = together
        self._held: deque[dict[str, Decision]] = deque([{}], most // together)  # the newest last

    def add(self, decisions: Sequence[Decision]) -> None:
        """See ``RecentDecisions``."""
        newest = self._held[-1]
        for decision in decisions:
            newest[decision.transaction.transaction_id] = decision
        if len(newest) >= self._together:
            self._held.append({})

    def get(self, transaction_id: str) -> Decision | None:
        """See ``RecentDecisions``."""
        for held in reversed([*self._held]):  # a copy: another thread may add meanwhile
            if transaction_id in held:
                return held[transaction_id]
        return None

    def find(self, transaction_ids: Sequence[str]) -> dict[str, Decision]:
        """See ``RecentDecisions``."""
        return {name: decision for name in transaction_ids if (decision := self.get(name)) is not None}

    def close(self) -> None:
        """See ``RecentDecisions``."""
