"""The Handbook's transactions give the same values in DuckDB and in PostgreSQL.

The first 20,000 rows take seconds; ``make parity`` compares the first 200,000 (``FRAUDML_TEST_HANDBOOK_ROWS``).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraudml import project, wiring
from fraudml.features.stores import OfflineStore
from fraudml.settings import Settings
from tests.support.offline import open_postgres

HANDBOOK = Path(os.environ.get("FRAUDML_HANDBOOK", "../shared/data/handbook/transactions.parquet"))
ROWS = int(os.environ.get("FRAUDML_TEST_HANDBOOK_ROWS", "20000"))
RELATIVE = 1e-9


def declaration() -> str:
    """Every aggregation over both entities, exact and coarse."""
    features = []
    for entity, other in (("customer", "terminal"), ("terminal", "customer")):
        features += [f"{{name: {entity}_gap, kind: last, over: {entity}}}"]
        features += [f"{{name: {entity}_before, kind: last, over: {entity}, of: amount}}"]
        for length, resolution in (("1h", "1us"), ("1d", "1us"), ("30d", "1d")):
            window = f"over: {entity}, length: {length}, resolution: {resolution}"
            features += [
                f"{{name: {entity}_{agg}_{length}, kind: window, {window}, agg: {agg}, of: {of}}}"
                for agg, of in [
                    *((agg, "amount") for agg in ("count", "sum", "mean", "std", "min", "max")),
                    ("nunique", other),
                ]
            ]
            features += [
                f"{{name: {entity}_{agg}_{length}, kind: label_window, {window}, agg: {agg}}}"
                for agg in ("label_count", "fraud_count", "fraud_rate")
            ]
    return "\n".join(
        [
            "schema:",
            "  transaction_id: TRANSACTION_ID",
            "  event_time: {column: TX_DATETIME, timezone: UTC}",
            "  entities: {customer: CUSTOMER_ID, terminal: TERMINAL_ID}",
            "  amount: {column: TX_AMOUNT}",
            "  label: {column: TX_FRAUD, delay: 2d}",
            "features:",
            *(f"  - {feature}" for feature in features),
        ]
    )


def computed(store: OfflineStore, declared: project.Project, rows: pa.Table) -> pa.Table:
    try:
        store.put(rows.to_reader())
        return pa.Table.from_batches(store.features(declared.feature_set))
    finally:
        store.close()


@pytest.mark.handbook
@pytest.mark.skipif(not HANDBOOK.exists(), reason="handbook data not present (set FRAUDML_HANDBOOK)")
def test_postgres_computes_what_duckdb_does(tmp_path: Path, postgres_url: str) -> None:
    declared = project.parse(declaration())
    settings = Settings(home=tmp_path)
    some = tmp_path / "some.parquet"
    pq.write_table(pq.read_table(HANDBOOK).slice(0, ROWS), some)
    source = wiring.source(settings, declared.schema, [str(some)], tmp_path / "rejects.csv")
    rows = source.read().read_all()
    here = computed(wiring.offline_store(settings), declared, rows)
    there = computed(open_postgres(postgres_url), declared, rows)
    assert here.num_rows == ROWS
    assert there.schema == here.schema
    differing = {name: count for name in here.schema.names if (count := differences(here[name], there[name]))}
    assert not differing


def differences(here: pa.ChunkedArray, there: pa.ChunkedArray) -> int:
    """The number of values that differ by more than rounding; a missing one equals only a missing one."""
    if here.type != pa.float64():
        return int(sum(a != b for a, b in zip(here.to_pylist(), there.to_pylist(), strict=True)))
    a, b = here.to_numpy(), there.to_numpy()  # a missing value is NaN here, and no other is
    return int((~np.isclose(a, b, rtol=RELATIVE, atol=0, equal_nan=True)).sum())
