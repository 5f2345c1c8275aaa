"""What every ``OfflineStore`` promises, by hand-computed examples; ``tests/parity`` covers the values at large."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import fraudml.adapters.offline
from fraudml.errors import FraudmlError, OfflineStoreError, TooManyRejects
from fraudml.events.label import Label
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn
from fraudml.events.source import arrow_schema
from fraudml.features.spec import (
    Aggregation,
    AttributeFeature,
    FeatureSet,
    LabelAggregation,
    LabelWindowFeature,
    LastFeature,
    WindowFeature,
)
from fraudml.features.stores import OfflineStore
from tests.support.offline import open_bigquery, open_postgres, open_snowflake

ADAPTERS = sorted(
    path.stem for path in Path(fraudml.adapters.offline.__path__[0]).glob("*.py") if not path.name.startswith("_")
)
HOUR_US = 3_600_000_000
T0 = 1_700_000_000_000_000 // HOUR_US * HOUR_US  # a full hour

SCHEMA = Schema(
    TimeColumn("time"),
    "id",
    {"customer": "cust", "merchant": "merch"},
    AmountColumn("amount"),
    {"country": Attribute(AttributeType.category, vocabulary=("DE", "FR"))},
)

Row = tuple[str, int, str | None, str | None, int | None, str | None, bool | None, int | None]


def open_duckdb(folder: Path, request: pytest.FixtureRequest) -> OfflineStore:
    from fraudml.adapters.offline.duckdb import DuckDBOfflineStore

    return DuckDBOfflineStore(threads=2, memory_limit="500MB", temp_directory=folder)


def open_in_postgres(folder: Path, request: pytest.FixtureRequest) -> OfflineStore:
    return open_postgres(request.getfixturevalue("postgres_url"))


def open_in_snowflake(folder: Path, request: pytest.FixtureRequest) -> OfflineStore:
    return open_snowflake(request.getfixturevalue("snowflake_url"))


def open_in_bigquery(folder: Path, request: pytest.FixtureRequest) -> OfflineStore:
    return open_bigquery(request.getfixturevalue("bigquery_server").url)


def open_in_spark(folder: Path, request: pytest.FixtureRequest) -> OfflineStore:
    from fraudml.adapters.offline.spark import SparkOfflineStore
    from tests.support import spark

    return SparkOfflineStore(spark.session(), folder)


OPEN: dict[str, Callable[[Path, pytest.FixtureRequest], OfflineStore]] = {
    "bigquery": open_in_bigquery,
    "duckdb": open_duckdb,
    "postgres": open_in_postgres,
    "snowflake": open_in_snowflake,
    "spark": open_in_spark,
}


def row(name: str, time_us: int, **values: Any) -> Row:
    """A transaction of customer c at merchant m over 100 minor units, unless told otherwise."""
    columns = {"customer": "c", "merchant": "m", "amount": 100, "country": "DE", "fraud": None, "known": None}
    return (name, time_us, *(columns | values).values())  # type: ignore[return-value]


def reader(rows: Sequence[Row], batch_rows: int = 2) -> pa.RecordBatchReader:
    fields = arrow_schema(SCHEMA)
    columns = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(fields)]
    return pa.Table.from_arrays(columns, schema=fields).to_reader(batch_rows)


def count(length: str = "1h", resolution: str = "1us", over: str = "customer") -> WindowFeature:
    return WindowFeature(name="n", over=over, agg=Aggregation.count, length=length, resolution=resolution)


def reports(agg: LabelAggregation = LabelAggregation.label_count) -> LabelWindowFeature:
    return LabelWindowFeature(name="n", over="customer", agg=agg, length="1h")


def values(store: OfflineStore, *features: Any, **arguments: Any) -> dict[str, Any]:
    """The first feature's values by transaction id."""
    batches = store.features(FeatureSet(SCHEMA, features), **arguments)
    rows = [row for batch in batches for row in batch.to_pylist()]
    return {row["transaction_id"]: row[features[0].name] for row in rows}


@pytest.fixture(params=ADAPTERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OfflineStore]:
    importlib.import_module(f"fraudml.adapters.offline.{request.param}")
    assert request.param in OPEN, f"say in OPEN how to open adapters/offline/{request.param}.py"
    store = OPEN[request.param](tmp_path, request)
    yield store
    store.close()


def test_there_is_an_adapter() -> None:
    assert "duckdb" in ADAPTERS


def test_put_counts_rows_and_can_be_done_once(store: OfflineStore) -> None:
    assert store.put(reader([row("a", T0), row("b", T0), row("c", T0)])) == 3
    with pytest.raises(OfflineStoreError, match="put before"):
        store.put(reader([row("d", T0)]))


def test_an_empty_store_says_what_to_do(store: OfflineStore) -> None:
    with pytest.raises(OfflineStoreError, match="put history first"):
        list(store.features(FeatureSet(SCHEMA, [count()])))
    with pytest.raises(OfflineStoreError, match="put history first"):
        store.put_labels([Label("a", True, T0, ("c", "m"))])


def test_labels_of_a_schema_that_has_a_column_called_bare(store: OfflineStore) -> None:
    schema = Schema(TimeColumn("time"), "id", {"bare": "b"}, attributes={"n": Attribute(AttributeType.number)})
    columns = [["a", "z"], [T0, T0 + HOUR_US], ["k", "k"], [None] * 2, [1.0, 2.0], [None] * 2, [None] * 2]
    fields = arrow_schema(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
    store.put(pa.Table.from_arrays(arrays, schema=fields).to_reader())
    store.put_labels([Label("a", True, T0 + 1)])
    known = LabelWindowFeature(name="n_known", over="bare", agg=LabelAggregation.label_count, length="1h")
    batches = store.features(FeatureSet(schema, [known]))
    assert [row["n_known"] for batch in batches for row in batch.to_pylist()] == [0, 1]


def test_no_history_gives_no_rows(store: OfflineStore) -> None:
    assert store.put(reader([])) == 0
    assert values(store, count(), reports_named("r")) == {}


def reports_named(name: str) -> LabelWindowFeature:
    return LabelWindowFeature(name=name, over="customer", agg=LabelAggregation.fraud_rate, length="1h")


def test_rows_come_in_order_with_the_columns_of_the_normal_form(store: OfflineStore) -> None:
    store.put(reader([row("b", T0 + 1), row("d", T0), row("a", T0 + 1), row("c", T0 + 2)]))
    last = LastFeature(name="country_before", over="customer", of="country")
    batches = list(store.features(FeatureSet(SCHEMA, [last, count()]), batch_size=3))
    table = pa.Table.from_batches(batches)
    assert table["transaction_id"].to_pylist() == ["d", "a", "b", "c"]
    assert all(batch.num_rows <= 3 for batch in batches)
    added = [pa.field("country_before", pa.string()), pa.field("n", pa.float64())]
    assert table.schema.equals(pa.schema([*arrow_schema(SCHEMA), *added]))
    assert table["country_before"].to_pylist() == [None, "DE", "DE", "DE"]
    assert table["n"].to_pylist() == [0, 1, 1, 3]


def test_a_declaration_without_state_features_gives_the_rows(store: OfflineStore) -> None:
    store.put(reader([row("a", T0, amount=7)]))
    feature_set = FeatureSet(SCHEMA, [AttributeFeature(name="x", of="amount")])
    (batch,) = store.features(feature_set)
    assert batch.schema.equals(arrow_schema(SCHEMA))
    assert batch.column("amount_minor").to_pylist() == [7]


# By length of the steps: how much earlier another event is, and whether the window holds it.
EDGES = {
    "1us": {HOUR_US + 1: 0, HOUR_US: 1, 1: 1, 0: 0, -1: 0},
    # T0 + 30 min with steps of an hour: the tail is at T0 - 1 h
    "1h": {HOUR_US + HOUR_US // 2 + 1: 0, HOUR_US + HOUR_US // 2: 1, 0: 0},
}


@pytest.mark.parametrize("resolution", EDGES)
def test_a_window_holds_its_start_and_not_its_end(store: OfflineStore, resolution: str) -> None:
    """Each edge has a customer of its own."""
    t = T0 + (HOUR_US // 2 if resolution == "1h" else 7)
    rows = []
    for earlier in EDGES[resolution]:
        other = t - earlier
        rows.append(row(f"{earlier}", t, customer=f"{earlier}"))
        rows.append(row(f"other {earlier}", other, customer=f"{earlier}", fraud=True, known=other))
    store.put(reader(rows))
    largest = WindowFeature(
        name="max", over="customer", agg=Aggregation.max, of="amount", length="1h", resolution=resolution
    )
    label = LabelWindowFeature(
        name="n", over="customer", agg=LabelAggregation.fraud_count, length="1h", resolution=resolution
    )
    edges = {f"{earlier}": seen for earlier, seen in EDGES[resolution].items()}
    seen = {"count": edges, "max": {name: 100 if held else None for name, held in edges.items()}, "label": edges}
    for kind, feature in (("count", count(resolution=resolution)), ("max", largest), ("label", label)):
        found = values(store, feature)
        assert {name: found[name] for name in edges} == seen[kind], kind


@pytest.mark.parametrize(("gap_us", "seen"), [(HOUR_US, 3600.0), (HOUR_US + 1, None), (1, 1e-6)])
def test_last_looks_back_as_far_as_within(store: OfflineStore, gap_us: int, seen: float | None) -> None:
    store.put(reader([row("event", T0), row("other", T0 - gap_us)]))
    assert values(store, LastFeature(name="gap", over="customer", within="1h"))["event"] == seen


def test_windows_end_at_the_slice_but_begin_before_it(store: OfflineStore) -> None:
    store.put(reader([row("a", T0 - HOUR_US), row("b", T0), row("c", T0 + 1)]))
    assert values(store, count("2h"), since_us=T0, until_us=T0 + 1) == {"b": 1}
    assert values(store, count("2h"), since_us=T0 + 1) == {"c": 2}
    assert values(store, count("2h"), until_us=T0) == {"a": 0}


def test_a_missing_key_is_an_empty_window(store: OfflineStore) -> None:
    store.put(reader([row("a", T0, customer=None), row("b", T0 + 1, customer=None)]))
    total = WindowFeature(name="sum", over="customer", agg=Aggregation.sum, of="amount", length="1h")
    mean = WindowFeature(name="mean", over="customer", agg=Aggregation.mean, of="amount", length="1h")
    smallest = WindowFeature(name="min", over="customer", agg=Aggregation.min, of="amount", length="1h")
    assert values(store, count()) == {"a": 0, "b": 0}
    assert values(store, total) == {"a": 0, "b": 0}
    assert values(store, mean) == {"a": None, "b": None}
    assert values(store, smallest) == {"a": None, "b": None}
    assert values(store, count(over="merchant")) == {"a": 0, "b": 1}


def test_labels_count_from_when_they_are_known(store: OfflineStore) -> None:
    history = [row("a", T0, fraud=True, known=T0 + 5), row("b", T0 + 5), row("c", T0 + 6), row("d", T0 + 8)]
    store.put(reader(history))
    assert values(store, reports()) == {"a": 0, "b": 0, "c": 1, "d": 1}
    store.put_labels([Label("a", False, T0 + 7, ("c", "m")), Label("b", False, T0 + 7, ("x", "m"))])
    assert values(store, reports()) == {"a": 0, "b": 0, "c": 1, "d": 2}
    assert values(store, reports(LabelAggregation.fraud_rate)) == {"a": None, "b": None, "c": 1, "d": 0.5}


def test_a_label_without_entities_has_those_of_its_transaction(store: OfflineStore) -> None:
    store.put(reader([row("a", T0), row("b", T0 + 2, customer="x"), row("c", T0 + 2)]))
    store.put_labels([Label("a", True, T0 + 1)])
    assert values(store, reports()) == {"a": 0, "b": 0, "c": 1}
    with pytest.raises(OfflineStoreError, match="'a' has 1 entities, not 2"):
        store.put_labels([Label("a", True, T0 + 1, ("c",))])


def test_sums_beyond_64_bits_are_exact(store: OfflineStore, request: pytest.FixtureRequest) -> None:
    """The squares of 10^12 need 80 bits, and the deviation is one part in 10^12."""
    if type(store).__name__ == "SnowflakeOfflineStore":
        gap = "fakesnow computes NUMBER(38, 0), which has 38 digits in Snowflake, in 64 bits"
        request.applymarker(pytest.mark.xfail(strict=True, raises=OfflineStoreError, reason=gap))
    amounts = [10**12, 10**12 - 1, 10**12 - 2]
    store.put(reader([row(f"{i}", T0 + i, amount=amount) for i, amount in enumerate([*amounts, 0])]))
    std = WindowFeature(name="std", over="customer", agg=Aggregation.std, of="amount", length="1h")
    assert values(store, std)["3"] == 1.0


def test_progress_ends_at_the_number_of_rows(store: OfflineStore) -> None:
    store.put(reader([row(str(i), T0 + i) for i in range(10)]))
    calls: list[tuple[int, int | None]] = []
    feature_set = FeatureSet(SCHEMA, [count()])
    list(store.features(feature_set, since_us=T0 + 3, batch_size=2, progress=lambda *call: calls.append(call)))
    assert calls[0] == (0, 7)
    assert calls[-1] == (7, 7)


def test_a_failing_source_keeps_its_own_error(store: OfflineStore) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield reader([row("a", T0)]).read_next_batch()
        raise TooManyRejects("too many broken rows")

    with pytest.raises(TooManyRejects, match="too many broken rows"):
        store.put(pa.RecordBatchReader.from_batches(arrow_schema(SCHEMA), batches()))


def test_history_of_another_schema_is_an_error_of_the_store(store: OfflineStore) -> None:
    store.put(reader([row("a", T0)]))
    other = Schema(TimeColumn("time"), "id", {"device": "dev"})
    window = WindowFeature(name="n", over="device", agg=Aggregation.count, length="1h")
    with pytest.raises(OfflineStoreError) as caught:
        list(store.features(FeatureSet(other, [window])))
    assert isinstance(caught.value, FraudmlError)
    assert "\n" not in str(caught.value)


TEXTS = [
    "",
    " ",
    "NULL",
    "\\N",
    "\\.",
    'a "quoted" one',
    "a, b; c|d",
    "two\nlines",
    "two\r\nlines",
    "\t'tab'",
    "100%",
    "é\U0001f600",
    "$1:C0 {x} ?",
]


def test_texts_come_back_as_they_were(store: OfflineStore) -> None:
    texts = [*TEXTS, None]
    store.put(reader([row(text or "none", T0 + i, merchant=text) for i, text in enumerate(texts)][1:]))
    last = LastFeature(name="n", over="customer", of="amount")
    table = pa.Table.from_batches(list(store.features(FeatureSet(SCHEMA, [last]))))
    assert table["transaction_id"].to_pylist() == [*TEXTS[1:], "none"]
    assert table["merchant"].to_pylist() == texts[1:]


def test_numbers_come_back_as_they_were(store: OfflineStore) -> None:
    attributes = {"x": Attribute(AttributeType.number), "n": Attribute(AttributeType.integer)}
    schema = Schema(TimeColumn("time"), "id", {"customer": "c"}, attributes=attributes)
    floats = [0.1, -0.0, 1e-300, -1e30, 1 / 3, 2.0**53 + 2, None]
    whole = [10**12, -(10**12), 0, 1, 10**12 - 1, -1, None]
    count = len(floats)
    columns = [[f"{i}" for i in range(count)], [T0 + i for i in range(count)], ["k"] * count, [None] * count]
    fields = arrow_schema(schema)
    arrays = [
        pa.array(column, field.type)
        for column, field in zip(
            [*columns, floats, whole, [True, False, *[None] * 5], [T0] * count], fields, strict=True
        )
    ]
    store.put(pa.Table.from_arrays(arrays, schema=fields).to_reader())
    window = WindowFeature(name="w", over="customer", agg=Aggregation.count, length="1h")
    table = pa.Table.from_batches(list(store.features(FeatureSet(schema, [window]), batch_size=3)))
    for field, array in zip(fields, arrays, strict=True):
        assert table[field.name].to_pylist() == array.to_pylist(), field.name


def test_a_reader_that_stops_early_leaves_the_store_usable(store: OfflineStore) -> None:
    store.put(reader([row(f"{i:05}", T0 + i) for i in range(1_000)], batch_rows=300))
    batches = store.features(FeatureSet(SCHEMA, [count()]), batch_size=10)
    assert next(batches).num_rows == 10
    batches.close()  # type: ignore[attr-defined] # a generator
    assert len(values(store, count())) == 1_000


def test_after_a_failed_put_history_can_be_put(store: OfflineStore) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield reader([row("a", T0)]).read_next_batch()
        raise TooManyRejects("too many broken rows")

    with pytest.raises(TooManyRejects):
        store.put(pa.RecordBatchReader.from_batches(arrow_schema(SCHEMA), batches()))
    assert store.put(reader([row("b", T0)])) == 1
    assert values(store, count()) == {"b": 0}


def test_names_that_databases_keep_for_themselves(store: OfflineStore) -> None:
    long = "a_name_that_is_longer_than_the_63_bytes_that_some_databases_look_at_"
    attributes = {name: Attribute(AttributeType.integer) for name in ("ctid", "_PARTITION", f"{long}1", f"{long}2")}
    schema = Schema(TimeColumn("time"), "id", {"select": "s"}, attributes=attributes).check()
    fields = arrow_schema(schema)
    columns = [["a", "b"], [T0, T0 + 1], ["k", "k"], [None] * 2, [1, 2], [3, 4], [5, 6], [7, 8], [None] * 2, [None] * 2]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
    store.put(pa.Table.from_arrays(arrays, schema=fields).to_reader())
    features = [LastFeature(name=f"{long}of_{i}", over="select", of=name) for i, name in enumerate(attributes)]
    (batch,) = store.features(FeatureSet(schema, features))
    assert [batch.column(feature.name).to_pylist()[1] for feature in features] == [1, 3, 5, 7]


def test_names_that_need_quoting(store: OfflineStore) -> None:
    schema = Schema(TimeColumn("time"), "id", {"order": "o"}, None, {'odd "name"': Attribute(AttributeType.integer)})
    columns = [["a", "b"], [T0, T0 + 1], ["k", "k"], [None, None], [3, 4], [None, None], [None, None]]
    fields = arrow_schema(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
    store.put(pa.Table.from_arrays(arrays, schema=fields).to_reader())
    window = {"over": "order", "of": 'odd "name"', "length": "1h"}
    feature_set = FeatureSet(
        schema,
        [
            WindowFeature(name="select", agg=Aggregation.sum, **window),
            WindowFeature(name="max", agg=Aggregation.max, **window),
            LastFeature(name="last", over="order", of='odd "name"'),
        ],
    )
    (batch,) = store.features(feature_set)
    assert batch.select(["select", "max", "last"]).to_pylist()[1] == {"select": 3, "max": 3, "last": 3}
