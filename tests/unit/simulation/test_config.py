"""Configurations: sizes come out as asked, nonsense is refused in one clear line."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from fraudml.errors import ConfigError
from fraudml.simulation import LabelDelays, SimulationConfig, for_rows


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"customers": 0}, "customers"),
        ({"merchants": 3}, "merchants"),
        ({"days": 0}, "days"),
        ({"transactions_per_customer_per_day": -1.0}, "transactions_per_customer_per_day"),
        ({"fraud_rate": 1.5}, "fraud_rate"),
        ({"fraud_rate": float("nan")}, "fraud_rate"),
        ({"seed": -1}, "seed"),
        ({"currency": "euro"}, "currency"),
        ({"start": date(1900, 1, 1)}, "start"),
        ({"delays": LabelDelays(maturity=-3)}, "delays.maturity"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SimulationConfig(**settings)


@pytest.mark.parametrize("rows", [200, 1_000, 30_000, 1_000_000, 50_000_000])
def test_for_rows_expects_about_as_many_rows_as_asked(rows: int) -> None:
    assert for_rows(rows).expected_rows == pytest.approx(rows, rel=0.05)


def test_for_rows_keeps_what_is_fixed() -> None:
    config = for_rows(100_000, days=30, seed=3, fraud_rate=0.01)
    assert (config.days, config.seed, config.fraud_rate) == (30, 3, 0.01)
    assert config.expected_rows == pytest.approx(100_000, rel=0.01)
    assert for_rows(100_000, customers=1_000).expected_rows == pytest.approx(100_000, rel=0.02)


def test_for_rows_refuses_an_unknown_setting_and_tiny_sizes() -> None:
    with pytest.raises(ConfigError, match="no setting is called 'costumers'"):
        for_rows(1_000, costumers=3)
    with pytest.raises(ConfigError, match="rows must lie between"):
        for_rows(10)
