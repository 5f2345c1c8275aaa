"""``last`` features of many transactions: the newest event of a lane before each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraudml.adapters.online._plan import LastPlan
from fraudml.adapters.online.redis.lanes import FOREVER_US, MISSING
from fraudml.adapters.online.redis.records import Vocabulary
from fraudml.adapters.online.redis.sight import Sight

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Values = NDArray[Any]


def read(
    plan: LastPlan,
    order: list[tuple[str, bool]],
    vocabularies: dict[int, Vocabulary],
    events: tuple[Sight, Values],
    asked: tuple[Ints, Ints],
    out: Floats,
) -> None:
    """Write a value for each feature and transaction: float64 ``[n, features]``.

    ``order``: the fields that say which of several events at one time counts. ``events``: their order of time, and the
    records as they were before that. ``asked``: lanes and times of the transactions.
    """
    sight, records = events
    lanes, times = asked
    until = sight.find(lanes, times)
    sorted_ = sight.sort(records)
    ties = (sight.times[1:] == sight.times[:-1]) & (sight.lanes[1:] == sight.lanes[:-1])
    if order and ties.any():
        columns = [_comparable(sorted_[name], is_float) for name, is_float in order]
        sorted_ = sorted_[np.lexsort((*reversed(columns), sight.times, sight.lanes))]
    if not len(sorted_):
        out[:] = np.nan
        return
    place = np.maximum(until - 1, 0)
    found = (until > 0) & (sight.lanes[place] == lanes)
    age = times - sight.times[place]
    for number, (column, within, codes) in enumerate(plan.features):
        seen = found & (age <= min(within, FOREVER_US))
        if column < 0:
            values: Values = age / 1_000_000
        else:
            at = plan.at[column]
            values = _values(sorted_, at, place, vocabularies.get(at) if codes is not None else None)
        out[:, number] = np.where(seen, values, np.nan)


def _values(records: Values, at: int, place: Ints, vocabulary: Vocabulary | None) -> Values:
    if vocabulary is not None:
        codes: Values = vocabulary.codes[records[f"r{at}"][place]]
        return codes
    values: Values = records[f"x{at}"][place]
    if values.dtype.kind == "f":
        return values
    return np.where(values == MISSING, np.nan, values)


def _comparable(values: Values, is_float: bool) -> Values:
    """Values in their order; a missing one is below any other, and -0.0 is 0.0."""
    return np.where(np.isnan(values), -np.inf, values) + 0.0 if is_float else values
