"""The number of distinct values in a window, for engines that cannot count them over a sliding frame.

An event at ``s`` is in the windows of the times ``s < t <= e`` with ``e = floor(s + W, r) + r - 1``. Its value is
counted by it until the entity's next event with that value takes over, at ``n``: so it counts in ``(s, min(e, n)]``,
and these spans of one value do not overlap. The number at ``t`` is that of spans begun before ``t`` less that of
spans ended before ``t``: a running sum, whatever the number of events in a window.
"""

from __future__ import annotations

from sqlglot import exp

from fraudml.events.schema import EVENT_TIME
from fraudml.features.sql.tables import (
    DELTA,
    NEXT_TIME,
    NEXT_VALUE,
    PROBE,
    VALUE,
    Stream,
    Tables,
    by_code_point,
    column,
    integer,
    moments,
    named,
    present,
    quoted,
)


def distinct_values(tables: Tables, over: str, of: str, name: str, *, length_us: int, resolution_us: int) -> exp.Select:
    """The number as ``name`` at every time that the entity has a transaction (rows with ``PROBE`` = 1)."""
    begins = moments(tables, over).select(named(exp.Count(this=column(of)), DELTA), named(integer(1), PROBE))
    ends = exp.select(column(over), named(_end(length_us, resolution_us), EVENT_TIME))
    ends = ends.select(named(integer(-1), DELTA), named(integer(0), PROBE)).from_(_uses(tables, over, of))
    changes = exp.union(begins, ends, distinct=False)
    running = exp.Window(
        this=exp.Sum(this=column(DELTA)),
        partition_by=[column(over)],
        order=exp.Order(expressions=[column(EVENT_TIME)]),
        spec=exp.WindowSpec(
            kind="RANGE", start="UNBOUNDED", start_side="PRECEDING", end=integer(1), end_side="PRECEDING"
        ),
    )
    return exp.select(column(over), column(EVENT_TIME), column(PROBE), named(running, name)).from_(
        changes.subquery(quoted("changes"))
    )


def _uses(tables: Tables, over: str, of: str) -> exp.Subquery:
    """Every event's value, and time and value of the entity's next event in the order of values, then times."""

    def following(wanted: str) -> exp.Expr:
        return exp.Window(
            this=exp.Lead(this=column(wanted)),
            partition_by=[column(over)],
            order=exp.Order(expressions=[by_code_point(column(of), of, tables), column(EVENT_TIME)]),
        )

    return (
        exp.select(column(over), column(EVENT_TIME), named(column(of), VALUE))
        .select(named(following(EVENT_TIME), NEXT_TIME), named(following(of), NEXT_VALUE))
        .from_(tables.table(Stream.transactions))
        .where(present(column(over)), present(column(of)))
        .subquery(quoted("uses"))
    )


def _end(length_us: int, resolution_us: int) -> exp.Expr:
    """The last time at which the event counts: ``min(e, n)``. Of equal events all but one end as they begin."""
    time = column(EVENT_TIME)
    last: exp.Expr = exp.Add(this=time, expression=integer(length_us + resolution_us - 1))
    if resolution_us > 1:
        last = exp.Sub(this=last, expression=exp.Mod(this=time.copy(), expression=integer(resolution_us)))
    same = exp.EQ(this=column(NEXT_VALUE), expression=column(VALUE))
    sooner = exp.LT(this=column(NEXT_TIME), expression=last)
    return exp.Case().when(exp.and_(same, sooner), column(NEXT_TIME)).else_(last.copy())
