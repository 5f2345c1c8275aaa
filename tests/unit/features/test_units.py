from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudml.errors import ConfigError
from fraudml.events.units import UNITS_US, format_duration, parse_duration, to_minor


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1us", 1),
        ("2ms", 2_000),
        ("90s", 90_000_000),
        ("30min", 1_800_000_000),
        ("1h", 3_600_000_000),
        ("7d", 604_800_000_000),
        ("2w", 1_209_600_000_000),
        (" 7 d ", 604_800_000_000),
    ],
)
def test_durations_are_read(text: str, microseconds: int) -> None:
    assert parse_duration(text) == microseconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1.5h", "1 m", "1h30min", "1D", "7days"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="30min, 1h or 7d"):
        parse_duration(text)


@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS_US)))
def test_format_reads_back(count: int, unit: str) -> None:
    duration_us = count * UNITS_US[unit]
    assert parse_duration(format_duration(duration_us)) == duration_us


@pytest.mark.parametrize(
    ("amount", "decimals", "minor"),
    [
        (12.34, 2, 1234),
        (1.005, 2, 100),  # as a double 1.005 * 100 is 100.49999999999999
        (0.125, 2, 13),
        (-0.125, 2, -13),
        (0.5, 0, 1),
        (-0.5, 0, -1),
        (0.0, 2, 0),
        (1e10, 2, 10**12),
    ],
)
def test_money_rounds_halves_away_from_zero(amount: float, decimals: int, minor: int) -> None:
    assert to_minor(amount, decimals) == minor


@given(st.floats(-1e10, 1e10), st.integers(0, 4))
def test_money_is_the_nearest_minor_unit(amount: float, decimals: int) -> None:
    scaled = amount * 10.0**decimals
    assert abs(to_minor(amount, decimals) - scaled) <= 0.5 + math.ulp(scaled)
    assert to_minor(-amount, decimals) == -to_minor(amount, decimals)
