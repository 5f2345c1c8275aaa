"""``fraudml features materialize``: the whole command, from a Parquet file to features in Redis."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import common, offline
from tests.support.servers.redis import RedisServer

CUSTOMERS = int(os.environ.get("BENCH_LOADED", "1000000"))
EACH = 5  # transactions of a customer
TERMINALS = 10_000
DAYS = 30


def run() -> str:
    """The section of RESULTS.md."""
    with common.workspace() as place:
        home = Path(place)
        _history(home / "history.parquet")
        (home / "fraudml.yaml").write_text(f"source: history.parquet\n{offline.declaration()}\n", encoding="utf-8")
        running = RedisServer()
        try:
            os.environ["FRAUDML_REDIS_URL"] = running.url
            seconds, peak, told = common.command("features", "materialize", "--json", home=home)
            with running.client() as client:
                memory = int(client.info("memory")["used_memory"]) / 2**30
        finally:
            os.environ.pop("FRAUDML_REDIS_URL", None)
            running.close()
    found, entities = json.loads(told), CUSTOMERS + TERMINALS
    rows = [
        ["entities", f"{entities:,}"],
        ["events", f"{found['events']:,}"],
        ["seconds, the whole command", f"{seconds:.0f}"],
        ["entities/s", f"{entities / seconds:,.0f}"],
        ["peak memory of the command", f"{peak:.2f} GiB"],
        ["memory of Redis", f"{memory:.2f} GiB"],
    ]
    told = (
        f"{CUSTOMERS:,} customers with {EACH} transactions each at {TERMINALS:,} terminals within {DAYS} days, 12 exact"
        " windows for both. Redis is on the same cores."
    )
    return f"{told}\n\n{common.table(['what', 'measured'], rows)}"


def _history(path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = CUSTOMERS * EACH
    seconds = np.sort(rng.integers(0, DAYS * 86_400, rows))
    table = pa.table(
        {
            "TRANSACTION_ID": pa.array(np.arange(rows)),
            "TX_DATETIME": pa.array((np.datetime64("2026-10-01", "s") + seconds).astype("datetime64[us]")),
            "CUSTOMER_ID": pa.array(rng.permutation(np.repeat(np.arange(CUSTOMERS), EACH))),
            "TERMINAL_ID": pa.array(rng.integers(0, TERMINALS, rows)),
            "TX_AMOUNT": pa.array(rng.integers(100, 10_000, rows) / 100),
            "TX_FRAUD": pa.array(np.zeros(rows, np.int64)),
        }
    )
    pq.write_table(table, path)
