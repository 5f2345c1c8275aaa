"""The meaning of every feature, for one event, in the slowest and most obvious way.

This is the only definition. The SQL of every engine and every online store are fast paths that property tests
hold to it: integers exactly, floating point to 1e-9 of the largest magnitude in the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from fractions import Fraction

import numpy as np

from fraudml.events.label import Label
from fraudml.events.schema import AMOUNT_INPUT, TIME_INPUT, Schema
from fraudml.events.transaction import Transaction
from fraudml.features.spec import (
    Aggregation,
    AttributeFeature,
    DerivedFeature,
    FeatureSet,
    LabelAggregation,
    LabelWindowFeature,
    LastFeature,
    StateFeature,
    Transform,
)

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
Value = str | int | float | None
Number = int | float | None


def evaluate(
    feature_set: FeatureSet,
    target: Transaction,
    transactions: Sequence[Transaction],
    labels: Sequence[Label],
    *,
    only: Set[str] | None = None,
) -> dict[str, Number]:
    """Every feature of ``target`` (or ``only`` those named), given all transactions and label reports known.

    ``None`` is null. Their order does not matter; ``transactions`` may contain the target itself, it never counts.
    ``only`` must be closed: with a derived feature, it names what that is derived from.
    """
    values: dict[str, Number] = {}
    for feature in feature_set.features:
        if only is not None and feature.name not in only:
            continue
        if isinstance(feature, DerivedFeature):
            columns = {name: np.array([as_float(value)]) for name, value in values.items()}
            result = float(feature_set.expressions[feature.name](columns).reshape(-1)[0])
            values[feature.name] = None if math.isnan(result) else result
        elif isinstance(feature, AttributeFeature):
            values[feature.name] = _attribute(feature_set.schema, feature, target)
        else:
            values[feature.name] = state_value(feature_set, feature, target, transactions, labels)
    return values


def state_value(
    feature_set: FeatureSet,
    feature: StateFeature,
    target: Transaction,
    transactions: Sequence[Transaction],
    labels: Sequence[Label],
) -> Number:
    """One window, label window or ``last`` feature of ``target``."""
    schema = feature_set.schema
    position = schema.entity_names.index(feature.over)
    key = target.entities[position]
    t = target.event_time_us
    if isinstance(feature, LabelWindowFeature):
        start = _window_start(t, feature.length_us, feature.resolution_us)
        reports: list[Value] = [
            int(label.is_fraud)
            for label in labels
            if key is not None and label.entities[position] == key and start <= label.known_at_us < t
        ]
        return _label_aggregate(feature.agg, reports)
    if isinstance(feature, LastFeature):
        start = t - feature.length_us
    else:
        start = _window_start(t, feature.length_us, feature.resolution_us)
    seen = [
        event
        for event in transactions
        if key is not None and event.entities[position] == key and start <= event.event_time_us < t
    ]
    if isinstance(feature, LastFeature):
        return _last(feature_set, feature, t, seen)
    if feature.of is None:
        return len(seen)
    return aggregate(feature.agg, [read(schema, event, feature.of) for event in seen])


def aggregate(agg: Aggregation, values: Sequence[Value]) -> Number:
    """An aggregation of the non-missing values; exact inside, rounded once at the end.

    >>> aggregate(Aggregation.std, [1, 2, None, 4]), aggregate(Aggregation.mean, []), aggregate(Aggregation.sum, [])
    (1.5275252316519468, None, 0)
    """
    present = [value for value in values if value is not None]
    if agg is Aggregation.count:
        return len(present)
    if agg is Aggregation.nunique:
        return len(set(present)) if present else None
    numbers = [value for value in present if not isinstance(value, str)]
    if agg is Aggregation.min:
        return min(numbers, default=None)
    if agg is Aggregation.max:
        return max(numbers, default=None)
    # Fractions and whole numbers alike are exact; whole numbers stay what they are, a hundred times faster
    exact = [number if isinstance(number, int) else Fraction(number) for number in numbers]
    count, total = len(exact), sum(exact)
    if agg is Aggregation.sum:
        return total if isinstance(total, int) else float(total)
    if agg is Aggregation.mean:
        return float(Fraction(total, count)) if exact else None
    if count < 2:
        return None
    scatter = count * sum(value * value for value in exact) - total * total
    return math.sqrt(Fraction(scatter, count * (count - 1)))


def read(schema: Schema, event: Transaction, name: str) -> Value:
    """What a feature reads by this name from an event: an attribute, an entity's key, amount or event_time."""
    if name == AMOUNT_INPUT:
        return event.amount_minor
    if name == TIME_INPUT:
        return event.event_time_us
    if name in schema.entities:
        return event.entities[schema.entity_names.index(name)]
    return event.attributes[schema.attribute_names.index(name)]


def code(schema: Schema, name: str, value: Value) -> Number:
    """A category's code: its place in the vocabulary from 1, or 0; other values as they are."""
    if not isinstance(value, str):
        return value
    vocabulary = schema.attributes[name].vocabulary
    return vocabulary.index(value) + 1 if value in vocabulary else 0


def as_float(value: Number) -> float:
    """NaN for null."""
    return math.nan if value is None else float(value)


def _window_start(t: int, length: int, resolution: int) -> int:
    return (t - length) // resolution * resolution


def _label_aggregate(agg: LabelAggregation, reports: Sequence[Value]) -> Number:
    if agg is LabelAggregation.label_count:
        return len(reports)
    return aggregate(Aggregation.sum if agg is LabelAggregation.fraud_count else Aggregation.mean, reports)


def _last(feature_set: FeatureSet, feature: LastFeature, t: int, seen: Sequence[Transaction]) -> Number:
    if not seen:
        return None
    schema = feature_set.schema
    tracked = feature_set.last_columns(feature.over)

    def order(event: Transaction) -> tuple[object, ...]:
        values = [read(schema, event, name) for name in tracked]
        return (
            event.event_time_us,
            *((value is not None, value if value is not None else 0) for value in values),
        )

    newest = max(seen, key=order)
    if feature.of == TIME_INPUT:
        return (t - newest.event_time_us) / 1_000_000
    return code(schema, feature.of, read(schema, newest, feature.of))


def _attribute(schema: Schema, feature: AttributeFeature, target: Transaction) -> Number:
    value = code(schema, feature.of, read(schema, target, feature.of))
    if value is None:
        return None
    match feature.transform:
        case Transform.raw:
            return value
        case Transform.log1p:
            return math.copysign(math.log1p(abs(value)), value)
        case Transform.hour_of_day:
            return int(value) // HOUR_US % 24
        case Transform.day_of_week:
            return (int(value) // DAY_US + 3) % 7  # 1970-01-01 was a Thursday
        case Transform.is_night:
            return int(int(value) // HOUR_US % 24 < 6)
        case Transform.is_weekend:
            return int((int(value) // DAY_US + 3) % 7 >= 5)
        case Transform.days_since:
            return (target.event_time_us - int(value)) / DAY_US
