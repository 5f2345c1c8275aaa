"""Sums over slices of sorted events or tiles: count, sum, mean and standard deviation of a column."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fraudml.adapters.online.redis.sight import parts, reduce, running, spread
from fraudml.features.moments import by_row, exact_mean, exact_std, std_of_integers
from fraudml.features.spec import Aggregation

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Values = NDArray[Any]
Answers = dict[Aggregation, Values]

LIMB = 40  # bits of a limb of a large integer; the highest one has the rest, and the sign
SAFE = 2**62  # totals below fit 64 bits, with room for the arithmetic of a standard deviation


class Moment(Protocol):
    """A column, ready to be summed over slices ``[first, until)``."""

    def read(self, first: Ints, until: Ints, wanted: tuple[Aggregation, ...]) -> Answers:
        """What is wanted for each slice."""
        ...


class Presence:
    """A column of which only the number of values counts; ``present`` for each event or tile."""

    def __init__(self, present: Values) -> None:
        self._present = running(present.astype(np.int64))

    def read(self, first: Ints, until: Ints, wanted: tuple[Aggregation, ...]) -> Answers:
        """The number of values."""
        return {Aggregation.count: self._present[until] - self._present[first]}


class Integers:
    """Integers, one for each event; ``present`` is ``None`` when none is missing, ``values`` are 0 where one is.

    Sums are differences of running ones modulo 2^64, exact whenever a slice's own sum fits. Where it may not, they are
    Python's integers.
    """

    def __init__(self, values: Ints, present: NDArray[np.bool_] | None) -> None:
        self._values = values
        self._present = None if present is None else running(present.astype(np.int64))
        self._largest = max(abs(int(values.min())), abs(int(values.max()))) if len(values) else 0
        self._sums: dict[tuple[int, bool], Values] = {}

    def read(self, first: Ints, until: Ints, wanted: tuple[Aggregation, ...]) -> Answers:
        """See ``Moment``."""
        counts = until - first
        most = int(counts.max(initial=0))
        if self._present is not None:
            counts = self._present[until] - self._present[first]
        total = self._total(1, most, first, until) if set(wanted) - {Aggregation.count} else None
        squares = self._total(2, most, first, until) if Aggregation.std in wanted else None
        return answers(wanted, counts, total, squares)

    def _total(self, power: int, most: int, first: Ints, until: Ints) -> Values:
        fits = self._largest**power * most < SAFE
        if (power, fits) not in self._sums:
            values: Values = self._values if fits else self._values.astype(object)
            self._sums[power, fits] = running(values if power == 1 else values * values)
        sums = self._sums[power, fits]
        return sums[until] - sums[first]


class Limbs:
    """Integers summed up in tiles: sums and sums of squares as limbs (see :func:`split`)."""

    def __init__(self, present: Ints, sums: list[Ints], squares: list[Ints]) -> None:
        self._present = running(present)
        self._sums = [running(limb) for limb in sums]
        self._squares = [running(limb) for limb in squares]

    def read(self, first: Ints, until: Ints, wanted: tuple[Aggregation, ...]) -> Answers:
        """See ``Moment``."""
        counts = self._present[until] - self._present[first]
        total = join([limb[until] - limb[first] for limb in self._sums]) if self._sums else None
        squares = join([limb[until] - limb[first] for limb in self._squares]) if self._squares else None
        return answers(wanted, counts, total, squares)


class Reals:
    """Floats: for each event or tile the number of values, their sum and squared differences from their mean."""

    def __init__(self, present: Ints, sums: Floats, scatter: Floats | None) -> None:
        self._present = running(present)
        self._counts, self._sums, self._scatter = present.astype(np.float64), sums, scatter

    def read(self, first: Ints, until: Ints, wanted: tuple[Aggregation, ...]) -> Answers:
        """See ``Moment``. Two passes, so that large means take nothing from small deviations."""
        counts = self._present[until] - self._present[first]
        total = reduce(np.add, self._sums, first, until, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = total / counts
            found: Answers = {Aggregation.count: counts, Aggregation.sum: total, Aggregation.mean: mean}
            if Aggregation.std in wanted:
                variance = self._scattered(first, until, mean) / (counts - 1)
                found[Aggregation.std] = np.where(counts > 1, np.sqrt(variance), np.nan)
        return found

    def _scattered(self, first: Ints, until: Ints, mean: Floats) -> Floats:
        found = np.zeros(len(first))
        for part in parts(first, until):
            places, owner = spread(first[part], until[part])
            counts = self._counts[places]
            away = np.where(counts > 0, self._sums[places] / counts - mean[part][owner], 0.0)
            scatter = counts * away * away
            if self._scatter is not None:
                scatter += self._scatter[places]
            found[part] = np.bincount(owner, scatter, minlength=len(first[part]))
        return found


def answers(wanted: tuple[Aggregation, ...], counts: Ints, total: Values | None, squares: Values | None) -> Answers:
    """What is wanted, from exact totals: int64, or Python's integers where those are too small."""
    found: Answers = {Aggregation.count: counts}
    if total is None:
        return found
    found[Aggregation.sum] = total
    if total.dtype == object or (squares is not None and squares.dtype == object):
        found[Aggregation.mean] = by_row(exact_mean, counts, total)
        if squares is not None:
            found[Aggregation.std] = by_row(exact_std, counts, total, squares)
        return found
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / counts
    found[Aggregation.mean] = mean
    if squares is not None:
        found[Aggregation.std] = std_of_integers(counts, total, squares, mean)
    return found


def split(values: Values, limbs: int) -> list[Ints]:
    """Integers (int64 or Python's) as limbs: all but the last are of :data:`LIMB` bits, from 0 on.

    >>> [limb.tolist() for limb in split(np.array([5, -1, 2**41]), 2)]
    [[5, 1099511627775, 0], [0, -1, 2]]
    """
    found: list[Ints] = []
    for _ in range(limbs - 1):
        found.append((values & ((1 << LIMB) - 1)).astype(np.int64))
        values = values >> LIMB
    return [*found, values.astype(np.int64)]


def carry(limbs: list[Ints]) -> list[Ints]:
    """Sums of limbs, made limbs again."""
    found: list[Ints] = []
    over = np.zeros_like(limbs[0])
    for limb in limbs[:-1]:
        whole = limb + over
        found.append(whole & ((1 << LIMB) - 1))
        over = whole >> LIMB
    return [*found, limbs[-1] + over]


def join(limbs: list[Ints]) -> Values:
    """The integers that sums of limbs stand for: int64 where all are below :data:`SAFE`, else Python's.

    >>> join(split(np.array([5, -1, 2**41]), 2)).tolist()
    [5, -1, 2199023255552]
    """
    limbs = carry(limbs)
    if not (np.abs(limbs[1]) >= SAFE >> (LIMB + 1)).any() and not any(limb.any() for limb in limbs[2:]):
        return limbs[0] + (limbs[1] << LIMB)
    whole: Values = limbs[0].astype(object)
    for number, limb in enumerate(limbs[1:], 1):
        whole = whole + (limb.astype(object) << (LIMB * number))
    return whole


def squared(values: Ints) -> Values:
    """Squares, as Python's integers where they do not fit 64 bits."""
    if len(values) and max(abs(int(values.min())), abs(int(values.max()))) >= 1 << 31:
        whole: Values = values.astype(object)
        return whole * whole
    return values * values
