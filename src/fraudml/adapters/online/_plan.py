"""What a FeatureSet needs held, worked out once: which tables, which columns, where each value is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from fraudml.events.schema import AMOUNT_INPUT, TIME_INPUT, AttributeType
from fraudml.features.spec import (
    LABEL_INPUT,
    OF_LABELS,
    Aggregation,
    FeatureSet,
    LabelAggregation,
    LabelWindowFeature,
    LastFeature,
    WindowFeature,
)

DAY_US = 86_400_000_000
MOMENTS = (Aggregation.count, Aggregation.sum, Aggregation.mean, Aggregation.std)

# What a cell of the output is: (column or None for events, aggregation, index of the window).
Cell = tuple[str | None, Aggregation, int]


class Kind(Enum):
    """How a column enters sums."""

    integer = "integer"
    real = "real"  # floats, summed exactly as scaled integers
    presence = "presence"  # a category: only counted


class Column(NamedTuple):
    """A value kept of each transaction; ``allowed``: its types when it is not missing; ``required``: it never is."""

    name: str
    source: str  # "amount", "entity" or "attribute"
    place: int  # among the entities or the attributes
    allowed: tuple[type, ...]
    required: bool = False


class MomentPlan(NamedTuple):
    """A column that is summed: its place in the row, what is wanted, and in which windows (by index)."""

    name: str
    at: int
    kind: Kind
    wanted: tuple[Aggregation, ...]  # what a read writes for each window, in the order of MOMENTS
    missing: bool  # whether an event may lack it
    windows: tuple[int, ...]


class ExtremePlan(NamedTuple):
    """A column whose values are kept, for one of min, max and nunique, in some windows."""

    name: str
    at: int
    agg: Aggregation
    kind: Kind
    windows: tuple[int, ...]


class WindowPlan(NamedTuple):
    """One table: all windows of one resolution over one entity, of transactions or of labels."""

    entity: int  # its place in Transaction.entities
    labels: bool
    resolution_us: int
    lengths_us: tuple[int, ...]
    counted: tuple[int, ...]  # the windows whose number of events is wanted
    moments: tuple[MomentPlan, ...]
    extremes: tuple[ExtremePlan, ...]

    @property
    def horizon_us(self) -> int:
        """How far back any window reaches."""
        step = self.resolution_us if self.resolution_us > 1 else 0
        return max(self.lengths_us, default=0) + step

    @property
    def cells(self) -> list[Cell]:
        """What a read writes, in this order."""
        cells: list[Cell] = [(None, Aggregation.count, window) for window in self.counted]
        for moment in self.moments:
            cells += [(moment.name, agg, window) for window in moment.windows for agg in moment.wanted]
        for extreme in self.extremes:
            cells += [(extreme.name, extreme.agg, window) for window in extreme.windows]
        return cells

    @property
    def blank(self) -> list[float]:
        """What a read writes for an entity that is not held."""
        zero = (Aggregation.count, Aggregation.sum)
        return [0.0 if agg in zero else math.nan for _, agg, _ in self.cells]


class LastPlan(NamedTuple):
    """The ``last`` features of one entity.

    ``at``: places of the tracked columns in the row. ``features``: for each feature the index of its column in
    ``at`` (-1 for the age), ``within`` in microseconds, and the codes of a category's values (None otherwise).
    """

    entity: int
    at: tuple[int, ...]
    features: tuple[tuple[int, int, dict[str, float] | None], ...]

    @property
    def horizon_us(self) -> int:
        """How far back any feature reaches."""
        return max(within for _, within, _ in self.features)

    @property
    def blank(self) -> list[float]:
        """What a read writes for an entity that is not held."""
        return [math.nan] * len(self.features)


class Plan(NamedTuple):
    """The tables in the order in which they write, the row they share, and for each state feature its cell."""

    row: tuple[Column, ...]
    windows: tuple[WindowPlan, ...]
    lasts: tuple[LastPlan, ...]
    positions: tuple[int, ...]


def compile_plan(feature_set: FeatureSet) -> Plan:
    """Group the state features into tables."""
    schema = feature_set.schema
    row = _Row(feature_set)
    windows: dict[tuple[int, bool, int], list[WindowFeature | LabelWindowFeature]] = {}
    lasts: dict[int, list[LastFeature]] = {}
    for feature in feature_set.state_features:
        entity = schema.entity_names.index(feature.over)
        if isinstance(feature, LastFeature):
            lasts.setdefault(entity, []).append(feature)
        else:
            key = (entity, isinstance(feature, LabelWindowFeature), feature.resolution_us)
            windows.setdefault(key, []).append(feature)
    window_plans = []
    place: dict[str, int] = {}
    width = 0
    for key, group in windows.items():
        plan = _window_plan(key, group, row)
        for feature in group:
            place[feature.name] = width + plan.cells.index(_cell(feature, plan.lengths_us))
        window_plans.append(plan)
        width += len(plan.cells)
    last_plans = [_last_plan(entity, group, row) for entity, group in lasts.items()]
    for last in (feature for group in lasts.values() for feature in group):
        place[last.name] = width
        width += 1
    # An entity with label windows only gets a table without windows, for the `late` flag.
    clocks = {key[0] for key in windows} - {key[0] for key in windows if not key[1]} - set(lasts)
    window_plans += [WindowPlan(entity, False, DAY_US, (), (), (), ()) for entity in sorted(clocks)]
    positions = tuple(place[feature.name] for feature in feature_set.state_features)
    return Plan(tuple(row.columns), tuple(window_plans), tuple(last_plans), positions)


class _Row:
    """Collects the columns that any table reads."""

    def __init__(self, feature_set: FeatureSet) -> None:
        self.feature_set = feature_set
        self.columns: list[Column] = []

    def place(self, name: str) -> int:
        """The column's index in the row; added on first use."""
        if name == LABEL_INPUT:
            return 0  # the row of a label report holds nothing else
        names = [column.name for column in self.columns]
        if name not in names:
            self.columns.append(self._column(name))
        return len(names) if name not in names else names.index(name)

    def kind(self, name: str) -> Kind:
        """How the column enters sums."""
        if name == LABEL_INPUT:
            return Kind.integer
        kind = self.feature_set.schema.input_type(name)
        return {AttributeType.number: Kind.real, AttributeType.category: Kind.presence}.get(kind, Kind.integer)

    def missing(self, name: str) -> bool:
        """Whether an event may lack the column."""
        amount = self.feature_set.schema.amount
        required = name == LABEL_INPUT or (name == AMOUNT_INPUT and amount is not None and not amount.optional)
        return not required

    def _column(self, name: str) -> Column:
        schema = self.feature_set.schema
        if name == AMOUNT_INPUT:
            return Column(name, "amount", 0, (int,), required=not self.missing(name))
        if name in schema.entities:
            return Column(name, "entity", schema.entity_names.index(name), (str,))
        allowed = {Kind.real: (float, int), Kind.presence: (str,), Kind.integer: (int, bool)}[self.kind(name)]
        return Column(name, "attribute", schema.attribute_names.index(name), allowed)


def _cell(feature: WindowFeature | LabelWindowFeature, lengths: Sequence[int]) -> Cell:
    window = lengths.index(feature.length_us)
    if isinstance(feature, WindowFeature):
        return feature.of, feature.agg, window
    if feature.agg is LabelAggregation.label_count:
        return None, Aggregation.count, window
    return LABEL_INPUT, OF_LABELS[feature.agg], window


def _window_plan(
    key: tuple[int, bool, int], features: Sequence[WindowFeature | LabelWindowFeature], row: _Row
) -> WindowPlan:
    lengths = tuple(sorted({feature.length_us for feature in features}))
    cells = [_cell(feature, lengths) for feature in features]
    moments: dict[str, set[Cell]] = {}
    extremes: dict[tuple[str, Aggregation], set[int]] = {}
    for name, agg, window in cells:
        if name is not None and agg in MOMENTS:
            moments.setdefault(name, set()).add((name, agg, window))
        elif name is not None:
            extremes.setdefault((name, agg), set()).add(window)
    moment_plans = []
    for name, uses in moments.items():
        aggs = {agg for _, agg, _ in uses}
        wanted = tuple(agg for agg in MOMENTS if agg in aggs)
        used = tuple(sorted({window for _, _, window in uses}))
        moment_plans.append(MomentPlan(name, row.place(name), row.kind(name), wanted, row.missing(name), used))
    extreme_plans = [
        ExtremePlan(name, row.place(name), agg, row.kind(name), tuple(sorted(used)))
        for (name, agg), used in extremes.items()
    ]
    counted = tuple(sorted({window for name, _, window in cells if name is None}))
    return WindowPlan(*key, lengths, counted, tuple(moment_plans), tuple(extreme_plans))


def _last_plan(entity: int, features: Sequence[LastFeature], row: _Row) -> LastPlan:
    schema = row.feature_set.schema
    tracked = row.feature_set.last_columns(features[0].over)
    compiled: list[tuple[int, int, dict[str, float] | None]] = []
    for feature in features:
        if feature.of == TIME_INPUT:
            compiled.append((-1, feature.length_us, None))
            continue
        codes = None
        if schema.input_type(feature.of) is AttributeType.category:
            vocabulary = schema.attributes[feature.of].vocabulary
            codes = {value: float(code) for code, value in enumerate(vocabulary, 1)}
        compiled.append((tracked.index(feature.of), feature.length_us, codes))
    return LastPlan(entity, tuple(row.place(name) for name in tracked), tuple(compiled))
