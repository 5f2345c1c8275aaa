"""The decision log in PostgreSQL against the one in SQLite: a commit of one batch, with equal durability.

Both wait for the disk with each commit (``power``; ``synchronous_commit = on`` on a server with ``fsync``). The server
is started for this, on the same disk, unless ``FRAUDML_TEST_POSTGRES_URL`` names one.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from fraudml.adapters.connections.postgres import engine
from fraudml.adapters.log.postgres import PostgresDecisionLog, hot
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.log import WRITERS, DecisionLog, Durability
from fraudml.decisions.record import Action, Decision, Timings
from fraudml.events.transaction import Transaction
from tests.support.scoring import FEATURES, SCHEMA, T0
from tests.support.servers.postgres import PostgresServer, new_database

BATCHES = (1, 16, 64, 500)
FEATURES_LOGGED = 40
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = 0.25  # for each figure of a round
FILLED = 50_000  # decisions that are there before the clock starts


class Traffic:
    """Decisions on transactions with random ids, in time order, as a service makes them."""

    def __init__(self) -> None:
        self._random = random.Random(1)
        self._vectors = np.random.default_rng(1).normal(size=(1_000, FEATURES_LOGGED))
        self._made = 0

    def batch(self, size: int) -> list[Decision]:
        """The next decisions."""
        timings = Timings(size, 100, 200)
        return [self._decision(timings) for _ in range(size)]

    def _decision(self, timings: Timings) -> Decision:
        self._made += 1
        rng, moment = self._random, T0 + self._made * 1_000
        keys = (f"customer-{rng.randrange(50_000)}", f"terminal-{rng.randrange(5_000)}")
        attributes = ("DE", rng.random() * 100, rng.randrange(5))
        return Decision(
            transaction=Transaction(f"{rng.getrandbits(128):032x}", moment, keys, rng.randrange(100_000), attributes),
            vector=self._vectors[self._made % 1_000].tobytes(),
            score=rng.random(),
            action=Action.approve,
            model_version="1",
            fingerprint=FEATURES.fingerprint,
            arrival=moment * WRITERS,
            decided_at_us=moment,
            timings=timings,
        )


def run() -> str:
    """The section of RESULTS.md."""
    with common.workspace() as place, server() as url:
        logs: dict[str, DecisionLog] = {
            "SQLite": SqliteDecisionLog(f"sqlite:///{Path(place) / 'log.db'}", SCHEMA, durability=Durability.power),
            "PostgreSQL": PostgresDecisionLog(engine(new_database(url)), SCHEMA, place="the server", timeout_ms=10_000),
        }
        traffic = Traffic()
        for log in logs.values():
            for _ in range(FILLED // 1_000):
                log.append(traffic.batch(1_000))
        rows = [_row(size, logs, traffic) for size in BATCHES]
        ways = [_ways(size, logs["PostgreSQL"], traffic) for size in sorted({*BATCHES, hot.COPY_FROM})]
        for log in logs.values():
            log.close()
    columns = ["decisions in a commit", "SQLite, us", "PostgreSQL, us", "decisions a second: PostgreSQL / SQLite"]
    columns += ["finding as many new ids: SQLite, us", "PostgreSQL, us"]
    told = (
        f"A commit with {FEATURES_LOGGED} features each and random ids, medians over {ROUNDS} interleaved rounds. Both "
        "wait for the same disk. PostgreSQL works in a process of its own, beside the service's:"
    )
    compared = common.table(
        ["decisions", "one INSERT of arrays, us", "COPY, us"], sorted(ways, key=lambda r: int(r[0]))
    )
    return (
        f"{told}\n\n{common.table(columns, rows)}\n\nThe two ways to write a batch to PostgreSQL, on the same machine; "
        f"COPY has three more round trips, and is used from {hot.COPY_FROM} decisions on:\n\n{compared}"
    )


@contextmanager
def server() -> Iterator[str]:
    """The URL of a PostgreSQL server that waits for its disk."""
    if given := os.environ.get("FRAUDML_TEST_POSTGRES_URL"):
        yield given
        return
    own = PostgresServer("max_wal_size=4GB", "shared_buffers=512MB")
    try:
        yield own.url()
    finally:
        own.close()


def _row(size: int, logs: dict[str, DecisionLog], traffic: Traffic) -> list[str]:
    appends: dict[str, list[float]] = {name: [] for name in logs}
    finds: dict[str, list[float]] = {name: [] for name in logs}
    for _ in range(ROUNDS):
        for name, log in logs.items():
            appends[name] += _times(log.append, lambda: traffic.batch(size))
            finds[name] += _times(log.find, lambda: [d.transaction.transaction_id for d in traffic.batch(size)])
    took = {name: statistics.median(times) for name, times in appends.items()}
    found = {name: statistics.median(times) for name, times in finds.items()}
    ratio = took["SQLite"] / took["PostgreSQL"]
    return [str(size), *(f"{took[n]:,.0f}" for n in logs), f"{ratio:.2f}", *(f"{found[n]:,.0f}" for n in logs)]


def _ways(size: int, log: DecisionLog, traffic: Traffic) -> list[str]:
    """Microseconds by INSERT and by COPY."""
    times: dict[int, list[float]] = {size + 1: [], size: []}
    usual = hot.COPY_FROM
    try:
        for _ in range(ROUNDS):
            for limit in times:
                hot.COPY_FROM = limit
                times[limit] += _times(log.append, lambda: traffic.batch(size))
    finally:
        hot.COPY_FROM = usual
    return [str(size), *(f"{statistics.median(found):,.0f}" for found in times.values())]


def _times(call: Callable[[Any], object], given: Callable[[], Sequence[object]]) -> list[float]:
    """Microseconds of calls during a while."""
    times = []
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(times) < 3:
        each = given()
        started = time.perf_counter()
        call(each)
        times.append((time.perf_counter() - started) * 1e6)
    return times
