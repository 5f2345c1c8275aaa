"""From a transaction's own values and its state features to the vector that models read.

One vectorised function, the same for a million rows offline and for one row online.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraudml.events.schema import AMOUNT_INPUT, TIME_INPUT, AttributeType, normal_column
from fraudml.events.transaction import Transaction
from fraudml.features.expression import finite
from fraudml.features.spec import AttributeFeature, DerivedFeature, FeatureSet, LastFeature, Transform

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
FLOAT32_MAX = float(np.finfo(np.float32).max)

Column = NDArray[np.float64]


class Deriver:
    """Evaluates the attribute and derived features of one FeatureSet.

    Base columns are float64 ``[n]`` by input name (``amount`` in minor units, ``event_time`` and time attributes
    in microseconds, which float64 holds exactly; categories as codes; NaN for missing).

    All values of a batch live in one float64 ``[features, n]``: its rows are contiguous columns, the inputs first.
    For the small batches of the hot path the price is the number of NumPy calls, not of values, so what each feature
    needs is looked up here, once, and state is put in place by one call.
    """

    def __init__(self, feature_set: FeatureSet) -> None:
        self.feature_set = feature_set
        schema = feature_set.schema
        self._codes = {
            name: {value: float(i) for i, value in enumerate(attribute.vocabulary, 1)}
            for name, attribute in schema.attributes.items()
            if attribute.type is AttributeType.category
        }
        attributes = [f for f in feature_set.features if isinstance(f, AttributeFeature)]
        # days_since reads the event's time beside its own column
        self._used = sorted({TIME_INPUT, *(f.of for f in attributes)})
        self._attribute_at = {name: i for i, name in enumerate(schema.attribute_names)}
        ordered = [*feature_set.inputs, *(f for f in feature_set.features if not f.input)]
        row = {feature.name: i for i, feature in enumerate(ordered)}
        derived = [f for f in feature_set.features if isinstance(f, DerivedFeature)]
        expressions = [feature_set.expressions[f.name] for f in derived]
        operands = sorted({name for expression in expressions for name in expression.names})
        self._rows = len(ordered)
        self._inputs = len(feature_set.inputs)
        self._state_rows = np.array([row[f.name] for f in feature_set.state_features], dtype=np.intp)
        self._attributes = [(row[f.name], TRANSFORMS[f.transform], f.of) for f in attributes]
        self._operands = [(name, row[name]) for name in operands]
        self._derived = [
            (row[f.name], expression, f.name in operands) for f, expression in zip(derived, expressions, strict=True)
        ]
        self._derived_rows = np.array([row[f.name] for f in derived], dtype=np.intp)

    def from_transactions(self, batch: Sequence[Transaction], state: NDArray[np.float64]) -> Column:
        """Vectors of transactions: float64 ``[n, k]``, columns in ``FeatureSet.input_names`` order.

        ``state``: float64 ``[n, s]``, columns in ``FeatureSet.state_features`` order.
        """
        base = {name: self._column(batch, name) for name in self._used}
        return self._vectors(base, state.T, len(batch))

    def from_arrow(self, batch: pa.RecordBatch) -> Column:
        """Vectors of a batch of ``OfflineStore.features``: float64 ``[n, k]``."""
        base = {name: self._arrow_column(batch, name, name) for name in self._used}
        state = [
            self._arrow_column(batch, feature.name, feature.of if isinstance(feature, LastFeature) else "")
            for feature in self.feature_set.state_features
        ]
        return self._vectors(base, state, batch.num_rows)

    def _vectors(self, base: Mapping[str, Column], state: Column | Sequence[Column], rows: int) -> Column:
        values = np.empty((self._rows, rows))
        if len(self._state_rows):
            values[self._state_rows] = state
        with np.errstate(all="ignore"):
            for row, transform, of in self._attributes:
                values[row] = transform(base[of], base[TIME_INPUT])
            columns = {name: values[row] for name, row in self._operands}
            for row, expression, is_operand in self._derived:
                result = expression.evaluate(columns)
                values[row] = finite(result) if is_operand else result
        if len(self._derived_rows):
            values[self._derived_rows] = finite(values[self._derived_rows])
        vectors: Column = np.ascontiguousarray(values[: self._inputs].T)
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
    # not np.clip: for small batches its wrapper costs more than the work
    return np.maximum(np.minimum(vectors, FLOAT32_MAX), -FLOAT32_MAX).astype(np.float32, order="C")


def _raw(values: Column, event_time: Column) -> Column:
    return values


def _log1p(values: Column, event_time: Column) -> Column:
    return np.copysign(np.log1p(np.abs(values)), values)


def _hour_of_day(values: Column, event_time: Column) -> Column:
    return np.floor_divide(values, HOUR_US) % 24


def _day_of_week(values: Column, event_time: Column) -> Column:
    return (np.floor_divide(values, DAY_US) + 3) % 7


def _is_night(values: Column, event_time: Column) -> Column:
    return _flag(_hour_of_day(values, event_time) < 6, values)


def _is_weekend(values: Column, event_time: Column) -> Column:
    return _flag(_day_of_week(values, event_time) >= 5, values)


def _days_since(values: Column, event_time: Column) -> Column:
    return (event_time - values) / DAY_US


def _flag(condition: NDArray[np.bool_], values: Column) -> Column:
    return np.where(np.isnan(values), np.nan, condition.astype(np.float64))


# (the feature's column, event_time) -> the feature
TRANSFORMS: dict[Transform, Callable[[Column, Column], Column]] = {
    Transform.raw: _raw,
    Transform.log1p: _log1p,
    Transform.hour_of_day: _hour_of_day,
    Transform.day_of_week: _day_of_week,
    Transform.is_night: _is_night,
    Transform.is_weekend: _is_weekend,
    Transform.days_since: _days_since,
}
