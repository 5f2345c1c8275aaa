"""Hypothesis strategies for parity tests: a schema, a FeatureSet over it, transactions and label reports.

Times lie on a coarse grid, give or take one microsecond, and every window length and resolution is a multiple
of the grid: ties, hits exactly on ``t`` and ``t - W`` and misses by one microsecond are then the rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
from hypothesis import strategies as st

from fraudml.events.label import Label
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn
from fraudml.events.source import arrow_schema
from fraudml.events.transaction import Transaction
from fraudml.events.units import INTEGER_LIMIT, NUMBER_LIMIT
from fraudml.features.spec import (
    Aggregation,
    FeatureSet,
    LabelAggregation,
    LabelWindowFeature,
    LastFeature,
    StateFeature,
    WindowFeature,
)

HOUR_US = 3_600_000_000
START_US = 1_700_000_000_000_000 // HOUR_US * HOUR_US
GRID_HOURS = 9

# length -> the resolutions that divide it; `7us` and `1d` frame the grid from below and above.
LENGTHS: dict[str, list[str]] = {
    "7us": ["1us", "7us"],
    "1h": ["1us", "1min", "1h"],
    "2h": ["1us", "1us", "1h", "2h"],
    "5h": ["1us", "1us", "30min", "1h", "5h"],
    "6h": ["1us", "1us", "1h", "3h"],
    "1d": ["1us", "1us", "1h", "1d"],
    "400d": ["1us", "1d"],
}
ATTRIBUTES: dict[str, Attribute] = {
    "country": Attribute(AttributeType.category, vocabulary=("DE", "FR", "é")),
    "shop": Attribute(AttributeType.category),
    "rating": Attribute(AttributeType.number),
    "items": Attribute(AttributeType.integer),
    "online": Attribute(AttributeType.boolean),
    "born": Attribute(AttributeType.time),
}
ENTITIES = {"customer": "cust_no", "merchant": "merch_no"}

KEYS = st.sampled_from(["k1"] * 6 + ["k2", None])
TEXTS = st.sampled_from(["DE", "FR", "é", "Z", "a", "DE ", "\U0001f600", "\uffee"])


def integers(limit: int = INTEGER_LIMIT) -> st.SearchStrategy[int]:
    """Whole numbers within a limit, often at it."""
    return st.one_of(
        st.sampled_from([0, 1, -1, limit, -limit, limit - 1]), st.integers(-1_000, 1_000), st.integers(-limit, limit)
    )


NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 0.1, -0.1, 1e-300, 1e16, 1e16 + 2, NUMBER_LIMIT, -NUMBER_LIMIT]),
    st.floats(-1e6, 1e6),
    st.floats(-NUMBER_LIMIT, NUMBER_LIMIT),
)
VALUES: dict[AttributeType, st.SearchStrategy[str | int | float]] = {
    AttributeType.category: TEXTS,
    AttributeType.number: NUMBERS,
    AttributeType.integer: integers(),
    AttributeType.boolean: st.integers(0, 1),
    AttributeType.time: st.sampled_from([0, 1, START_US - 1, START_US, 7 * 10**15]),
}
TIMES = st.builds(
    lambda hours, extra: START_US + hours * HOUR_US + extra,
    st.integers(0, GRID_HOURS),
    st.sampled_from([0, 0, 0, -1, 1, -7, 7, 1_800_000_000]),
)


@dataclass(frozen=True, repr=False)
class History:
    """One generated case. ``transactions`` and ``labels`` come in no order; ids are unique."""

    feature_set: FeatureSet
    transactions: tuple[Transaction, ...]
    labels: tuple[Label, ...]

    def __repr__(self) -> str:
        schema = self.feature_set.schema
        return (
            f"History(entities={schema.entity_names}, attributes={schema.attribute_names}, "
            f"features={self.feature_set.features}, transactions={self.transactions}, labels={self.labels})"
        )

    @cached_property
    def first_labels(self) -> dict[str, Label]:
        """The first report in the list for each transaction: what a file's label column can hold."""
        return {label.transaction_id: label for label in reversed(self.labels)}

    @cached_property
    def further_labels(self) -> list[Label]:
        """The reports that are not in :meth:`record_batch`."""
        first = {id(label) for label in self.first_labels.values()}
        return [label for label in self.labels if id(label) not in first]

    def record_batch(self) -> pa.RecordBatch:
        """The transactions in the normal form (``events.source.arrow_schema``) with their first labels."""
        return record_batch(self.feature_set.schema, self.transactions, self.first_labels)


def record_batch(
    schema: Schema, transactions: tuple[Transaction, ...] | list[Transaction], labels: dict[str, Label]
) -> pa.RecordBatch:
    """Transactions as one batch of ``arrow_schema(schema)``; ``labels`` holds at most one report by id."""
    rows = []
    for event in transactions:
        label = labels.get(event.transaction_id)
        rows.append(
            (
                event.transaction_id,
                event.event_time_us,
                *event.entities,
                event.amount_minor,
                *event.attributes,
                label.is_fraud if label else None,
                label.known_at_us if label else None,
            )
        )
    fields = arrow_schema(schema)
    columns = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(fields)]
    return pa.RecordBatch.from_arrays(columns, schema=fields)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """One or two entities, perhaps an amount, some of every type of attribute."""
    entities = draw(st.sampled_from([["customer"], ["customer", "merchant"], ["merchant", "customer"]]))
    attributes = draw(st.lists(st.sampled_from(sorted(ATTRIBUTES)), unique=True, max_size=4))
    return Schema(
        event_time=TimeColumn("time"),
        transaction_id="id",
        entities={name: ENTITIES[name] for name in entities},
        amount=draw(st.sampled_from([AmountColumn("amount", allow_negative=True, optional=True)] * 3 + [None])),
        attributes={name: ATTRIBUTES[name] for name in attributes},
    ).check()


@st.composite
def state_features(draw: st.DrawFn, schema: Schema, name: str) -> StateFeature:
    """Any window, label window or ``last`` feature that the schema allows."""
    over = draw(st.sampled_from(schema.entity_names))
    length = draw(st.sampled_from(sorted(LENGTHS)))
    resolution = draw(st.sampled_from(LENGTHS[length]))
    kind = draw(st.sampled_from(["window", "window", "window", "label", "last"]))
    if kind == "label":
        agg = draw(st.sampled_from(list(LabelAggregation)))
        return LabelWindowFeature(name=name, over=over, agg=agg, length=length, resolution=resolution)
    plain = [*(["amount"] if schema.amount else []), *schema.attribute_names]
    if kind == "last":
        readable = ["event_time", *(of for of in plain if of != "shop")]
        return LastFeature(name=name, over=over, of=draw(st.sampled_from(readable)), within=length)
    columns = [None, *schema.entity_names, *(of for of in plain if of != "born")]
    of = draw(st.sampled_from(columns))
    if of is None:
        aggregations = [Aggregation.count]
    elif schema.input_type(of) is AttributeType.category:
        aggregations = [Aggregation.count, Aggregation.nunique]
    else:
        aggregations = list(Aggregation)
    agg = draw(st.sampled_from(aggregations))
    return WindowFeature(name=name, over=over, agg=agg, length=length, of=of, resolution=resolution)


@st.composite
def feature_sets(draw: st.DrawFn, schema: Schema | None = None, max_features: int = 8) -> FeatureSet:
    """Up to ``max_features`` state features, named f0, f1, ..."""
    schema = schema or draw(schemas())
    count = draw(st.integers(1, max_features))
    return FeatureSet(schema, [draw(state_features(schema, f"f{i}")) for i in range(count)])


@st.composite
def transaction_lists(
    draw: st.DrawFn, schema: Schema, max_size: int = 14, limit: int = INTEGER_LIMIT
) -> tuple[Transaction, ...]:
    """Transactions out of order, with ties, null keys and null values; ids unique. Integers are within ``limit``."""
    whole = integers(limit)

    def values(kind: AttributeType) -> st.SearchStrategy[str | int | float | None]:
        usual = whole if kind is AttributeType.integer else VALUES[kind]
        return st.one_of(usual, usual, usual, st.none())

    row = st.tuples(
        TIMES,
        st.tuples(*(KEYS for _ in schema.entity_names)),
        st.one_of(whole, whole, whole, st.none()) if schema.amount else st.none(),
        st.tuples(*(values(attribute.type) for attribute in schema.attributes.values())),
    )
    rows = draw(st.lists(row, min_size=draw(st.sampled_from([1, max_size // 2])), max_size=max_size))
    return tuple(Transaction(f"t{i}", *row) for i, row in enumerate(rows))


@st.composite
def label_lists(draw: st.DrawFn, transactions: tuple[Transaction, ...]) -> tuple[Label, ...]:
    """Reports on some transactions, several on a few (corrections, repeats), known at the times of events."""
    reports = st.tuples(st.sampled_from(transactions), st.booleans(), TIMES)
    return tuple(
        Label(event.transaction_id, verdict, known_at_us, event.entities)
        for event, verdict, known_at_us in draw(st.lists(reports, max_size=len(transactions) + 4))
    )


@st.composite
def histories(
    draw: st.DrawFn, max_features: int = 8, max_transactions: int = 14, limit: int = INTEGER_LIMIT
) -> History:
    """A whole case: FeatureSet, transactions, labels."""
    feature_set = draw(feature_sets(max_features=max_features))
    transactions = draw(transaction_lists(feature_set.schema, max_size=max_transactions, limit=limit))
    return History(feature_set, transactions, draw(label_lists(transactions)))
