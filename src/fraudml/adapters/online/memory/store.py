"""The online store in this process's memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from statistics import median_low
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraudml.adapters.online._plan import compile_plan
from fraudml.adapters.online._rows import Row, Rows
from fraudml.adapters.online.memory.last import LastTable
from fraudml.adapters.online.memory.load import Gathered, Groups, load_last, load_windows
from fraudml.adapters.online.memory.table import Table
from fraudml.adapters.online.memory.windows import WindowTable
from fraudml.events.label import Label
from fraudml.events.schema import EVENT_TIME, IS_FRAUD, KNOWN_AT, normal_column
from fraudml.events.transaction import Transaction
from fraudml.features.spec import FeatureSet
from fraudml.features.stores import StateRead

TICK = 256  # transactions after which the store looks at how far time has moved


class MemoryOnlineStore:
    """State in this process: pure Python, amortised O(1) per event and window (implements ``OnlineStore``).

    Exact: every value equals the reference to the last bit. Two values are approximate, both of late
    transactions only: windows of a coarse resolution see the tile that holds the transaction's time as far as it has
    filled, and a transaction more than ``lateness_us`` late sees what is still held. Costs beyond O(1): a
    late event moves the totals after it and, over min, max and nunique, goes through the slots of its windows; a value
    of nunique that comes again in another tile moves the times held after its last one (8 bytes for each value).
    A lane gives back what it no longer needs when it is full or swept: the cells of a burst, the bits of large totals
    and of tiny floats. Given back, they serve other lanes; the process keeps the memory.

    An entity is forgotten when none of its events can be seen by a read at most ``lateness_us`` late. Time is the
    median of the last ``tick`` event times, so that single broken clocks forget nothing.

    After a bulk load, call ``stats()`` once (it builds the state that :meth:`load` gathered) and then
    ``gc.collect(); gc.freeze()``: the collector will not walk through that state again.

    >>> from fraudml.events.schema import AmountColumn, Schema, TimeColumn
    >>> from fraudml.features.spec import Aggregation, WindowFeature
    >>> schema = Schema(TimeColumn("time"), "id", {"card": "card"}, AmountColumn("amount"))
    >>> sum_1h = WindowFeature(name="sum_1h", over="card", agg=Aggregation.sum, of="amount", length="1h")
    >>> store = MemoryOnlineStore(FeatureSet(schema, [sum_1h]))
    >>> store.read_then_update(
    ...     [Transaction("a", 0, ("c1",), 500, ()), Transaction("b", 60_000_000, ("c1",), 700, ())]
    ... ).values.tolist()
    [[0.0], [500.0]]
    """

    def __init__(self, feature_set: FeatureSet, *, lateness_us: int = 86_400_000_000, tick: int = TICK) -> None:
        self.feature_set = feature_set
        self.lateness_us = lateness_us
        plan = compile_plan(feature_set)
        self._rows = Rows(feature_set.schema, plan.row)
        windows = [WindowTable(each) for each in plan.windows]
        lasts = [LastTable(each) for each in plan.lasts]
        self._tables: list[Table] = [*windows, *lasts]
        self._events = [table for table in self._tables if table.has_events]
        self._labels = [table for table in windows if not table.has_events]
        self._columns = np.array(plan.positions, dtype=np.intp)
        self._width = sum(len(table.blank) for table in self._tables)
        reach = lateness_us + max((table.horizon_us for table in self._tables), default=0)
        self._gathered = Gathered(feature_set.schema, plan, reach)
        self._plan = plan
        self._tick = tick
        self._recent: list[int] = []
        self._lock = threading.Lock()
        self._loaded = False

    @property
    def shared(self) -> bool:
        """State ends with this process."""
        return False

    def lost(self) -> bool:
        """Until :meth:`loaded`."""
        return not self._loaded

    def claim_load(self) -> bool:
        """Nobody else could."""
        return True

    def give_up_load(self) -> None:
        """Nobody else could go on: state ends with this process."""

    def loaded(self) -> None:
        """Builds what was gathered."""
        self.stats()
        self._loaded = True

    def behind(self) -> None:
        """State that ends with this process is never older than it."""

    def confirm(self, arrival: int) -> None:
        """Nothing to keep: state ends with this process."""

    def set_mark(self, text: str) -> None:
        """Not kept: state ends with the process that loads it."""

    def mark(self) -> None:
        """Loading begins at the beginning."""

    def read_then_update(self, transactions: Sequence[Transaction], *, trace: bool = False) -> StateRead:
        """See ``OnlineStore``."""
        rows = self._rows.of(transactions)
        with self._lock:
            self._build()
            answer = self._run(transactions, rows)
            self._recent += [event.event_time_us for event in transactions]
            if len(self._recent) >= self._tick:
                sealed_us = median_low(self._recent) - self.lateness_us
                self._recent.clear()
                for table in self._tables:
                    table.seal(sealed_us)
            for table in self._tables:
                table.sweep(len(transactions))
        return answer

    def read(self, transactions: Sequence[Transaction]) -> StateRead:
        """See ``OnlineStore``."""
        self._rows.of(transactions)
        with self._lock:
            self._build()
            return self._run(transactions, None)

    def add_labels(self, labels: Sequence[Label], *, again: bool = False) -> None:
        """See ``OnlineStore``. Nothing comes again: state ends with this process."""
        rows = self._rows.of_labels(labels)
        with self._lock:
            self._build()
            for label, row in zip(labels, rows, strict=True):
                for table in self._labels:
                    key = label.entities[table.entity]
                    if key is not None:
                        table.add(key, label.known_at_us, row)

    def load(self, events: pa.RecordBatch) -> None:
        """See ``OnlineStore``. Batches are gathered; the next call of any other method builds them into state."""
        with self._lock:
            self._gathered.add(events)

    def stats(self) -> dict[str, Any]:
        """``entities``: keys held, over all entities; ``events``: transactions held; ``labels``: reports held."""
        with self._lock:
            self._build()
            keys: dict[int, int] = {}
            for table in self._tables:
                keys[table.entity] = max(keys.get(table.entity, 0), len(table.lanes))
            return {
                "entities": sum(keys.values()),
                "events": max((table.events for table in self._events), default=0),
                "labels": max((table.events for table in self._labels), default=0),
            }

    def _run(self, transactions: Sequence[Transaction], rows: Sequence[Row] | None) -> StateRead:
        cells: list[float] = []
        late = np.zeros(len(transactions), dtype=np.bool_)
        tables = [(table, table.lanes, table.entity, table.has_events) for table in self._tables]
        for i, event in enumerate(transactions):
            time_us, entities = event.event_time_us, event.entities
            for table, lanes, entity, has_events in tables:
                key = entities[entity]
                lane = lanes.get(key) if key is not None else None
                if lane is None:
                    cells += table.blank
                    if rows is not None and has_events and key is not None:
                        table.insert(key, table.create(time_us, rows[i]))
                    continue
                is_late = table.read(lane, time_us, cells)
                if has_events:
                    if is_late:
                        late[i] = True
                    if rows is not None:
                        table.put(lane, time_us, rows[i])
        values = np.array(cells, dtype=np.float64).reshape(len(transactions), self._width)
        return StateRead(values[:, self._columns], late)

    def _build(self) -> None:
        """Build gathered history into state."""
        if not self._gathered:
            return
        newest = self._gathered.newest_us
        history = self._gathered.table()
        for table in self._tables:
            table.seal(max(newest - self.lateness_us, table.seal_us))
        columns = [history[normal_column(column.name)] for column in self._plan.row]
        groups = Groups(history[EVENT_TIME], columns)
        entities = self.feature_set.schema.entity_names
        for table in self._events:
            keys = history[entities[table.entity]]
            if isinstance(table, LastTable):
                load_last(table, groups, keys)
            elif isinstance(table, WindowTable):
                load_windows(table, groups, keys)
        if not self._labels:
            return
        known = history.filter(pc.and_(history[IS_FRAUD].is_valid(), history[KNOWN_AT].is_valid()))
        groups = Groups(known[KNOWN_AT], [pc.cast(known[IS_FRAUD], pa.int64())])
        for labels in self._labels:
            load_windows(labels, groups, known[entities[labels.entity]])
