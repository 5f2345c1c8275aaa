"""Offline features: 24 windows over 1.75 M transactions, beside the usual per-customer pandas rolling code."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from benchmarks import common
from fraudml import project, wiring

WINDOWS = ("1h", "1d", "7d", "30d")
ENTITIES = {"customer": "CUSTOMER_ID", "terminal": "TERMINAL_ID"}
BASELINE_CUSTOMERS = 200
ROUNDS = 3  # of each; the median counts


def run() -> str:
    """The section of RESULTS.md."""
    with common.workspace() as place:
        rows, reading, computing, peak = _measured(Path(place))
    baseline_rows, baseline_seconds = pandas_rolling()
    rate, baseline = rows / computing, baseline_rows / baseline_seconds
    return (
        common.table(
            ["what", "transactions", "seconds", "transactions/s", "ratio"],
            [
                [
                    "fraudml: 24 window features, delivered as Arrow",
                    f"{rows:,}",
                    f"{computing:.1f}",
                    f"{rate:,.0f}",
                    f"{rate / baseline:,.0f} x",
                ],
                [
                    "the same with reading and checking the file",
                    f"{rows:,}",
                    f"{reading + computing:.1f}",
                    f"{rows / (reading + computing):,.0f}",
                    f"{rows / (reading + computing) / baseline:,.0f} x",
                ],
                [
                    f"pandas rolling per key (baseline; {BASELINE_CUSTOMERS} keys of each entity)",
                    f"{baseline_rows:,}",
                    f"{baseline_seconds:.1f}",
                    f"{baseline:,.0f}",
                    "1",
                ],
            ],
        )
        + f"\n\n2 entities x 4 windows x (count, sum, std). Peak memory of the fraudml process: {peak:.2f} GiB."
    )


def _measured(home: Path) -> tuple[int, float, float, float]:
    """Run in a process of its own, so that its peak memory is its own: rows, seconds to read, to compute, GiB."""
    code = "from benchmarks.offline import child; child(__import__('sys').argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(home)], cwd=common.ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    rows, reading, computing, peak = done.stdout.split()
    return int(rows), float(reading), float(computing), float(peak)


def child(home: str) -> None:
    """The measured part."""
    declared = project.parse(declaration())
    settings = common.settings(Path(home))
    store = wiring.offline_store(settings)
    source = wiring.source(settings, declared.schema, [str(common.handbook())], Path(home) / "rejects.csv")
    started = time.perf_counter()
    rows = store.put(source.read())
    read = time.perf_counter()
    seconds = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        computed = sum(batch.num_rows for batch in store.features(declared.feature_set))
        seconds.append(time.perf_counter() - begun)
        if computed != rows:
            raise SystemExit(f"{computed} of {rows} rows came back")
    print(rows, read - started, sorted(seconds)[ROUNDS // 2], common.peak_memory())


def declaration() -> str:
    features = [
        f"  - {{name: {entity}_{agg}_{window}, kind: window, over: {entity}, agg: {agg}, length: {window}"
        + ("" if agg == "count" else ", of: amount")
        + "}"
        for entity in ENTITIES
        for window in WINDOWS
        for agg in ("count", "sum", "std")
    ]
    return "\n".join(
        [
            "schema:",
            "  transaction_id: TRANSACTION_ID",
            "  event_time: {column: TX_DATETIME, timezone: UTC}",
            "  entities: {customer: CUSTOMER_ID, terminal: TERMINAL_ID}",
            "  amount: {column: TX_AMOUNT}",
            "features:",
            *features,
        ]
    )


def pandas_rolling() -> tuple[int, float]:
    """What notebooks do: for each key, ``rolling`` by time over its rows, three aggregations for each window.

    Measured on the first keys of each entity and counted as (rows of both entities) / 2 transactions, since a
    transaction is visited once for each entity.
    """
    frame = pd.read_parquet(common.handbook(), columns=["TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT"])
    parts = {}
    for entity, column in ENTITIES.items():
        keys = frame[column].drop_duplicates().sort_values().head(BASELINE_CUSTOMERS)
        parts[entity] = frame[frame[column].isin(keys)]
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for entity, column in ENTITIES.items():
            parts[entity].groupby(column, group_keys=False)[["TX_DATETIME", "TX_AMOUNT"]].apply(_roll)
        seconds.append(time.perf_counter() - started)
    return sum(len(part) for part in parts.values()) // 2, sorted(seconds)[ROUNDS // 2]


def _roll(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows.sort_values("TX_DATETIME").set_index("TX_DATETIME")
    for window in WINDOWS:
        past = rows["TX_AMOUNT"].rolling(window, closed="left")
        rows[f"count_{window}"] = past.count()
        rows[f"sum_{window}"] = past.sum()
        rows[f"std_{window}"] = past.std()
    return rows
