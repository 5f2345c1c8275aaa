"""How far replicas of the database are behind, asked of real ones."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from fraudml.adapters.connections.postgres_replicas import replicas
from fraudml.errors import ConfigError, DecisionLogError
from tests.support.servers.postgres import PASSWORD, PostgresServer, execute
from tests.support.waiting import until

TIMEOUT_S = 5.0


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresServer]:
    server = PostgresServer("fsync=off", "wal_level=replica", "max_wal_senders=4")
    yield server
    server.close()


def test_a_database_without_replicas_has_none(primary: PostgresServer) -> None:
    assert replicas(primary.url(), TIMEOUT_S) == {}


def test_a_replica_catches_up_falls_behind_and_goes_away(primary: PostgresServer) -> None:
    with primary.replicated("second") as (replica, url):
        until(lambda: replicas(primary.url(), TIMEOUT_S) == {"second": 0.0})
        execute(url, "SELECT pg_wal_replay_pause()")
        execute(primary.url(), "CREATE TABLE written (n int)", "INSERT INTO written SELECT generate_series(1, 100000)")
        until(lambda: replicas(primary.url(), TIMEOUT_S).get("second", 0.0) > 0)
        execute(url, "SELECT pg_wal_replay_resume()")
        until(lambda: replicas(primary.url(), TIMEOUT_S) == {"second": 0.0})
        replica.kill()
        until(lambda: replicas(primary.url(), TIMEOUT_S) == {"second": math.inf})
    execute(primary.url(), "SELECT pg_drop_replication_slot('second')")


def test_who_may_not_know_is_told_what_to_grant(primary: PostgresServer) -> None:
    execute(primary.url(), f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
    with primary.replicated("third"):
        until(lambda: replicas(primary.url(), TIMEOUT_S) == {"third": 0.0})
        with pytest.raises(ConfigError, match="GRANT pg_monitor"):
            replicas(primary.url(user="reader"), TIMEOUT_S)
    execute(primary.url(), "SELECT pg_drop_replication_slot('third')")


def test_a_server_that_is_gone_is_a_failure_of_the_log(primary: PostgresServer) -> None:
    primary.process.kill()
    with pytest.raises(DecisionLogError, match="replicas"):
        replicas(primary.url(), TIMEOUT_S)
