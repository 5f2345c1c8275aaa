"""History in bulk: rows are gathered, sorted once by entity and time, and become whole lanes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import accumulate, pairwise
from operator import mul
from sys import intern
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraudml.adapters.online._plan import Plan
from fraudml.adapters.online._rows import check_history
from fraudml.adapters.online.memory.lane import Lane
from fraudml.adapters.online.memory.last import LastTable
from fraudml.adapters.online.memory.layout import Sums
from fraudml.adapters.online.memory.table import NEVER
from fraudml.adapters.online.memory.windows import SCALE_STEP, WindowTable
from fraudml.events.schema import EVENT_TIME, IS_FRAUD, KNOWN_AT, Schema, normal_column

PRUNE_ROWS = 2_000_000  # gathered rows at which those that no read can see are first dropped
RECENT = 0.95  # the share of rows of a batch that lie before what counts as its newest time

Times = NDArray[np.int64]


class Gathered:
    """Batches loaded and not yet built into state."""

    def __init__(self, schema: Schema, plan: Plan, reach_us: int) -> None:
        self._columns = [normal_column(column.name) for column in plan.row]
        names = [EVENT_TIME, *schema.entity_names, *self._columns, IS_FRAUD, KNOWN_AT]
        self._required = [EVENT_TIME, *(normal_column(column.name) for column in plan.row if column.required)]
        self._names = list(dict.fromkeys(names))
        self._entities = schema.entity_names
        self._reach_us = reach_us  # how far before the newest time a read can look at all
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0
        self._prune_at = PRUNE_ROWS
        self.newest_us = NEVER

    def __bool__(self) -> bool:
        return bool(self._batches)

    def add(self, batch: pa.RecordBatch) -> None:
        """Gather a batch; raises OnlineStoreError when it is not in the normal form, or has values out of range."""
        if not batch.num_rows:
            return
        check_history(batch, self._names, self._required)
        times = batch.column(EVENT_TIME).to_numpy()
        place = int(RECENT * (len(times) - 1))
        self.newest_us = max(self.newest_us, int(np.partition(times, place)[place]))
        self._batches.append(batch.select(self._names))
        self._rows += batch.num_rows
        if self._rows >= self._prune_at:
            self._prune()

    def table(self) -> pa.Table:
        """All rows gathered; forgets them."""
        table = pa.Table.from_batches(self._batches)
        self._batches, self._rows, self._prune_at = [], 0, PRUNE_ROWS
        return table

    def _prune(self) -> None:
        table = pa.Table.from_batches(self._batches)
        first = self.newest_us - self._reach_us
        seen = pc.or_kleene(pc.greater_equal(table[EVENT_TIME], first), pc.greater_equal(table[KNOWN_AT], first))
        kept = table.filter(pc.fill_null(seen, False))
        self._batches, self._rows = kept.to_batches(), kept.num_rows
        self._prune_at = max(PRUNE_ROWS, 2 * self._rows)


class Groups:
    """The rows of one stream, as Python values, by entity in order of time."""

    def __init__(self, times: pa.ChunkedArray, columns: Sequence[pa.ChunkedArray]) -> None:
        self._times: Times = times.to_numpy()
        self._columns = [_values(column) for column in columns]

    def by(
        self, keys: pa.ChunkedArray, from_us: int, used: Sequence[int]
    ) -> Iterator[tuple[str, list[int], dict[int, list[Any]]]]:
        """(key, times, values by index of the column) of rows with a key, not before ``from_us``."""
        encoded = keys.combine_chunks().dictionary_encode()
        names = encoded.dictionary.to_pylist()
        codes = pc.fill_null(encoded.indices, -1).to_numpy()
        rows = np.flatnonzero((codes >= 0) & (self._times >= from_us))
        rows = rows[np.argsort(self._times[rows], kind="stable")]  # fast: history is mostly in order
        rows = rows[np.argsort(codes[rows], kind="stable")]
        sorted_codes = codes[rows]
        times = self._times[rows].tolist()
        columns = {column: self._columns[column][rows].tolist() for column in used}
        edges = [*np.flatnonzero(np.diff(sorted_codes, prepend=-1)).tolist(), len(times)]
        for first, until in pairwise(edges):
            part = {column: values[first:until] for column, values in columns.items()}
            yield names[sorted_codes[first]], times[first:until], part


def load_windows(table: WindowTable, groups: Groups, keys: pa.ChunkedArray) -> None:
    """Build the lanes of new entities at once; add to those that exist row by row."""
    plan = table.plan
    used = sorted({*(column.at for column in plan.moments), *(column.at for column in plan.extremes)})
    width = max(used, default=-1) + 1
    for key, times, columns in groups.by(keys, table.keep_from_us, used):
        if key not in table.lanes:
            table.insert(key, _lane(table, times, columns))
            continue
        for i, time_us in enumerate(times):
            table.add(key, time_us, [columns[at][i] if at in columns else None for at in range(width)])


def load_last(table: LastTable, groups: Groups, keys: pa.ChunkedArray) -> None:
    """Add, for each entity, the rows that a read can see."""
    used = sorted(set(table.plan.at))
    width = max(used, default=-1) + 1
    for key, times, columns in groups.by(keys, table.keep_from_us, used):
        before = bisect_left(times, table.seal_us)
        first = bisect_left(times, times[before - 1]) if before else 0
        for i in range(first, len(times)):
            table.add(key, times[i], [columns[at][i] if at in columns else None for at in range(width)])


def _lane(table: WindowTable, times: list[int], columns: dict[int, list[Any]]) -> Lane:
    """A lane of rows in order of time: the same as after adding them one by one."""
    starts = times
    if table.plan.labels:
        starts = table.aligned(times, table.seal_us)
    elif table.tiled:
        starts = table.aligned(times, times[-1])
    ends = [i for i, start in enumerate(starts, 1) if i == len(starts) or start != starts[i]]
    if not table.counts:
        ends = list(range(1, len(starts) + 1))
    lane = table.new_lane(len(ends))
    try:
        _fill(table, lane, columns, [0, *ends])
    except OverflowError:
        table.widen(lane)
        _fill(table, lane, columns, [0, *ends])
    lane.arena.put(0, lane.first + 1, [starts[end - 1] for end in ends])
    lane.last = lane.first + len(ends)
    table.close_loaded(lane)
    return lane


def _fill(table: WindowTable, lane: Lane, columns: dict[int, list[Any]], edges: list[int]) -> None:
    """Write all but the starts; slot ``i`` holds the rows from ``edges[i]`` to ``edges[i + 1] - 1``."""
    first = lane.first

    def put(column: int, values: Iterable[int]) -> None:
        totals = list(accumulate(values, initial=0))
        lane.arena.put(column, first, totals if len(edges) == len(totals) else [totals[edge] for edge in edges])

    if table.counts:
        lane.arena.put(table.counts, first, edges)
    for plan in table.sums:
        values = columns[plan.at]
        if plan.own_present:
            put(plan.own_present, (value is not None for value in values))
            values = [value or 0 for value in values]
        if plan.sums:
            values = _scaled(lane, plan, values) if plan.real else values
            put(plan.sums, values)
        if plan.squares:
            put(plan.squares, map(mul, values, values))
    for extreme in table.extremes:
        contents = list(map(extreme.lift, columns[extreme.at]))
        if len(edges) <= len(contents):
            contents = [extreme.freeze(reduce(extreme.merge, contents[a:b])) for a, b in pairwise(edges)]
        lane.arena.put(extreme.contents, first + 1, contents)


def _scaled(lane: Lane, plan: Sums, values: list[float]) -> list[int]:
    """Floats as integers; sets the lane's scale."""
    ratios = [value.as_integer_ratio() for value in values]
    scale = max(denominator.bit_length() - 1 for _, denominator in ratios)
    scale = -(-scale // SCALE_STEP) * SCALE_STEP
    lane.scales = (*lane.scales[: plan.real - 1], scale, *lane.scales[plan.real :])
    return [(numerator << scale) // denominator for numerator, denominator in ratios]


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    """Python values in an object array; ``None`` for null, text interned."""
    if pa.types.is_string(column.type):
        encoded = column.combine_chunks().dictionary_encode()
        names = np.array([*map(intern, encoded.dictionary.to_pylist()), None], dtype=object)
        texts: NDArray[Any] = names[pc.fill_null(encoded.indices, -1).to_numpy()]
        return texts
    if column.null_count:
        return np.array([*column.to_pylist(), None], dtype=object)[:-1]
    values: NDArray[Any] = column.to_numpy()
    return values
