"""Transactions as columns of codes: what every part of the simulation hands to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.float64]

DAY_MS = 86_400_000
GENUINE = -1  # the code of no fraud pattern
MISSING = -1  # the code of an absent device, address or domain


@dataclass(slots=True)
class Rows:
    """Equally long columns, one entry per transaction, in no particular order.

    Codes point into the Population (customer, merchant, terminal) or the catalogue (the rest); a device is
    a number of its own. Times are milliseconds since 1970 UTC, money is in minor units.
    """

    time_ms: IntArray
    customer: IntArray
    merchant: IntArray
    terminal: IntArray
    device: IntArray
    ip_country: IntArray
    channel: IntArray
    entry_mode: IntArray
    amount_minor: IntArray
    email: IntArray
    pattern: IntArray

    def __len__(self) -> int:
        return len(self.time_ms)

    def take(self, which: npt.NDArray[Any]) -> Rows:
        """The rows at these positions, or where this mask is true."""
        return Rows(*(getattr(self, column)[which] for column in COLUMNS))

    @staticmethod
    def concat(parts: Sequence[Rows]) -> Rows:
        """All rows of the parts, which must not be an empty list."""
        return Rows(*(np.concatenate([getattr(part, column) for part in parts]) for column in COLUMNS))


COLUMNS = tuple(column.name for column in fields(Rows))
_TYPES: dict[str, type[np.integer[Any]]] = {"time_ms": np.int64, "device": np.int64, "amount_minor": np.int64}
_TYPES |= {"customer": np.int32, "merchant": np.int32, "terminal": np.int32}


def make_rows(**columns: npt.NDArray[Any] | int) -> Rows:
    """Rows from arrays (or one value for all) in their narrow types.

    >>> len(make_rows(**{name: np.zeros(3) for name in COLUMNS}))
    3
    """
    length = len(np.atleast_1d(columns["time_ms"]))
    return Rows(
        *(np.broadcast_to(np.asarray(columns[name]).astype(_TYPES.get(name, np.int8)), length) for name in COLUMNS)
    )


def no_rows() -> Rows:
    """A Rows of length 0."""
    return make_rows(**{name: np.empty(0) for name in COLUMNS})


def group_of(sizes: IntArray) -> IntArray:
    """For groups of these sizes laid end to end, the group of each element.

    >>> group_of(np.array([2, 0, 3])).tolist()
    [0, 0, 2, 2, 2]
    """
    return np.repeat(np.arange(len(sizes)), sizes)


def running_total(values: FloatArray, sizes: IntArray) -> FloatArray:
    """Cumulative sum that starts anew in each group, so that a group's first element counts as 0.

    >>> running_total(np.array([5.0, 1.0, 7.0, 2.0, 3.0]), np.array([2, 3])).tolist()
    [0.0, 1.0, 0.0, 2.0, 5.0]
    """
    total = np.cumsum(values)
    filled = sizes[sizes > 0]
    first = np.cumsum(filled) - filled
    start: FloatArray = np.repeat(total[first], filled)
    return total - start
