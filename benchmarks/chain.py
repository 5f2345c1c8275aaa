"""What the chain of hashes costs: commits with a link against commits without one, into the same logs in turns.

Durability, server and rows are those of :mod:`benchmarks.log`; SQLite also without waiting for the disk, where the cost
is easiest to see.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import common
from benchmarks.log import BATCHES, FEATURES_LOGGED, ROUNDS, SECONDS, Traffic, server
from fraudml.adapters.connections.postgres import engine
from fraudml.adapters.log.postgres import PostgresDecisionLog
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.log import DecisionLog, Durability
from fraudml.decisions.record import Decision
from fraudml.operations.verify import verify
from tests.support.scoring import SCHEMA
from tests.support.servers.postgres import new_database

FILLED = 20_000
VERIFIED = 100_000


def run() -> str:
    """The section of RESULTS.md."""
    with common.workspace() as place, server() as url:
        folder = Path(place)
        logs: dict[str, DecisionLog] = {
            "SQLite, `process`": SqliteDecisionLog(f"sqlite:///{folder / 'process.db'}", SCHEMA),
            "SQLite, `power`": SqliteDecisionLog(
                f"sqlite:///{folder / 'power.db'}", SCHEMA, durability=Durability.power
            ),
            "PostgreSQL": PostgresDecisionLog(engine(new_database(url)), SCHEMA, place="the server", timeout_ms=10_000),
        }
        traffic = Traffic()
        for log in logs.values():
            for _ in range(FILLED // 1_000):
                log.append(traffic.batch(1_000))
        rows = [_row(name, size, log, traffic) for name, log in logs.items() for size in BATCHES]
        rate = _verified(folder, traffic)
        for log in logs.values():
            log.close()
    columns = ["log", "decisions in a commit", "without a link, us", "with one, us", "ratio", "more per decision, us"]
    return (
        f"Commits with {FEATURES_LOGGED} features each, medians over {ROUNDS} rounds in which both take turns, commit "
        f"by commit:\n\n{common.table(columns, rows)}\n\n`fraudml decisions verify` reads {rate:,.0f} decisions a "
        "second from SQLite."
    )


def _row(name: str, size: int, log: DecisionLog, traffic: Traffic) -> list[str]:
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        until = time.perf_counter() + 2 * SECONDS
        while time.perf_counter() < until:
            for chained, found in times.items():
                found.append(_time(log, traffic.batch(size), chained))
    before, after = (statistics.median(found) for found in times.values())
    return [
        name,
        str(size),
        f"{before:,.0f}",
        f"{after:,.0f}",
        f"{after / before:.3f}",
        f"{(after - before) / size:.1f}",
    ]


def _time(log: DecisionLog, batch: Sequence[Decision], chained: bool) -> float:
    started = time.perf_counter()
    log.append(batch, chained=chained)
    return (time.perf_counter() - started) * 1e6


def _verified(folder: Path, traffic: Traffic) -> float:
    """Decisions a second."""
    log = SqliteDecisionLog(f"sqlite:///{folder / 'verified.db'}", SCHEMA)
    for _ in range(VERIFIED // 50):
        log.append(traffic.batch(50))
    started = time.perf_counter()
    found = verify(log)
    took = time.perf_counter() - started
    log.close()
    if (found.decisions, found.wrong) != (VERIFIED, 0):
        raise SystemExit(f"the log is not as it was written: {found}")
    return VERIFIED / took
