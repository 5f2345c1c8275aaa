"""Facts about DuckDB in this process: for ``fraudml doctor``."""

from __future__ import annotations

import time

import duckdb

from fraudml.decisions.servers import ServerFacts, Trial


def facts() -> ServerFacts:
    """What is there."""
    started = time.perf_counter()
    with duckdb.connect() as connection:
        connection.execute("SELECT 1").fetchall()
    took_ms = (time.perf_counter() - started) * 1e3
    return ServerFacts(
        place="in this process",
        product="DuckDB",
        version=duckdb.__version__,
        latency_ms=took_ms,
        trials=(Trial("run a query"),),
    )
