"""The online store in Redis beside the one in this process: throughput, latency, bytes, bulk load.

Where there are several cores, the server runs on one and this process on another.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import common, offline
from fraudml import project, wiring
from fraudml.adapters.connections import redis
from fraudml.adapters.online.redis import RedisOnlineStore
from fraudml.events.source import arrow_schema
from fraudml.events.transaction import Transaction
from fraudml.features.spec import FeatureSet
from fraudml.features.stores import OnlineStore
from tests.support.servers.redis import RedisServer

CARDS = 10_000
EVENTS = 40  # of each card, in the longest window of 30 days
BATCH = 1_000
BATCHES = 20
SINGLE = 2_000
LOADED = int(os.environ.get("BENCH_LOADED", "1000000"))  # entities of the bulk load
EACH = 5  # their events
DAY_US = 86_400_000_000
START_US = 1_700_000_000_000_000
HURRY_US = 10_000  # between two transactions while it is measured


def run() -> str:
    """The section of RESULTS.md."""
    declared = project.parse(offline.declaration())
    with common.workspace() as place:
        memory = wiring.online_store(common.settings(Path(place)), declared.feature_set)
    rows = []
    with server() as running:
        store = partial(redis_store, running)
        shared = store(declared.feature_set)
        fill(shared, CARDS, EVENTS, declared)
        rows += _measured("Redis", shared)
        fill(memory, CARDS, EVENTS, declared)
        rows += _measured("in this process", memory)
        rows += _bulk("Redis", running, store, declared)
    with server() as empty:
        rows.append(["Redis", *_bytes(empty, partial(redis_store, empty), declared)])
    table = common.table(["store", "what", "measured"], rows)
    told = (
        f"2 entities x 4 windows x (count, sum, std), {CARDS:,} keys each, {EVENTS} events of each key within 30 days, "
        f"exact windows. Batches are of {BATCH:,} transactions."
    )
    return f"{told}\n\n{table}"


@contextmanager
def server() -> Iterator[RedisServer]:
    """A server on a core of its own, this process on another, where there are two."""
    own = sorted(os.sched_getaffinity(0))
    if len(own) > 1:
        os.sched_setaffinity(0, own[1:2])  # the server begins with what its parent has
    running = RedisServer()
    try:
        os.sched_setaffinity(0, own[:1])
        yield running
    finally:
        running.close()
        os.sched_setaffinity(0, own)


def redis_store(running: RedisServer, feature_set: FeatureSet, **options: Any) -> RedisOnlineStore:
    """A store without history to be loaded."""
    return RedisOnlineStore(feature_set, lambda: redis.client(running.url, 5_000), timeout_ms=5_000, **options)


def fill(store: OnlineStore, keys: int, each: int, declared: project.Project) -> float:
    """Load history of so many cards and terminals; the seconds that it took."""
    batches = list(history(keys, each, declared))
    started = time.perf_counter()
    store.claim_load()
    for batch in batches:
        store.load(batch)
    store.loaded()
    return time.perf_counter() - started


def history(keys: int, each: int, declared: project.Project) -> Iterator[pa.RecordBatch]:
    """Transactions of 30 days in order of time, each key with as many; one batch for each of them."""
    rng = np.random.default_rng(0)
    for part in range(each):
        times = np.sort(rng.integers(part * 30 * DAY_US // each, (part + 1) * 30 * DAY_US // each, keys))
        columns = {
            "transaction_id": [f"h{part}-{i}" for i in range(keys)],
            "event_time_us": START_US + times,
            "customer": [f"c{key}" for key in rng.permutation(keys)],
            "terminal": [f"t{key}" for key in rng.permutation(keys)],
            "amount_minor": rng.integers(100, 10_000, keys),
        }
        schema = arrow_schema(declared.schema)
        arrays = [
            pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(keys, field.type)
            for field in schema
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _transactions(number: int, first: int) -> list[Transaction]:
    rng = np.random.default_rng(first)
    keys = rng.integers(0, CARDS, (number, 2)).tolist()
    begin = START_US + 30 * DAY_US + first * HURRY_US
    return [
        Transaction(f"n{first + i}", begin + i * HURRY_US, (f"c{a}", f"t{b}"), 5_000, ())
        for i, (a, b) in enumerate(keys)
    ]


def _measured(name: str, store: OnlineStore) -> list[list[str]]:
    events = _transactions(BATCH * (BATCHES + 2) + SINGLE, 0)
    parts = [events[at : at + BATCH] for at in range(0, BATCH * (BATCHES + 2), BATCH)]
    for part in parts[:2]:
        store.read_then_update(part)
    wall, own = time.perf_counter(), time.process_time()
    for part in parts[2:]:
        store.read_then_update(part)
    number = BATCH * BATCHES
    rate, own = number / (time.perf_counter() - wall), (time.process_time() - own) / number * 1e6
    times = _each(lambda event: store.read_then_update([event]), events[BATCH * (BATCHES + 2) :])
    p50, p99 = statistics.median(times), times[int(len(times) * 0.99)]
    return [
        [name, "read, then update, in batches", f"{rate:,.0f} transactions/s"],
        [name, "processor time of this process", f"{own:.0f} us for each"],
        [name, "one transaction at a time", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"],
    ]


def _each(call: Callable[[Transaction], object], events: list[Transaction]) -> list[float]:
    """Milliseconds of each call, sorted."""
    times = []
    for event in events:
        started = time.perf_counter()
        call(event)
        times.append((time.perf_counter() - started) * 1e3)
    return sorted(times)


def _bytes(running: RedisServer, store: Callable[..., RedisOnlineStore], declared: project.Project) -> list[str]:
    """Of a card: what the server says of its keys, and what it takes altogether."""
    features = [f for f in declared.feature_set.features if getattr(f, "over", "") == "customer"]
    cards = store(FeatureSet(declared.schema, features))
    with running.client() as client:
        before = int(client.info("memory")["used_memory"])
        fill(cards, CARDS, EVENTS, declared)
        taken = (int(client.info("memory")["used_memory"]) - before) / CARDS
        usage = [int(client.memory_usage(key)) for key in client.scan_iter(match="*:customer:*", count=1_000)]
    said = f"{statistics.mean(usage):,.0f} bytes by MEMORY USAGE, {taken:,.0f} by used_memory"
    return [f"a card of {EVENTS} events, 12 windows", said]


def _bulk(
    name: str, running: RedisServer, store: Callable[..., RedisOnlineStore], declared: project.Project
) -> list[list[str]]:
    features = [f for f in declared.feature_set.features if getattr(f, "over", "") == "customer"]
    with running.client() as client:
        client.flushdb()
    seconds = fill(store(FeatureSet(declared.schema, features)), LOADED, EACH, declared)
    said = f"{seconds:.0f} s, {LOADED / seconds:,.0f} entities/s, {LOADED * EACH / seconds:,.0f} events/s"
    return [[name, f"bulk load of {LOADED:,} cards with {EACH} events each", said]]
