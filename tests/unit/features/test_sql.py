"""The generated SQL, dialect by dialect: what it looks like. ``tests/parity`` runs it.

After a wanted change, write the snapshots anew with ``UPDATE_SNAPSHOTS=1 pytest tests/unit/features/test_sql.py``
and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

from fraudml.errors import ConfigError
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn
from fraudml.features.spec import (
    Aggregation,
    AttributeFeature,
    FeatureSet,
    LabelAggregation,
    LabelWindowFeature,
    LastFeature,
    WindowFeature,
)
from fraudml.features.sql import DIALECTS, state_features_sql

SNAPSHOTS = Path(__file__).parent / "snapshots"
SCHEMA = Schema(
    TimeColumn("time"),
    "id",
    {"customer": "cust", "merchant": "merch"},
    AmountColumn("amount"),
    {
        "country": Attribute(AttributeType.category, vocabulary=("DE", "FR")),
        "score": Attribute(AttributeType.number),
    },
)


def window(name: str, over: str, agg: str, length: str, of: str | None = None, **more: str) -> WindowFeature:
    return WindowFeature(name=name, over=over, agg=Aggregation(agg), length=length, of=of, **more)


EVERYTHING = FeatureSet(
    SCHEMA,
    [
        window("count_1h", "customer", "count", "1h"),
        window("std_1h", "customer", "std", "1h", "amount"),
        window("mean_1h", "customer", "mean", "1h", "amount"),
        window("score_std_1h", "customer", "std", "1h", "score"),
        window("max_7d", "merchant", "max", "7d", "amount", resolution="1d"),
        window("customers_7d", "merchant", "nunique", "7d", "customer"),
        LabelWindowFeature(name="fraud_rate_30d", over="merchant", agg=LabelAggregation.fraud_rate, length="30d"),
        LabelWindowFeature(
            name="frauds_30d",
            over="merchant",
            agg=LabelAggregation.fraud_count,
            length="30d",
            resolution="1d",
        ),
        LastFeature(name="gap", over="customer"),
        LastFeature(name="country_before", over="customer", of="country", within="7d"),
        LastFeature(name="amount_before", over="customer", of="amount"),
    ],
)
COLUMNS = [*SCHEMA.normal_columns(), "is_fraud", "known_at_us"]


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_the_sql_is_as_reviewed(dialect: str) -> None:
    query = state_features_sql(EVERYTHING, dialect) + "\n"
    path = SNAPSHOTS / f"{dialect}.sql"
    if "UPDATE_SNAPSHOTS" in os.environ:
        path.write_text(query, encoding="utf-8")
    assert query == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_the_dialect_reads_its_own_sql(dialect: str) -> None:
    parsed = sqlglot.parse_one(state_features_sql(EVERYTHING, dialect), dialect=dialect)
    assert isinstance(parsed, exp.Select)
    assert parsed.named_selects == [*COLUMNS, *(feature.name for feature in EVERYTHING.state_features)]
    assert not list(parsed.find_all(exp.Command, exp.Anonymous))


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_every_name_is_quoted(dialect: str) -> None:
    """So that engines agree on the case of names, and words such as "order" can be entities."""
    parsed = sqlglot.parse_one(state_features_sql(EVERYTHING, dialect), dialect=dialect)
    unquoted = {name.name for name in parsed.find_all(exp.Identifier) if not name.quoted}
    assert unquoted <= {"transactions", "labels"}


@pytest.mark.parametrize("dialect", sorted(set(DIALECTS) - {"duckdb"}))
def test_only_duckdb_moves_frames_or_counts_distinct_values_in_them(dialect: str) -> None:
    parsed = sqlglot.parse_one(state_features_sql(EVERYTHING, dialect), dialect=dialect)
    for frame in parsed.find_all(exp.WindowSpec):
        assert frame.args["start"] == "UNBOUNDED" or isinstance(frame.args["start"], exp.Literal)
    for over in parsed.find_all(exp.Window):
        assert not list(over.this.find_all(exp.Distinct))


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_no_event_is_joined_with_those_in_its_window(dialect: str) -> None:
    """Each join is one of equal keys and times, so its result is as long as the history."""
    parsed = sqlglot.parse_one(state_features_sql(EVERYTHING, dialect), dialect=dialect)
    for join in parsed.find_all(exp.Join):
        assert not list(join.args["on"].find_all(exp.GT, exp.GTE, exp.LT, exp.LTE))


def test_equal_aggregates_are_computed_once() -> None:
    query = state_features_sql(
        FeatureSet(
            SCHEMA,
            [
                window("a", "customer", "mean", "1h", "amount"),
                window("b", "customer", "std", "1h", "amount"),
                window("c", "customer", "count", "60min", "amount"),
                window("d", "customer", "sum", "1h", "amount"),
            ],
        )
    )
    frames = list(sqlglot.parse_one(query, dialect="duckdb").find_all(exp.Window))
    assert len(frames) == 3  # count, sum, sum of squares


def test_text_is_ordered_by_code_point_in_postgres() -> None:
    assert '"country" COLLATE "C" DESC' in state_features_sql(EVERYTHING, "postgres")


def test_the_tables_can_be_named() -> None:
    query = state_features_sql(EVERYTHING, transactions="bank.payments", labels="bank.reports")
    tables = {table.sql() for table in sqlglot.parse_one(query, dialect="duckdb").find_all(exp.Table)}
    assert {"bank.payments", "bank.reports"} <= tables
    assert not tables & {"transactions", "labels"}


def test_without_state_features_the_rows_remain() -> None:
    query = state_features_sql(FeatureSet(SCHEMA, [AttributeFeature(name="amount", of="amount")]))
    assert sqlglot.parse_one(query, dialect="duckdb").named_selects == COLUMNS


def test_columns_of_the_user_may_be_named_like_ours() -> None:
    schema = Schema(
        TimeColumn("time"),
        "id",
        {"customer": "c"},
        attributes={"Agg_1": Attribute(AttributeType.integer)},
    )
    query = state_features_sql(FeatureSet(schema, [window("sum", "customer", "sum", "1h", "Agg_1")]))
    assert 'AS "_agg_1"' in query


def test_an_unknown_dialect_is_refused() -> None:
    with pytest.raises(ConfigError, match="no SQL dialect 'oracle'; there are: bigquery, duckdb"):
        state_features_sql(EVERYTHING, "oracle")
