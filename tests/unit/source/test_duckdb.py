"""DuckDB files as a source: what can be named, and what fails."""

# ruff: noqa: S608 - SQL of our own
from __future__ import annotations

from datetime import datetime
from pathlib import Path

import duckdb
import pytest

from fraudml import wiring
from fraudml.errors import DataError, FraudmlError, SourceError
from fraudml.events.schema import AmountColumn, Schema, TimeColumn
from fraudml.settings import Settings

SCHEMA = Schema(TimeColumn("time", timezone="UTC"), "id", amount=AmountColumn("amount"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with duckdb.connect(path) as connection:
        connection.execute("CREATE SCHEMA sales")
        connection.execute(
            "CREATE TABLE sales.payments AS SELECT range AS id, TIMESTAMP '2024-05-01' + range * INTERVAL 1 SECOND "
            "AS time, (range % 1000)::DECIMAL(9, 2) AS amount, [1, 2] AS list FROM range(250000)"
        )
        connection.execute("CREATE VIEW large AS SELECT * FROM sales.payments WHERE amount > 998")
    return path


def ids(url: str, tmp_path: Path, schema: Schema = SCHEMA) -> list[str]:
    source = wiring.source(Settings(home=tmp_path, threads=2), schema, [url], tmp_path / "rejects.csv")
    return list(source.read().read_all()["transaction_id"].to_pylist())


def refusal(url: str, tmp_path: Path, schema: Schema = SCHEMA) -> FraudmlError:
    with pytest.raises(FraudmlError) as caught:
        ids(url, tmp_path, schema)
    assert "\n" not in str(caught.value)
    return caught.value


def test_tables_views_and_queries(file: Path, tmp_path: Path) -> None:
    assert ids(f"duckdb:///{file}?table=sales.payments", tmp_path) == [str(number) for number in range(250_000)]
    large = [str(number) for number in range(999, 250_000, 1_000)]
    assert ids(f"duckdb:///{file}?table=large", tmp_path) == large
    query = "SELECT * FROM large ORDER BY id DESC -- newest first"
    assert ids(f"duckdb:///{file}?query={query}", tmp_path) == large[::-1]


def test_a_relative_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert len(ids("duckdb:///shop.db?table=large", tmp_path)) == 250


def test_it_is_only_read(file: Path, tmp_path: Path) -> None:
    assert isinstance(refusal(f"duckdb:///{file}?query=DELETE FROM sales.payments RETURNING *", tmp_path), DataError)
    with duckdb.connect(file, read_only=True) as other:  # a reader beside it is no hindrance
        assert len(ids(f"duckdb:///{file}?table=large", tmp_path)) == 250
        assert other.execute("SELECT count(*) FROM sales.payments").fetchall() == [(250_000,)]


def test_what_fails_says_why(file: Path, tmp_path: Path) -> None:
    missing = refusal(f"duckdb:///{tmp_path}/none.db?table=t", tmp_path)
    assert isinstance(missing, SourceError)
    assert str(missing) == f"there is no file {tmp_path}/none.db"
    table = refusal(f"duckdb:///{file}?table=sales.payment", tmp_path)
    assert isinstance(table, DataError)
    assert 'Did you mean "payments"?' in str(table)
    column = refusal(f"duckdb:///{file}?query=SELECT idd FROM large", tmp_path)
    assert 'Referenced column "idd" not found' in str(column)
    nested = Schema(TimeColumn("time", timezone="UTC"), "id", {"list": "list"})
    assert "column 'list' holds nested values" in str(refusal(f"duckdb:///{file}?table=large", tmp_path, nested))
    text = tmp_path / "text.db"
    text.write_text("no database")
    assert "cannot open" in str(refusal(f"duckdb:///{text}?table=t", tmp_path))
    with duckdb.connect(file):  # a writer keeps everybody out
        assert isinstance(refusal(f"duckdb:///{file}?table=large", tmp_path), SourceError)


def test_a_failure_in_the_middle_is_no_short_history(file: Path, tmp_path: Path) -> None:
    query = "SELECT id, time, CASE WHEN id < 240000 THEN amount ELSE error('gone') END AS amount FROM sales.payments"
    assert "gone" in str(refusal(f"duckdb:///{file}?query={query}", tmp_path))


def test_it_is_profiled_by_a_sample(file: Path, tmp_path: Path) -> None:
    found = wiring.profile(Settings(home=tmp_path, threads=2), f"duckdb:///{file}?table=sales.payments")
    assert found.rows == 250_000
    assert 190_000 < found.sampled < 210_000
    assert found["amount"].all_distinct == 1_000
    assert found["id"].all_distinct == pytest.approx(250_000, rel=0.01)
    assert found["time"].earliest >= str(datetime(2024, 5, 1))  # noqa: DTZ001
    assert found["list"].filled == 0
