"""The common table expressions (CTEs) that aggregate: one function per shape of query.

All windows are in microseconds as 64-bit integers, so ``RANGE BETWEEN W PRECEDING AND 1 PRECEDING`` is exactly
``[t - W, t)``. With a resolution ``r`` the tail is ``floor(t - W, r)``; lengths are multiples of resolutions and
times are not negative (events/normalise.py), so that is ``t - (W + t mod r)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from sqlglot import exp

from fraudml.events.schema import EVENT_TIME, IS_FRAUD, KNOWN_AT, AttributeType, Schema, normal_column
from fraudml.features.spec import LABEL_INPUT
from fraudml.features.sql.dialects import Dialect

PROBE = "__is_probe"  # two underscores keep these apart from columns of the user
PREVIOUS_TIME = "__previous_time_us"
PLACE = "__place"


class Stream(StrEnum):
    """What a window slides over."""

    transactions = "transactions"
    labels = "labels"


class Frame(NamedTuple):
    """One window of one entity. ``joined``: the engine cannot slide it, so events are joined."""

    stream: Stream
    over: str
    length_us: int
    resolution_us: int
    joined: bool


class Aggregate(NamedTuple):
    """What is computed over a frame: a key of :data:`_FUNCTIONS`, and the column (none counts events)."""

    function: str
    column: str | None


Aggregates = Mapping[Aggregate, str]  # -> the name of the column that holds it


@dataclass(frozen=True)
class Tables:
    """The tables that a query reads, with their schema, for one dialect."""

    schema: Schema
    dialect: Dialect
    transactions: str
    labels: str

    def table(self, stream: Stream, alias: str | None = None) -> exp.Table:
        """The table of a stream."""
        name = self.transactions if stream is Stream.transactions else self.labels
        found = exp.to_table(name, dialect=self.dialect.name)
        if alias:
            found.set("alias", exp.TableAlias(this=quoted(alias)))
        return found


def quoted(name: str) -> exp.Identifier:
    """An identifier that every engine takes literally."""
    return exp.to_identifier(name, quoted=True)


def column(name: str, table: str | None = None) -> exp.Column:
    """A quoted column; what features call ``amount`` and ``event_time`` gets its name in the table."""
    return exp.column(normal_column(name), table=table, quoted=True)


def named(value: exp.Expr, name: str) -> exp.Expr:
    """``value AS name``."""
    return exp.alias_(value, name, quoted=True)


def integer(value: int) -> exp.Expr:
    """An integer literal."""
    return exp.Literal.number(value)


def cast(value: exp.Expr, kind: str, tables: Tables) -> exp.Expr:
    """``CAST(value AS kind)``."""
    return exp.cast(value, exp.DataType.build(kind, dialect=tables.dialect.name))


def is_exact(schema: Schema, name: str) -> bool:
    """True for columns whose sums are integers."""
    return schema.input_type(name) in {AttributeType.integer, AttributeType.boolean}


def transaction_windows(tables: Tables, columns: Sequence[str], frames: Mapping[Frame, Aggregates]) -> exp.Select:
    """Every transaction with the aggregates of all frames that slide: one pass, sorted once per entity."""
    query = exp.select(*(column(name) for name in columns)).from_(tables.table(Stream.transactions))
    for frame, aggregates in frames.items():
        for aggregate, name in aggregates.items():
            value = exp.Case().when(
                exp.not_(exp.Is(this=column(frame.over), expression=exp.null())),
                _slide(_aggregate(tables, aggregate), frame),
            )
            query = query.select(named(value, name))
    return query


def label_windows(tables: Tables, over: str, frames: Mapping[Frame, Aggregates]) -> exp.Select:
    """Aggregates of the label stream at every time that the entity has a transaction: reports and probes in
    one pass. A probe has no verdict, so no aggregate counts it."""
    probes = moments(tables, over).select(named(cast(exp.null(), "INT", tables), IS_FRAUD))
    probes = probes.select(named(integer(1), PROBE))
    reports = (
        exp.select(column(over), named(column(KNOWN_AT), EVENT_TIME))
        .select(named(cast(column(IS_FRAUD), "INT", tables), IS_FRAUD), named(integer(0), PROBE))
        .from_(tables.table(Stream.labels))
        .where(*(_present(column(name)) for name in (over, IS_FRAUD, KNOWN_AT)))
    )
    both = exp.union(probes, reports, distinct=False).subquery(quoted("stream"))
    query = exp.select(column(over), column(EVENT_TIME), column(PROBE)).from_(both)
    for frame, aggregates in frames.items():
        for aggregate, name in aggregates.items():
            query = query.select(named(_slide(_aggregate(tables, aggregate), frame), name))
    return query


def joined_windows(tables: Tables, frame: Frame, aggregates: Aggregates) -> exp.Select:
    """One frame by joining every time at which the entity has a transaction with the events in its window."""
    time = KNOWN_AT if frame.stream is Stream.labels else EVENT_TIME
    at, past = column(EVENT_TIME, "probe"), column(time, "event")
    start = exp.Sub(this=at.copy(), expression=_reach(frame, at))
    query = (
        exp.select(column(frame.over, "probe"), at)
        .from_(moments(tables, frame.over).subquery(quoted("probe")))
        .join(
            tables.table(frame.stream, "event"),
            on=exp.and_(
                exp.EQ(this=column(frame.over, "event"), expression=column(frame.over, "probe")),
                exp.GTE(this=past, expression=start),
                exp.LT(this=past.copy(), expression=at.copy()),
            ),
        )
        .group_by(column(frame.over, "probe"), at.copy())
    )
    for aggregate, name in aggregates.items():
        query = query.select(named(_aggregate(tables, aggregate, "event"), name))
    return query


def previous_events(tables: Tables, over: str, values: Mapping[str, str]) -> exp.Select:
    """The previous event's time and values at every time that the entity has a transaction.

    ``values`` names, in the order that decides ties, the columns that are read and what to call them here.
    """
    text = tables.dialect.collation

    def order(name: str) -> exp.Expr:
        kind = tables.schema.input_type(name)
        value: exp.Expr = column(name)
        if text and kind is AttributeType.category:
            value = exp.Collate(this=value, expression=quoted(text))
        return exp.Ordered(this=value, desc=True, nulls_first=False)

    place = exp.Window(
        this=exp.RowNumber(),
        partition_by=[column(over), column(EVENT_TIME)],
        order=exp.Order(expressions=[order(name) for name in values] or [column(EVENT_TIME)]),
    )
    greatest = (
        exp.select(column(over), column(EVENT_TIME), *(column(name) for name in values))
        .select(named(place, PLACE))
        .from_(tables.table(Stream.transactions))
        .where(_present(column(over)))
        .subquery(quoted("moments"))
    )
    query = exp.select(column(over), column(EVENT_TIME)).from_(greatest)
    for name, alias in {EVENT_TIME: PREVIOUS_TIME, **values}.items():
        lag = exp.Window(
            this=exp.Lag(this=column(name)),
            partition_by=[column(over)],
            order=exp.Order(expressions=[column(EVENT_TIME)]),
        )
        query = query.select(named(lag, alias))
    return query.where(exp.EQ(this=column(PLACE), expression=integer(1)))


def moments(tables: Tables, over: str) -> exp.Select:
    """The distinct (entity, time) pairs: a state feature depends on nothing else."""
    return (
        exp.select(column(over), column(EVENT_TIME))
        .from_(tables.table(Stream.transactions))
        .where(_present(column(over)))
        .group_by(column(over), column(EVENT_TIME))
    )


def _present(value: exp.Expr) -> exp.Expr:
    return exp.not_(exp.Is(this=value, expression=exp.null()))


def _reach(frame: Frame, at: exp.Expr) -> exp.Expr:
    """How far back the frame reaches, in microseconds."""
    if frame.resolution_us == 1:
        return integer(frame.length_us)
    step = exp.Mod(this=at.copy(), expression=integer(frame.resolution_us))
    return exp.paren(exp.Add(this=integer(frame.length_us), expression=step))


def _slide(value: exp.Expr, frame: Frame) -> exp.Expr:
    return exp.Window(
        this=value,
        partition_by=[column(frame.over)],
        order=exp.Order(expressions=[column(EVENT_TIME)]),
        spec=exp.WindowSpec(
            kind="RANGE",
            start=_reach(frame, column(EVENT_TIME)),
            start_side="PRECEDING",
            end=integer(1),
            end_side="PRECEDING",
        ),
    )


def _aggregate(tables: Tables, aggregate: Aggregate, table: str | None = None) -> exp.Expr:
    if aggregate.column is None:
        return exp.Count(this=exp.Star())
    value: exp.Expr = column(aggregate.column, table)
    if aggregate.column == LABEL_INPUT:
        value = cast(value, "INT", tables)
    elif aggregate.function in ("sum", "squares") and is_exact(tables.schema, aggregate.column):
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
