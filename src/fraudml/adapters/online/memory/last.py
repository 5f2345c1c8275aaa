"""``last`` features of one entity: the newest event before a time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import nan
from typing import Any

import msgspec

from fraudml.adapters.online.memory import series
from fraudml.adapters.online.memory.plan import LastPlan
from fraudml.adapters.online.memory.series import Series, Values, grown, inserted, large, removed, replaced
from fraudml.adapters.online.memory.table import Table

REVIEW = 4  # times at which a lane is first looked at for what can be dropped


class LastLane(msgspec.Struct, gc=False, eq=False):
    """Distinct times, ascending, and of the events at each time the one that counts: its tracked values."""

    starts: Series
    values: Values
    review_at: int = REVIEW


class LastTable(Table[LastLane]):
    """Holds what reads not older than ``seal_us`` can need: the times from there on, and the one before."""

    def __init__(self, plan: LastPlan) -> None:
        super().__init__(plan.entity, plan.blank, plan.horizon_us, has_events=True)
        self.plan = plan

    def read(self, lane: LastLane, time_us: int, out: list[float]) -> None:
        """Append one value per feature for a transaction at this time."""
        starts = lane.starts
        at = len(starts) - 1
        if starts[at] >= time_us:
            at = bisect_left(starts, time_us) - 1
            if at < 0:
                out += self.blank
                return
        age = time_us - starts[at]
        values = lane.values[at]
        for column, within, codes in self.plan.features:
            if age > within:
                out.append(nan)
            elif column < 0:
                out.append(age / 1_000_000)
            else:
                value = values[column]
                if value is None:
                    out.append(nan)
                else:
                    out.append(value if codes is None else codes.get(value, 0.0))

    def create(self, time_us: int, row: Sequence[Any]) -> LastLane:
        """A lane with one event."""
        return LastLane((time_us,), (self._tracked(row),))

    def held(self, lane: LastLane) -> int:
        """The number of events in a lane."""
        return len(lane.starts)

    def put(self, lane: LastLane, time_us: int, row: Sequence[Any]) -> None:
        """Add an event; among several at one time the greatest values stay."""
        values = self._tracked(row)
        starts = lane.starts
        self.events += 1
        if time_us > starts[-1]:
            if isinstance(starts, tuple) and len(starts) >= series.SMALL:
                starts = large(starts)
                lane.values = list(lane.values)
            lane.starts = grown(starts, time_us)
            lane.values = grown(lane.values, values)
            if len(lane.starts) >= lane.review_at:
                self.trim(lane)
            return
        at = bisect_left(starts, time_us)
        if starts[at] != time_us:
            lane.starts = inserted(starts, at, time_us)
            lane.values = inserted(lane.values, at, values)
            return
        self.events -= 1  # one of the two is not held
        if _order(values) > _order(lane.values[at]):
            lane.values = replaced(lane.values, at, values)

    def trim(self, lane: LastLane) -> None:
        """Keep the newest time before ``seal_us`` and all from there on."""
        drop = bisect_left(lane.starts, self.seal_us) - 1
        if drop > 0:
            lane.starts = removed(lane.starts, 0, drop)
            lane.values = removed(lane.values, 0, drop)
            self.events -= drop
        lane.review_at = max(REVIEW, 2 * len(lane.starts))

    def _tracked(self, row: Sequence[Any]) -> tuple[Any, ...]:
        return tuple([row[at] for at in self.plan.at])


def _order(values: Sequence[Any]) -> tuple[tuple[bool, Any], ...]:
    """A missing value is below any other."""
    return tuple((value is not None, 0 if value is None else value) for value in values)
