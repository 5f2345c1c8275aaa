"""Every decision log that there is, each as a place where it can be opened again, as after a restart."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from fraudml.decisions.log import DecisionLog
from tests.support.scoring import SCHEMA

Open = Callable[[], DecisionLog]
ONE_SESSION = "one session for all connections"


class Sqlite:
    """A file."""

    shared = False  # whether several processes may append
    one_session = False  # for all connections, so that none is disturbed by another

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._folder: Path = request.getfixturevalue("tmp_path")

    def open(self) -> DecisionLog:
        from fraudml.adapters.log.sqlite import SqliteDecisionLog

        return SqliteDecisionLog(f"sqlite:///{self._folder / 'log.db'}", SCHEMA)

    def stored(self) -> bytes:
        """All that is kept."""
        return b"".join(path.read_bytes() for path in self._folder.iterdir())

    def change(self, *statements: str) -> None:
        """Somebody changes what is stored, by SQL."""
        with closing(sqlite3.connect(self._folder / "log.db")) as file:
            for statement in statements:
                file.execute(statement)
            file.commit()

    def lose(self) -> None:
        """Somebody removes a table."""
        self.change("DROP TABLE transactions")


class Postgres:
    """A database of a server."""

    shared = True
    one_session = False

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._url: str = request.getfixturevalue("postgres_url")

    def open(self) -> DecisionLog:
        from fraudml.adapters.connections.postgres import engine
        from fraudml.adapters.log.postgres import PostgresDecisionLog

        return PostgresDecisionLog(engine(self._url), SCHEMA, place="the test's database", timeout_ms=10_000)

    def stored(self) -> bytes:
        from tests.support.servers.postgres import execute

        names = [name for (name,) in execute(self._url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        assert "api_keys" in names
        return b"".join(repr(execute(self._url, f"TABLE {name}")).encode() for name in names)

    def change(self, *statements: str) -> None:
        from tests.support.servers.postgres import execute

        execute(self._url, *statements)

    def lose(self) -> None:
        """Somebody removes a table."""
        self.change("DROP TABLE transaction_ids CASCADE")


class Timescale(Postgres):
    """A database of a server with TimescaleDB, arranged as ``fraudml db upgrade`` does it."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        from fraudml.adapters.connections.postgres import engine
        from fraudml.adapters.log.postgres import timescale, upgrade

        self._url = request.getfixturevalue("timescale_url")
        self.one_session = request.getfixturevalue("timescale_server").one_session
        made = engine(self._url)
        upgrade.upgrade(made, "the test's database")
        timescale.arrange(made, "the test's database", timescale.Policies())
        made.dispose()


Backend = Sqlite | Postgres
ADAPTERS: dict[str, type[Backend]] = {"sqlite": Sqlite, "postgres": Postgres, "timescale": Timescale}
