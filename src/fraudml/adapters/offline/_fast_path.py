"""Which state features prefix sums can compute, and their inputs out of DuckDB."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeGuard

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraudml.adapters.offline._extremes import Extremes
from fraudml.adapters.offline._prefix_sums import (
    Column,
    Floats,
    Ints,
    Stream,
    Window,
    fill,
    make_column,
    sort_stream,
    sums_fit,
)
from fraudml.events.schema import Schema, normal_column
from fraudml.features.spec import (
    LABEL_INPUT,
    OF_LABELS,
    Aggregation,
    FeatureSet,
    LabelAggregation,
    LabelWindowFeature,
    StateFeature,
    WindowFeature,
)
from fraudml.features.sql.tables import is_exact

_EXTREMES = {Aggregation.min, Aggregation.max}
_SUMMING = {Aggregation.sum, Aggregation.mean, Aggregation.std}
_ZERO_WHEN_EMPTY = {
    Aggregation.count,
    Aggregation.sum,
    LabelAggregation.label_count,
    LabelAggregation.fraud_count,
}
# Codes, times, sorting order, keys and two columns of an entity that is being worked on.
_WORKING_BYTES_PER_ROW = 150


class FastPath:
    """Computes the features that it can from the views ``seen`` (sorted history) and ``known`` (label reports)."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, feature_set: FeatureSet, threads: int) -> None:
        self._connection = connection
        self._schema = feature_set.schema
        self._threads = threads
        self._by_entity: dict[str, list[WindowFeature | LabelWindowFeature]] = {}
        for feature in feature_set.state_features:
            if is_summable(feature, self._schema):
                self._by_entity.setdefault(feature.over, []).append(feature)

    def estimate_bytes(self, rows: int) -> int:
        """Memory that :meth:`compute` needs at its peak."""
        at_once = min(self._threads, len(self._by_entity))
        each = []
        for entity, features in self._by_entity.items():
            extremes = {(f.of, f.agg) for f in features if isinstance(f, WindowFeature) and f.agg in _EXTREMES}
            levels = self._longest(entity).bit_length() if extremes else 0  # of a sparse table: no window is longer
            each.append(_WORKING_BYTES_PER_ROW + 8 * levels * len(extremes))
        return rows * (8 * sum(map(len, self._by_entity.values())) + at_once * max(each, default=0))

    def compute(self, rows: int) -> dict[str, Floats]:
        """float64 ``[rows]`` by feature name, in the order of ``seen``; without those whose sums might overflow."""
        found: dict[str, Floats] = {}
        if self._by_entity and rows:
            cursors = [self._connection.cursor() for _ in self._by_entity]  # a connection serves one thread
            with ThreadPoolExecutor(min(self._threads, len(cursors))) as pool:
                for arrays in pool.map(self._entity, self._by_entity, cursors, [rows] * len(cursors)):
                    found.update(arrays)
        return found

    def _longest(self, entity: str) -> int:
        """The number of events of the entity's busiest key."""
        key = quote(entity)
        counts = f"SELECT count(*) FROM seen WHERE {key} IS NOT NULL GROUP BY {key}"  # noqa: S608 - a quoted name
        rows = self._connection.execute(f"{counts} ORDER BY count(*) DESC LIMIT 1").fetchall()
        return int(rows[0][0]) if rows else 0

    def _entity(self, entity: str, cursor: duckdb.DuckDBPyConnection, rows: int) -> dict[str, Floats]:
        features = self._by_entity[entity]
        own = [feature for feature in features if isinstance(feature, WindowFeature)]
        about_labels = [feature for feature in features if isinstance(feature, LabelWindowFeature)]
        columns = sorted({feature.of for feature in own if feature.of})
        with cursor:
            table = _fetch(cursor, "seen", ["event_time_us", entity, *(normal_column(name) for name in columns)])
            times = _ints(table.column(0))
            codes, keys = _encode(table.column(1))
            present = np.flatnonzero(codes >= 0)
            order = present[sort_stream(codes[present], times[present])]
            targets = Stream(codes[order], times[order])
            most = int(np.bincount(targets.codes).max(initial=0))
            for i, name in enumerate(columns):
                values = table.column(i + 2)
                targets.columns[name] = self._prefix(name, values, order, most, own)
            del table
            reports = self._reports(cursor, entity, keys) if about_labels else None
        own = [feature for feature in own if _has_sums(targets, feature)]
        arrays = {feature.name: _empty(rows, feature.agg) for feature in own}
        arrays.update((feature.name, _empty(rows, feature.agg)) for feature in about_labels)
        fill(targets, order, targets, [_window(f, f.agg, f.of, arrays[f.name]) for f in own])
        if reports:
            label_windows = [_window(f, OF_LABELS[f.agg], LABEL_INPUT, arrays[f.name]) for f in about_labels]
            fill(targets, order, reports, label_windows)
        return arrays

    def _prefix(
        self, name: str, values: pa.ChunkedArray, order: Ints, most: int, own: Iterable[WindowFeature]
    ) -> Column:
        """Prefix sums of a column, as far as they are asked for and fit in 64 bits."""
        wanted = {feature.agg for feature in own if feature.of == name}
        missing = pc.is_null(values).to_numpy()[order]
        if not wanted & (_SUMMING | _EXTREMES):
            return make_column(None, missing)
        numbers = _ints(pc.fill_null(values, 0))[order]
        largest = int(np.abs(numbers).max(initial=0))
        summed = bool(wanted & _SUMMING) and sums_fit(most, largest, squares=False)
        squares = Aggregation.std in wanted and sums_fit(most, largest, squares=True)
        column = make_column(numbers if summed else None, missing, squares=squares)
        for agg in wanted & _EXTREMES:
            floats = np.where(missing, np.nan, numbers)  # exact: integers are below 2^53
            column.extremes[agg.value] = Extremes(floats, smallest=agg is Aggregation.min)
        return column

    def _reports(self, cursor: duckdb.DuckDBPyConnection, entity: str, keys: pa.Array) -> Stream:
        table = _fetch(cursor, "known", ["known_at_us", entity, "is_fraud"])
        codes = _ints(pc.fill_null(pc.index_in(table.column(1), value_set=keys), -1))
        times = _ints(table.column(0))
        relevant = np.flatnonzero(codes >= 0)
        order = relevant[sort_stream(codes[relevant], times[relevant])]
        frauds = _ints(table.column(2))[order]
        column = make_column(frauds, np.zeros(len(order), np.bool_))
        return Stream(codes[order], times[order], {LABEL_INPUT: column})


def is_summable(feature: StateFeature, schema: Schema) -> TypeGuard[WindowFeature | LabelWindowFeature]:
    """True for what prefix sums and sparse tables of integers give."""
    if isinstance(feature, LabelWindowFeature):
        return True
    if not isinstance(feature, WindowFeature):
        return False
    if feature.agg is Aggregation.count or feature.of is None:
        return True
    return feature.agg in _SUMMING | _EXTREMES and is_exact(schema, feature.of)


def _has_sums(targets: Stream, feature: WindowFeature) -> bool:
    """False where overflow forbade the prefix sums that a feature needs."""
    if feature.of is None or feature.agg is Aggregation.count or feature.agg in _EXTREMES:
        return True
    column = targets.columns[feature.of]
    return (column.squares if feature.agg is Aggregation.std else column.total) is not None


def _empty(rows: int, agg: Aggregation | LabelAggregation) -> Floats:
    """What a transaction without the entity's key gets: the value over an empty window."""
    return np.full(rows, 0.0 if agg in _ZERO_WHEN_EMPTY else np.nan)


def _window(
    feature: WindowFeature | LabelWindowFeature, function: Aggregation, column: str | None, out: Floats
) -> Window:
    return Window(feature.length_us, feature.resolution_us, function.value, column, out)


def _fetch(cursor: duckdb.DuckDBPyConnection, view: str, columns: list[str]) -> pa.Table:
    names = ", ".join(map(quote, columns))
    return cursor.sql(f"SELECT {names} FROM {view}").to_arrow_table()  # noqa: S608 - quoted names


def quote(name: str) -> str:
    """A quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _ints(values: pa.ChunkedArray) -> Ints:
    numbers: Ints = pc.cast(values, pa.int64()).to_numpy()
    return numbers


def _encode(values: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """Codes from 0 (-1 where missing) int64 ``[n]``, and the keys by code."""
    encoded = values.dictionary_encode().unify_dictionaries()
    if not encoded.num_chunks:
        return np.zeros(0, np.int64), pa.array([], values.type)
    codes = pa.chunked_array([chunk.indices for chunk in encoded.chunks])
    return _ints(pc.fill_null(codes, -1)), encoded.chunk(0).dictionary
