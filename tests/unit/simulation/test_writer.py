"""Files: three formats with the same content, complete or not there at all."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from fraudml.errors import ConfigError, DataError
from fraudml.simulation import SimulationConfig, simulate, write

CONFIG = SimulationConfig(customers=150, merchants=40, days=8, fraud_rate=0.05, include_truth=True)


def read_csv(path: Path, columns: pa.Schema) -> pa.Table:
    options = pa_csv.ConvertOptions(column_types=columns, strings_can_be_null=True)
    return pa_csv.read_csv(path, convert_options=options)


def test_all_formats_hold_what_simulate_yields(tmp_path: Path) -> None:
    expected = pa.concat_tables(simulate(CONFIG))
    for suffix in (".parquet", ".csv", ".csv.gz"):
        write(CONFIG, tmp_path / f"history{suffix}")
    assert pq.read_table(tmp_path / "history.parquet").equals(expected)
    assert read_csv(tmp_path / "history.csv", expected.schema).equals(expected)
    assert read_csv(tmp_path / "history.csv.gz", expected.schema).equals(expected)


def test_csv_is_plain_iso_8601_and_two_digits(tmp_path: Path) -> None:
    write(CONFIG, tmp_path / "history.csv")
    header, first = (tmp_path / "history.csv").read_text().splitlines()[:2]
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert '"' not in header
    for column in ("event_time", "reported_at"):
        assert row[column][10] == "T"
        assert row[column].endswith("Z")
        assert datetime.fromisoformat(row[column]).tzinfo == UTC
    assert row["amount"][-3] == "."


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_the_same_seed_gives_the_same_bytes_and_nothing_else_is_left(tmp_path: Path, suffix: str) -> None:
    one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    write(CONFIG, one)
    write(CONFIG, two)
    assert one.read_bytes() == two.read_bytes()
    assert sorted(tmp_path.iterdir()) == [one, two]


def test_the_summary_agrees_with_the_file(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    summary = write(CONFIG, tmp_path / "a.parquet", progress=lambda done, total: calls.append((done, total)))
    table = pq.read_table(tmp_path / "a.parquet")
    fraud = table.filter(pc.equal(table["is_fraud"], 1))
    assert (summary.rows, summary.frauds) == (table.num_rows, fraud.num_rows)
    assert summary.amount == pc.sum(table["amount"]).as_py()
    assert summary.fraud_amount == pc.sum(fraud["amount"]).as_py()
    assert summary.first_event == table["event_time"][0].as_py()
    assert summary.last_event == table["event_time"][-1].as_py()
    assert sum(summary.patterns.values()) == summary.frauds
    assert summary.fraud_rate == pytest.approx(fraud.num_rows / table.num_rows)
    assert len(calls) == CONFIG.days
    assert calls[-1][0] == summary.rows
    assert all(done <= total for done, total in calls)


def test_another_suffix_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'a\.xlsx' must end in one of \.csv, \.csv\.gz, \.parquet"):
        write(CONFIG, tmp_path / "a.xlsx")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot write"):
        write(CONFIG, tmp_path / "nowhere" / "a.csv")


def test_an_interrupted_run_leaves_no_file(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(CONFIG, tmp_path / "a.csv.gz", progress=interrupt)
    assert list(tmp_path.iterdir()) == []
