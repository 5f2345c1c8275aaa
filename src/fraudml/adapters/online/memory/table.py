"""What tables of lanes have in common: look-up by key, room, and the eviction of idle entities."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from fraudml.adapters.online.memory import lane as lanes
from fraudml.adapters.online.memory.arena import Arena, Layout
from fraudml.adapters.online.memory.lane import Lane

NEVER = -(2**63)
BLOCK = 16  # keys looked at in one go
LOOK = 4  # events after which one entity is looked at
PER_ENTITY = 2  # entities looked at for each new one, or idle ones would pile up


class Table:
    """Lanes by entity key.

    ``entity`` is the key's place in ``Transaction.entities``; ``blank`` is what a read writes for an entity that is
    not held; ``horizon_us`` is how far back any feature of the table reaches; ``has_events`` is true when it holds
    transactions, not labels. ``events`` counts what is held.
    """

    def __init__(self, layout: Layout, entity: int, blank: list[float], horizon_us: int, *, has_events: bool) -> None:
        self.layout = layout
        self.entity = entity
        self.has_events = has_events
        self.blank = blank
        self.horizon_us = horizon_us
        self.lanes: dict[str, Lane] = {}
        self.events = 0
        self.keep_from_us = NEVER  # nothing older can be seen by a read that is not too late
        self.seal_us = NEVER  # reads before this time are too late
        self.arena = Arena(layout, wide=False)
        self._wide: Arena | None = None
        # Every key is in a block or among those that wait to fill one. Tuples: the garbage collector lets them be.
        self._blocks: deque[tuple[str, ...]] = deque()
        self._waiting: list[str] = []
        self._owed = 0

    def read(self, lane: Lane, time_us: int, out: list[float]) -> bool:
        """Append the features of a transaction at this time to ``out``; whether a later event is held."""
        raise NotImplementedError

    def put(self, lane: Lane, time_us: int, row: Sequence[Any]) -> None:
        """Add an event to a lane, and count it in ``events``."""
        raise NotImplementedError

    def create(self, time_us: int, row: Sequence[Any]) -> Lane:
        """A lane with one event."""
        raise NotImplementedError

    def held(self, lane: Lane) -> int:
        """The number of events that a lane holds."""
        return lane.last - lane.first

    def trim(self, lane: Lane) -> None:
        """Drop what no read can see any more."""
        raise NotImplementedError

    def add(self, key: str, time_us: int, row: Sequence[Any]) -> None:
        """Add an event to the lane of a key, made when there is none."""
        lane = self.lanes.get(key)
        if lane is None:
            self.insert(key, self.create(time_us, row))
        else:
            self.put(lane, time_us, row)

    def insert(self, key: str, lane: Lane) -> None:
        """Take in a new entity's lane."""
        self.lanes[key] = lane
        self.events += self.held(lane)
        self._owed += PER_ENTITY * LOOK
        self._wait(key)

    def forget(self, lane: Lane) -> None:
        """Give back what a lane takes."""
        lane.arena.give(lane.base, lane.limit - lane.base)

    def make_room(self, lane: Lane) -> None:
        """A stretch is full: drop what can go, move the slots to its front or to a longer or shorter one."""
        self.trim(lane)
        if lane.arena is not self.arena and lanes.rebase(lane, self.layout):
            lanes.move(lane, self.layout, self.arena, lane.limit - lane.base)
        lanes.make_room(lane, self.layout)

    def shrink(self, lane: Lane) -> None:
        """Give back most of a stretch that is mostly unused."""
        lanes.shrink(lane, self.layout)

    def widen(self, lane: Lane) -> None:
        """Make room for larger totals: count from 0 again if that helps, else move to where they may have any size.

        The former may not be enough; the latter is, and is what the next call does. The lane comes back when its
        stretch is full and its totals fit again.
        """
        columns = lane.arena.columns
        if any(columns[column][lane.first] for column in self.layout.totals) and lanes.rebase(lane, self.layout):
            return
        self._wide = self._wide or Arena(self.layout, wide=True)
        lanes.move(lane, self.layout, self._wide, lane.limit - lane.base)

    def seal(self, seal_us: int) -> None:
        """Time has moved on."""
        self.seal_us = seal_us
        self.keep_from_us = seal_us - self.horizon_us

    def sweep(self, events: int) -> None:
        """Look at some entities, as many as befit the number of events since: drop the idle, trim the others.

        Blocks are looked at in turn, so all entities are, and the work per event is constant and small.
        """
        most = LOOK * BLOCK + (1 + PER_ENTITY * LOOK) * events  # what these can add; a bulk load adds more
        self._owed = min(self._owed + events, most)
        while self._owed >= LOOK * BLOCK:
            if self._blocks:
                block = self._blocks.popleft()
            else:
                block = tuple(self._waiting)
                self._waiting.clear()
            self._owed -= LOOK * max(1, len(block))
            self._sweep(block)

    def _sweep(self, block: tuple[str, ...]) -> None:
        keep_from_us, held = self.keep_from_us, self.lanes
        kept = []
        for key in block:
            lane = held[key]
            starts = lane.arena.starts
            if starts[lane.last] < keep_from_us:
                self.events -= self.held(lane)
                self.forget(lane)
                del held[key]
                continue
            if starts[(lane.first + lane.last + 1) // 2] < keep_from_us:  # half can go: worth the work
                self.trim(lane)
            self.shrink(lane)
            kept.append(key)
        if len(kept) == BLOCK:
            self._blocks.append(block)
        else:
            for key in kept:
                self._wait(key)

    def _wait(self, key: str) -> None:
        waiting = self._waiting
        waiting.append(key)
        if len(waiting) == BLOCK:
            self._blocks.append(tuple(waiting))
            waiting.clear()
