"""How close a fast path has to come to ``features/reference.py``."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fraudml.events.schema import AttributeType
from fraudml.events.transaction import Transaction
from fraudml.features.reference import read
from fraudml.features.spec import Aggregation, FeatureSet, LabelAggregation, StateFeature, WindowFeature

RELATIVE = 1e-9
# An exact numerator and denominator end in a division and perhaps a root: a few roundings to float64.
ROUNDING = 1e-15
_FLOATING = {Aggregation.sum, Aggregation.mean, Aggregation.std}
_ROUNDED = {Aggregation.mean, Aggregation.std, LabelAggregation.fraud_rate}


def agrees(
    actual: float | None,
    expected: float | None,
    feature_set: FeatureSet,
    feature: StateFeature,
    target: Transaction,
    transactions: Sequence[Transaction],
) -> bool:
    """True when a fast path's value is the reference's: both missing, or equal.

    Equal is exact for integers; sums, means and standard deviations of floating-point numbers may differ by
    1e-9 of the sum of magnitudes in the window.
    """
    if expected is None or actual is None or math.isnan(actual):
        return expected is None and (actual is None or math.isnan(actual))
    difference = abs(actual - float(expected))
    agg = getattr(feature, "agg", None)
    if isinstance(feature, WindowFeature) and feature.of is not None and agg in _FLOATING:
        schema = feature_set.schema
        if schema.input_type(feature.of) is AttributeType.number:
            return difference <= RELATIVE * _magnitude(feature_set, feature, target, transactions)
    return difference <= (4 * ROUNDING * abs(expected) if agg in _ROUNDED else 0.0)


def _magnitude(
    feature_set: FeatureSet, feature: WindowFeature, target: Transaction, transactions: Sequence[Transaction]
) -> float:
    """Sum of the absolute values in the window."""
    schema = feature_set.schema
    position = schema.entity_names.index(feature.over)
    start = (target.event_time_us - feature.length_us) // feature.resolution_us * feature.resolution_us
    values = [
        read(schema, event, feature.of or "")
        for event in transactions
        if event.entities[position] == target.entities[position] and start <= event.event_time_us < target.event_time_us
    ]
    return math.fsum(abs(float(value)) for value in values if value is not None)
