"""What was exported as Parquet files is history again: the rows of the log, as a source of training reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
import yaml

from fraudml import wiring
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.record import LabelReport
from fraudml.errors import ConfigError
from fraudml.events.label import Label
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, LabelColumn, Schema, TimeColumn, TimeFormat
from fraudml.operations.history_query import history_query
from fraudml.operations.sync import sync
from fraudml.settings import Settings
from tests.integration.test_warehouse_sync import PROJECT
from tests.support.commands import refused, well
from tests.support.scoring import T0, decision, transaction
from tests.support.warehouses import parquet_tables

FOREVER = 2**62
HOUR_US = 3_600_000_000
ISO = TimeColumn("reported_at")


def schema(time: TimeColumn, known_at: TimeColumn = ISO, decimals: int = 2, **label: Any) -> Schema:
    return Schema(
        time,
        "tx id",
        {"customer": "cust_no", "terminal": 'the "term"'},
        AmountColumn("amount", decimals=decimals),
        {
            "day": Attribute(AttributeType.category),  # as folders are called
            "distance": Attribute(AttributeType.number, column="dist km"),
            "born": Attribute(AttributeType.time, column="birth", format=TimeFormat.epoch_ms),
        },
        LabelColumn("verdict", known_at=known_at, **label),
    ).check()


@pytest.mark.parametrize(
    "declared",
    [
        schema(TimeColumn("time")),
        schema(TimeColumn("time", timezone="Europe/Berlin"), decimals=0),
        schema(TimeColumn("time", TimeFormat.epoch_us), TimeColumn("known", TimeFormat.epoch_s), decimals=8),
        schema(TimeColumn("time", TimeFormat.epoch_s), fraud=("chargeback",), genuine=("settled",)),
        schema(TimeColumn("time", TimeFormat.epoch_ms), decimals=3),
        schema(TimeColumn("step", TimeFormat.hours_from, start="2024-01-01"), TimeColumn("time")),
    ],
    ids=["iso", "zone", "us", "words", "ms", "steps"],
)
def test_it_is_the_logs_history(declared: Schema, tmp_path: Path) -> None:
    tables = parquet_tables(f"file://{tmp_path}/lake")
    with (
        closing(SqliteDecisionLog(f"sqlite:///{tmp_path / 'log.db'}", declared)) as log,
        closing(tables.open()) as lake,
    ):
        for n in range(1, 200):
            # whole seconds, so that every way to write a time has them
            event = msgspec.structs.replace(
                transaction(n * 1_000, amount=123_456_789 + n),
                attributes=(None if n % 3 else f"d{n}", n / 7, 86_400_000_000 * n),
            )
            log.append([decision(event, T0 + n)])
        for n in range(1, 200, 2):
            log.append_labels([LabelReport(Label(f"t{n * 1_000}", n % 4 == 1, T0 + n * HOUR_US), T0 + 1_000 + n)])
        for n in range(1, 200, 6):  # corrections, which come later
            log.append_labels(
                [LabelReport(Label(f"t{n * 1_000}", n % 4 != 1, T0 + n * HOUR_US + 5_000_000), T0 + 9_999 + n)]
            )
        sync(log, lake, declared, until=FOREVER)
        truth = [row for batch in log.replay() for row in batch.to_pylist()]
    duckdb.connect(tmp_path / "lake.db").close()
    url = f"duckdb:///{tmp_path}/lake.db?query={history_query(declared, f'{tmp_path}/lake')}"
    read = (
        wiring.source(Settings(home=tmp_path, threads=1), declared, [url], tmp_path / "rejects.csv").read().read_all()
    )
    assert read.to_pylist() == truth
    assert sum(row["is_fraud"] is not None for row in truth) == 100


def test_when_a_label_became_known_must_be_there() -> None:
    declared = schema(TimeColumn("time"))
    for label in (None, LabelColumn("is_fraud")):
        with pytest.raises(ConfigError, match="where it is written when a label became known"):
            history_query(msgspec.structs.replace(declared, label=label), "lake")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    declared = yaml.safe_load(PROJECT)
    declared["schema"]["label"] = {"column": "is_fraud", "known_at": {"column": "reported_at"}}
    (tmp_path / "fraudml.yaml").write_text(yaml.safe_dump(declared))
    return tmp_path


def test_the_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("", "snowflake://a/b/c"):
        monkeypatch.setenv("FRAUDML_WAREHOUSE_URL", url)
        assert "to a URL of files: it starts with file:, s3: or gs:" in refused("warehouse", "query", cwd=project)
    monkeypatch.setenv("FRAUDML_WAREHOUSE_URL", "file:lake")
    said = well("warehouse", "query", cwd=project).out
    assert f"'{project}/lake/decisions/*/*.parquet'" in said
    assert 'AS "cust_no"' in said
    monkeypatch.setenv("FRAUDML_WAREHOUSE_URL", "memory://lake")
    assert "'memory:///lake/labels/*/*.parquet'" in well("warehouse", "query", cwd=project).out
