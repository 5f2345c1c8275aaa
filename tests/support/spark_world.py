"""A history for Spark's tests: small, with something to learn, and with what goes wrong most easily."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fraudml.events.source import arrow_schema
from tests.support.scoring import SCHEMA, T0

DAY_US = 86_400_000_000


def history(rows: int, *, days: int = 60, seed: int = 0) -> pa.Table:
    """Transactions of ``tests.support.scoring.SCHEMA`` in no order, with missing keys and values and equal times.

    Frauds, about one in fifteen, are larger and farther away; they are known a week later.
    """
    rng = np.random.default_rng(seed)
    times = T0 + rng.integers(0, days * DAY_US, rows)
    times[1::50] = times[::50]
    amounts = np.round(np.exp(rng.normal(7, 1, rows))).astype(np.int64)
    distances = np.round(np.exp(rng.normal(2, 1, rows)), 2)
    odds = -5 + (np.log(amounts) - 7) + (np.log(distances) - 2)
    frauds = rng.random(rows) < 1 / (1 + np.exp(-1.5 * odds - 3))
    columns = [
        [f"t{i}" for i in range(rows)],
        times,
        _some([f"c{number}" for number in rng.integers(0, 60, rows)], rng),
        _some([f"m{number}" for number in rng.integers(0, 9, rows)], rng),
        amounts,
        _some([("DE", "FR", "XX")[number] for number in rng.integers(0, 3, rows)], rng),
        distances,
        rng.integers(0, 9, rows),
        frauds,
        times + 7 * DAY_US,
    ]
    schema = arrow_schema(SCHEMA)
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def _some(values: list[str], rng: np.random.Generator) -> list[str | None]:
    return [None if missing else value for value, missing in zip(values, rng.random(len(values)) < 0.05, strict=True)]
