"""From a transaction's own values and its state features to the vector that models read.

One vectorised function, the same for a million rows offline and for one row online.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraudml.events.schema import AMOUNT_INPUT, TIME_INPUT, AttributeType, normal_column
from fraudml.events.transaction import Transaction
from fraudml.features.spec import AttributeFeature, DerivedFeature, FeatureSet, LastFeature, Transform

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
FLOAT32_MAX = float(np.finfo(np.float32).max)

Column = NDArray[np.float64]


class Deriver:
    """Evaluates the attribute and derived features of one FeatureSet.

    Base columns are float64 ``[n]`` by input name (``amount`` in minor units, ``event_time`` and time attributes
    in microseconds, which float64 holds exactly; categories as codes; NaN for missing).
    """

    def __init__(self, feature_set: FeatureSet) -> None:
        self.feature_set = feature_set
        schema = feature_set.schema
        self._codes = {
            name: {value: float(i) for i, value in enumerate(attribute.vocabulary, 1)}
            for name, attribute in schema.attributes.items()
            if attribute.type is AttributeType.category
        }
        # days_since reads the event's time beside its own column
        self._used = sorted({TIME_INPUT, *(f.of for f in feature_set.features if isinstance(f, AttributeFeature))})
        self._attribute_at = {name: i for i, name in enumerate(schema.attribute_names)}

    def from_transactions(self, batch: Sequence[Transaction], state: NDArray[np.float64]) -> Column:
        """Vectors of transactions: float64 ``[n, k]``, columns in ``FeatureSet.input_names`` order.

        ``state``: float64 ``[n, s]``, columns in ``FeatureSet.state_features`` order.
        """
        base = {name: self._column(batch, name) for name in self._used}
        features = {feature.name: state[:, i] for i, feature in enumerate(self.feature_set.state_features)}
        return self._vectors(base, features, len(batch))

    def from_arrow(self, batch: pa.RecordBatch) -> Column:
        """Vectors of a batch of ``OfflineStore.features``: float64 ``[n, k]``."""
        base = {name: self._arrow_column(batch, name, name) for name in self._used}
        features = {
            feature.name: self._arrow_column(
                batch, feature.name, feature.of if isinstance(feature, LastFeature) else ""
            )
            for feature in self.feature_set.state_features
        }
        return self._vectors(base, features, batch.num_rows)

    def _vectors(self, base: Mapping[str, Column], columns: dict[str, Column], rows: int) -> Column:
        for feature in self.feature_set.features:
            if isinstance(feature, AttributeFeature):
                columns[feature.name] = _transform(feature.transform, base[feature.of], base[TIME_INPUT])
            elif isinstance(feature, DerivedFeature):
                columns[feature.name] = self.feature_set.expressions[feature.name](columns)
        vectors = np.empty((rows, len(self.feature_set.inputs)))
        for i, name in enumerate(self.feature_set.input_names):
            vectors[:, i] = columns[name]
        return vectors

    def _column(self, batch: Sequence[Transaction], name: str) -> Column:
        values: Iterable[Any]
        if name == AMOUNT_INPUT:
            values = [event.amount_minor for event in batch]
        elif name == TIME_INPUT:
            values = [event.event_time_us for event in batch]
        else:
            at = self._attribute_at[name]
            values = [event.attributes[at] for event in batch]
            if name in self._codes:
                codes = self._codes[name]
                values = [None if value is None else codes.get(value, 0.0) for value in values]
        return np.array(values, dtype=np.float64)  # None becomes NaN

    def _arrow_column(self, batch: pa.RecordBatch, column: str, source: str) -> Column:
        values = batch.column(normal_column(column))
        if source in self._codes:
            values = self._encode(values, source)
        floats: Column = pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False)
        return floats

    def _encode(self, values: pa.Array, name: str) -> pa.Array:
        codes = self._codes[name]
        found = pc.add(pc.index_in(values, pa.array(list(codes), pa.string())), 1)
        return pc.if_else(pc.is_null(values), None, pc.fill_null(found, 0))


def to_model(vectors: Column) -> NDArray[np.float32]:
    """The float32 vectors that models read; values beyond its range are clipped, NaN stays.

    >>> to_model(np.array([[1e300, np.nan]])).tolist()[0][0] < float("inf")
    True
    """
    return np.clip(vectors, -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)


def _transform(transform: Transform, values: Column, event_time: Column) -> Column:
    match transform:
        case Transform.raw:
            return values
        case Transform.log1p:
            return np.copysign(np.log1p(np.abs(values)), values)
        case Transform.hour_of_day:
            return np.floor_divide(values, HOUR_US) % 24
        case Transform.day_of_week:
            return (np.floor_divide(values, DAY_US) + 3) % 7
        case Transform.is_night:
            return _flag(np.floor_divide(values, HOUR_US) % 24 < 6, values)
        case Transform.is_weekend:
            return _flag((np.floor_divide(values, DAY_US) + 3) % 7 >= 5, values)
        case Transform.days_since:
            return (event_time - values) / DAY_US


def _flag(condition: NDArray[np.bool_], values: Column) -> Column:
    return np.where(np.isnan(values), np.nan, condition.astype(np.float64))
