"""Durations and money: text to integers, without floating point where it would show."""

from __future__ import annotations

import math
import re

from fraudml.errors import ConfigError

SECOND = 1_000_000
UNITS_US = {
    "us": 1,
    "ms": 1_000,
    "s": SECOND,
    "min": 60 * SECOND,
    "h": 3_600 * SECOND,
    "d": 86_400 * SECOND,
    "w": 7 * 86_400 * SECOND,
}

# Integers that windows aggregate stay within these bounds, so that n * sum(x^2) over ten million events
# still fits the 128-bit integers of SQL engines: every engine can then be exact.
INTEGER_LIMIT = 10**12
# Other numbers stay within the range of float32, which models read; their squares are far from overflow.
NUMBER_LIMIT = 1e30


def parse_duration(text: str) -> int:
    """Microseconds of a duration such as ``7d``, ``1h``, ``30min``, ``90s``; raises ConfigError.

    >>> parse_duration("1h"), parse_duration("7d") == 7 * 86_400 * 10**6
    (3600000000, True)
    """
    match = re.fullmatch(r"\s*(\d+)\s*(us|ms|s|min|h|d|w)\s*", text)
    if match is None:
        raise ConfigError(f"{text!r} is not a duration; write a whole number and a unit, such as 30min, 1h or 7d")
    return int(match[1]) * UNITS_US[match[2]]


def parse_share(text: str) -> float:
    """A share written as ``5%``, ``0.5 %`` or ``0.05``; raises ConfigError unless it is from 0 to 100 %.

    >>> parse_share("5%"), parse_share("0.05"), parse_share(" 12.5 % ")
    (0.05, 0.05, 0.125)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(%?)\s*", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else math.nan
    if not 0 <= share <= 1:
        raise ConfigError(f"{text!r} is not a share; write 5% or 0.05, at most 100%")
    return share


def parse_rate(text: str) -> float:
    """Events a second of a rate such as ``500/s``, ``30/min`` or ``500``; raises ConfigError.

    >>> parse_rate("500/s"), parse_rate("30/min"), parse_rate("2.5")
    (500.0, 0.5, 2.5)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*(s|min|h))?\s*", text)
    rate = float(match[1]) * SECOND / UNITS_US[match[2] or "s"] if match else 0.0
    if rate <= 0:
        raise ConfigError(f"{text!r} is not a rate; write 500/s, or 30/min")
    return rate


def parse_speed(text: str) -> float:
    """How many times faster than it happened: ``60x``, ``1x`` or ``0.5``; raises ConfigError.

    >>> parse_speed("60x"), parse_speed("0.5")
    (60.0, 0.5)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*x?\s*", text)
    speed = float(match[1]) if match else 0.0
    if speed <= 0:
        raise ConfigError(f"{text!r} is not a speed; write 60x for an hour in a minute, or 1x")
    return speed


def format_duration(duration_us: int) -> str:
    """The shortest text that :func:`parse_duration` reads back.

    >>> format_duration(86_400_000_000), format_duration(5_400_000_000), format_duration(0)
    ('1d', '90min', '0s')
    """
    if duration_us == 0:
        return "0s"
    for unit in ("d", "h", "min", "s", "ms"):
        if duration_us % UNITS_US[unit] == 0:
            return f"{duration_us // UNITS_US[unit]}{unit}"
    return f"{duration_us}us"


def to_minor(amount: float, decimals: int) -> int:
    """An amount in integer minor units: scaled as an IEEE double, halves away from zero.

    Every reader (HTTP, files, SQL) uses this very arithmetic, so that the same text always gives the
    same integer.

    >>> to_minor(12.34, 2), to_minor(-0.005, 2), to_minor(7.0, 0)
    (1234, -1, 7)
    """
    scaled = amount * 10.0**decimals
    return int(math.copysign(math.floor(abs(scaled) + 0.5), scaled))
