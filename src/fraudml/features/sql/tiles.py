"""An aggregate over a window of a coarse resolution from those over its whole tiles and its open tile."""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import exp

from fraudml.features.sql.tables import integer, or_zero

Get = Callable[[str, str | None], exp.Expr]  # (function, column) -> the aggregate


def combined(function: str, of: str | None, tiles: Get, open_tile: Get) -> exp.Expr:
    """The aggregate over both parts. Counts and sums of nothing are 0 here, other aggregates null."""
    match function:
        case "count":
            return exp.paren(exp.Add(this=tiles("count", of), expression=open_tile("count", of)))
        case "sum" | "squares":
            parts = or_zero(tiles(function, of)), or_zero(open_tile(function, of))
            return exp.paren(exp.Add(this=parts[0], expression=parts[1]))
        case "min" | "max":
            both = tiles(function, of), open_tile(function, of)
            pick = exp.Least if function == "min" else exp.Greatest
            chosen = pick(this=both[0], expressions=[both[1]], ignore_nulls=False)
            # some engines leave a null out, others make all null
            return exp.Coalesce(this=chosen, expressions=[value.copy() for value in both])
        case "mean":
            total, count = combined("sum", of, tiles, open_tile), combined("count", of, tiles, open_tile)
            return _ratio(total, exp.Nullif(this=count, expression=integer(0)))
        case _:
            return _std(of, tiles, open_tile)


def _std(of: str | None, tiles: Get, open_tile: Get) -> exp.Expr:
    """Sample standard deviation of both parts by Chan, Golub and LeVeque's update: no large sums cancel."""
    count = combined("count", of, tiles, open_tile)
    scatter: exp.Expr = exp.Add(this=_scatter(of, tiles), expression=_scatter(of, open_tile))
    apart = exp.paren(exp.Sub(this=tiles("mean", of), expression=open_tile("mean", of)))
    weights = exp.Mul(this=_double(tiles("count", of)), expression=_double(open_tile("count", of)))
    shift = exp.Mul(
        this=exp.Mul(this=apart, expression=apart.copy()),
        expression=exp.paren(_ratio(weights, exp.Nullif(this=count.copy(), expression=integer(0)))),
    )
    scatter = exp.Add(this=scatter, expression=or_zero(shift))
    fewer = exp.Sub(this=count.copy(), expression=integer(1))
    root = exp.Sqrt(this=_ratio(exp.paren(scatter), fewer))
    return exp.Case().when(exp.GT(this=count, expression=integer(1)), root)


def _scatter(of: str | None, part: Get) -> exp.Expr:
    """Sum of squared differences from the part's own mean."""
    deviation = part("std", of)
    fewer = exp.paren(exp.Sub(this=part("count", of), expression=integer(1)))
    square = exp.Mul(this=deviation, expression=deviation.copy())
    return or_zero(exp.Mul(this=square, expression=fewer))


def _ratio(top: exp.Expr, bottom: exp.Expr) -> exp.Expr:
    return exp.Div(this=_double(top), expression=_double(bottom))


def _double(value: exp.Expr) -> exp.Expr:
    return exp.cast(value, "DOUBLE")
