"""The slots of one entity, in order of time: a stretch of an arena's columns.

A slot holds the events of one *tile* of time: one event in an exact table, the events of one resolution step in a
coarse one. A column of totals holds, at each slot, the exact total up to and with it; the cell *before* the first
slot is the total before. Any run of slots has then the total ``totals[head] - totals[tail]``, with ``head`` its last
slot and ``tail`` the slot before its first, and dropping slots in front is moving ``first``.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from functools import reduce
from operator import or_
from typing import Any

import msgspec
import numpy as np

from fraudml.adapters.online.memory.arena import OBJECTS, Arena, Layout, stretch

SPARE = 4  # cells; moving slots to free fewer is not worth it
MANY = 64  # cells from which NumPy adds faster, its own cost included
LEAST_CELL, MOST_CELL = -(2**63), 2**63 - 1
HALF = 2**62  # of what a total of 64 bits can be: those below will not soon be too large again


class Lane(msgspec.Struct, gc=False, eq=False):
    """A stretch and the slots in it; places are indices of the arena's columns.

    ``base`` to ``limit - 1`` is the stretch. ``first`` is the cell before the first slot, ``last`` the newest slot.
    Slots up to ``closed`` are summed up in extremes. ``scales``: for each column of floats, see :func:`rescale`.
    ``seen``: for each nunique what :class:`Seen` says.
    """

    arena: Arena
    base: int
    limit: int
    first: int
    last: int
    closed: int
    scales: tuple[int, ...] = ()
    seen: tuple[Seen, ...] = ()


class Seen(msgspec.Struct, gc=False, eq=False):
    """Distinct values of one entity: ``times`` at which they were last seen, ascending, and each value's own."""

    times: Lane
    values: dict[Any, int]


def new(layout: Layout, arena: Arena, slots: int) -> Lane:
    """A lane without slots, with room for so many."""
    cells = stretch(slots + 1)
    base = arena.take(cells)
    columns = arena.columns
    for column in layout.totals:
        columns[column][base] = 0
    for ranked in layout.ranked:
        columns[ranked.times][base] = base
    return Lane(arena, base, base + cells, base, base, base)


def make_room(lane: Lane, layout: Layout) -> None:
    """Move the slots to the front of the stretch when that frees a good part of it, else to one twice as long.

    Of a stretch that is mostly unused, go to a shorter one.
    """
    if shrink(lane, layout):
        return
    used = lane.last - lane.first + 1
    cells = lane.limit - lane.base
    move(lane, layout, lane.arena, cells if cells - used >= max(cells // 4, SPARE) else 2 * cells)


def shrink(lane: Lane, layout: Layout) -> bool:
    """Go to a stretch half of which is used, if not even a quarter of this one is; whether it was so.

    So many slots came or went since the stretch was taken that the move costs each of them O(1).
    """
    used = lane.last - lane.first + 1
    if 4 * used >= lane.limit - lane.base:
        return False
    move(lane, layout, lane.arena, stretch(2 * used))
    return True


def move(lane: Lane, layout: Layout, arena: Arena, cells: int) -> None:
    """Move the slots to the front of a stretch of this length; of the same one when it is as long."""
    old, base, first, last = lane.arena, lane.base, lane.first, lane.last
    stays = arena is old and cells == lane.limit - base
    to = base if stays else arena.take(cells)
    shift = to - first
    for column in layout.aligned:
        held = old.columns[column][first : last + 1]
        if arena is old:
            arena.columns[column][to : last + 1 + shift] = held
        else:  # a column of objects here may be one of integers there
            arena.put(column, to, held.tolist())
    oldest = arena.starts[to + 1]
    reopened = False
    for ranked in layout.ranked:
        times = old.columns[ranked.times]
        end = times[base] + 1
        kept = bisect_left(times, oldest, base + 1, end)
        # A very late event may be older than slots dropped before it came: what they left is not to pile up.
        reopened = reopened or end - kept > lane.closed - first
        kept = end if reopened else kept
        for column in ranked:
            arena.columns[column][to + 1 : to + 1 + end - kept] = old.columns[column][kept:end]
        arena.columns[ranked.times][to] = to + end - kept
    if not stays:
        old.give(base, lane.limit - base)
    lane.arena, lane.base, lane.limit = arena, to, to + cells
    lane.first, lane.last, lane.closed = to, last + shift, max(lane.closed + shift, to)
    if reopened:
        _reopen(lane, layout)


def _reopen(lane: Lane, layout: Layout) -> None:
    """Forget what closed slots come to; it is found again when the next event comes."""
    lane.closed = lane.first
    for ranked in layout.ranked:
        lane.arena.columns[ranked.times][lane.base] = lane.base
    for seen in lane.seen:
        seen.values = {}
        seen.times.first = seen.times.last = seen.times.base


def drop_before(lane: Lane, time_us: int) -> None:
    """Forget the slots that start before a time; the newest is always kept."""
    starts, first, last = lane.arena.starts, lane.first, lane.last
    if starts[first + 1] < time_us:
        lane.first = bisect_left(starts, time_us, first + 1, last) - 1
        lane.closed = max(lane.closed, lane.first)


def insert(lane: Lane, layout: Layout, slot: int, start: int) -> None:
    """Put an empty slot before the one at ``slot``; there is room. Cells other than totals are arbitrary."""
    last = lane.last
    for column in layout.aligned:
        cells = lane.arena.columns[column]
        cells[slot + 1 : last + 2] = cells[slot : last + 1]
        if column in layout.totals:
            cells[slot] = cells[slot - 1]
    lane.arena.starts[slot] = start
    lane.last = last + 1
    if slot <= lane.closed:
        lane.closed += 1


def delete(lane: Lane, slot: int) -> None:
    """Take out a slot of a lane that has nothing but times."""
    starts, last = lane.arena.starts, lane.last
    starts[slot:last] = starts[slot + 1 : last + 1]
    lane.last = last - 1


def add(lane: Lane, column: int, place: int, value: int) -> None:
    """Add a value to the total of the slot ``first + place`` and to all after it.

    Raises OverflowError, and changes nothing, when one does not fit.
    """
    arena, slot, end = lane.arena, lane.first + place, lane.last + 1
    cells = arena.columns[column]
    if end - slot > MANY and isinstance(cells, array):
        totals = np.frombuffer(cells, np.int64)[slot:end]
        if not LEAST_CELL <= int(totals.min()) + value <= int(totals.max()) + value <= MOST_CELL:
            raise OverflowError
        totals += value
    else:
        arena.put(column, slot, [total + value for total in cells[slot:end].tolist()])


def rescale(lane: Lane, column: int, bits: int) -> None:
    """Hold the totals with so many more binary places."""
    cells = lane.arena.columns[column]
    for slot in range(lane.first, lane.last + 1):
        cells[slot] <<= bits


def coarsen(lane: Lane, sums: int, squares: int, most: int, step: int) -> int:
    """Hold totals (and, unless 0, those of squares) with as few binary places as are exact.

    Returns how many there are less: a multiple of ``step``, at most ``most``; for squares twice as many.
    """
    found = []
    bits = most
    for column, power in ((sums, 1), (squares, 2)):
        if column:
            totals = lane.arena.columns[column][lane.first : lane.last + 1].tolist()
            totals = [total - totals[0] for total in totals]
            found.append((column, power, totals))
            digits = reduce(or_, totals)  # ends in as many zeros as each of them at least does
            if digits:
                bits = min(bits, ((digits & -digits).bit_length() - 1) // power)
    bits -= bits % step
    if bits:
        for column, power, totals in found:
            lane.arena.put(column, lane.first, [total >> power * bits for total in totals])
    return bits


def rebase(lane: Lane, layout: Layout) -> bool:
    """Let all totals begin at 0 if those of 64 bits then take half their range at most; whether that is so."""
    arena, first = lane.arena, lane.first
    rebased = []
    for column in layout.totals:
        totals = arena.columns[column][first : lane.last + 1].tolist()
        totals = [total - totals[0] for total in totals]
        if layout.codes[column] != OBJECTS and (min(totals) < -HALF or max(totals) > HALF):
            return False
        rebased.append(totals)
    for column, totals in zip(layout.totals, rebased, strict=True):
        arena.put(column, first, totals)
    return True


def times(lane: Lane) -> list[int]:
    """The slots' start times."""
    return lane.arena.starts[lane.first + 1 : lane.last + 1].tolist()


def fold(lane: Lane, layout: Layout, starts: list[int]) -> None:
    """Give the slots new ascending starts and merge those then equal; for tables that hold nothing but totals."""
    arena, first = lane.arena, lane.first
    ends = [i for i, start in enumerate(starts, 1) if i == len(starts) or starts[i] != start]
    if len(ends) < len(starts):
        for column in layout.totals:
            totals = arena.columns[column]
            arena.put(column, first + 1, [totals[first + end] for end in ends])
        starts = [starts[end - 1] for end in ends]
    arena.put(0, first + 1, starts)
    lane.last = first + len(starts)
