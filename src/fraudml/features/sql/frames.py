"""The common table expressions (CTEs) that aggregate over frames: one function per shape of query.

All windows are in microseconds as 64-bit integers, so ``RANGE BETWEEN W PRECEDING AND 1 PRECEDING`` is exactly
``[t - W, t)``. With a resolution ``r`` the tail is ``floor(t - W, r)``; lengths are multiples of resolutions and
times are not negative (events/normalise.py), so that is ``t - (W + t mod r)``.

Where an engine's frames cannot move like that, such a window is two: whole tiles, ``[floor(t, r) - W, floor(t, r))``,
a frame of fixed length over their starts, and what the open tile ``[floor(t, r), t)`` holds so far. No engine joins an
event with all those in its window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from sqlglot import exp

from fraudml.events.schema import EVENT_TIME, IS_FRAUD, KNOWN_AT, TRANSACTION_ID
from fraudml.features.spec import LABEL_INPUT
from fraudml.features.sql.tables import (
    PLACE,
    PREVIOUS_TIME,
    PROBE,
    Stream,
    Tables,
    by_code_point,
    cast,
    column,
    integer,
    is_exact,
    moments,
    named,
    present,
    quoted,
)


class Part(StrEnum):
    """How much of a window a frame covers."""

    whole = "whole"
    tiles = "tiles"  # those that are complete
    open_tile = "open_tile"


class Frame(NamedTuple):
    """One frame of one entity. That of an open tile is as long as a tile."""

    stream: Stream
    over: str
    length_us: int
    resolution_us: int
    part: Part = Part.whole


class Aggregate(NamedTuple):
    """What is computed over a frame: a key of :data:`_FUNCTIONS`, and the column (none counts events)."""

    function: str
    column: str | None


Aggregates = Mapping[Aggregate, str]  # -> the name of the column that holds it


def transaction_windows(tables: Tables, columns: Sequence[str], frames: Mapping[Frame, Aggregates]) -> exp.Select:
    """Every transaction with the aggregates of all frames: one pass, sorted once per entity."""
    selected: list[exp.Expr] = [column(name) for name in columns]
    for frame, aggregates in frames.items():
        for aggregate, name in aggregates.items():
            apart = [_lone(frame.over)] if tables.dialect.missing_apart else []
            window = _slide(_aggregate(tables, aggregate), frame, apart)
            value = exp.Case().when(present(column(frame.over)), window)
            selected.append(named(value, name))
    return exp.select(*selected).from_(tables.table(Stream.transactions), copy=False)


def label_windows(tables: Tables, over: str, frames: Mapping[Frame, Aggregates]) -> exp.Select:
    """Aggregates of the label stream at every time that the entity has a transaction: reports and probes in
    one pass. A probe has no verdict, so no aggregate counts it."""
    probes = moments(tables, over).select(named(cast(exp.null(), "INT", tables), IS_FRAUD))
    probes = probes.select(named(integer(1), PROBE))
    reports = (
        exp.select(column(over), named(column(KNOWN_AT), EVENT_TIME))
        .select(named(cast(column(IS_FRAUD), "INT", tables), IS_FRAUD), named(integer(0), PROBE))
        .from_(tables.table(Stream.labels))
        .where(*(present(column(name)) for name in (over, IS_FRAUD, KNOWN_AT)))
    )
    both = exp.union(probes, reports, distinct=False).subquery(quoted("stream"))
    selected: list[exp.Expr] = [column(over), column(EVENT_TIME), column(PROBE)]
    for frame, aggregates in frames.items():
        for aggregate, name in aggregates.items():
            selected.append(named(_slide(_aggregate(tables, aggregate), frame), name))
    return exp.select(*selected).from_(both)


def previous_events(tables: Tables, over: str, values: Mapping[str, str]) -> exp.Select:
    """The previous event's time and values at every time that the entity has a transaction.

    ``values`` names, in the order that decides ties, the columns that are read and what to call them here.
    """

    def order(name: str) -> exp.Expr:
        return exp.Ordered(this=by_code_point(column(name), name, tables), desc=True, nulls_first=False)

    place = exp.Window(
        this=exp.RowNumber(),
        partition_by=[column(over), column(EVENT_TIME)],
        order=exp.Order(expressions=[order(name) for name in values] or [column(EVENT_TIME)]),
    )
    greatest = (
        exp.select(column(over), column(EVENT_TIME), *(column(name) for name in values))
        .select(named(place, PLACE))
        .from_(tables.table(Stream.transactions))
        .where(present(column(over)))
        .subquery(quoted("moments"))
    )
    selected: list[exp.Expr] = [column(over), column(EVENT_TIME)]
    for name, alias in {EVENT_TIME: PREVIOUS_TIME, **values}.items():
        lag = exp.Window(
            this=exp.Lag(this=column(name)),
            partition_by=[column(over)],
            order=exp.Order(expressions=[column(EVENT_TIME)]),
        )
        selected.append(named(lag, alias))
    return exp.select(*selected).from_(greatest).where(exp.EQ(this=column(PLACE), expression=integer(1)))


def _lone(over: str) -> exp.Expr:
    """What tells rows without a key apart: null for all others."""
    return exp.Case().when(exp.Is(this=column(over), expression=exp.null()), column(TRANSACTION_ID))


def _slide(value: exp.Expr, frame: Frame, apart: Sequence[exp.Expr] = ()) -> exp.Expr:
    """The aggregate over the frame; it ends before the row's own time, or before the row's own tile."""
    partition: list[exp.Expr] = [column(frame.over), *apart]
    order: exp.Expr = column(EVENT_TIME)
    reach = integer(frame.length_us)
    if frame.part is Part.tiles:
        order = _tile(frame)
    elif frame.part is Part.open_tile:
        partition.append(_tile(frame))
    elif frame.resolution_us > 1:
        reach = exp.paren(exp.Add(this=reach, expression=_into_tile(frame)))
    return exp.Window(
        this=value,
        partition_by=partition,
        order=exp.Order(expressions=[order]),
        spec=exp.WindowSpec(
            kind="RANGE",
            start=reach,
            start_side="PRECEDING",
            end=integer(1),
            end_side="PRECEDING",
        ),
    )


def _tile(frame: Frame) -> exp.Expr:
    """The start of the row's tile: ``t - t mod r``."""
    return exp.Sub(this=column(EVENT_TIME), expression=_into_tile(frame))


def _into_tile(frame: Frame) -> exp.Expr:
    """How far the row is into its tile: ``t mod r``."""
    return exp.Mod(this=column(EVENT_TIME), expression=integer(frame.resolution_us))


def _aggregate(tables: Tables, aggregate: Aggregate) -> exp.Expr:
    if aggregate.column is None:
        return exp.Count(this=exp.Star())
    value: exp.Expr = column(aggregate.column)
    if aggregate.column == LABEL_INPUT:
        value = cast(value, "INT", tables)
    elif is_exact(tables.schema, aggregate.column) and (
        aggregate.function == "squares" or (aggregate.function == "sum" and not tables.dialect.wide_sums)
    ):
        value = cast(value, tables.dialect.wide, tables)
    return _FUNCTIONS[aggregate.function](value)


_FUNCTIONS: dict[str, Callable[[exp.Expr], exp.Expr]] = {
    "count": lambda value: exp.Count(this=value),
    "sum": lambda value: exp.Sum(this=value),
    "squares": lambda value: exp.Sum(this=exp.Mul(this=value, expression=value.copy())),
    "mean": lambda value: exp.Avg(this=value),
    "std": lambda value: exp.StddevSamp(this=value),
    "min": lambda value: exp.Min(this=value),
    "max": lambda value: exp.Max(this=value),
    "nunique": lambda value: exp.Count(this=exp.Distinct(expressions=[value])),
}
