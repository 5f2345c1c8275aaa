"""``last`` features of one entity: the newest event before a time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import nan
from typing import Any

from fraudml.adapters.online._plan import LastPlan
from fraudml.adapters.online.memory import lane as lanes
from fraudml.adapters.online.memory.arena import OBJECTS, Layout
from fraudml.adapters.online.memory.lane import Lane
from fraudml.adapters.online.memory.table import Table


class LastTable(Table):
    """A slot for each distinct time, and of the events at that time the one that counts: its tracked values.

    Holds what reads not older than ``seal_us`` can need: the times from there on, and the one before.
    """

    def __init__(self, plan: LastPlan) -> None:
        width = 1 + len(plan.at)
        layout = Layout(("q", *OBJECTS * len(plan.at)), tuple(range(width)))
        super().__init__(layout, plan.entity, plan.blank, plan.horizon_us, has_events=True)
        self.plan = plan

    def read(self, lane: Lane, time_us: int, out: list[float]) -> bool:
        """Append one value per feature for a transaction at this time; whether it is late."""
        columns = lane.arena.columns
        starts, slot = lane.arena.starts, lane.last
        newest = starts[slot]
        if newest >= time_us:
            slot = bisect_left(starts, time_us, lane.first + 1, slot) - 1
            if slot == lane.first:
                out += self.blank
                return newest > time_us
        age = time_us - starts[slot]
        for column, within, codes in self.plan.features:
            if age > within:
                out.append(nan)
            elif column < 0:
                out.append(age / 1_000_000)
            else:
                value = columns[column + 1][slot]
                if value is None:
                    out.append(nan)
                else:
                    out.append(value if codes is None else codes.get(value, 0.0))
        return newest > time_us

    def create(self, time_us: int, row: Sequence[Any]) -> Lane:
        """A lane with one event."""
        lane = lanes.new(self.layout, self.arena, 1)
        self._insert(lane, lane.last + 1, time_us, row)
        return lane

    def put(self, lane: Lane, time_us: int, row: Sequence[Any]) -> None:
        """Add an event; among several at one time the greatest values stay."""
        if lane.last + 1 == lane.limit:
            self.make_room(lane)
        starts, newest = lane.arena.starts, lane.last
        slot = newest + 1
        if starts[newest] >= time_us:
            slot = bisect_left(starts, time_us, lane.first + 1, newest)
            if starts[slot] == time_us:
                held = [lane.arena.columns[column][slot] for column in self.layout.aligned[1:]]
                if _order([row[at] for at in self.plan.at]) > _order(held):
                    self._write(lane, slot, row)
                return
        self.events += 1
        self._insert(lane, slot, time_us, row)

    def trim(self, lane: Lane) -> None:
        """Keep the newest time before ``seal_us`` and all from there on."""
        before = bisect_left(lane.arena.starts, self.seal_us, lane.first + 1, lane.last + 1) - 1
        if before - 1 > lane.first:
            self.events -= before - 1 - lane.first
            lane.first = before - 1

    def _insert(self, lane: Lane, slot: int, time_us: int, row: Sequence[Any]) -> None:
        lanes.insert(lane, self.layout, slot, time_us)
        self._write(lane, slot, row)

    def _write(self, lane: Lane, slot: int, row: Sequence[Any]) -> None:
        for column, at in enumerate(self.plan.at, 1):
            lane.arena.columns[column][slot] = row[at]


def _order(values: Sequence[Any]) -> tuple[tuple[bool, Any], ...]:
    """A missing value is below any other."""
    return tuple((value is not None, 0 if value is None else value) for value in values)
