"""Naive local times to UTC, vectorised, exactly as :mod:`zoneinfo` has it.

A database's own time zone functions come with another edition of the zone data and another rule for the hour that
a change of clocks repeats. So the changes are read once from ``zoneinfo`` and looked up.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from fraudml.events.normalise import EARLIEST_ATTRIBUTE_US, LATEST_US
from fraudml.events.units import SECOND

STEP_S = 2 * 86_400  # no zone has changed its clocks and changed them back within two days
Integers = NDArray[np.int64]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Zone:
    """The offsets of one time zone from 1900 to 2199.

    >>> berlin = Zone("Europe/Berlin")
    >>> local = np.array([1_714_521_600_000_000])  # 2024-05-01T00:00 on the wall
    >>> (local - berlin.to_utc(local)) // 3_600_000_000
    array([2])
    """

    def __init__(self, name: str) -> None:
        self._changes, self._offsets = _offsets(name)
        self._zone = ZoneInfo(name)

    def to_local(self, utc_us: int) -> int:
        """Local microseconds of UTC ones."""
        return utc_us + _offset_s(self._zone, utc_us // SECOND) * SECOND

    def to_utc(self, local_us: Integers) -> Integers:
        """UTC microseconds of local ones. A repeated time is the first; a skipped one has the earlier offset."""
        return local_us - self._offsets[np.searchsorted(self._changes, local_us, side="right")]


@lru_cache(maxsize=16)
def _offsets(name: str) -> tuple[Integers, Integers]:
    """Local microseconds at which each change takes effect ``[n]``, and the offsets between them ``[n + 1]``."""
    zone = ZoneInfo(name)
    earliest = EARLIEST_ATTRIBUTE_US // SECOND
    changes: list[int] = []
    offsets = [_offset_s(zone, earliest)]
    for start in range(earliest, LATEST_US // SECOND, STEP_S):
        if _offset_s(zone, start + STEP_S) == offsets[-1]:
            continue
        before, after = start, start + STEP_S
        while after - before > 1:
            middle = (before + after) // 2
            before, after = (middle, after) if _offset_s(zone, middle) == offsets[-1] else (before, middle)
        new = _offset_s(zone, after)
        # Naive times count with the offset before the change for as long as that is possible.
        changes.append(after + max(new, offsets[-1]))
        offsets.append(new)
    scale = np.int64(SECOND)
    return np.array(changes, dtype=np.int64) * scale, np.array(offsets, dtype=np.int64) * scale


def _offset_s(zone: ZoneInfo, second: int) -> int:
    offset = (_EPOCH + timedelta(seconds=second)).astimezone(zone).utcoffset()
    return round(offset.total_seconds()) if offset is not None else 0
