"""One simulation, made once, that the tests of its properties share."""

from __future__ import annotations

import pyarrow as pa
import pytest

from fraudml.simulation import SimulationConfig, simulate


@pytest.fixture(scope="session")
def config() -> SimulationConfig:
    return SimulationConfig(customers=1_200, merchants=150, days=90, seed=11, include_truth=True)


@pytest.fixture(scope="session")
def history(config: SimulationConfig) -> pa.Table:
    return pa.concat_tables(simulate(config))
