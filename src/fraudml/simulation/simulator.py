"""The simulation: one day after the other, each a table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

# Importing the module is what registers the patterns.
from fraudml.simulation import patterns as _patterns  # noqa: F401
from fraudml.simulation.campaigns import PATTERNS, FraudCalendar
from fraudml.simulation.config import SimulationConfig
from fraudml.simulation.genuine import GenuineTraffic
from fraudml.simulation.labels import reported_at_ms
from fraudml.simulation.population import populate
from fraudml.simulation.rows import Rows
from fraudml.simulation.tables import TableMaker

_POPULATION, _GENUINE, _LABELS = 2, 3, 4  # independent streams of random numbers


def simulate(config: SimulationConfig) -> Iterator[pa.Table]:
    """Yield one table per day, in event-time order within and across days.

    Only the population, one day and the frauds still under way are held, so memory does not grow with the
    length of the period. Equal configurations give equal tables (with the same NumPy release).

    >>> config = SimulationConfig(customers=50, merchants=30, days=3)
    >>> tables = list(simulate(config))
    >>> len(tables), tables[0].column_names[:3]
    (3, ['transaction_id', 'event_time', 'customer_id'])
    """
    population = populate(config, np.random.default_rng([config.seed, _POPULATION]))
    traffic = GenuineTraffic(config, population)
    maker = TableMaker(config, population, PATTERNS)
    written = 0
    for day, frauds in enumerate(FraudCalendar(config, population, PATTERNS).days()):
        genuine = traffic.on(day, np.random.default_rng([config.seed, _GENUINE, day]))
        rows = Rows.concat([genuine, frauds])
        labels = np.random.default_rng([config.seed, _LABELS, day])
        yield maker.table(rows, reported_at_ms(labels, rows, config.delays, PATTERNS), first_id=written + 1)
        written += len(rows)
