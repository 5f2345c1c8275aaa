"""When people pay: the week, the year's peaks and the hours of the day."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from fraudml.simulation import catalogue as world
from fraudml.simulation.rows import DAY_MS, IntArray

_WEEKDAY = (0.94, 0.94, 0.97, 1.0, 1.13, 1.18, 0.84)
_OFFSET_MS = np.array([place.utc_offset for place in world.CITIES], dtype=np.int64) * 3_600_000


def day_factor(day: date) -> float:
    """Purchases on this day relative to an average one: weekday, sales and holidays.

    >>> day_factor(date(2025, 11, 28)) > 1.3 * day_factor(date(2025, 11, 7)) > day_factor(date(2025, 11, 9))
    True
    """
    factor = _WEEKDAY[day.weekday()]
    month_day = (day.month, day.day)
    if (11, 24) <= month_day <= (11, 30):  # the week of sales around Black Friday
        factor *= 1.4
    elif (12, 8) <= month_day <= (12, 23):
        factor *= 1.35
    elif month_day in {(12, 25), (12, 26), (1, 1)}:
        factor *= 0.55
    elif (1, 2) <= month_day <= (1, 31):
        factor *= 0.9
    return factor


def day_factors(start: date, days: int) -> list[float]:
    """``day_factor`` for each day of a period, scaled to a mean of 1.

    >>> round(sum(day_factors(date(2025, 9, 1), 30)), 6)
    30.0
    """
    raw = [day_factor(start + timedelta(days=offset)) for offset in range(days)]
    mean = sum(raw) / days
    return [factor / mean for factor in raw]


def midnight_ms(day: date) -> int:
    """The day's first millisecond, since 1970 UTC.

    >>> midnight_ms(date(1970, 1, 2))
    86400000
    """
    return (day - date(1970, 1, 1)).days * DAY_MS


def is_weekend(day: date) -> bool:
    """True on Saturday and Sunday."""
    return day.weekday() >= 5


def time_of_day(rng: np.random.Generator, profile: IntArray, city: IntArray, weekend: bool) -> IntArray:
    """Milliseconds after midnight UTC of purchases made by a profile's hours in a city.

    The local clock decides; a time that falls on the neighbouring UTC day is moved into this one, so that a
    day can be made without its neighbours.
    """
    table = world.TIME_OF_DAY[weekend]
    quantile = rng.random(len(profile)) * world.QUANTILES
    below = quantile.astype(np.int64)
    early, late = table[profile, below], table[profile, below + 1]
    local = (early + (quantile - below) * (late - early)).astype(np.int64)
    utc: IntArray = (local - _OFFSET_MS[city]) % DAY_MS
    return utc
