"""The scoring API on the backends of each tier: what PostgreSQL and Redis cost, as ratios to SQLite and memory.

The database servers are this machine's, started as tests start them, but PostgreSQL waits for the disk as it does by
default. They share the cores with the service and the load; a machine of their own would add the network instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

from benchmarks import common
from benchmarks.serving import COLUMNS, CONNECTIONS, ROUNDS, SECONDS, _closed, _median, _row, _where
from benchmarks.serving_setup import Setup, prepare
from fraudml.cli.bench import child
from fraudml.cli.bench.results import Figures
from fraudml.cli.bench.server import Target
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.redis import RedisServer

SQLITE = "SQLite, features in memory"
DURABILITIES = ("process", "power")


def run() -> str:
    """The section of RESULTS.md."""
    with common.workspace() as place, ExitStack() as stack:
        setup = prepare(Path(place))
        stack.enter_context(child.on(setup.places.load))
        postgres = PostgresServer()
        stack.callback(postgres.close)
        cache = RedisServer()
        stack.callback(cache.close)
        return _compare(setup, postgres, cache)


def _compare(setup: Setup, postgres: PostgresServer, cache: RedisServer) -> str:
    @contextmanager
    def sqlite(durability: str) -> Iterator[Target]:
        with setup.fraudml(durability=durability) as target:
            yield target

    @contextmanager
    def on_postgres(durability: str) -> Iterator[Target]:
        with setup.fraudml(durability=durability, database_url=postgres.new_database()) as target:
            yield target

    @contextmanager
    def on_both(durability: str) -> Iterator[Target]:
        with redis.Redis.from_url(cache.url) as client:
            client.flushall()
        url = postgres.new_database()
        with setup.fraudml(durability=durability, database_url=url, redis_url=cache.url) as target:
            yield target

    kinds = {SQLITE: sqlite, "PostgreSQL, features in memory": on_postgres, "PostgreSQL, features in Redis": on_both}
    tables = [_table(setup, durability, kinds) for durability in DURABILITIES]
    told = (
        f"Closed loops of {SECONDS:g} s, medians of {ROUNDS} interleaved rounds. {_where(setup)} The database servers "
        "were not pinned; PostgreSQL was as it is by default."
    )
    return "\n\n".join([told, *tables])


def _table(setup: Setup, durability: str, kinds: dict[str, Callable[[str], object]]) -> str:
    found: dict[tuple[str, int], list[Figures]] = {}
    for _ in range(ROUNDS):
        for name, started in kinds.items():
            with started(durability) as target:  # type: ignore[attr-defined]
                for connections in CONNECTIONS:
                    found.setdefault((name, connections), []).append(_closed(setup, target, connections))
    rows = []
    for connections in CONNECTIONS:
        base = _median(found[SQLITE, connections])
        rows += [_row(f"{name}, {connections} connections", _median(found[name, connections]), base) for name in kinds]
    return f"`FRAUDML_DURABILITY={durability}`:\n\n{common.table(['service', *COLUMNS], rows)}"
