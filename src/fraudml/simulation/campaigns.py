"""When fraud happens: patterns come in waves, and each wave starts campaigns that may last for weeks.

A pattern is one function that makes the transactions of so many campaigns begun on one day (see
``patterns.py``). This module decides how many begin and keeps what falls on later days until it is due, so
that the simulation can run day by day.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from fraudml.simulation.config import SimulationConfig
from fraudml.simulation.population import Population
from fraudml.simulation.rhythm import midnight_ms
from fraudml.simulation.rows import DAY_MS, FloatArray, Rows, no_rows

# Campaigns that began before the first day reach into it; none lasts longer than this.
LONGEST_CAMPAIGN_DAYS = 28


@dataclass(frozen=True)
class Stage:
    """What a pattern needs to know on the day its campaigns begin.

    ``day`` counts from the first simulated day and is negative for campaigns begun before it;
    ``midnight_ms`` is its first millisecond. ``progress`` runs from 0 on the first simulated day to 1 on
    the last; patterns change their amounts, tools and pace with it. Equal stages must give equal rows:
    ``rng`` is the only source of chance.
    """

    population: Population
    rng: np.random.Generator
    day: int
    midnight_ms: int
    progress: float
    campaigns: int


@dataclass(frozen=True)
class Pattern:
    """A way to commit fraud.

    :param name: value of the truth column.
    :param share: of all frauds, as long as the pattern is active.
    :param size: mean number of transactions of one campaign.
    :param found_by_customer: share of its frauds that customers notice before the chargeback does.
    :param make: the function that makes the transactions.
    :param begins: fraction of the period that passes before the pattern appears.
    """

    name: str
    share: float
    size: float
    found_by_customer: float
    make: Callable[[Stage], Rows]
    begins: float = 0.0


PATTERNS: list[Pattern] = []


def pattern(
    *, share: float, size: float, found_by_customer: float, begins: float = 0.0
) -> Callable[[Callable[[Stage], Rows]], Callable[[Stage], Rows]]:
    """Register the decorated function as a fraud pattern of its name; the arguments are those of Pattern."""

    def register(make: Callable[[Stage], Rows]) -> Callable[[Stage], Rows]:
        PATTERNS.append(Pattern(make.__name__, share, size, found_by_customer, make, begins))
        return make

    return register


class FraudCalendar:
    """Yields the fraudulent transactions of each day of a configuration, in day order."""

    def __init__(self, config: SimulationConfig, population: Population, patterns: list[Pattern]) -> None:
        self._config = config
        self._population = population
        self._patterns = patterns
        genuine = config.customers * config.transactions_per_customer_per_day
        self._per_day = genuine * config.fraud_rate / (1 - config.fraud_rate)
        self._intensity = self._draw_intensity()

    def days(self) -> Iterator[Rows]:
        """For each day its frauds, in no order; holds only the rest of the campaigns that are under way."""
        owed = np.zeros(len(self._patterns))
        waiting = no_rows()
        first_ms = midnight_ms(self._config.start)
        for day in range(-LONGEST_CAMPAIGN_DAYS, self._config.days):
            owed += self._intensity[:, max(day, 0)] * self._per_day * self._started(day)
            parts = [waiting]
            for code in range(len(self._patterns)):
                rows = self._begin(code, day, owed[code])
                owed[code] -= len(rows)
                parts.append(rows)
            everything = Rows.concat(parts)
            due = everything.time_ms < first_ms + (day + 1) * DAY_MS
            waiting = everything.take(~due)
            if day >= 0:
                yield everything.take(due & (everything.time_ms >= first_ms + day * DAY_MS))

    def _begin(self, code: int, day: int, owed: float) -> Rows:
        """Campaigns that together are about as large as what is owed; often none in a small simulation."""
        chosen = self._patterns[code]
        rng = self._stream(chosen, day)
        campaigns = int(np.floor(owed / chosen.size + rng.random()))
        if campaigns <= 0:
            return no_rows()
        stage = Stage(
            population=self._population,
            rng=rng,
            day=day,
            midnight_ms=midnight_ms(self._config.start + timedelta(days=day)),
            progress=min(max(day / max(self._config.days - 1, 1), 0.0), 1.0),
            campaigns=campaigns,
        )
        rows = chosen.make(stage)
        rows.pattern = np.full(len(rows), code, dtype=np.int8)
        return rows

    def _started(self, day: int) -> FloatArray:
        """1 for each pattern that already exists on this day, else 0."""
        begins = np.array([chosen.begins for chosen in self._patterns])
        started: FloatArray = ((begins == 0) | (day >= begins * self._config.days)).astype(np.float64)
        return started

    def _draw_intensity(self) -> FloatArray:
        """Each pattern's share of all frauds by day, [patterns, days]: waves of some weeks with random peaks.

        A wave is the exponential of a random walk over weeks that returns to its mean (an AR(1) process of
        standard deviation 0.55), interpolated between weeks. All shares of all days average to 1 per day.
        """
        days = self._config.days
        weeks = np.arange(days // 7 + 2)
        shares = np.empty((len(self._patterns), days))
        for code, chosen in enumerate(self._patterns):
            shocks = self._stream(chosen, -LONGEST_CAMPAIGN_DAYS - 1).standard_normal(len(weeks))
            level = np.empty(len(weeks))
            level[0] = 0.55 * shocks[0]
            for week in weeks[1:]:
                level[week] = 0.6 * level[week - 1] + 0.55 * 0.8 * shocks[week]
            wave = np.exp(np.interp(np.arange(days) / 7, weeks, level))
            active = np.arange(days) >= chosen.begins * days
            shares[code] = chosen.share * np.where(active, wave / wave.mean(), 0.0)
        shares *= days / shares.sum()
        return shares

    def _stream(self, chosen: Pattern, day: int) -> np.random.Generator:
        """Random numbers of one pattern and day: a new pattern leaves those of the others as they were."""
        name = zlib.crc32(chosen.name.encode())
        return np.random.default_rng([self._config.seed, name, day + LONGEST_CAMPAIGN_DAYS + 1])
