"""Times in the form that requests usually have, read fast."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from fraudml.events.normalise import EARLIEST_ATTRIBUTE_US, LATEST_US, TIME_SCALE, Reader, time_reader
from fraudml.events.schema import Attribute, TimeColumn, TimeFormat
from fraudml.events.units import SECOND, to_minor

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SEPARATORS = frozenset({"--T::", "-- ::"})  # of 2024-05-01T12:30:00
# What may follow that; ``datetime.fromisoformat`` would read more.
_FRACTION_AND_ZONE = re.compile(r"(?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])")
# How texts in UTC end, and the microseconds of it.
_SECONDS = {f"{second:02}{zone}": second * SECOND for second in range(60) for zone in ("Z", "+00:00")}
_MOST_MINUTES = 10_000
_WHOLE_MINUTES_US = 94_694_400_000_000  # from 1973 on every zone's offset is of whole minutes (Liberia was the last)
_NAIVE_LENGTH = len("2024-05-01T12:30:00")


class UnsureError(ValueError):
    """The quick way does not decide this."""


def quick_time_reader(column: TimeColumn | Attribute) -> Reader:
    """A function from a text (a number, where the format counts) to microseconds UTC; ``None`` when missing."""
    if column.format is TimeFormat.iso:
        return _iso_reader(column, _earliest_us(column))
    return _count_reader(column, _earliest_us(column))


def _earliest_us(column: TimeColumn | Attribute) -> int:
    return EARLIEST_ATTRIBUTE_US if isinstance(column, Attribute) else 0


def _iso_reader(column: TimeColumn | Attribute, earliest_us: int) -> Reader:
    slow = time_reader(column)
    from_iso = datetime.fromisoformat
    # Transactions that arrive together are of few minutes. A naive time's offset, too, changes with a minute only.
    minutes: dict[str, int] = {}
    naive_minutes: dict[str, int] = {}
    naive_seconds = {f"{second:02}": second * SECOND for second in range(60)} if column.timezone else {}

    def read(value: Any) -> Any:
        if not value:
            return None
        is_naive = len(value) == _NAIVE_LENGTH
        known, seconds = (naive_minutes, naive_seconds) if is_naive else (minutes, _SECONDS)
        minute_us, second_us = known.get(value[:17]), seconds.get(value[17:])
        if minute_us is not None and second_us is not None:
            return minute_us + second_us
        # With all separators in place: fromisoformat also reads 2024-W18-3, and in some Pythons 24:00 as tomorrow.
        if value[4:19:3] not in _SEPARATORS or value[11:13] == "24":
            return slow(value)
        if _FRACTION_AND_ZONE.fullmatch(value, 19) is None:
            moment_us = slow(value)
        else:
            delta = from_iso(value) - _EPOCH
            moment_us = (delta.days * 86_400 + delta.seconds) * SECOND + delta.microseconds
            if not earliest_us <= moment_us < LATEST_US:  # both at the start of a minute
                raise UnsureError
        if second_us is not None and moment_us >= _WHOLE_MINUTES_US:
            if len(known) >= _MOST_MINUTES:
                known.clear()
            known[value[:17]] = moment_us - second_us
        return moment_us

    return read


def _count_reader(column: TimeColumn | Attribute, earliest_us: int) -> Reader:
    scale = TIME_SCALE[column.format]
    start = TimeColumn("", column.format, column.timezone, column.start)
    start_us = start.start_us() if column.format.needs_start else 0

    def read(value: Any) -> int | None:
        if value is None:
            return None
        moment_us = start_us + to_minor(value * scale, 0)
        if not earliest_us <= moment_us < LATEST_US:
            raise UnsureError
        return moment_us

    return read
