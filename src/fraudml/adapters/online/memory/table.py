"""What tables of lanes have in common: look-up by key, and the eviction of idle entities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

NEVER = -(2**63)


class AnyLane(Protocol):
    """A lane knows the times it holds, ascending."""

    @property
    def starts(self) -> Sequence[int]:
        """Times in microseconds."""
        ...


LaneT = TypeVar("LaneT", bound=AnyLane)


class Table(Generic[LaneT]):
    """Lanes by entity key.

    ``entity`` is the key's place in ``Transaction.entities``; ``blank`` is what a read writes for an entity that is
    not held; ``horizon_us`` is how far back any feature of the table reaches; ``has_events`` is true when it holds
    transactions, not labels. ``events`` counts what is held.
    """

    def __init__(self, entity: int, blank: list[float], horizon_us: int, *, has_events: bool) -> None:
        self.entity = entity
        self.has_events = has_events
        self.blank = blank
        self.horizon_us = horizon_us
        self.lanes: dict[str, LaneT] = {}
        self.events = 0
        self.keep_from_us = NEVER  # nothing older can be seen by a read that is not too late
        self.seal_us = NEVER  # reads before this time are too late
        self._keys: list[str] = []
        self._hand = 0

    def read(self, lane: LaneT, time_us: int, out: list[float]) -> None:
        """Append the features of a transaction at this time to ``out``."""
        raise NotImplementedError

    def put(self, lane: LaneT, time_us: int, row: Sequence[Any]) -> None:
        """Add an event to a lane, and count it in ``events``."""
        raise NotImplementedError

    def create(self, time_us: int, row: Sequence[Any]) -> LaneT:
        """A lane with one event."""
        raise NotImplementedError

    def held(self, lane: LaneT) -> int:
        """The number of events that a lane holds."""
        raise NotImplementedError

    def trim(self, lane: LaneT) -> None:
        """Drop what no read can see any more."""
        raise NotImplementedError

    def add(self, key: str, time_us: int, row: Sequence[Any]) -> None:
        """Add an event to the lane of a key, made when there is none."""
        lane = self.lanes.get(key)
        if lane is None:
            self.insert(key, self.create(time_us, row))
        else:
            self.put(lane, time_us, row)

    def insert(self, key: str, lane: LaneT) -> None:
        """Take in a new entity's lane."""
        self.lanes[key] = lane
        self._keys.append(key)
        self.events += self.held(lane)

    def advance(self, seal_us: int, steps: int) -> None:
        """Time has moved on: look at the next few entities, drop those that are idle, trim the others.

        The hand goes round all entities like a clock's, so the work per event is constant.
        """
        self.seal_us = seal_us
        self.keep_from_us = seal_us - self.horizon_us
        keys = self._keys
        for _ in range(min(steps, len(keys))):
            if self._hand >= len(keys):
                self._hand = 0
            lane = self.lanes[keys[self._hand]]
            if lane.starts[-1] < self.keep_from_us:
                self.events -= self.held(lane)
                del self.lanes[keys[self._hand]]
                keys[self._hand] = keys[-1]
                keys.pop()
                continue
            if lane.starts[len(lane.starts) // 2] < self.keep_from_us:  # half can go: worth the work
                self.trim(lane)
            self._hand += 1
