"""Window features of one entity, stream and resolution."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

from fraudml.adapters.online._plan import WindowPlan
from fraudml.adapters.online.memory import lane as lanes
from fraudml.adapters.online.memory.extremes import Distinct
from fraudml.adapters.online.memory.lane import Lane
from fraudml.adapters.online.memory.layout import Sums, lay_out
from fraudml.adapters.online.memory.moments import reader
from fraudml.adapters.online.memory.table import NEVER, Table

SCALE_STEP = 64  # bits; coarse, so that a lane is seldom rescaled

OPEN = 12  # slots up to which going through them is faster than summing them up


class WindowTable(Table):
    """Lanes of slots (see :mod:`lane`), and the windows read from them.

    A read is late when its time is before the newest slot. In an exact table it is exact as long as the slots are
    held. In a coarse table of transactions it sees the tile that contains its time as far as it has filled. The
    events at the newest time always have a slot of their own, whose start is that time itself: a read at exactly
    that time must not see them. Label reports may lie in the future of every transaction, so a coarse table of
    labels holds exact slots and only folds into tiles what is too old for any read.
    """

    def __init__(self, plan: WindowPlan) -> None:
        layout, self.counts, self.sums, self.extremes = lay_out(plan)
        super().__init__(layout, plan.entity, plan.blank, plan.horizon_us, has_events=not plan.labels)
        self.plan = plan
        self.tiled = plan.resolution_us > 1 and not plan.labels
        self._step_us = plan.resolution_us
        self._lengths = plan.lengths_us
        self._counted = plan.counted
        self._distinct = [each for each in self.extremes if isinstance(each, Distinct)]
        self._summed = tuple((each.at, each.own_present, each.sums, each.squares, each.real) for each in self.sums)
        self._readers = [(reader(each), each) for each in self.sums]
        self._reals = sum(each.real > 0 for each in self.sums)
        self._open = 0 if self._distinct else OPEN
        # Slots left open because they still fill: one maximum costs a read nothing, all distinct values much.
        self._filling = int(self.tiled and not self._distinct)
        # Fraud is rare: where windows want no more than its number and its share, most entities have none to add up.
        self._rare = self.sums[0].sums if plan.labels and not plan.counted and not self.sums[0].wanted[0] else 0
        self._none = [0.0] * sum(self.sums[0].wanted) if self._rare else []

    def read(self, lane: Lane, time_us: int, out: list[float]) -> bool:
        """Append the table's cells (``WindowPlan.cells``) for a transaction at this time; whether it is late."""
        arena = lane.arena
        starts, columns = arena.starts, arena.columns
        head = lane.last
        newest = starts[head]
        if newest >= time_us:
            head = bisect_left(starts, time_us, lane.first + 1, head) - 1
        # A window's tail is aligned, and its length is a multiple of the step. Lengths ascend, so tails descend.
        aligned = time_us if self._step_us == 1 else time_us // self._step_us * self._step_us
        if self._rare:
            totals = columns[self._rare]
            if totals[head] == totals[lane.first]:
                since = starts[head] if head > lane.first else NEVER
                for length in self._lengths:
                    out += self._none if since >= aligned - length else self.sums[0].blank
                return newest > time_us
        tails = []
        tail = head
        low = lane.first + 1
        for length in self._lengths:
            start = aligned - length
            if tail >= low and starts[tail] >= start:
                tail = bisect_left(starts, start, low, tail) - 1
            tails.append(tail)
        if self.counts:
            counts = columns[self.counts]
            for window in self._counted:
                out.append(counts[head] - counts[tails[window]])
        else:
            for window in self._counted:
                out.append(head - tails[window])
        for read, plan in self._readers:
            read(plan, lane, head, tails, out)
        for extreme in self.extremes:
            extreme.read(lane, head, tails, aligned, out)
        return newest > time_us

    def create(self, time_us: int, row: Sequence[Any]) -> Lane:
        """A lane with one event."""
        lane = self.new_lane(1)
        self._append(lane, time_us, row)
        return lane

    def new_lane(self, slots: int) -> Lane:
        """A lane without slots, with room for so many."""
        lane = lanes.new(self.layout, self.arena, slots)
        if self._reals:
            lane.scales = (0,) * self._reals
        if self._distinct:
            lane.seen = tuple([each.new() for each in self._distinct])
        return lane

    def held(self, lane: Lane) -> int:
        """The number of events in a lane."""
        if not self.counts:
            return lane.last - lane.first
        counts = lane.arena.columns[self.counts]
        return int(counts[lane.last] - counts[lane.first])

    def forget(self, lane: Lane) -> None:
        """Give back what a lane takes."""
        for each in self._distinct:
            each.forget(lane)
        super().forget(lane)

    def put(self, lane: Lane, time_us: int, row: Sequence[Any]) -> None:
        """Add an event; amortised O(1) when it is the newest, else O(slots after it)."""
        self.events += 1
        newest = lane.arena.starts[lane.last]
        if time_us > newest:
            if self.tiled:
                self._close_tile(lane)
            if self.extremes and lane.last - lane.closed > self._open:
                self.close(lane, lane.last - self._filling)
            self._append(lane, time_us, row)
        elif time_us == newest and not self.tiled:
            self._append(lane, time_us, row)
        else:
            self._put_late(lane, time_us, row)

    def close(self, lane: Lane, until: int) -> None:
        """Sum up the slots to this one in extremes; what is put into them from now on is added there too."""
        for slot in range(lane.closed + 1, until + 1):
            start = lane.arena.starts[slot]
            for extreme in self.extremes:
                extreme.close(lane, start, lane.arena.columns[extreme.contents][slot])
            lane.closed = slot

    def close_loaded(self, lane: Lane) -> None:
        """The same for a lane whose slots were written at once."""
        newest = lane.last
        if self.extremes:
            starts = lane.arena.starts
            before = newest if self.tiled else bisect_left(starts, starts[newest], lane.first + 1, newest)
            self.close(lane, before - 1 - self._filling)

    def _close_tile(self, lane: Lane) -> None:
        """Fold the newest slot into its tile, as time moves on."""
        newest = lane.last
        columns, starts = lane.arena.columns, lane.arena.starts
        tile = starts[newest] // self._step_us * self._step_us
        if newest - 1 == lane.first or starts[newest - 1] < tile:
            starts[newest] = tile
            if newest - 1 > lane.first:
                for each in self._distinct:
                    contents = columns[each.contents]
                    contents[newest - 1] = each.freeze(contents[newest - 1])
            return
        for column in self.layout.totals:
            columns[column][newest - 1] = columns[column][newest]
        for extreme in self.extremes:
            contents = columns[extreme.contents]
            contents[newest - 1] = extreme.merge(contents[newest - 1], contents[newest])
            if newest - 1 <= lane.closed:
                extreme.close(lane, tile, contents[newest])
        lane.last = newest - 1

    def _append(self, lane: Lane, time_us: int, row: Sequence[Any]) -> None:
        """Add an event in a new last slot."""
        if lane.last + 1 == lane.limit:
            self.make_room(lane)
        slot = lane.last + 1
        columns = lane.arena.columns
        try:
            for at, present, sums, squares, real in self._summed:
                value = row[at]
                if present:
                    totals = columns[present]
                    totals[slot] = totals[slot - 1] + (value is not None)
                    value = value or 0
                if sums:
                    if real:
                        value = self._scaled(lane, sums, squares, real - 1, value)
                    totals = columns[sums]
                    totals[slot] = totals[slot - 1] + value
                    if squares:
                        totals = columns[squares]
                        totals[slot] = totals[slot - 1] + value * value
        except OverflowError:
            self.trim(lane)
            self.widen(lane)
            self._append(lane, time_us, row)
            return
        if self.counts:
            counts = columns[self.counts]
            counts[slot] = counts[slot - 1] + 1
        for extreme in self.extremes:
            columns[extreme.contents][slot] = extreme.lift(row[extreme.at])
        columns[0][slot] = time_us
        lane.last = slot

    def _put_late(self, lane: Lane, time_us: int, row: Sequence[Any]) -> None:
        """Add an event before the newest, or to its tile."""
        if lane.last + 1 == lane.limit:
            self.make_room(lane)
        starts, newest = lane.arena.starts, lane.last
        start, slot, is_new = time_us, newest, False
        if not self.tiled:
            slot, is_new = bisect_right(starts, start, lane.first + 1, newest + 1), True
        elif time_us < starts[newest]:
            start = time_us // self._step_us * self._step_us
            slot = bisect_left(starts, start, lane.first + 1, newest)
            is_new = slot == newest or starts[slot] != start
        if is_new:
            lanes.insert(lane, self.layout, slot, start)
            if self.extremes and slot - lane.closed > self._open:  # as when it were the newest: see put
                self.close(lane, slot - 1 - self._filling)
        place = slot - lane.first  # the lane may move
        if self.counts:
            lanes.add(lane, self.counts, place, 1)
        for plan in self.sums:
            self._add_value(lane, plan, place, row[plan.at])
        slot = lane.first + place
        for extreme in self.extremes:
            contents = lane.arena.columns[extreme.contents]
            content = extreme.lift(row[extreme.at])
            contents[slot] = content if is_new else extreme.merge(contents[slot], content)
            if slot <= lane.closed:
                extreme.close(lane, start, content)

    def _add_value(self, lane: Lane, plan: Sums, place: int, value: Any) -> None:
        if value is None:
            return
        if plan.own_present:
            lanes.add(lane, plan.own_present, place, 1)
        if plan.sums:
            value = self._scaled(lane, plan.sums, plan.squares, plan.real - 1, value) if plan.real else value
            for column, amount in ((plan.sums, value), (plan.squares, value * value)):
                if column:
                    self._add_total(lane, column, place, amount)

    def _add_total(self, lane: Lane, column: int, place: int, amount: int) -> None:
        try:
            lanes.add(lane, column, place, amount)
        except OverflowError:
            self.widen(lane)
            self._add_total(lane, column, place, amount)

    def _scaled(self, lane: Lane, sums: int, squares: int, place: int, value: float) -> int:
        """The value as an integer multiple of ``2**-scale``; rescales the lane when that is too coarse."""
        numerator, denominator = value.as_integer_ratio()
        bits = denominator.bit_length() - 1
        scale = lane.scales[place]
        if bits > scale:
            finer = -(-bits // SCALE_STEP) * SCALE_STEP
            lanes.rescale(lane, sums, finer - scale)
            if squares:
                lanes.rescale(lane, squares, 2 * (finer - scale))
            scale = finer
            lane.scales = (*lane.scales[:place], scale, *lane.scales[place + 1 :])
        return numerator << (scale - bits)

    def make_room(self, lane: Lane) -> None:
        """See :meth:`Table.make_room`; also hold floats no finer than those that are left need."""
        if max(lane.scales, default=0) > SCALE_STEP:
            self.trim(lane)
            for plan in self.sums:
                if plan.real and lane.scales[plan.real - 1] > SCALE_STEP:
                    self._coarsen(lane, plan)
        super().make_room(lane)

    def _coarsen(self, lane: Lane, plan: Sums) -> None:
        place = plan.real - 1
        scale = lane.scales[place]
        scale -= lanes.coarsen(lane, plan.sums, plan.squares, scale, SCALE_STEP)
        lane.scales = (*lane.scales[:place], scale, *lane.scales[place + 1 :])

    def shrink(self, lane: Lane) -> None:
        """See :meth:`Table.shrink`."""
        super().shrink(lane)
        for each in self._distinct:
            each.shrink(lane)

    def trim(self, lane: Lane) -> None:
        """Drop the slots that no read can see; fold old label reports into tiles."""
        before = self.held(lane)
        lanes.drop_before(lane, self.keep_from_us)
        self.events -= before - self.held(lane)
        if self.counts and not self.tiled:
            lanes.fold(lane, self.layout, self.aligned(lanes.times(lane), self.seal_us))

    def aligned(self, starts: Sequence[int], seal_us: int) -> list[int]:
        """Starts of slots, those before ``seal_us`` moved to the start of their tile."""
        step = self._step_us
        return [start // step * step if start < seal_us else start for start in starts]
