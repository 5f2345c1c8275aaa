"""Where the slots of all entities are held: a few long columns per table, of which each entity has a stretch.

Millions of entities are then a handful of objects to Python's garbage collector, which would walk through a million
small arrays or lists again and again, and a slot costs eight bytes per column.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

LEAST = 4  # cells of the shortest stretch
GROWTH = 8_192  # cells by which columns grow at once: few, so that no single event waits long
OBJECTS = "O"  # typecode of a column of any Python values; else "q" (64-bit integers) or "d" (doubles)


class Ranked(NamedTuple):
    """A pair of columns (by index) that is not aligned with the slots: ascending times, and a value for each.

    The stretch's first cell of ``times`` holds the place of the newest entry; the entries follow it.
    """

    times: int
    values: int


class Layout(NamedTuple):
    """The columns of a table's arenas.

    ``codes``: typecodes; column 0 is the slots' start times. ``aligned``: the columns with one cell per slot.
    ``totals``: those of them that hold the total up to and with each slot.
    """

    codes: tuple[str, ...]
    aligned: tuple[int, ...]
    totals: tuple[int, ...] = ()
    ranked: tuple[Ranked, ...] = ()


class Arena:
    """Columns of equal length, handed out in stretches whose lengths are powers of two.

    A ``wide`` arena takes the few lanes whose totals do not fit 64 bits. A stretch given back is split when shorter
    ones are wanted, so that what a burst took serves others.

    >>> arena = Arena(Layout(("q", "O"), (0, 1)), wide=False)
    >>> arena.take(4), arena.take(8), arena.give(0, 4), arena.take(4), arena.take(4)
    (0, 4, None, 0, 12)
    """

    def __init__(self, layout: Layout, *, wide: bool) -> None:
        codes = [OBJECTS if wide and i in layout.totals else code for i, code in enumerate(layout.codes)]
        self.columns: list[Any] = [np.empty(0, dtype=object) if code == OBJECTS else array(code) for code in codes]
        self.starts: array[int] = self.columns[0]
        self._objects = [column for column, code in zip(self.columns, codes, strict=True) if code == OBJECTS]
        self._free: dict[int, array[int]] = {}  # starts of stretches given back, by length
        self._longest = 0  # of those ever given back
        self._used = 0

    def take(self, cells: int) -> int:
        """The start of an unused stretch of this length; what it holds is arbitrary."""
        length = cells
        while length <= self._longest:
            free = self._free.get(length)
            if free:
                start = free.pop()
                while length > cells:
                    length //= 2
                    self._free.setdefault(length, array("q")).append(start + length)
                return start
            length *= 2
        start = self._used
        self._used += cells
        if self._used > len(self.starts):
            self._grow(max(GROWTH, cells))
        return start

    def give(self, start: int, cells: int) -> None:
        """Take a stretch back."""
        for column in self._objects:
            column[start : start + cells] = None
        self._free.setdefault(cells, array("q")).append(start)
        self._longest = max(self._longest, cells)

    def put(self, column: int, at: int, values: Sequence[Any]) -> None:
        """Write consecutive cells; raises OverflowError when one does not fit."""
        cells = self.columns[column]
        if isinstance(cells, array):
            cells[at : at + len(values)] = array(cells.typecode, values)
        else:
            for i, value in enumerate(values, at):  # one by one: NumPy would unpack tuples
                cells[i] = value

    def _grow(self, cells: int) -> None:
        for column in self.columns:
            if isinstance(column, array):
                column.frombytes(bytes(8 * cells))
            else:
                column.resize(len(column) + cells, refcheck=False)


def stretch(cells: int) -> int:
    """The length of the stretch for so many cells: a power of two.

    >>> stretch(3), stretch(8), stretch(9)
    (4, 8, 16)
    """
    return max(LEAST, 1 << (cells - 1).bit_length())
