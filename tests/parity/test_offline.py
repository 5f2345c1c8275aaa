"""Every offline store and the generated SQL give what ``features/reference.py`` defines."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.adapters.offline.duckdb import DuckDBOfflineStore
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.features.reference import code, evaluate
from fraudml.features.spec import LastFeature
from fraudml.features.sql import DIALECTS, Dialect, state_features_sql
from fraudml.features.stores import OfflineStore
from tests.parity.compare import agrees
from tests.parity.strategies import TIMES, History, histories
from tests.support.offline import open_bigquery, open_postgres, open_snowflake
from tests.support.servers import postgres
from tests.support.servers.bigquery import BigQueryServer
from tests.support.servers.snowflake import SnowflakeServer

# What every engine can run: DuckDB without the abilities that only it has.
PORTABLE = Dialect("duckdb", DIALECTS["duckdb"].wide)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as connection:
        yield connection


@pytest.fixture(scope="module")
def postgres_database(postgres_server: str) -> str:
    """One for all examples: a store leaves nothing behind."""
    return postgres.new_database(postgres_server)


@pytest.fixture(scope="module")
def snowflake_schema(snowflake_server: SnowflakeServer) -> str:
    """One for all examples."""
    return snowflake_server.new_database()


@pytest.fixture(scope="module")
def bigquery_url() -> Iterator[str]:
    """One data set for all examples."""
    server = BigQueryServer()
    yield server.url
    server.close()


def check(history: History, table: pa.Table, wanted: list[Transaction]) -> None:
    """Compare every state feature of every wanted transaction, and their order."""
    rows = table.to_pylist()
    assert [row["transaction_id"] for row in rows] == [event.transaction_id for event in wanted]
    schema = history.feature_set.schema
    for row, event in zip(rows, wanted, strict=True):
        expected = evaluate(history.feature_set, event, history.transactions, history.labels)
        for feature in history.feature_set.state_features:
            actual, value = row[feature.name], expected[feature.name]
            if isinstance(feature, LastFeature):
                actual = code(schema, feature.of, actual)
            assert agrees(actual, value, history.feature_set, feature, event, history.transactions), (
                f"{feature} of {event}: {actual} instead of {value}"
            )


def in_order(history: History) -> list[Transaction]:
    return sorted(history.transactions, key=lambda event: (event.event_time_us, event.transaction_id))


def by_store(
    store: OfflineStore, history: History, since_us: int | None = None, until_us: int | None = None
) -> pa.Table:
    try:
        batch = history.record_batch()
        store.put(pa.RecordBatchReader.from_batches(batch.schema, [batch]))
        store.put_labels(history.further_labels)
        found = list(store.features(history.feature_set, since_us=since_us, until_us=until_us, batch_size=5))
        empty = batch.schema.empty_table()
        return pa.Table.from_batches(found) if found else empty
    finally:
        store.close()


def within(history: History, since_us: int | None, until_us: int | None) -> list[Transaction]:
    return [
        event
        for event in in_order(history)
        if (since_us is None or event.event_time_us >= since_us)
        and (until_us is None or event.event_time_us < until_us)
    ]


def duckdb_store() -> OfflineStore:
    return DuckDBOfflineStore(threads=1, memory_limit="500MB")


def by_sql(connection: duckdb.DuckDBPyConnection, history: History, dialect: Dialect) -> pa.Table:
    connection.register("transactions", pa.Table.from_batches([history.record_batch()]))
    connection.register("labels", label_table(history))
    query = state_features_sql(history.feature_set, dialect)
    return connection.sql(query).order("event_time_us, transaction_id").to_arrow_table()


def label_table(history: History) -> pa.Table:
    labels: tuple[Label, ...] = history.labels
    columns = {
        "transaction_id": pa.array([label.transaction_id for label in labels], pa.string()),
        "is_fraud": pa.array([int(label.is_fraud) for label in labels], pa.int64()),
        "known_at_us": pa.array([label.known_at_us for label in labels], pa.int64()),
    }
    for i, name in enumerate(history.feature_set.schema.entity_names):
        columns[name] = pa.array([label.entities[i] for label in labels], pa.string())
    return pa.table(columns)


@given(histories())
def test_the_store(history: History) -> None:
    check(history, by_store(duckdb_store(), history), in_order(history))


@given(histories(max_features=4), st.none() | TIMES, st.none() | TIMES)
def test_a_slice_of_the_store(history: History, since_us: int | None, until_us: int | None) -> None:
    check(history, by_store(duckdb_store(), history, since_us, until_us), within(history, since_us, until_us))


@given(histories())
def test_postgres(postgres_database: str, history: History) -> None:
    check(history, by_store(open_postgres(postgres_database), history), in_order(history))


@given(histories(max_features=4), st.none() | TIMES, st.none() | TIMES)
def test_a_slice_of_postgres(
    postgres_database: str, history: History, since_us: int | None, until_us: int | None
) -> None:
    table = by_store(open_postgres(postgres_database), history, since_us, until_us)
    check(history, table, within(history, since_us, until_us))


# The emulator computes what has 38 digits in Snowflake in 64 bits, and answers slowly.
@settings(max_examples=30)
@given(history=histories(limit=10**5), since_us=st.none() | TIMES, until_us=st.none() | TIMES)
def test_snowflake(snowflake_schema: str, history: History, since_us: int | None, until_us: int | None) -> None:
    table = by_store(open_snowflake(snowflake_schema), history, since_us, until_us)
    check(history, table, within(history, since_us, until_us))


@settings(max_examples=30)
@given(history=histories(), since_us=st.none() | TIMES, until_us=st.none() | TIMES)
def test_bigquery(bigquery_url: str, history: History, since_us: int | None, until_us: int | None) -> None:
    table = by_store(open_bigquery(bigquery_url), history, since_us, until_us)
    check(history, table, within(history, since_us, until_us))


@pytest.mark.parametrize("dialect", [DIALECTS["duckdb"], PORTABLE], ids=["native", "portable"])
@given(history=histories())
def test_the_sql(connection: duckdb.DuckDBPyConnection, dialect: Dialect, history: History) -> None:
    check(history, by_sql(connection, history, dialect), in_order(history))
