"""The windows of many transactions over the lanes that they see, all at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraudml.adapters.online._plan import ExtremePlan, Kind, MomentPlan
from fraudml.adapters.online.redis.lanes import FOREVER_US, Field, Lane
from fraudml.adapters.online.redis.moments import Integers, Limbs, Moment, Presence, Reals
from fraudml.adapters.online.redis.sight import Sight, distinct, previous, reduce, running
from fraudml.adapters.online.redis.tiles import PAIR, as_tiles, column, distinct_values, nothing
from fraudml.features.spec import Aggregation

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Values = NDArray[Any]


class Records:
    """Lanes in which nothing is folded: each record is an event. Sorted like ``sight``."""

    def __init__(self, lane: Lane, sight: Sight, records: Values, number: int) -> None:
        self._lane, self.sight, self._records, self._number = lane, sight, sight.sort(records), number

    def counted(self, first: Ints, until: Ints) -> Ints:
        """The number of events in each slice."""
        return until - first

    def moment(self, plan: MomentPlan) -> Moment:
        """A column to be summed."""
        values, present = column(self._lane, self._records, plan.at)
        if values is None:
            return Presence(present)
        if plan.kind is Kind.real:
            return Reals(present.astype(np.int64), np.where(present, values, 0.0), None)
        if not plan.missing:
            return Integers(values, None)
        return Integers(np.where(present, values, 0), present)

    def extreme(self, plan: ExtremePlan, name: str) -> Values:
        """A column whose least or greatest value is wanted, with something for a missing one."""
        values, present = column(self._lane, self._records, plan.at)
        if values is None:
            raise TypeError("a category has no least value")
        return np.where(present, values, nothing(name, values.dtype))

    def distinct(self, field: Field) -> tuple[Sight, Values]:
        """The values of a field, and the order in which they came."""
        values, present = distinct_values(self._records, field.name)
        if present.all():
            return self.sight, values
        held = np.flatnonzero(present)
        return Sight(self.sight.lanes[held], self.sight.times[held], self._number), values[held]


class Tiles:
    """Tiled lanes: tiles and, made tiles, the records that are not folded yet. ``pairs``: for each field of
    ``lane.distinct`` the lanes and pairs of folded values."""

    def __init__(
        self,
        lane: Lane,
        tiles: tuple[Ints, Values],
        records: tuple[Ints, Values],
        pairs: Sequence[tuple[Ints, Values]],
        number: int,
    ) -> None:
        both = np.concatenate([tiles[1], as_tiles(lane, records[1])])
        self.sight = Sight(np.concatenate([tiles[0], records[0]]), both["start"], number)
        self._tiles = self.sight.sort(both)
        self._records, self._pairs, self._fields, self._number = records, pairs, lane.distinct, number
        self._counts = running(self._tiles["count"])

    def counted(self, first: Ints, until: Ints) -> Ints:
        """The number of events in each slice."""
        return self._counts[until] - self._counts[first]

    def moment(self, plan: MomentPlan) -> Moment:
        """A column to be summed."""
        at, names = plan.at, self._tiles.dtype.names or ()
        present = self._tiles[f"n{at}" if f"n{at}" in names else "count"]
        if f"sum{at}" in names:
            scatter = self._tiles[f"m2_{at}"] if f"m2_{at}" in names else None
            return Reals(present, self._tiles[f"sum{at}"], scatter)
        sums = [self._tiles[f"s{i}_{at}"] for i in range(2) if f"s{i}_{at}" in names]
        squares = [self._tiles[f"q{i}_{at}"] for i in range(3) if f"q{i}_{at}" in names]
        return Limbs(present, sums, squares) if sums else Presence(present)

    def extreme(self, plan: ExtremePlan, name: str) -> Values:
        """A column whose least or greatest value is wanted, with something for a missing one."""
        return self._tiles[f"{name}{plan.at}"]

    def distinct(self, field: Field) -> tuple[Sight, Values]:
        """The values of a field, and the order in which they came."""
        lanes, pairs = self._pairs[self._fields.index(field)]
        values, present = distinct_values(self._records[1], field.name)
        sight = Sight(
            np.concatenate([lanes, self._records[0][present]]),
            np.concatenate([pairs["start"], self._records[1]["time"][present]]),
            self._number,
        )
        return sight, sight.sort(np.concatenate([pairs["value"], values[present]]))


def read(lane: Lane, source: Records | Tiles, lanes: Ints, times: Ints, out: Floats) -> None:
    """Write the cells of ``lane.windows`` (``WindowPlan.cells``) for transactions: float64 ``[n, cells]``.

    All windows of a column are one call of NumPy: for a single transaction the calls are what takes time.
    """
    plan = lane.windows
    if plan is None:
        return
    aligned = times if lane.step_us == 1 else times // lane.step_us * lane.step_us
    starts = aligned - _lengths(plan.lengths_us)
    until = source.sight.find(lanes, times)
    first = np.minimum(source.sight.find(lanes, starts), until)
    cell = 0

    def put(windows: Sequence[int], found: Sequence[Values]) -> None:
        """Values of each window, one after the other, for each of some aggregations."""
        nonlocal cell
        width = len(windows) * len(found)
        for number, values in enumerate(found):
            out[:, cell + number : cell + width : len(found)] = values.reshape(len(windows), -1).T
        cell += width

    def slices(windows: Sequence[int]) -> tuple[Ints, Ints]:
        chosen = first if len(windows) == len(first) else first[list(windows)]
        return chosen.reshape(-1), until[None].repeat(len(windows), axis=0).reshape(-1)

    if plan.counted:
        put(plan.counted, [source.counted(*slices(plan.counted))])
    for moment in plan.moments:
        answers = source.moment(moment).read(*slices(moment.windows), moment.wanted)
        put(moment.windows, [answers[agg] for agg in moment.wanted])
    for extreme in plan.extremes:
        if extreme.agg is Aggregation.nunique:
            field = next(each for each in lane.distinct if each.at == extreme.at)
            put(extreme.windows, [_distinct(source, field, lanes, starts[list(extreme.windows)], times)])
            continue
        name, function = ("lo", np.minimum) if extreme.agg is Aggregation.min else ("hi", np.maximum)
        values = source.extreme(extreme, name)
        empty = nothing(name, values.dtype)
        found = reduce(function, values, *slices(extreme.windows), empty)
        put(extreme.windows, [np.where(found == empty, np.nan, found)])


@lru_cache(maxsize=256)
def _lengths(lengths_us: tuple[int, ...]) -> Ints:
    """Lengths of windows as a column."""
    column = np.array([[min(length, FOREVER_US)] for length in lengths_us], dtype=np.int64)
    column.setflags(write=False)
    return column


def _distinct(source: Records | Tiles, field: Field, lanes: Ints, starts: Ints, times: Ints) -> Floats:
    sight, values = source.distinct(field)
    until = sight.find(lanes, times)
    first = np.minimum(sight.find(lanes, starts), until)
    counts = distinct(
        previous(sight.lanes, values), first.reshape(-1), until[None].repeat(len(starts), axis=0).reshape(-1)
    )
    return np.where(counts > 0, counts, np.nan)


def pairs_of(parts: Sequence[bytes]) -> tuple[Ints, Values]:
    """Pairs of several lanes and whose they are."""
    lengths = np.fromiter(map(len, parts), np.int64, len(parts)) // PAIR.itemsize
    return np.repeat(np.arange(len(parts)), lengths), np.frombuffer(b"".join(parts), PAIR)
