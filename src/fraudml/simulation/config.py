"""What to simulate: size, period, fraud rate, how long labels take. Read once, frozen after."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from datetime import date
from typing import Any

from fraudml.errors import ConfigError

DEFAULT_START = date(2025, 9, 1)


@dataclass(frozen=True)
class LabelDelays:
    """How long after a transaction its label becomes known. All in days.

    A fraud is found either by the customer, who sees it in the app or misses the card (short), or by the
    chargeback that the bank raises after the statement (long). Both delays are log-normal around their
    median. A transaction that nobody disputed is taken to be genuine after ``maturity``; no fraud takes
    longer than that.
    """

    customer_median: float = 1.0
    customer_sigma: float = 0.9
    chargeback_median: float = 7.0
    chargeback_sigma: float = 0.5
    maturity: float = 30.0


@dataclass(frozen=True)
class SimulationConfig:
    """The parameters of one simulated payment company; equal configurations give equal transactions.

    :param customers: number of card holders.
    :param merchants: number of merchants; each has one to some dozen terminals.
    :param days: length of the period in days.
    :param start: first day (UTC).
    :param transactions_per_customer_per_day: mean over customers and days of genuine transactions.
    :param fraud_rate: frauds among all transactions, as a target; short periods scatter around it.
    :param seed: everything random follows from it.
    :param delays: when labels become known.
    :param currency: ISO 4217 code, the same for every transaction.
    :param include_truth: add ``fraud_pattern``, the name of the pattern behind each fraud (null if genuine).
        It is for analysis only: a model that reads it has seen the label.
    :raises ConfigError: when a value is out of its range.

    >>> SimulationConfig(customers=500, days=30).expected_rows
    19637
    """

    customers: int = 2_000
    merchants: int = 300
    days: int = 120
    start: date = DEFAULT_START
    transactions_per_customer_per_day: float = 1.3
    fraud_rate: float = 0.007
    seed: int = 7
    delays: LabelDelays = field(default_factory=LabelDelays)
    currency: str = "EUR"
    include_truth: bool = False

    def __post_init__(self) -> None:
        _check_range("customers", self.customers, 10, 50_000_000)
        _check_range("merchants", self.merchants, 10, 5_000_000)
        _check_range("days", self.days, 1, 3_650)
        _check_range("transactions_per_customer_per_day", self.transactions_per_customer_per_day, 0.01, 50)
        _check_range("fraud_rate", self.fraud_rate, 0, 0.2)
        _check_range("seed", self.seed, 0, 2**63 - 1)
        for delay in fields(self.delays):
            _check_range(f"delays.{delay.name}", getattr(self.delays, delay.name), 0.01, 365)
        if not re.fullmatch(r"[A-Z]{3}", self.currency):
            raise ConfigError(
                f"simulation: currency must be an ISO 4217 code of three capital letters such as EUR, "
                f"not {self.currency!r}"
            )
        if not date(1971, 1, 1) <= self.start <= date(2200, 1, 1):
            raise ConfigError(f"simulation: start must lie between 1971 and 2200, not {self.start}")

    @property
    def expected_rows(self) -> int:
        """About how many transactions this gives, frauds included; the real number scatters around it."""
        genuine = self.customers * self.days * self.transactions_per_customer_per_day
        return round(genuine / (1 - self.fraud_rate))


def for_rows(rows: int, **settings: Any) -> SimulationConfig:
    """A configuration that gives about ``rows`` transactions; ``settings`` are fields of its own to fix.

    What is not fixed is chosen so that a sample looks like a payment company of that size: four months if
    there are enough rows for some fifty customers, and one merchant for every eight customers.

    :raises ConfigError: when ``rows`` is too small or a setting has no such name.

    >>> config = for_rows(300_000)
    >>> config.days, config.customers, config.merchants
    (120, 1910, 238)
    >>> for_rows(50_000_000, days=365).customers
    104636
    """
    _check_range("rows", rows, 200, 10_000_000_000)
    known = {item.name for item in fields(SimulationConfig)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ConfigError(f"simulation: no setting is called {unknown[0]!r}; there are {', '.join(sorted(known))}")
    defaults = SimulationConfig(**settings)
    per_day = defaults.transactions_per_customer_per_day
    genuine = rows * (1 - defaults.fraud_rate)
    if "customers" in settings:
        days = defaults.days if "days" in settings else max(1, round(genuine / (defaults.customers * per_day)))
        customers = defaults.customers
    else:
        days = defaults.days
        if "days" not in settings:
            days = int(min(max(genuine / (per_day * 50), 7), defaults.days))
        customers = max(10, round(genuine / (per_day * days)))
    merchants = settings.get("merchants", min(max(customers // 8, 24), 40_000))
    return SimulationConfig(**{**settings, "customers": customers, "days": days, "merchants": merchants})


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"simulation: {name} must lie between {low:,} and {high:,}, not {value!r}")
