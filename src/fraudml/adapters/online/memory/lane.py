"""The events of one entity: slots in order of time, with exact running totals before each.

A slot holds the events of one *tile* of time: of one microsecond in an exact table, of one resolution step in a
coarse one. The events at the newest time always have a slot of their own, whose start is that time itself: a read
at exactly that time must not see them. When time moves on, :func:`close` folds that slot into its tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

import msgspec

from fraudml.adapters.online.memory import series
from fraudml.adapters.online.memory.plan import ExtremePlan
from fraudml.adapters.online.memory.rolling import Rolling
from fraudml.adapters.online.memory.series import (
    Series,
    Values,
    added,
    combine,
    grown,
    inserted,
    large,
    packed,
    removed,
    replaced,
    typecode,
)

SCALE_STEP = 64  # bits; coarse, so that a lane is seldom rescaled


class Moments(msgspec.Struct, gc=False, eq=False):
    """Prefix series of one column.

    Floats are kept as the integers ``value * 2**scale``, so that nothing is ever rounded: ``scale`` grows when a
    value needs more binary places. ``present`` counts the values that are not missing; None while none is missing.
    """

    sums: Series
    squares: Series | None  # None when no feature needs them
    present: Series | None = None
    scale: int = 0

    def scaled(self, value: float) -> int:
        """The value as an integer multiple of ``2**-scale``; rescales the series when that is too coarse."""
        numerator, denominator = value.as_integer_ratio()
        bits = denominator.bit_length() - 1
        if bits > self.scale:
            self.rescale(-(-bits // SCALE_STEP) * SCALE_STEP)
        return numerator << (self.scale - bits)

    def rescale(self, scale: int) -> None:
        """Hold the same values with more binary places."""
        shift = scale - self.scale
        self.sums = _shifted(self.sums, shift)
        if self.squares is not None:
            self.squares = _shifted(self.squares, 2 * shift)
        self.scale = scale

    def grow_up(self) -> None:
        """From tuples to arrays."""
        self.sums = large(self.sums)
        if self.squares is not None:
            self.squares = large(self.squares)
        if self.present is not None:
            self.present = large(self.present)

    def append(self, value: int, present: int) -> None:
        """Add one value in a new last slot."""
        sums, squares = self.sums, self.squares
        self.sums = grown(sums, sums[-1] + value)
        if squares is not None:
            self.squares = grown(squares, squares[-1] + value * value)
        if self.present is not None:
            self.present = grown(self.present, self.present[-1] + present)

    def add(self, slot: int, value: int, present: int, *, new: bool) -> None:
        """Add one value to a slot, or put it into a new slot before it."""
        self.sums = added(self.sums, slot, value, new=new)
        if self.squares is not None:
            self.squares = added(self.squares, slot, value * value, new=new)
        if self.present is not None:
            self.present = added(self.present, slot, present, new=new)

    def pick_edges(self, edges: Sequence[int], *, small: bool) -> None:
        """Keep only the totals at these edges."""
        self.sums = _picked(self.sums, edges, small=small)
        if self.squares is not None:
            self.squares = _picked(self.squares, edges, small=small)
        if self.present is not None:
            self.present = _picked(self.present, edges, small=small)

    def remove_edges(self, first: int, until: int) -> None:
        """Forget the totals at these edges: slots are dropped in front, or merged inside."""
        self.sums = removed(self.sums, first, until)
        if self.squares is not None:
            self.squares = removed(self.squares, first, until)
        if self.present is not None:
            self.present = removed(self.present, first, until)


class Lane(msgspec.Struct, gc=False, eq=False):
    """The slots of one entity.

    ``starts``: ascending times in microseconds. ``counts``: prefix series of events; None while every slot holds
    exactly one. ``moments``: per summed column. ``extremes``: per :class:`ExtremePlan` the slots' own minima,
    maxima, or distinct values. ``review_at``: the number of slots at which to look for what can be dropped.
    """

    starts: Series
    counts: Series | None
    moments: tuple[Moments, ...]
    extremes: tuple[Values, ...]
    review_at: int
    rolling: Rolling | None = None

    def prefixes(self) -> Series:
        """``counts``, written out when it was implied."""
        if self.counts is None:
            edges = range(len(self.starts) + 1)
            self.counts = tuple(edges) if isinstance(self.starts, tuple) else large(edges)
        return self.counts

    def events(self) -> int:
        """The number of events held."""
        return len(self.starts) if self.counts is None else self.counts[-1] - self.counts[0]

    def grow_up(self, plans: Sequence[ExtremePlan]) -> None:
        """From tuples to arrays."""
        self.starts = large(self.starts)
        if self.counts is not None:
            self.counts = large(self.counts)
        for moments in self.moments:
            moments.grow_up()
        self.extremes = tuple(large(values, typecode(plan)) for values, plan in zip(self.extremes, plans, strict=True))

    def note_missing(self, column: int) -> None:
        """From now on count a column's values apart from the events, because one is missing."""
        moments = self.moments[column]
        if moments.present is None:
            counts = self.prefixes()
            moments.present = counts if isinstance(counts, tuple) else counts[:]

    def drop_before(self, time_us: int) -> None:
        """Forget the slots that start before a time; the newest is always kept."""
        count = 0
        while count < len(self.starts) - 1 and self.starts[count] < time_us:
            count += 1
        if count:
            self.starts = removed(self.starts, 0, count)
            if self.counts is not None:
                self.counts = removed(self.counts, 0, count)
            for moments in self.moments:
                moments.remove_edges(0, count)
            self.extremes = tuple(removed(values, 0, count) for values in self.extremes)
            self.rolling = None

    def close(self, resolution_us: int, plans: Sequence[ExtremePlan]) -> None:
        """Fold the newest slot into its tile, as time moves on."""
        newest = len(self.starts) - 1
        tile = self.starts[newest] // resolution_us * resolution_us
        if not newest or self.starts[newest - 1] < tile:
            self.starts = replaced(self.starts, newest, tile)
            return
        self.prefixes()
        self._merge(newest, plans)

    def _merge(self, slot: int, plans: Sequence[ExtremePlan]) -> None:
        """Merge a slot into the one before it."""
        self.starts = removed(self.starts, slot, slot + 1)
        self.counts = removed(self.prefixes(), slot, slot + 1)
        for moments in self.moments:
            moments.remove_edges(slot, slot + 1)
        merged = []
        for values, plan in zip(self.extremes, plans, strict=True):
            value = combine(plan.agg)(values[slot - 1], values[slot])
            merged.append(removed(replaced(values, slot - 1, value), slot, slot + 1))
        self.extremes = tuple(merged)

    def fold(self, starts: Sequence[int], plans: Sequence[ExtremePlan]) -> None:
        """Give the slots new ascending starts and merge those whose starts are then equal."""
        size = len(starts)
        merging = len(set(starts)) < size
        edges: Sequence[int] = range(size + 1)
        if merging:
            edges = [0, *(i + 1 for i in range(size) if i + 1 == size or starts[i] != starts[i + 1])]
        small = len(edges) - 1 <= series.SMALL
        if merging or self.counts is not None:
            self.counts = _picked(self.prefixes(), edges, small=small)
        for moments in self.moments:
            moments.pick_edges(edges, small=small)
        folded = []
        for values, plan in zip(self.extremes, plans, strict=True):
            slots: Sequence[Any] = values
            if merging:
                slots = [reduce(combine(plan.agg), values[a:b]) for a, b in pairwise(edges)]
            folded.append(packed(slots, small=small, typecode=typecode(plan)))
        self.extremes = tuple(folded)
        self.starts = packed([starts[edge - 1] for edge in edges[1:]] if merging else starts, small=small)
        self.rolling = None

    def add_event(
        self, slot: int, values: Sequence[int | None], lifted: Sequence[Any], plans: Sequence[ExtremePlan]
    ) -> None:
        """Add one event to a slot that exists."""
        self.counts = added(self.prefixes(), slot, 1, new=False)
        self._add_values(slot, values, new=False)
        self.extremes = tuple(
            replaced(held, slot, combine(plan.agg)(held[slot], value))
            for held, plan, value in zip(self.extremes, plans, lifted, strict=True)
        )

    def insert_event(self, slot: int, start: int, values: Sequence[int | None], lifted: Sequence[Any]) -> None:
        """Put one event into a new slot before ``slot``."""
        if self.counts is not None:
            self.counts = added(self.counts, slot, 1, new=True)
        self._add_values(slot, values, new=True)
        self.starts = inserted(self.starts, slot, start)
        self.extremes = tuple(inserted(held, slot, value) for held, value in zip(self.extremes, lifted, strict=True))

    def _add_values(self, slot: int, values: Sequence[int | None], *, new: bool) -> None:
        for moments, value in zip(self.moments, values, strict=True):
            moments.add(slot, value or 0, int(value is not None), new=new)


def _shifted(totals: Series, bits: int) -> Series:
    return packed([total << bits for total in totals], small=isinstance(totals, tuple))


def _picked(totals: Series, edges: Sequence[int], *, small: bool) -> Series:
    return packed(totals if len(edges) == len(totals) else [totals[edge] for edge in edges], small=small)
