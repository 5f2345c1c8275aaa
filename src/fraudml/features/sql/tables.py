"""The tables that a query reads, and the small pieces that all its parts are made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlglot import exp

from fraudml.events.schema import EVENT_TIME, AttributeType, Schema, normal_column
from fraudml.features.sql.dialects import Dialect

PROBE = "__is_probe"  # two underscores keep these apart from columns of the user
PREVIOUS_TIME = "__previous_time_us"
PLACE = "__place"
VALUE = "__value"
DELTA = "__delta"
NEXT_TIME = "__next_time_us"
NEXT_VALUE = "__next_value"


class Stream(StrEnum):
    """What a window slides over."""

    transactions = "transactions"
    labels = "labels"


@dataclass(frozen=True)
class Tables:
    """The tables that a query reads, with their schema, for one dialect."""

    schema: Schema
    dialect: Dialect
    transactions: str
    labels: str

    def table(self, stream: Stream) -> exp.Table:
        """The table of a stream."""
        name = self.transactions if stream is Stream.transactions else self.labels
        return exp.to_table(name, dialect=self.dialect.name)


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


def present(value: exp.Expr) -> exp.Expr:
    """``NOT value IS NULL``."""
    return exp.not_(exp.Is(this=value, expression=exp.null()))


def or_zero(value: exp.Expr) -> exp.Expr:
    """``COALESCE(value, 0)``."""
    return exp.Coalesce(this=value, expressions=[integer(0)])


def by_code_point(value: exp.Expr, name: str, tables: Tables) -> exp.Expr:
    """A value to order by: text in the order of its code points, in every engine."""
    text = tables.dialect.collation
    if text and tables.schema.input_type(name) is AttributeType.category:
        return exp.Collate(this=value, expression=quoted(text))
    return value


def is_exact(schema: Schema, name: str) -> bool:
    """True for columns whose sums are integers."""
    return schema.input_type(name) in {AttributeType.integer, AttributeType.boolean}


def moments(tables: Tables, over: str) -> exp.Select:
    """The distinct (entity, time) pairs: a state feature depends on nothing else."""
    return (
        exp.select(column(over), column(EVENT_TIME))
        .from_(tables.table(Stream.transactions))
        .where(present(column(over)))
        .group_by(column(over), column(EVENT_TIME))
    )
