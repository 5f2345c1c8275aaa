"""One query that gives every transaction its state features, as ``features/reference.py`` defines them."""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import exp

from fraudml.events.schema import EVENT_TIME, IS_FRAUD, KNOWN_AT, TIME_INPUT, AttributeType
from fraudml.features.spec import (
    LABEL_INPUT,
    Aggregation,
    FeatureSet,
    LabelAggregation,
    LabelWindowFeature,
    LastFeature,
    StateFeature,
    WindowFeature,
)
from fraudml.features.sql.dialects import Dialect, find_dialect
from fraudml.features.sql.distinct import distinct_values
from fraudml.features.sql.frames import (
    Aggregate,
    Frame,
    Part,
    label_windows,
    previous_events,
    transaction_windows,
)
from fraudml.features.sql.tables import (
    PREVIOUS_TIME,
    PROBE,
    Stream,
    Tables,
    cast,
    column,
    integer,
    is_exact,
    named,
    or_zero,
    quoted,
)
from fraudml.features.sql.tiles import combined

WINDOWS = "windows"  # the CTE that holds the transactions themselves


def state_features_sql(
    feature_set: FeatureSet,
    dialect: str | Dialect = "duckdb",
    *,
    transactions: str = "transactions",
    labels: str = "labels",
) -> str:
    """The query's text: the columns of ``events.source.arrow_schema``, then one column per state feature.

    ``transactions`` names a table (or view) with the columns of ``arrow_schema``; ``labels`` one with every label
    report: ``is_fraud`` (boolean or integer), ``known_at_us`` and the entities. Rows come in no order. Features
    are double precision, null when missing; a category read by ``last`` stays text. Raises ConfigError for an
    unknown dialect.

    >>> from fraudml.events.schema import AmountColumn, Schema, TimeColumn
    >>> schema = Schema(TimeColumn("time"), "id", {"customer": "cust"}, AmountColumn("amount"))
    >>> n = WindowFeature(name="n", over="customer", agg=Aggregation.count, length="1h")
    >>> "RANGE BETWEEN 3600000000 PRECEDING AND 1 PRECEDING" in state_features_sql(FeatureSet(schema, [n]))
    True
    """
    found = dialect if isinstance(dialect, Dialect) else find_dialect(dialect)
    tables = Tables(feature_set.schema, found, transactions, labels)
    return _Query(feature_set, tables).build().sql(dialect=found.name, pretty=True, copy=False)


class _Query:
    """Collects the aggregates that the features need, each once, then lays out the query."""

    def __init__(self, feature_set: FeatureSet, tables: Tables) -> None:
        self.feature_set = feature_set
        self.tables = tables
        self.columns = (*feature_set.schema.normal_columns(), IS_FRAUD, KNOWN_AT)
        self.prefix = "agg_"
        while any(name.casefold().startswith(self.prefix) for name in self.columns):
            self.prefix = f"_{self.prefix}"
        self.aggregates: dict[Frame, dict[Aggregate, str]] = {}
        self.distinct: dict[tuple[str, str, int, int], str] = {}  # (entity, column, length, resolution) -> its name
        self.previous: dict[str, dict[str, str]] = {}  # entity -> column read by `last` -> its name here
        self.names = 0

    def build(self) -> exp.Select:
        """The whole query. Nothing is copied for a next step: copies of long queries took most of the time."""
        values = [named(self._value(feature), feature.name) for feature in self.feature_set.state_features]
        own = {frame: found for frame, found in self.aggregates.items() if frame.stream is Stream.transactions}
        reports = {frame: found for frame, found in self.aggregates.items() if frame.stream is Stream.labels}
        query = exp.select(*(column(name, WINDOWS) for name in self.columns), *values)
        query = query.from_(quoted(WINDOWS), copy=False)
        query = query.with_(quoted(WINDOWS), as_=transaction_windows(self.tables, self.columns, own), copy=False)
        for over in dict.fromkeys(frame.over for frame in reports):
            of_entity = {frame: found for frame, found in reports.items() if frame.over == over}
            name = _source(Stream.labels, over)
            query = query.with_(quoted(name), as_=label_windows(self.tables, over, of_entity), copy=False)
            query = _attach(query, name, over, probe=True)
        for (over, of, length, resolution), name in self.distinct.items():
            numbers = distinct_values(self.tables, over, of, name, length_us=length, resolution_us=resolution)
            query = query.with_(quoted(_distinct_source(name)), as_=numbers, copy=False)
            query = _attach(query, _distinct_source(name), over, probe=True)
        for over, found_values in self.previous.items():
            name = f"previous_{over}"
            query = query.with_(quoted(name), as_=previous_events(self.tables, over, found_values), copy=False)
            query = _attach(query, name, over)
        return query

    def _value(self, feature: StateFeature) -> exp.Expr:
        if isinstance(feature, LastFeature):
            return self._last(feature)
        if isinstance(feature, LabelWindowFeature):
            return self._label(feature)
        return self._window(feature)

    def _window(self, feature: WindowFeature) -> exp.Expr:
        get = self._getter(Stream.transactions, feature)
        if feature.agg is Aggregation.count:
            return self._double(or_zero(get("count", feature.of)))
        of = feature.of or ""
        if feature.agg is Aggregation.sum:
            return self._double(or_zero(get("sum", of)))
        if feature.agg is Aggregation.nunique:
            native = self.tables.dialect.distinct_windows
            number = get("nunique", of) if native else self._distinct(feature, of)
            return self._double(exp.Nullif(this=number, expression=integer(0)))
        if feature.agg in (Aggregation.mean, Aggregation.std) and is_exact(self.feature_set.schema, of):
            count, total = get("count", of), get("sum", of)
            if feature.agg is Aggregation.mean:
                return self._divide(total, exp.Nullif(this=count, expression=integer(0)))
            return self._exact_std(count, total, get("squares", of))
        return self._double(get(feature.agg.value, of))

    def _label(self, feature: LabelWindowFeature) -> exp.Expr:
        get = self._getter(Stream.labels, feature)
        if feature.agg is LabelAggregation.label_count:
            return self._double(or_zero(get("count", LABEL_INPUT)))
        if feature.agg is LabelAggregation.fraud_count:
            return self._double(or_zero(get("sum", LABEL_INPUT)))
        count = exp.Nullif(this=get("count", LABEL_INPUT), expression=integer(0))
        return self._divide(get("sum", LABEL_INPUT), count)

    def _last(self, feature: LastFeature) -> exp.Expr:
        over, of = feature.over, feature.of
        if over not in self.previous:
            names = self.feature_set.last_columns(over)
            self.previous[over] = {name: self._new_name() for name in names}
        source = f"previous_{over}"
        gap = exp.Sub(this=column(EVENT_TIME, WINDOWS), expression=column(PREVIOUS_TIME, source))
        value: exp.Expr
        if of == TIME_INPUT:
            value = self._divide(gap, integer(1_000_000))
        else:
            value = column(self.previous[over][of], source)
            kind = self.feature_set.schema.input_type(of)
            if kind is not AttributeType.category:
                value = self._double(value)
        return exp.Case().when(exp.LTE(this=gap.copy(), expression=integer(feature.length_us)), value)

    def _exact_std(self, count: exp.Expr, total: exp.Expr, squares: exp.Expr) -> exp.Expr:
        """``sqrt((n * sum(x^2) - sum(x)^2) / (n * (n - 1)))``, in integers up to the division."""
        wide = cast(count, self.tables.dialect.wide, self.tables)
        spread = exp.Sub(
            this=exp.Mul(this=wide, expression=squares),
            expression=exp.Mul(this=total, expression=total.copy()),
        )
        pairs = exp.Mul(
            this=count.copy(),
            expression=exp.paren(exp.Sub(this=count.copy(), expression=integer(1))),
        )
        root = exp.Sqrt(this=self._divide(spread, pairs))
        return exp.Case().when(exp.GT(this=count.copy(), expression=integer(1)), root)

    def _getter(
        self, stream: Stream, feature: WindowFeature | LabelWindowFeature
    ) -> Callable[[str, str | None], exp.Expr]:
        """A function that asks for an aggregate over the feature's window and gives what has its value."""
        frame = Frame(stream, feature.over, feature.length_us, feature.resolution_us)
        if feature.resolution_us == 1 or self.tables.dialect.moving_frames:
            return self._asker(frame)
        tiles = self._asker(frame._replace(part=Part.tiles))
        open_tile = self._asker(frame._replace(length_us=feature.resolution_us, part=Part.open_tile))
        return lambda function, of: combined(function, of, tiles, open_tile)

    def _asker(self, frame: Frame) -> Callable[[str, str | None], exp.Expr]:
        """A function that asks for an aggregate over a frame and gives the column that holds it."""

        def ask(function: str, of: str | None) -> exp.Expr:
            found = self.aggregates.setdefault(frame, {})
            aggregate = Aggregate(function, of)
            if aggregate not in found:
                found[aggregate] = self._new_name()
            return column(found[aggregate], _source(frame.stream, frame.over))

        return ask

    def _distinct(self, feature: WindowFeature, of: str) -> exp.Expr:
        key = (feature.over, of, feature.length_us, feature.resolution_us)
        if key not in self.distinct:
            self.distinct[key] = self._new_name()
        return column(self.distinct[key], _distinct_source(self.distinct[key]))

    def _new_name(self) -> str:
        self.names += 1
        return f"{self.prefix}{self.names}"

    def _double(self, value: exp.Expr) -> exp.Expr:
        return exp.cast(value, "DOUBLE")

    def _divide(self, top: exp.Expr, bottom: exp.Expr) -> exp.Expr:
        return exp.Div(this=self._double(top), expression=self._double(bottom))


def _source(stream: Stream, over: str) -> str:
    """The CTE that holds aggregates of a stream."""
    return WINDOWS if stream is Stream.transactions else f"labels_{over}"


def _distinct_source(name: str) -> str:
    """The CTE that holds a number of distinct values."""
    return f"distinct_{name}"


def _attach(query: exp.Select, name: str, over: str, *, probe: bool = False) -> exp.Select:
    """Left join a CTE that has one row per (entity, time), or one ``PROBE`` among others."""
    conditions = [exp.EQ(this=column(key, name), expression=column(key, WINDOWS)) for key in (over, EVENT_TIME)]
    if probe:
        conditions.insert(0, exp.EQ(this=column(PROBE, name), expression=integer(1)))
    return query.join(quoted(name), on=exp.and_(*conditions), join_type="left", copy=False)
