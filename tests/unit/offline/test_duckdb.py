"""What is the DuckDB store's own: two ways to the same values, memory, temporary files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fraudml.adapters.offline._fast_path import FastPath
from fraudml.adapters.offline.duckdb import DuckDBOfflineStore
from fraudml.errors import OfflineStoreError
from fraudml.events.schema import AmountColumn, Schema, TimeColumn
from fraudml.events.source import arrow_schema
from fraudml.features.spec import (
    Aggregation,
    FeatureSet,
    LabelAggregation,
    LabelWindowFeature,
    LastFeature,
    WindowFeature,
)

HOUR_US = 3_600_000_000
T0 = 1_700_000_000_000_000
ROWS = 5_000
SCHEMA = Schema(TimeColumn("time"), "id", {"customer": "cust"}, AmountColumn("amount"))
FEATURES = FeatureSet(
    SCHEMA,
    [
        *(
            WindowFeature(name=f"{agg}_{length}", over="customer", agg=agg, length=length, of="amount")
            for agg in Aggregation
            for length in ("1h", "7d")
        ),
        LabelWindowFeature(name="rate", over="customer", agg=LabelAggregation.fraud_rate, length="7d"),
        LastFeature(name="gap", over="customer"),
    ],
)


def history(customers: int = 97) -> pa.Table:
    random = np.random.default_rng(1)
    times = T0 + random.integers(0, 20 * 24, ROWS) * HOUR_US
    names = [None if i % 50 == 0 else f"c{i % customers}" for i in range(ROWS)]
    columns = [
        [f"t{i}" for i in range(ROWS)],
        times,
        names,
        random.integers(0, 100_000, ROWS),
        random.random(ROWS) < 0.1,
        times + HOUR_US,
    ]
    fields = arrow_schema(SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
    return pa.Table.from_arrays(arrays, schema=fields)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckDBOfflineStore]:
    store = DuckDBOfflineStore(threads=2, memory_limit="500MB", temp_directory=tmp_path)
    store.put(history().to_reader())
    yield store
    store.close()


def rows(store: DuckDBOfflineStore) -> list[dict[str, object]]:
    return pa.Table.from_batches(store.features(FEATURES, batch_size=1_000)).to_pylist()


def test_both_ways_give_the_same(store: DuckDBOfflineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = store_values(store)
    monkeypatch.setattr(FastPath, "estimate_bytes", lambda self, rows: 1 << 60)
    monkeypatch.setattr(FastPath, "compute", lambda self, rows: pytest.fail("does not fit in memory"))
    assert fast.shape == (ROWS, len(FEATURES.features))
    np.testing.assert_allclose(store_values(store), fast, rtol=4e-15)


def store_values(store: DuckDBOfflineStore) -> np.ndarray:
    table = pa.Table.from_batches(store.features(FEATURES, batch_size=1_000))
    return np.stack([table[feature.name].to_numpy() for feature in FEATURES.features], axis=1)


def test_sparse_tables_are_reckoned_by_the_busiest_key(tmp_path: Path) -> None:
    """They have a level for each power of two up to the longest window, and none is longer than a key's events."""
    needed = {}
    for customers in (1, 97):
        store = DuckDBOfflineStore(threads=1, memory_limit="500MB", temp_directory=tmp_path)
        store.put(history(customers).to_reader())
        store._bound_views(FEATURES, None, None)
        needed[customers] = FastPath(store._connection, FEATURES, 1).estimate_bytes(ROWS)
        store.close()
    levels = {1: 13, 97: 6}  # 4,900 and 51 or 52 events
    assert needed[1] - needed[97] == ROWS * 8 * (levels[1] - levels[97]) * len({"min", "max"})


def test_one_reading_does_not_disturb_another(store: DuckDBOfflineStore) -> None:
    whole = rows(store)
    first = store.features(FEATURES, batch_size=1_000)
    start = next(first).to_pylist()
    second = store.features(FEATURES, since_us=T0 + 24 * HOUR_US, batch_size=1_000)
    next(second)
    second.close()
    assert [*start, *(row for batch in first for row in batch.to_pylist())] == whole


def test_memory_is_given_back_when_the_reader_stops_early(store: DuckDBOfflineStore) -> None:
    before = store._scalar("SELECT current_setting('memory_limit')")
    batches = store.features(FEATURES, batch_size=1_000)
    next(batches)
    assert store._scalar("SELECT current_setting('memory_limit')") != before
    batches.close()
    assert store._scalar("SELECT current_setting('memory_limit')") == before


def test_temporary_files_go_with_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = DuckDBOfflineStore(threads=1)
    assert len(list(tmp_path.iterdir())) == 1
    store.close()
    store.close()
    assert not list(tmp_path.iterdir())


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OfflineStoreError, match="DuckDB failed") as caught:
        DuckDBOfflineStore(memory_limit="plenty", temp_directory=tmp_path)
    assert "\n" not in str(caught.value)
