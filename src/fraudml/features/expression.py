"""Derived features: a small, safe arithmetic, evaluated over whole columns.

Grammar: numbers, names of earlier features, ``+ - * /``, unary minus, comparisons (``== != < <= > >=``, giving
1.0 or 0.0), parentheses and the functions of :data:`FUNCTIONS`. Anything else is refused. A missing operand
makes the result missing, and so does the logarithm or root of a negative number. A division by zero is infinite
inside an expression; a result that is not finite is missing. The text is parsed by Python's own parser into a
syntax tree that is never run: it is walked once and turned into closures over NumPy functions.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Set
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from fraudml.errors import FeatureError

Column = NDArray[np.float64]
Columns = Mapping[str, Column]
_Node = Callable[[Columns], Column]

MAX_LENGTH = 1_000
MAX_DEPTH = 200  # of the tree (a sum of n terms is n deep): far from Python's own limit, however deep the caller is
EARTH_RADIUS_KM = 6371.0088  # mean radius, IUGG


def haversine_km(lat1: Column, lon1: Column, lat2: Column, lon2: Column) -> Column:
    """Great-circle distance in kilometres between points in degrees (haversine formula).

    >>> round(float(haversine_km(np.array(52.52), np.array(13.405), np.array(48.137), np.array(11.575))))
    504
    """
    phi1, phi2 = np.radians(lat1), np.radians(lat2)
    half = np.sin((phi2 - phi1) / 2) ** 2
    half = half + np.cos(phi1) * np.cos(phi2) * np.sin((np.radians(lon2) - np.radians(lon1)) / 2) ** 2
    distance: Column = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(half, 1.0)))
    return distance


def finite(values: Column) -> Column:
    """The same values, missing where they are not finite: what each expression's result is put through.

    >>> finite(np.array([1.0, np.inf, np.nan]))
    array([ 1., nan, nan])
    """
    return np.where(np.isfinite(values), values, np.nan)


def _coalesce(first: Column, second: Column) -> Column:
    return np.where(np.isnan(first), second, first)


def _where(condition: Column, yes: Column, no: Column) -> Column:
    return np.where(np.isnan(condition), np.nan, np.where(condition != 0, yes, no))


def _depth(tree: ast.AST) -> int:
    depth, nodes = 0, [tree]
    while nodes:
        depth, nodes = depth + 1, [child for node in nodes for child in ast.iter_child_nodes(node)]
    return depth


# name -> (number of arguments, function over float64 arrays)
FUNCTIONS: dict[str, tuple[int, Callable[..., Column]]] = {
    "abs": (1, np.abs),
    "sqrt": (1, np.sqrt),
    "log1p": (1, np.log1p),
    "exp": (1, np.exp),
    "min": (2, np.minimum),
    "max": (2, np.maximum),
    "coalesce": (2, _coalesce),
    "is_missing": (1, lambda column: np.isnan(column).astype(np.float64)),
    "where": (3, _where),
    "haversine_km": (4, haversine_km),
}
_OPERATORS: dict[type[ast.operator], Callable[..., Column]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[..., NDArray[np.bool_]]] = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}


class Expression:
    """A parsed expression over named columns; raises FeatureError for anything outside the grammar.

    >>> z = Expression("(amount - mean) / std", {"amount", "mean", "std"})
    >>> z({"amount": np.array([9.0, 1.0]), "mean": np.array([5.0, 5.0]), "std": np.array([2.0, 0.0])})
    array([ 2., nan])
    """

    def __init__(self, text: str, names: Set[str]) -> None:
        self.text = text
        self.names: set[str] = set()
        if len(text) > MAX_LENGTH:
            raise FeatureError(f"an expression has at most {MAX_LENGTH} characters")
        try:
            tree = ast.parse(text.strip(), mode="eval")
            if _depth(tree.body) > MAX_DEPTH:
                raise FeatureError("an expression is too deep; split it into several features")
            self._run = self._build(tree.body, names)
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
            raise FeatureError(f"cannot read the expression {text!r}") from None

    def __call__(self, columns: Columns) -> Column:
        """The value for each row: float64 ``[n]``; NaN where missing."""
        with np.errstate(all="ignore"):
            return finite(self.evaluate(columns))

    def evaluate(self, columns: Columns) -> Column:
        """The same before :func:`finite`, for a caller that evaluates many expressions in one ``np.errstate``."""
        return self._run(columns)

    def _build(self, node: ast.expr, names: Set[str]) -> _Node:
        match node:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() | float() as value):
                constant = np.array(value, dtype=np.float64)
                return lambda columns: constant
            case ast.Name(id=name):
                if name not in names:
                    raise FeatureError(f"the expression {self.text!r} uses {name!r}, which is no earlier feature")
                self.names.add(name)
                return itemgetter(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self._build(operand, names)
                return lambda columns: np.negative(inner(columns))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return self._combine(_OPERATORS[type(op)], [left, right], names)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
                return self._compare(_COMPARISONS[type(op)], left, right, names)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
                count, function = FUNCTIONS[name]
                if len(args) != count:
                    raise FeatureError(f"{name} takes {count} arguments, not {len(args)}, in {self.text!r}")
                return self._combine(function, args, names)
            case _:
                pass
        shown = ast.get_source_segment(self.text.strip(), node) or type(node).__name__
        raise FeatureError(
            f"{shown!r} is not allowed in an expression; use + - * /, comparisons, features and "
            f"{', '.join(sorted(FUNCTIONS))}"
        )

    def _combine(self, function: Callable[..., Column], args: list[ast.expr], names: Set[str]) -> _Node:
        nodes = [self._build(arg, names) for arg in args]
        if len(nodes) == 2:  # almost all: for one row, a generator would cost as much as the arithmetic
            first, second = nodes
            return lambda columns: function(first(columns), second(columns))
        return lambda columns: function(*(node(columns) for node in nodes))

    def _compare(
        self, function: Callable[..., NDArray[np.bool_]], left: ast.expr, right: ast.expr, names: Set[str]
    ) -> _Node:
        first, second = self._build(left, names), self._build(right, names)

        def run(columns: Columns) -> Column:
            a, b = first(columns), second(columns)
            return np.where(np.isnan(a) | np.isnan(b), np.nan, function(a, b).astype(np.float64))

        return run
