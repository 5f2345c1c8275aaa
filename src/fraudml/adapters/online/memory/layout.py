"""Which columns a table of windows needs, and what each is for."""

from __future__ import annotations

import math
from typing import NamedTuple

from fraudml.adapters.online._plan import MOMENTS, Kind, WindowPlan
from fraudml.adapters.online.memory.arena import OBJECTS, Layout, Ranked
from fraudml.adapters.online.memory.extremes import Distinct, Extreme, Peaks, typecode
from fraudml.features.spec import Aggregation


class Sums(NamedTuple):
    """A summed column: its place in the row, and the indices of its columns of totals (0 for none).

    ``present`` counts the values that are not missing, or where none may be, the events; it is 0 where each slot holds
    one. ``own_present``: 0 when ``present`` is the table's column of events. ``real``: 0, or for floats, whose totals
    are integer multiples of ``2**-scale``, one more than the place of the scale in ``Lane.scales``. ``wanted``: which
    of count, sum, mean and std a read writes for each window; ``blank``: what it writes for an empty one.
    """

    at: int
    present: int
    own_present: int
    sums: int
    squares: int
    real: int
    wanted: tuple[bool, bool, bool, bool]
    windows: tuple[int, ...]
    blank: tuple[float, ...]


class Columns(NamedTuple):
    """A table's layout: ``counts`` is the column of the number of events, or 0 while each has its own slot."""

    layout: Layout
    counts: int
    sums: tuple[Sums, ...]
    extremes: tuple[Extreme, ...]


def lay_out(plan: WindowPlan) -> Columns:
    """Give every value that the plan needs a column."""
    codes = ["q"]  # the slots' start times
    totals: list[int] = []

    def total(code: str, *, wanted: bool) -> int:
        if not wanted:
            return 0
        codes.append(code)
        totals.append(len(codes) - 1)
        return len(codes) - 1

    counts = total("q", wanted=plan.resolution_us > 1)
    sums: list[Sums] = []
    reals = 0
    for column in plan.moments:
        is_real = column.kind is Kind.real
        code = OBJECTS if is_real else "q"
        reals += is_real
        has_count, has_sum, has_mean, has_std = [agg in column.wanted for agg in MOMENTS]
        present = total("q", wanted=column.missing)
        zero = (Aggregation.count, Aggregation.sum)
        sums.append(
            Sums(
                at=column.at,
                present=present or counts,
                own_present=present,
                sums=total(code, wanted=has_sum or has_mean or has_std),
                squares=total(code, wanted=has_std),
                real=reals if is_real else 0,
                wanted=(has_count, has_sum, has_mean, has_std),
                windows=column.windows,
                blank=tuple(0 if agg in zero else math.nan for agg in column.wanted),
            )
        )
    aligned = len(codes) + len(plan.extremes)
    extremes: list[Extreme] = []
    ranked: list[Ranked] = []
    codes += [typecode(extreme) for extreme in plan.extremes]
    for contents, extreme in enumerate(plan.extremes, aligned - len(plan.extremes)):
        if extreme.agg is Aggregation.nunique:
            extremes.append(
                Distinct(extreme, plan.lengths_us, contents, sum(isinstance(each, Distinct) for each in extremes))
            )
            continue
        ranked.append(Ranked(len(codes), len(codes) + 1))
        codes += ["q", typecode(extreme)]
        extremes.append(Peaks(extreme, plan.lengths_us, contents, ranked[-1]))
    layout = Layout(tuple(codes), tuple(range(aligned)), tuple(totals), tuple(ranked))
    return Columns(layout, counts, tuple(sums), tuple(extremes))
