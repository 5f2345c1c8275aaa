"""The commands of the page on Spark, in a project of few features: planning a query of seventy takes Spark minutes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.docs.blocks import DOCS, blocks, commands, words
from tests.docs.terminal import Terminal
from tests.support import spark

PAGE = DOCS / "howto" / "use-spark.md"
PROJECT = """
source: transactions.csv
schema:
  transaction_id: transaction_id
  event_time: {column: event_time}
  entities: {customer: customer_id, merchant: merchant_id}
  amount: {column: amount, currency: EUR}
  label: {column: is_fraud, known_at: {column: reported_at}}
features:
  - {name: amount, kind: attribute, of: amount}
  - {name: count_1d, kind: window, over: customer, agg: count, length: 1d}
  - {name: mean_30d, kind: window, over: customer, agg: mean, of: amount, length: 30d, resolution: 1d}
  - {name: ratio, kind: derived, expression: amount / mean_30d}
  - {name: frauds_30d, kind: label_window, over: merchant, agg: fraud_count, length: 30d}
"""


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java for Spark")
def test_the_commands_work_and_give_what_duckdb_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Java compiles less, collects garbage in one thread, and trusts its own classes: it lives for seconds here
    monkeypatch.setenv("JDK_JAVA_OPTIONS", " ".join(spark.SHORT_LIVED))
    directory = tmp_path / "project"
    directory.mkdir()
    terminal = Terminal(directory)
    terminal.run("fraudml simulate transactions.csv --rows 6000 --days 100 --fraud-rate 0.1")
    (directory / "fraudml.yaml").write_text(PROJECT, encoding="utf-8")
    terminal.type("export FRAUDML_MEMORY_LIMIT=1GB")
    shown = [command for block in blocks(PAGE, "console") for command in commands(block)]
    assert [words(command)[:2] for command in shown if command.startswith("fraudml")] == [
        ["fraudml", "train"],
        ["fraudml", "score"],
    ]
    for command in shown:
        if command.startswith("export"):
            terminal.type(command)
        else:
            terminal.run(command)  # as it is: the terminal would train another family
    terminal.run("FRAUDML_OFFLINE_URL= fraudml score -o here.parquet")
    manifest = next((directory / ".fraudml").rglob("manifest.json"))
    assert json.loads(manifest.read_text(encoding="utf-8"))["training"]["parameters"]["max_rows"] is None
    here = pq.read_table(directory / "here.parquet")
    there = pq.read_table(directory / "scores.parquet").select(here.column_names)
    order = [("event_time", "ascending"), ("transaction_id", "ascending")]
    assert there.sort_by(order).cast(here.schema).equals(here)
    assert [path.name for path in (directory / ".fraudml" / "tmp").iterdir()] == ["spark.log"]
