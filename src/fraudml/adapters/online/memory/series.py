"""Sequences that hold state: tuples while short, arrays of 64-bit integers when long, lists beyond 64 bits.

A short tuple of numbers is as fast to extend as an array, and Python's garbage collector stops tracking it at its
first look; a million arrays it would walk through again and again. A *prefix series* has one entry more than its
lane has slots: the total before each slot, from an arbitrary start, so that any range of slots has the exact total
``series[head] - series[tail]``.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, MutableSequence, Sequence
from itertools import chain
from math import inf
from typing import Any

from fraudml.adapters.online.memory.plan import ExtremePlan, Kind
from fraudml.features.spec import Aggregation

LIMIT = 2**63 - 1
SMALL = 16  # slots up to which a lane is held in tuples

Series = tuple[int, ...] | MutableSequence[int]
Values = tuple[Any, ...] | MutableSequence[Any]


def large(values: Sequence[Any], typecode: str = "q") -> MutableSequence[Any]:
    """An array of 64-bit integers (``q``) or doubles (``d``), or a list (any other code, or when they do not fit).

    >>> large([1, 2]), large([2**64])
    (array('q', [1, 2]), [18446744073709551616])
    """
    if typecode in ("q", "d"):
        try:
            return array(typecode, values)
        except OverflowError:
            pass
    return list(values)


def packed(values: Sequence[Any], *, small: bool, typecode: str = "q") -> Values:
    """A tuple when ``small``, else what :func:`large` makes."""
    return tuple(values) if small else large(values, typecode)


def grown(values: Values, value: Any) -> Values:
    """The values and one more."""
    if isinstance(values, tuple):
        return (*values, value)
    try:
        values.append(value)
    except OverflowError:
        return [*values, value]
    return values


def added(series: Series, slot: int, delta: int, *, new: bool) -> Series:
    """A prefix series after ``delta`` was added to a slot; ``new`` inserts the slot before the one now there.

    >>> added((0, 1, 3), 1, 10, new=True), added((0, 1, 3), 0, 10, new=False)
    ((0, 1, 11, 13), (0, 11, 13))
    """
    first = slot if new else slot + 1
    tail = [total + delta for total in series[first:]]
    if isinstance(series, tuple):
        return (*series[: slot + 1], *tail)
    suffix = large(tail) if isinstance(series, array) else tail
    if isinstance(series, array) and not isinstance(suffix, array):
        return [*series[: slot + 1], *tail]
    series[slot + 1 :] = suffix
    return series


def inserted(values: Values, slot: int, value: Any) -> Values:
    """The values of slots with one more before ``slot``."""
    if isinstance(values, tuple):
        return (*values[:slot], value, *values[slot:])
    values.insert(slot, value)
    return values


def replaced(values: Values, slot: int, value: Any) -> Values:
    """The values of slots with another at ``slot``."""
    if isinstance(values, tuple):
        return (*values[:slot], value, *values[slot + 1 :])
    values[slot] = value
    return values


def removed(values: Values, first: int, until: int) -> Values:
    """The values without those of ``first`` to ``until - 1``."""
    if isinstance(values, tuple):
        return values[:first] + values[until:]
    del values[first:until]
    return values


def lift(plan: ExtremePlan, value: Any) -> Any:
    """A value as the content of a slot; a missing one becomes what never wins."""
    if value is not None or plan.agg is Aggregation.nunique:
        return value
    limit = inf if plan.kind is Kind.real else LIMIT
    return limit if plan.agg is Aggregation.min else -limit


def typecode(plan: ExtremePlan) -> str:
    """The kind of array that holds a column of extremes."""
    if plan.agg is Aggregation.nunique:
        return "O"
    return "d" if plan.kind is Kind.real else "q"


def combine(agg: Aggregation) -> Callable[[Any, Any], Any]:
    """How the contents of two slots become one."""
    return {Aggregation.min: min, Aggregation.max: max}.get(agg, union)


def union(first: Any, second: Any) -> Any:
    """Distinct values of two slots: None, one value, or a frozenset of several.

    >>> union("a", "a"), union(None, 3), sorted(union(union(1, 2), 3))
    ('a', 3, [1, 2, 3])
    """
    if first is None or first == second:
        return second
    if second is None:
        return first
    return frozenset(chain(members(first), members(second)))


def members(slot: Any) -> Sequence[Any] | frozenset[Any]:
    """The distinct values in a slot's content."""
    if slot is None:
        return ()
    return slot if isinstance(slot, frozenset) else (slot,)
