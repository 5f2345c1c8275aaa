"""What every ``Warehouse`` promises; the emulators say what they do not show (tests/support/servers)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest

import fraudml.adapters.warehouse
from fraudml.decisions.warehouse import DECISIONS, LABELS, Warehouse
from fraudml.errors import ConflictError
from tests.support.warehouses import Tables, bigquery_tables, parquet_tables, snowflake_tables

ADAPTERS = sorted(
    path.stem for path in Path(fraudml.adapters.warehouse.__path__[0]).glob("*.py") if not path.name.startswith("_")
)
TABLES: dict[str, Callable[[pytest.FixtureRequest], Tables]] = {
    "bigquery": lambda request: bigquery_tables(request.getfixturevalue("bigquery_server")),
    "parquet": lambda request: parquet_tables(f"file://{request.getfixturevalue('tmp_path')}/lake"),
    "parquet in memory": lambda request: parquet_tables(f"memory://{uuid4().hex}/lake"),
    "snowflake": lambda request: snowflake_tables(request.getfixturevalue("snowflake_url")),
}
DAY_US = 86_400_000_000
SCHEMA = pa.schema(
    [
        ("arrival", pa.int64()),
        ("event_time_us", pa.int64()),
        ("customer", pa.string()),
        ("score", pa.float64()),
        ("late", pa.bool_()),
        ("amount_minor", pa.int64()),
    ]
)
BOTH = {DECISIONS: SCHEMA, LABELS: SCHEMA}


def rows(*arrivals: int, schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    columns = {
        "arrival": list(arrivals),
        "event_time_us": [number % 3 * DAY_US + number for number in arrivals],
        "customer": [f"c{number}" for number in arrivals],
        "score": [number / 8 for number in arrivals],
        "late": [number % 2 == 0 for number in arrivals],
        "amount_minor": [number * 10**10 for number in arrivals],
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns.get(field.name, [None] * len(arrivals)), field.type) for field in schema], schema=schema
    )


@pytest.fixture(params=sorted({*ADAPTERS, *TABLES}))
def tables(request: pytest.FixtureRequest) -> Tables:
    assert request.param in TABLES, f"say in TABLES how to reach adapters/warehouse/{request.param}.py"
    importlib.import_module(f"fraudml.adapters.warehouse.{request.param.partition(' ')[0]}")
    return TABLES[request.param](request)


@pytest.fixture
def warehouse(tables: Tables) -> Iterator[Warehouse]:
    opened = tables.open()
    opened.prepare(BOTH)
    yield opened
    opened.close()


def arrivals(warehouse: Warehouse, table: str = DECISIONS, after: int = 0) -> list[int]:
    return sorted(number for array in warehouse.arrivals(table, after) for number in array.to_pylist())


def test_there_are_adapters() -> None:
    assert {"bigquery", "parquet", "snowflake"} <= set(ADAPTERS)


def test_new_tables_are_empty(warehouse: Warehouse) -> None:
    assert [warehouse.watermark(table) for table in BOTH] == [0, 0]
    assert arrivals(warehouse) == []


def test_rows_are_written_with_the_watermark(warehouse: Warehouse, tables: Tables) -> None:
    warehouse.write(DECISIONS, rows(3, 5, 8), before=0, watermark=8)
    assert warehouse.watermark(DECISIONS) == 8
    assert warehouse.watermark(LABELS) == 0
    assert arrivals(warehouse, after=3) == [5, 8]
    assert tables.rows("fraudml_decisions", SCHEMA.names) == [
        (3, 3, "c3", 0.375, False, 30_000_000_000),
        (5, 2 * DAY_US + 5, "c5", 0.625, False, 50_000_000_000),
        (8, 2 * DAY_US + 8, "c8", 1.0, True, 80_000_000_000),
    ]
    warehouse.write(DECISIONS, rows(9), before=8, watermark=9)
    assert arrivals(warehouse) == [3, 5, 8, 9]


def test_rows_that_are_there_are_left_out(warehouse: Warehouse) -> None:
    warehouse.write(DECISIONS, rows(3, 5), before=0, watermark=5)
    warehouse.write(DECISIONS, rows(2, 3, 5, 6), before=5, watermark=6)
    assert arrivals(warehouse) == [2, 3, 5, 6]


def test_of_two_exports_at_once_one_writes_nothing(warehouse: Warehouse, tables: Tables) -> None:
    other = tables.open()
    other.prepare(BOTH)
    warehouse.write(DECISIONS, rows(3), before=0, watermark=3)
    with pytest.raises(ConflictError, match="another export of decisions"):
        other.write(DECISIONS, rows(4), before=0, watermark=4)
    assert arrivals(warehouse) == [3]
    assert warehouse.watermark(DECISIONS) == 3
    other.write(DECISIONS, rows(4), before=3, watermark=4)
    assert arrivals(warehouse) == [3, 4]
    other.close()


def test_what_is_written_stays(warehouse: Warehouse, tables: Tables) -> None:
    warehouse.write(LABELS, rows(3), before=0, watermark=3)
    other = tables.open()
    other.prepare(BOTH)
    assert other.watermark(LABELS) == 3
    assert arrivals(other, LABELS) == [3]
    other.close()


def test_a_column_that_is_new_is_added(warehouse: Warehouse, tables: Tables) -> None:
    warehouse.write(DECISIONS, rows(3), before=0, watermark=3)
    wider = SCHEMA.append(pa.field("country", pa.string()))
    warehouse.prepare({DECISIONS: wider, LABELS: SCHEMA})
    batch = rows(4, schema=wider).set_column(6, "country", pa.array(["DE"]))
    warehouse.write(DECISIONS, batch, before=3, watermark=4)
    assert tables.rows("fraudml_decisions", ["arrival", "country"]) == [(3, None), (4, "DE")]
    # one that the project no longer has stays, empty in new rows
    warehouse.prepare(BOTH)
    warehouse.write(DECISIONS, rows(5), before=4, watermark=5)
    assert tables.rows("fraudml_decisions", ["arrival", "country"]) == [(3, None), (4, "DE"), (5, None)]


def test_words_of_sql_may_be_columns(tables: Tables) -> None:
    schema = pa.schema(
        [("arrival", pa.int64()), ("event_time_us", pa.int64()), ("order", pa.string()), ("select", pa.int64())]
    )
    warehouse = tables.open()
    warehouse.prepare({DECISIONS: schema, LABELS: schema})
    columns = [pa.array([7]), pa.array([5]), pa.array(['it\'s "quoted"\n\\']), pa.array([None], pa.int64())]
    warehouse.write(DECISIONS, pa.RecordBatch.from_arrays(columns, schema=schema), before=0, watermark=7)
    assert tables.rows("fraudml_decisions", schema.names) == [(7, 5, 'it\'s "quoted"\n\\', None)]
    warehouse.close()


def test_tidying_leaves_the_rows(warehouse: Warehouse, tables: Tables) -> None:
    """Many small batches of days that have ended: what is put together, if anything, are the same rows."""
    numbers = [3 * number for number in range(1, 11)]
    for before, number in zip([0, *numbers], numbers, strict=False):
        warehouse.write(DECISIONS, rows(number), before=before, watermark=number)
    warehouse.write(DECISIONS, rows(31), before=numbers[-1], watermark=9 * DAY_US)
    names = SCHEMA.names
    before = tables.rows("fraudml_decisions", names)
    while warehouse.tidy(DECISIONS):
        assert tables.rows("fraudml_decisions", names) == before
    assert not warehouse.tidy(LABELS)
    assert tables.rows("fraudml_decisions", names) == before
    assert warehouse.watermark(DECISIONS) == 9 * DAY_US
    assert arrivals(warehouse) == [*numbers, 31]
