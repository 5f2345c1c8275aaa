"""Window features of one entity, stream and resolution."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import nan, sqrt
from typing import Any

from fraudml.adapters.online.memory import series
from fraudml.adapters.online.memory.lane import Lane, Moments
from fraudml.adapters.online.memory.plan import Kind, MomentPlan, WindowPlan
from fraudml.adapters.online.memory.rolling import Cursor, Rolling, tracker
from fraudml.adapters.online.memory.series import Series, grown, lift
from fraudml.adapters.online.memory.table import Table

REVIEW = 32  # slots at which a lane is first looked at for what can be dropped


class WindowTable(Table[Lane]):
    """Lanes of slots (see :mod:`lane`), and the windows read from them.

    A read is late when its time is before the newest slot. In an exact table it is exact as long as the slots are
    held. In a coarse table of transactions it sees the tile that contains its time as far as it has filled.
    Label reports may lie in the future of every transaction, so a coarse table of labels holds exact slots
    and only folds into tiles what is too old for any read.
    """

    def __init__(self, plan: WindowPlan) -> None:
        super().__init__(plan.entity, plan.blank, plan.horizon_us, has_events=not plan.labels)
        self.plan = plan
        self.resolution_us = plan.resolution_us
        self.tiled = plan.resolution_us > 1 and not plan.labels
        self._lengths = plan.lengths_us
        self._counted = plan.counted
        self._moments = plan.moments
        self._extremes = plan.extremes
        self._exact = plan.resolution_us == 1

    def read(self, lane: Lane, time_us: int, out: list[float]) -> None:
        """Append the table's cells (``WindowPlan.cells``) for a transaction at this time."""
        starts = lane.starts
        head = len(starts)
        if starts[-1] >= time_us:
            head = bisect_left(starts, time_us)
        rolling = lane.rolling
        if rolling is not None and time_us < rolling.time_us:
            rolling = None  # what it remembers is past this time
        if rolling is None or not self._exact:
            tails = self._found(starts, time_us, head)
        else:
            tails = self._advanced(starts, time_us, head, rolling.tails)
        counts = lane.counts
        if counts is None:
            for window in self._counted:
                out.append(head - tails[window])
        else:
            top = counts[head]
            for window in self._counted:
                out.append(top - counts[tails[window]])
        for column, moments in enumerate(lane.moments):
            _read_moments(self._moments[column], moments, counts, head, tails, out)
        if self._extremes:
            self._read_extremes(lane, rolling, head, tails, out)
        if rolling is not None:
            rolling.time_us = time_us
        elif lane.rolling is None and head == len(starts) and not isinstance(starts, tuple):
            self._start_rolling(lane, time_us, tails)

    def _found(self, starts: Series, time_us: int, head: int) -> Sequence[int]:
        """For each window the first slot in it, by bisection."""
        if self._exact:
            return [bisect_left(starts, time_us - length, 0, head) for length in self._lengths]
        step = self.resolution_us
        return [bisect_left(starts, (time_us - length) // step * step, 0, head) for length in self._lengths]

    def _advanced(self, starts: Series, time_us: int, head: int, tails: list[int]) -> Sequence[int]:
        """The same from where the windows were at the read before."""
        for window, length in enumerate(self._lengths):
            tail = tails[window]
            start = time_us - length
            if tail < head and starts[tail] < start:
                tail += 1
                while tail < head and starts[tail] < start:
                    tail += 1
                tails[window] = tail
        return tails

    def _start_rolling(self, lane: Lane, time_us: int, tails: Sequence[int]) -> None:
        """Remember the windows of a long lane between reads from now on."""
        cursors = [Cursor(tails[window], tracker(plan.agg)) for plan in self._extremes for window in plan.windows]
        lane.rolling = Rolling(time_us, list(tails), cursors)

    def _read_extremes(
        self, lane: Lane, rolling: Rolling | None, head: int, tails: Sequence[int], out: list[float]
    ) -> None:
        if rolling is None:
            for plan, contents in zip(self._extremes, lane.extremes, strict=True):
                for window in plan.windows:
                    out.append(tracker(plan.agg).value(contents[tails[window] : head]))
            return
        closed = min(max(len(lane.starts) - 2, 0), head)
        cursors = iter(rolling.cursors)
        for plan, contents in zip(self._extremes, lane.extremes, strict=True):
            for window in plan.windows:
                cursor = next(cursors)
                first = cursor.advance(tails[window], closed, contents)
                out.append(cursor.tracker.value(contents[first:head]))

    def create(self, time_us: int, row: Sequence[Any]) -> Lane:
        """A lane with one event."""
        moments = tuple(Moments((0,), (0,) if plan.std else None) for plan in self._moments)
        lane = Lane((), None, moments, ((),) * len(self._extremes), REVIEW)
        self._append(lane, time_us, row)
        return lane

    def held(self, lane: Lane) -> int:
        """The number of events in a lane."""
        return lane.events()

    def put(self, lane: Lane, time_us: int, row: Sequence[Any]) -> None:
        """Add an event; amortised O(1) when it is the newest, else O(slots after it)."""
        self.events += 1
        if time_us <= lane.starts[-1]:
            self._put_late(lane, time_us, row)
            return
        if self.tiled:
            lane.close(self.resolution_us, self._extremes)
        self._append(lane, time_us, row)
        if len(lane.starts) >= lane.review_at:
            self.trim(lane)

    def _append(self, lane: Lane, time_us: int, row: Sequence[Any]) -> None:
        if isinstance(lane.starts, tuple) and len(lane.starts) >= series.SMALL:
            lane.grow_up(self._extremes)
        for column, moments in enumerate(lane.moments):
            plan = self._moments[column]
            value = row[plan.at]
            if value is None:
                lane.note_missing(column)
                moments.append(0, 0)
            elif plan.kind is Kind.integer:
                moments.append(value, 1)
            else:
                moments.append(moments.scaled(value) if plan.kind is Kind.real else 0, 1)
        if self._extremes:
            lane.extremes = tuple(
                grown(held, lift(plan, row[plan.at])) for plan, held in zip(self._extremes, lane.extremes, strict=True)
            )
        if lane.counts is not None:
            lane.counts = grown(lane.counts, lane.counts[-1] + 1)
        lane.starts = grown(lane.starts, time_us)

    def _put_late(self, lane: Lane, time_us: int, row: Sequence[Any]) -> None:
        """Add an event at the newest time or before it."""
        values: list[int | None] = []
        for column, (plan, moments) in enumerate(zip(self._moments, lane.moments, strict=True)):
            value = row[plan.at]
            if value is None:
                lane.note_missing(column)
            elif plan.kind is not Kind.integer:
                value = moments.scaled(value) if plan.kind is Kind.real else 0
            values.append(value)
        lifted = [lift(plan, row[plan.at]) for plan in self._extremes]
        newest = len(lane.starts) - 1
        if time_us == lane.starts[newest]:
            lane.add_event(newest, values, lifted, self._extremes)
            return
        start = time_us // self.resolution_us * self.resolution_us if self.tiled else time_us
        slot = bisect_left(lane.starts, start, 0, newest)
        if slot < newest and lane.starts[slot] == start:
            lane.add_event(slot, values, lifted, self._extremes)
        else:
            lane.insert_event(slot, start, values, lifted)
        lane.rolling = None

    def trim(self, lane: Lane) -> None:
        """Drop the slots that no read can see; fold old label reports into tiles."""
        before = lane.events()
        lane.drop_before(self.keep_from_us)
        self.events -= before - lane.events()
        if self.plan.labels and not self._exact:
            lane.fold(self.aligned(lane.starts, self.seal_us), self._extremes)
        lane.review_at = max(REVIEW, 2 * len(lane.starts))

    def aligned(self, starts: Sequence[int], seal_us: int) -> Sequence[int]:
        """Starts of slots, those before ``seal_us`` moved to the start of their tile."""
        step = self.resolution_us
        if step == 1:
            return starts
        return [start // step * step if start < seal_us else start for start in starts]


def _read_moments(
    plan: MomentPlan, moments: Moments, counts: Series | None, head: int, tails: Sequence[int], out: list[float]
) -> None:
    """Append count, sum and, when wanted, mean and std of each of the column's windows.

    Numerators and denominators are exact integers, so each value is rounded once (std: once more by the root).
    """
    present = counts if moments.present is None else moments.present
    sums, squares = moments.sums, moments.squares
    unit = 1 << moments.scale
    for window in plan.windows:
        tail = tails[window]
        count = head - tail if present is None else present[head] - present[tail]
        value = sums[head] - sums[tail]
        out.append(count)
        out.append(value if unit == 1 else value / unit)
        if plan.mean:
            out.append(value / (count * unit) if count else nan)
        if squares is not None:
            if count > 1:
                scatter = count * (squares[head] - squares[tail]) - value * value
                out.append(sqrt(scatter / (count * (count - 1) * unit * unit)))
            else:
                out.append(nan)
