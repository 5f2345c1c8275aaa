"""min, max and nunique over windows: what closed slots come to, shared by all windows of a lane.

Closed slots are summed up; the few after them are looked at one by one. An event that is put into a closed slot, as
late ones are, is summed up at the slot's time. A late read goes through its window.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from math import inf, nan
from typing import Any

from fraudml.adapters.online._plan import ExtremePlan, Kind
from fraudml.adapters.online.memory import lane as lanes
from fraudml.adapters.online.memory.arena import OBJECTS, Arena, Layout, Ranked
from fraudml.adapters.online.memory.lane import Lane, Seen
from fraudml.features.spec import Aggregation

LIMIT = 2**63 - 1
NEVER = -(2**63)
MANY = 16  # distinct values of a slot from which adding one must not copy them


class Peaks:
    """Sliding maximum (for the minimum, of negated values): closed slots whose contents descend.

    A slot that a later one equals or exceeds will never be the maximum of a window that ends after both, so it is
    left out (Lemire 2006): a window's maximum is the first kept slot in it, found by bisection.
    """

    def __init__(self, plan: ExtremePlan, lengths_us: Sequence[int], contents: int, ranked: Ranked) -> None:
        self.at = plan.at
        self._windows = [(window, lengths_us[window]) for window in plan.windows]
        self.contents = contents  # the column of the slots' own maxima
        self.ranked = ranked
        self._sign = 1 if plan.agg is Aggregation.max else -1
        self._missing = -inf if plan.kind is Kind.real else -LIMIT  # below any value

    def lift(self, value: Any) -> Any:
        """A value as the content of a slot."""
        return self._missing if value is None else value * self._sign

    def merge(self, first: Any, second: Any) -> Any:
        """The content of two slots that become one."""
        return max(first, second)

    def freeze(self, content: Any) -> Any:
        """The content of a slot to which little will be added."""
        return content

    def close(self, lane: Lane, time_us: int, content: Any) -> None:
        """Take in a slot that is closed, or more events of one that was; amortised O(1) in order of time."""
        arena, base = lane.arena, lane.base
        times, values = arena.columns[self.ranked.times], arena.columns[self.ranked.values]
        newest = times[base]
        at = newest + 1
        if newest > base and times[newest] >= time_us:
            at = bisect_left(times, time_us, base + 1, newest)
            if values[at] >= content:
                return
        first = at
        while first > base + 1 and values[first - 1] <= content:
            first -= 1
        until = at + 1 if at <= newest and times[at] == time_us else at
        if until > newest:  # in order of time: nothing to move
            times[first], values[first], times[base] = time_us, content, first
            return
        for cells, cell in ((times, time_us), (values, content)):
            cells[first + 1 : first + 2 + newest - until] = cells[until : newest + 1]
            cells[first] = cell
        times[base] = newest + 1 + first - until

    def read(self, lane: Lane, head: int, tails: Sequence[int], aligned_us: int, out: list[float]) -> None:
        """Append the extreme of each window.

        ``head`` is the last slot in the windows, ``tails`` the slots before their first, ``aligned_us`` the time
        from which a window's length leads back to its earliest time.
        """
        columns, base = lane.arena.columns, lane.base
        contents, missing = columns[self.contents], self._missing
        closed = lane.closed if lane.closed <= head else lane.first  # a late read cannot use what is closed
        best, seen = missing, head  # of the slots after `seen`
        for window, length in self._windows:
            tail = tails[window]
            until = tail if tail > closed else closed
            if until < seen:
                newest = contents[seen] if until == seen - 1 else max(contents[until + 1 : seen + 1])
                best = newest if newest > best else best
                seen = until
            value = best
            if tail < closed:
                times = columns[self.ranked.times]
                at = bisect_left(times, aligned_us - length, base + 1, times[base] + 1)
                older = columns[self.ranked.values][at]
                value = older if older > best else best
            out.append(nan if value == missing else value * self._sign)


class Distinct:
    """Distinct values: as many occur in a window as were last seen, in a closed slot, in it (see :class:`Seen`).

    A tile can hold more values than there are slots, so these times have an arena of their own.
    """

    def __init__(self, plan: ExtremePlan, lengths_us: Sequence[int], contents: int, place: int) -> None:
        self.at = plan.at
        self._windows = [(window, lengths_us[window]) for window in plan.windows]
        self.contents = contents  # the column of the slots' values
        self._place = place  # in Lane.seen
        self._layout = Layout(("q",), (0,))
        self._arena = Arena(self._layout, wide=False)

    def new(self) -> Seen:
        """What a lane without slots has seen."""
        return Seen(lanes.new(self._layout, self._arena, 1), {})

    def forget(self, lane: Lane) -> None:
        """The lane is dropped."""
        times = lane.seen[self._place].times
        self._arena.give(times.base, times.limit - times.base)

    def lift(self, value: Any) -> Any:
        """A value as the content of a slot."""
        return value

    def merge(self, first: Any, second: Any) -> Any:
        """The content of two slots that become one: None, a value, a tuple of several, or a dict of many.

        A dict is added to in place: the slot of a hot hour is merged with one event after another. Its values are
        None, so the garbage collector lets it be.
        """
        if type(first) is dict:
            for member in members(second):
                first[member] = None
            return first
        found = dict.fromkeys((*members(first), *members(second)))
        if len(found) > MANY:
            return found
        return tuple(found) if len(found) > 1 else next(iter(found), None)

    def freeze(self, content: Any) -> Any:
        """The content of a slot to which little will be added: less memory."""
        return tuple(content) if type(content) is dict else content

    def close(self, lane: Lane, time_us: int, content: Any) -> None:
        """Take in a slot that is closed, or more events of one that was."""
        seen = lane.seen[self._place]
        times, starts = seen.times, self._arena.starts
        for member in members(content):
            if times.last + 1 == times.limit:
                self._make_room(seen, lane.arena.starts[lane.first + 1])
            before = seen.values.get(member)
            if before is not None:
                if before >= time_us:
                    continue
                lanes.delete(times, bisect_left(starts, before, times.first + 1, times.last))
            seen.values[member] = time_us
            lanes.insert(times, self._layout, bisect_right(starts, time_us, times.first + 1, times.last + 1), time_us)

    def _make_room(self, seen: Seen, oldest_us: int) -> None:
        lanes.drop_before(seen.times, oldest_us)
        oldest_us = self._arena.starts[seen.times.first + 1]
        seen.values = {value: at for value, at in seen.values.items() if at >= oldest_us}
        lanes.make_room(seen.times, self._layout)

    def shrink(self, lane: Lane) -> None:
        """Give back what values took that are no longer held, when they are the most part."""
        seen, oldest_us = lane.seen[self._place], lane.arena.starts[lane.first + 1]
        times = seen.times
        gone = bisect_left(self._arena.starts, oldest_us, times.first + 1, times.last + 1) - 1 - times.base
        if 4 * (times.last + 1 - times.base - gone) < times.limit - times.base:
            self._make_room(seen, oldest_us)

    def read(self, lane: Lane, head: int, tails: Sequence[int], aligned_us: int, out: list[float]) -> None:
        """Append the number of distinct values in each window; see :meth:`Peaks.read`."""
        closed, seen = lane.closed, lane.seen[self._place]
        contents, starts, values = lane.arena.columns[self.contents], self._arena.starts, seen.values
        first, end = seen.times.first + 1, seen.times.last + 1
        for window, length in self._windows:
            tail, bound = tails[window], aligned_us - length
            if head < closed:
                number = len({each for slot in contents[tail + 1 : head + 1] for each in members(slot)})
            else:
                number = end - bisect_left(starts, bound, first, end)
                fresh = contents[max(tail, closed) + 1 : head + 1]
                number += len({each for slot in fresh for each in members(slot) if values.get(each, NEVER) < bound})
            out.append(number or nan)


Extreme = Peaks | Distinct


def typecode(plan: ExtremePlan) -> str:
    """The kind of column that holds the slots' contents."""
    if plan.agg is Aggregation.nunique:
        return OBJECTS
    return "d" if plan.kind is Kind.real else "q"


def members(content: Any) -> Collection[Any]:
    """The distinct values in a slot of :class:`Distinct`."""
    if content is None:
        return ()
    return content if type(content) in (tuple, dict) else (content,)
