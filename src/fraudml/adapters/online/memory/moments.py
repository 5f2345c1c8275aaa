"""count, sum, mean and std over windows, from totals.

Numerators and denominators are exact integers, so each value is rounded once (std: once more by the root).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan, sqrt

from fraudml.adapters.online.memory.lane import Lane
from fraudml.adapters.online.memory.layout import Sums

# Appends what is wanted of each of a column's windows, given their last slot and the slots before their first.
Reader = Callable[[Sums, Lane, int, Sequence[int], list[float]], None]


def reader(plan: Sums) -> Reader:
    """The fastest way to read a column."""
    if plan.real or not plan.sums:
        return _read_any
    return _read_integers if plan.present or plan.wanted[0] else _read_simple


def _read_simple(plan: Sums, lane: Lane, head: int, tails: Sequence[int], out: list[float]) -> None:
    """Integers, one in each slot: the usual case."""
    _, _, _, sums_at, squares_at, _, (_, has_sum, has_mean, has_std), windows, blank = plan
    columns = lane.arena.columns
    sums = columns[sums_at]
    top = sums[head]
    if has_std:
        squares = columns[squares_at]
        top_square = squares[head]
    for window in windows:
        tail = tails[window]
        count = head - tail
        if count == 0:
            out += blank
            continue
        value = top - sums[tail]
        if has_sum:
            out.append(value)
        if has_mean:
            out.append(value / count)
        if has_std:
            if count == 1:
                out.append(nan)
            else:
                scatter = count * (top_square - squares[tail]) - value * value
                out.append(sqrt(scatter / (count * (count - 1))))


def _read_integers(plan: Sums, lane: Lane, head: int, tails: Sequence[int], out: list[float]) -> None:
    """Integers, some of them missing or several in a slot."""
    has_count, has_sum, has_mean, has_std = plan.wanted
    columns = lane.arena.columns
    sums = columns[plan.sums]
    top = sums[head]
    present = columns[plan.present] if plan.present else range(head + 1)
    newest = present[head]
    if has_std:
        squares = columns[plan.squares]
        top_square = squares[head]
    for window in plan.windows:
        tail = tails[window]
        count = newest - present[tail]
        value = top - sums[tail]
        if has_count:
            out.append(count)
        if has_sum:
            out.append(value)
        if has_mean:
            out.append(value / count if count else nan)
        if has_std:
            if count > 1:
                scatter = count * (top_square - squares[tail]) - value * value
                out.append(sqrt(scatter / (count * (count - 1))))
            else:
                out.append(nan)


def _read_any(plan: Sums, lane: Lane, head: int, tails: Sequence[int], out: list[float]) -> None:
    """Floats, whose totals are integer multiples of ``1 / unit``, or values that are only counted."""
    has_count, has_sum, has_mean, has_std = plan.wanted
    columns = lane.arena.columns
    present = columns[plan.present] if plan.present else range(head + 1)
    sums = columns[plan.sums]
    unit = 1 << lane.scales[plan.real - 1] if plan.real else 1
    for window in plan.windows:
        tail = tails[window]
        count = present[head] - present[tail]
        value = sums[head] - sums[tail]
        if has_count:
            out.append(count)
        if has_sum:
            out.append(value / unit)
        if has_mean:
            out.append(value / (count * unit) if count else nan)
        if has_std:
            if count > 1:
                squares = columns[plan.squares]
                scatter = count * (squares[head] - squares[tail]) - value * value
                out.append(sqrt(scatter / (count * (count - 1) * unit * unit)))
            else:
                out.append(nan)
