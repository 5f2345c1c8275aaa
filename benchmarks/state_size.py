"""Does a transaction take longer when online state holds a hundred times as many entities?"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import common, offline
from fraudml import project, wiring
from fraudml.events.source import arrow_schema
from fraudml.events.transaction import Transaction

SIZES = (10_000, 1_000_000)
READS = 32_000


def run(rounds: int) -> str:
    """Time per transaction in the in-process store with few and with many entities, in a process of its own each."""
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(rounds):
        for size in SIZES:
            code = f"from benchmarks.state_size import child; child({size})"
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=common.ROOT, stdout=subprocess.PIPE, text=True, check=True
            )
            times[size].append(float(done.stdout))
    medians = {size: statistics.median(found) for size, found in times.items()}
    base = medians[SIZES[0]]
    rows = [[f"{size:,}", f"{value:.1f}", f"{value / base:.2f} x"] for size, value in medians.items()]
    columns = ["keys of each of two entities", "us per transaction", "ratio"]
    told = "Read and update of online state (24 windows over two entities), uniform keys, 16 transactions at once:"
    return f"{told}\n\n{common.table(columns, rows)}"


def child(entities: int) -> None:
    """Print the microseconds per transaction with state of this many customers and terminals."""
    declared = project.parse(offline.declaration())
    with common.workspace() as place:
        store = wiring.online_store(common.settings(Path(place)), declared.feature_set)
    rng = np.random.default_rng(0)
    start, second = 1_700_000_000_000_000, 1_000_000
    span = 1_000_000  # history within 1,000 s, so that the shortest window holds it
    moments = start + np.arange(entities) * (span * 1_000 // entities)
    columns = {
        "transaction_id": [f"h{i}" for i in range(entities)],
        "event_time_us": moments,
        "customer": [f"c{key}" for key in rng.permutation(entities)],
        "terminal": [f"t{key}" for key in rng.permutation(entities)],
        "amount_minor": rng.integers(100, 10_000, entities),
    }
    schema = arrow_schema(declared.schema)
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(entities, field.type)
        for field in schema
    ]
    for batch in pa.Table.from_arrays(arrays, schema=schema).to_batches(max_chunksize=100_000):
        store.load(batch)
    store.stats()  # builds the state that was gathered
    keys = rng.integers(0, entities, (READS, 2)).tolist()
    begin = start + span * 1_000 + second
    events = [Transaction(f"n{i}", begin + i * 1_000, (f"c{a}", f"t{b}"), 5_000, ()) for i, (a, b) in enumerate(keys)]
    began = time.perf_counter()
    for at in range(0, READS, 16):
        store.read_then_update(events[at : at + 16])
    print((time.perf_counter() - began) / READS * 1e6)
