"""DuckDB's own progress bar would appear on standard output as soon as a query takes two seconds."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from fraudml import wiring
from fraudml.events.schema import Schema, TimeColumn
from fraudml.settings import Settings


def test_no_connection_has_a_progress_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text("id,time,is_fraud,v\n1,2024-05-01T00:00:00Z,0,1\n2,2024-05-01T00:00:01Z,1,2\n")
    opened: list[duckdb.DuckDBPyConnection] = []
    connect = duckdb.connect

    def spy(*args: object, **options: object) -> duckdb.DuckDBPyConnection:
        opened.append(connect(*args, **options))  # type: ignore[arg-type]
        return opened[-1]

    def shown() -> bool:
        return bool(opened[-1].sql("SELECT current_setting('enable_progress_bar')").fetchall()[0][0])

    monkeypatch.setattr(duckdb, "connect", spy)
    file = str(tmp_path / "t.csv")
    schema = Schema(TimeColumn("time"), "id", ignore=("is_fraud", "v"))
    store = wiring.offline_store(Settings(home=tmp_path))
    assert not shown()
    source = wiring.source(Settings(home=tmp_path), schema, [file], tmp_path / "rejects.csv")
    reader = source.read()
    assert not shown()
    store.put(reader)
    store.close()
