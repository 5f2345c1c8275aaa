"""What long lanes remember between reads, so that a window moves by as much as time moved: amortised O(1).

Anything that disturbs the order (a late event, dropped slots) discards it; the next read builds it anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf, nan
from typing import Any, Protocol

from fraudml.adapters.online.memory.series import LIMIT, members
from fraudml.features.spec import Aggregation

NOTHING = inf  # beyond any value


class Tracker(Protocol):
    """Follows one window over closed slots."""

    def add(self, slot: int, content: Any) -> None:
        """The window's head passed this slot."""
        ...

    def drop(self, slot: int, content: Any) -> None:
        """The window's tail passed this slot."""
        ...

    def value(self, rest: Sequence[Any]) -> float:
        """The aggregation, with the contents of slots not yet passed; NaN when there is no value."""
        ...


class Cursor:
    """One window and one column: the slots ``tail .. folded - 1`` are in the tracker."""

    __slots__ = ("folded", "tail", "tracker")

    def __init__(self, tail: int, tracker: Tracker) -> None:
        self.tail = tail
        self.folded = tail
        self.tracker = tracker

    def advance(self, tail: int, limit: int, contents: Sequence[Any]) -> int:
        """Move the window to ``tail`` and over closed slots up to ``limit``; the first slot not folded."""
        tracker = self.tracker
        for slot in range(self.tail, min(tail, self.folded)):
            tracker.drop(slot, contents[slot])
        for slot in range(max(self.folded, tail), limit):
            tracker.add(slot, contents[slot])
        self.folded = max(self.folded, limit)
        self.tail = min(tail, self.folded)
        return max(tail, self.folded)


class Rolling:
    """The state of a lane's windows as of the newest read at ``time_us``.

    ``tails``: for each window a slot at or before its first; ``cursors``: one for each extreme and window.
    """

    __slots__ = ("cursors", "tails", "time_us")

    def __init__(self, time_us: int, tails: list[int], cursors: list[Cursor]) -> None:
        self.time_us = time_us
        self.tails = tails
        self.cursors = cursors


class Monotone:
    """Sliding minimum: slots whose contents ascend, so the first is the minimum (Lemire 2006).

    >>> low = Monotone(sign=1)
    >>> for slot, value in enumerate([5, 3, 4]):
    ...     low.add(slot, value)
    >>> low.drop(0, 5); low.drop(1, 3); low.value([7])
    4.0
    """

    __slots__ = ("_held", "_sign")

    def __init__(self, *, sign: int) -> None:
        self._sign = sign  # 1 for the minimum, -1 for the maximum
        self._held: deque[tuple[int, Any]] = deque()

    def add(self, slot: int, content: Any) -> None:
        """See :class:`Tracker`."""
        signed = content * self._sign
        held = self._held
        while held and held[-1][1] >= signed:
            held.pop()
        held.append((slot, signed))

    def drop(self, slot: int, content: Any) -> None:
        """See :class:`Tracker`."""
        if self._held and self._held[0][0] == slot:
            self._held.popleft()

    def value(self, rest: Sequence[Any]) -> float:
        """See :class:`Tracker`."""
        best = min((content * self._sign for content in rest), default=NOTHING)
        if self._held and self._held[0][1] < best:
            best = self._held[0][1]
        return nan if best in (LIMIT, inf) else float(best * self._sign)


class Tally:
    """Distinct values: in how many slots each occurs.

    >>> tally = Tally()
    >>> tally.add(0, "a"); tally.add(1, frozenset("ab")); tally.drop(0, "a"); tally.value(["c", None])
    3.0
    """

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: dict[Any, int] = {}

    def add(self, slot: int, content: Any) -> None:
        """See :class:`Tracker`."""
        slots = self._slots
        for member in members(content):
            slots[member] = slots.get(member, 0) + 1

    def drop(self, slot: int, content: Any) -> None:
        """See :class:`Tracker`."""
        slots = self._slots
        for member in members(content):
            left = slots[member] - 1
            if left:
                slots[member] = left
            else:
                del slots[member]

    def value(self, rest: Sequence[Any]) -> float:
        """See :class:`Tracker`."""
        held = self._slots
        unseen = {member for content in rest for member in members(content) if member not in held}
        return float(len(held) + len(unseen)) or nan


def tracker(agg: Aggregation) -> Tracker:
    """An empty tracker for min, max or nunique."""
    if agg is Aggregation.nunique:
        return Tally()
    return Monotone(sign=1 if agg is Aggregation.min else -1)
