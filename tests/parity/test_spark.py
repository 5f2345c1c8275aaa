"""Spark gives what ``features/reference.py`` defines, and on real transactions what DuckDB gives."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.adapters.offline.duckdb import DuckDBOfflineStore
from fraudml.adapters.offline.spark import SparkOfflineStore
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
from fraudml.monitoring.parity import same
from tests.parity.strategies import TIMES, History, histories
from tests.parity.test_offline import by_store, check, within
from tests.support import spark

# Planning a query takes Spark a second or two, whatever the number of rows.
EXAMPLES = settings(max_examples=15)
HANDBOOK = Path(os.environ.get("FRAUDML_HANDBOOK", "../shared/data/handbook/transactions.parquet"))
HANDBOOK_ROWS = int(os.environ.get("FRAUDML_TEST_HANDBOOK_ROWS", "10000"))
DAY_US = 86_400_000_000


@EXAMPLES
@given(history=histories(), since_us=st.none() | TIMES, until_us=st.none() | TIMES)
def test_spark(history: History, since_us: int | None, until_us: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = SparkOfflineStore(spark.session(), Path(folder))
        check(history, by_store(store, history, since_us, until_us), within(history, since_us, until_us))


def handbook(rows: int) -> pa.Table:
    """The first transactions of the Fraud Detection Handbook in the normal form, labels known a week later."""
    table = pq.read_table(HANDBOOK).slice(0, rows)
    times = pc.cast(pc.cast(table["TX_DATETIME"], pa.timestamp("us")), pa.int64())
    columns = [
        pc.cast(table["TRANSACTION_ID"], pa.string()),
        times,
        pc.cast(table["CUSTOMER_ID"], pa.string()),
        pc.cast(table["TERMINAL_ID"], pa.string()),
        pc.cast(pc.round(pc.multiply(table["TX_AMOUNT"], 100.0)), pa.int64()),
        pc.equal(table["TX_FRAUD"], 1),
        pc.add(times, 7 * DAY_US),
    ]
    return pa.Table.from_arrays(columns, schema=arrow_schema(HANDBOOK_FEATURES.schema))


def handbook_features() -> FeatureSet:
    """Every kind of window over both entities; exact ones, and with steps of a day."""
    schema = Schema(TimeColumn("time"), "id", {"customer": "c", "terminal": "t"}, AmountColumn("amount"))
    found: list[WindowFeature | LabelWindowFeature | LastFeature] = []
    for over, other in (("customer", "terminal"), ("terminal", "customer")):
        for length, resolution in (("1d", "1us"), ("7d", "1us"), ("30d", "1d")):
            for agg in ("count", "std", "max"):
                of = None if agg == "count" else "amount"
                name = f"{over}_{agg}_{length}"
                found.append(WindowFeature(name, over, Aggregation(agg), length, of, resolution))
        found.append(WindowFeature(f"{over}_nunique", over, Aggregation.nunique, "7d", other))
        found.append(LabelWindowFeature(f"{over}_rate", over, LabelAggregation.fraud_rate, "30d"))
        found.append(LastFeature(f"{over}_gap", over))
    return FeatureSet(schema, found)


HANDBOOK_FEATURES = handbook_features()


@pytest.fixture
def compiled() -> Iterator[None]:
    """Queries over many rows are compiled, as they are in use."""
    settings = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}
    session = spark.session()
    for name, value in settings.items():
        session.conf.set(name, value)
    yield
    for name in settings:
        session.conf.set(name, spark.SMALL[name])


@pytest.mark.handbook
@pytest.mark.usefixtures("compiled")
@pytest.mark.skipif(not HANDBOOK.exists(), reason="handbook data not present (set FRAUDML_HANDBOOK)")
def test_the_handbook_has_no_differing_value(tmp_path: Path) -> None:
    """Usually the first 10,000 transactions; ``FRAUDML_TEST_HANDBOOK_ROWS=200000`` makes it more."""
    rows = handbook(HANDBOOK_ROWS)
    here = DuckDBOfflineStore(threads=1, temp_directory=tmp_path)
    there = SparkOfflineStore(spark.session(), tmp_path)
    tables = []
    for store in (here, there):
        assert store.put(rows.to_reader(50_000)) == rows.num_rows
        tables.append(pa.Table.from_batches(list(store.features(HANDBOOK_FEATURES))))
        store.close()
    ours, theirs = tables
    assert ours.num_rows == rows.num_rows
    assert ours.schema.equals(theirs.schema)
    for name in ours.column_names:
        if pa.types.is_floating(ours.schema.field(name).type):
            values = (table[name].to_numpy() for table in tables)
            differing = int((~same(*values)).sum())
            assert differing == 0, f"{name}: {differing} of {rows.num_rows} differ"
        else:
            assert ours[name].equals(theirs[name]), name
