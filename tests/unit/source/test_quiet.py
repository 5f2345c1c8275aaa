"""What every connection to DuckDB is told. Its own progress bar would appear on standard output, among the results,
as soon as a query takes two seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from fraudml import wiring
from fraudml.adapters.source import tables
from fraudml.events.schema import LabelColumn, Schema, TimeColumn
from fraudml.settings import Settings


def test_no_connection_has_a_progress_bar_or_more_than_the_settings_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,time,is_fraud,v\n1,2024-05-01T00:00:00Z,0,1\n2,2024-05-01T00:00:01Z,1,2\n")
    settings = Settings(home=tmp_path, threads=3, memory_limit="1GiB")
    opened: list[duckdb.DuckDBPyConnection] = []
    told: list[tuple[Any, ...]] = []
    connect, describe = duckdb.connect, tables.describe

    def spy(*args: Any, **options: Any) -> duckdb.DuckDBPyConnection:
        opened.append(connect(*args, **options))
        return opened[-1]

    def look() -> None:
        names = ("enable_progress_bar", "threads", "memory_limit")
        query = ", ".join(f"current_setting('{name}')" for name in names)
        told.append(opened[-1].sql(f"SELECT {query}").fetchall()[0])

    def look_and_describe(path: Path, connection: duckdb.DuckDBPyConnection) -> tables.Table:
        look()  # before it is closed
        return describe(path, connection)

    monkeypatch.setattr(duckdb, "connect", spy)
    monkeypatch.setattr(tables, "describe", look_and_describe)
    store = wiring.offline_store(settings)
    look()
    schema = Schema(TimeColumn("time"), "id", ignore=("is_fraud", "v"))
    store.put(wiring.source(settings, schema, [str(path)], tmp_path / "rejects.csv").read())
    store.close()
    wiring.profile(settings, str(path))
    wiring.label_purity(settings, str(path), LabelColumn("is_fraud"), ["v"])
    assert told == [(False, 3, "1.0 GiB")] * 4
    assert len(opened) == 4
