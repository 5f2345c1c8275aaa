"""The Handbook's transactions have the same feature values in every backend: DuckDB computes, the others must agree.

The first 10,000 rows take seconds; ``make parity`` compares the first 200,000 (``FRAUDML_TEST_HANDBOOK_ROWS``).
Snowflake and BigQuery are the emulators of the tests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraudml import project, wiring
from fraudml.adapters.offline.spark import SparkOfflineStore
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.features.stores import OfflineStore, OnlineStore
from fraudml.monitoring.parity import same
from fraudml.project import Project
from fraudml.settings import Settings
from tests.support import offline, spark

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

HANDBOOK = Path(os.environ.get("FRAUDML_HANDBOOK", "../shared/data/handbook/transactions.parquet"))
ROWS = int(os.environ.get("FRAUDML_TEST_HANDBOOK_ROWS", "10000"))
AT_ONCE = 1_000

pytestmark = [
    pytest.mark.handbook,
    pytest.mark.skipif(not HANDBOOK.exists(), reason="handbook data not present (set FRAUDML_HANDBOOK)"),
]


class World(NamedTuple):
    """The declaration, its transactions, and what DuckDB computes, by transaction id."""

    declared: Project
    rows: pa.Table
    expected: pa.Table


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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("handbook")
    declared, settings = project.parse(declaration()), Settings(home=folder)
    some = folder / "some.parquet"
    pq.write_table(pq.read_table(HANDBOOK).slice(0, ROWS), some)
    rows = wiring.source(settings, declared.schema, [str(some)], folder / "rejects.csv").read().read_all()
    return World(declared, rows, computed(wiring.offline_store(settings), declared, rows))


def computed(store: OfflineStore, declared: Project, rows: pa.Table) -> pa.Table:
    try:
        assert store.put(rows.to_reader(50_000)) == rows.num_rows == ROWS
        return pa.Table.from_batches(store.features(declared.feature_set)).sort_by("transaction_id")
    finally:
        store.close()


def served(store: OnlineStore, declared: Project, rows: pa.Table) -> pa.Table:
    """What a service would have answered: in order of time, labels given when they became known or before."""
    rows = rows.sort_by([("event_time_us", "ascending"), ("transaction_id", "ascending")])
    store.loaded()
    answers = []
    for first in range(0, ROWS, AT_ONCE):
        some = rows.slice(first, AT_ONCE)
        answers += [*store.read_then_update(transactions(some)).values]
        store.add_labels(reports(some))
    names = [feature.name for feature in declared.feature_set.state_features]
    columns = {name: [values[i] for values in answers] for i, name in enumerate(names)}
    return pa.table({"transaction_id": rows["transaction_id"], **columns}).sort_by("transaction_id")


def transactions(rows: pa.Table) -> Sequence[Transaction]:
    names = ("transaction_id", "event_time_us", "customer", "terminal", "amount_minor")
    values = zip(*(rows[name].to_pylist() for name in names), strict=True)
    return [Transaction(key, moment, (one, other), amount, ()) for key, moment, one, other, amount in values]


def reports(rows: pa.Table) -> Sequence[Label]:
    names = ("transaction_id", "is_fraud", "known_at_us", "customer", "terminal")
    values = zip(*(rows[name].to_pylist() for name in names), strict=True)
    return [Label(key, fraud, known_at, (one, other)) for key, fraud, known_at, one, other in values]


def compare(world: World, there: pa.Table) -> None:
    here = world.expected.select(there.column_names)
    assert there.num_rows == ROWS
    differing = {}
    for name in there.column_names:
        if pa.types.is_floating(there.schema.field(name).type):
            count = int((~same(here[name].to_numpy(), there[name].to_numpy())).sum())
        else:
            count = sum(a != b for a, b in zip(here[name].to_pylist(), there[name].to_pylist(), strict=True))
        if count:
            differing[name] = count
    assert not differing


@pytest.fixture
def compiling_spark() -> Iterator[SparkSession]:
    """Queries over many rows are compiled, as they are in use."""
    settings = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}
    session = spark.session()
    for name, value in settings.items():
        session.conf.set(name, value)
    yield session
    for name in settings:
        session.conf.set(name, spark.SMALL[name])


@pytest.mark.parametrize("backend", ["postgres", "snowflake", "bigquery", "spark"])
def test_offline(world: World, backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    opened: dict[str, Callable[[], OfflineStore]] = {
        "postgres": lambda: offline.open_postgres(request.getfixturevalue("postgres_url")),
        "snowflake": lambda: offline.open_snowflake(request.getfixturevalue("snowflake_url")),
        "bigquery": lambda: offline.open_bigquery(request.getfixturevalue("bigquery_server").url),
        "spark": lambda: SparkOfflineStore(request.getfixturevalue("compiling_spark"), tmp_path),
    }
    there = computed(opened[backend](), world.declared, world.rows)
    assert there.schema == world.expected.schema
    compare(world, there)


@pytest.mark.parametrize("backend", ["memory", "redis"])
def test_online(world: World, backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = request.getfixturevalue("redis_url") if backend == "redis" else None
    settings = Settings(home=tmp_path, redis_url=url, redis_timeout_ms=10_000)
    compare(world, served(wiring.online_store(settings, world.declared.feature_set), world.declared, world.rows))
