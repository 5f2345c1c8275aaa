"""Exact counts, sums, means, standard deviations and extremes over windows, in NumPy.

The fast path of the DuckDB store for integer columns: with events sorted by (entity, time), a window is a range of
positions found by binary search, and its sum the difference of two prefix sums. Integer arithmetic modulo 2^64 makes
that difference exact whenever the window's own sum fits, even where the prefix wrapped around.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fraudml.adapters.offline._extremes import Extremes
from fraudml.features.moments import std_of_integers

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BLOCK_ROWS = 1 << 18  # small enough that a block's intermediate arrays stay in the processor's cache
KEY_LIMIT = 1 << 62


@dataclass
class Column:
    """The non-missing values of an integer column as prefix sums ``[n + 1]`` over a stream's order.

    ``count`` is None when no value is missing; ``total`` and ``squares`` when nothing asks for them. ``extremes`` are
    those asked for, by function (min, max).
    """

    count: Ints | None
    total: Ints | None
    squares: Ints | None
    extremes: dict[str, Extremes] = field(default_factory=dict)


@dataclass
class Stream:
    """Events of one entity, sorted by (code, time): codes int64 ``[n]`` from 0, times int64 ``[n]`` in microseconds.

    ``columns`` are prefix sums by column name.
    """

    codes: Ints
    times: Ints
    columns: dict[str, Column] = field(default_factory=dict)


def sort_stream(codes: Ints, times: Ints) -> Ints:
    """The order that sorts by (code, time): positions int64 ``[n]``."""
    by_time = np.argsort(times, kind="stable") if np.any(times[1:] < times[:-1]) else np.arange(len(times))
    return by_time[np.argsort(codes[by_time], kind="stable")]


def prefix(values: Ints) -> Ints:
    """Sums of the first 0, 1, ... n values, modulo 2^64."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def make_column(values: Ints | None, missing: NDArray[np.bool_], *, squares: bool = False) -> Column:
    """Prefix sums of a column; ``values`` int64 ``[n]`` in the stream's order, 0 where ``missing``."""
    count = prefix((~missing).astype(np.int64)) if missing.any() else None
    if values is None:
        return Column(count, None, None)
    return Column(count, prefix(values), prefix(values * values) if squares else None)


def sums_fit(most: int, largest: int, *, squares: bool) -> bool:
    """True when no window of up to ``most`` events of magnitude ``largest`` can leave 64 bits.

    >>> sums_fit(10**6, 10**6, squares=True), sums_fit(10**6, 10**12, squares=True)
    (True, False)
    """
    return 2 * most * (largest**2 if squares else largest) < 1 << 63


@dataclass
class Block:
    """Whole entities of a target stream: its rows, and the same as keys that grow with (code, time)."""

    rows: slice
    codes: Ints
    times: Ints
    first: int  # smallest time of both streams
    span: int  # more than the difference of any two times
    base: int  # code that maps to 0
    event_keys: Ints
    event_start: int  # position of the first key in the event stream

    def positions(self, times: Ints) -> Ints:
        """For each row the position, in the event stream, of its entity's first event at or after ``times``."""
        offsets = np.clip(times - self.first, 0, self.span)
        keys = (self.codes - self.base) * self.span + offsets
        found: Ints = np.searchsorted(self.event_keys, keys, "left") + self.event_start
        return found


def blocks(targets: Stream, events: Stream) -> Iterator[Block]:
    """Cut the targets into blocks of whole entities whose (code, time) keys fit in 64 bits."""
    if not len(targets.codes):
        return
    both = (targets, events) if len(events.codes) else (targets,)
    first = min(int(stream.times.min()) for stream in both)
    span = max(int(stream.times.max()) for stream in both) - first + 2
    most_codes = max(1, KEY_LIMIT // span)
    start = 0
    while start < len(targets.codes):
        base = int(targets.codes[start])
        # up to and including the entity in which the block would be full
        last = int(targets.codes[min(start + BLOCK_ROWS, len(targets.codes)) - 1])
        last = min(last, base + most_codes - 1)
        stop = int(np.searchsorted(targets.codes, last, "right"))
        from_, to = np.searchsorted(events.codes, [base, last + 1])
        keys = (events.codes[from_:to] - base) * span + (events.times[from_:to] - first)
        rows = slice(start, stop)
        yield Block(rows, targets.codes[rows], targets.times[rows], first, span, base, keys, int(from_))
        start = stop


@dataclass
class Window:
    """One feature to compute: ``function`` is count, sum, mean, std, min or max of ``column`` (None counts events).

    ``out`` float64 is filled at the positions of the targets in their own, unsorted order.
    """

    length_us: int
    resolution_us: int
    function: str
    column: str | None
    out: Floats


def fill(targets: Stream, order: Ints, events: Stream, windows: list[Window]) -> None:
    """Compute windows over ``events`` for all ``targets``; row i of the targets goes to ``out[order[i]]``."""
    for block in blocks(targets, events):
        end = block.positions(block.times)
        place = order[block.rows]
        starts: dict[tuple[int, int], Ints] = {}
        for window in windows:
            frame = (window.length_us, window.resolution_us)
            if frame not in starts:
                reach = window.length_us + block.times % window.resolution_us
                starts[frame] = block.positions(block.times - reach)
            column = events.columns[window.column] if window.column else None
            window.out[place] = _evaluate(window.function, column, starts[frame], end)


def _evaluate(function: str, column: Column | None, start: Ints, end: Ints) -> Ints | Floats:
    if column is not None and function in column.extremes:
        return column.extremes[function].of(start, end)
    count = end - start if column is None or column.count is None else column.count[end] - column.count[start]
    if function == "count" or column is None or column.total is None:
        return count
    total = column.total[end] - column.total[start]
    if function == "sum":
        return total
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is the wanted NaN of an empty window
        mean = total / count
        if function == "mean" or column.squares is None:
            return mean
        return std_of_integers(count, total, column.squares[end] - column.squares[start], mean)
