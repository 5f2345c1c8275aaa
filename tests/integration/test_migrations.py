"""Databases of every earlier revision, with data in them, brought to the tables of this version."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from fraudml.adapters.connections.postgres import engine
from fraudml.adapters.log import _migrate, _tables
from fraudml.adapters.log.postgres import PostgresDecisionLog, tables, upgrade
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.chain import START
from fraudml.decisions.log import DecisionLog
from fraudml.decisions.record import LabelReport
from fraudml.errors import DecisionLogError
from fraudml.events.label import Label
from fraudml.operations.verify import verify
from tests.support.commands import fraudml, well
from tests.support.scoring import FEATURES, SCHEMA, T0, decision, transaction
from tests.support.servers.postgres import execute

# What services of the first revision write: never changed here, as running services do not change either.
EVENT = {"arrival": "{arrival}", "transaction_id": "'{id}'", "event_time_us": "{time}"}
TRANSACTION = {**EVENT, "amount_minor": "1000", "entities": "'{entities}'", "attributes": "'{attributes}'"}
DECISION = {
    "vector": "{vector}",
    "score": "{score}",
    "action": "'approve'",
    "model_version": "'1'",
    "fingerprint": "'{fingerprint}'",
    "arm": "'champion'",
    "late": "{false}",
    "degraded": "'[]'",
    "decided_at_us": "{arrival} + 7",
    "timings": "'{timings}'",
}
LABEL = {
    "arrival": "{label}",
    "transaction_id": "'{id}'",
    "nth": "1",
    "is_fraud": "{true}",
    "known_at_us": "{known}",
}
KEY = {"name": "'{id}'", "token_hash": "{hash}", "scopes": "'score'", "created_at_us": "5"}
OF_SQLITE = {
    "transactions": TRANSACTION,
    "decisions": {"arrival": "{arrival}", **DECISION},
    "labels": LABEL,
    "api_keys": KEY,
}
OF_POSTGRES = {
    "transaction_ids": EVENT,
    "transactions": TRANSACTION,
    "decisions": {**EVENT, **DECISION},
    "labels": LABEL,
    "api_keys": KEY,
}
KNOWN = T0 + 90_000_000


def inserts(tables: dict[str, dict[str, str]], number: int, *, postgres: bool) -> list[str]:
    """What such a service writes about a transaction: the values of ``decision(transaction(number), number)``."""
    written = decision(transaction(number), number)
    values = {
        "arrival": number,
        "id": f"t{number}",
        "time": written.transaction.event_time_us,
        "entities": '{"customer":"c1","terminal":"term-1"}',
        "attributes": '{"country":"DE","distance":2.5,"items":3}',
        "vector": f"'\\x{written.vector.hex()}'" if postgres else f"x'{written.vector.hex()}'",
        "score": repr(written.score),
        "fingerprint": FEATURES.fingerprint,
        "timings": '{"batch":1,"state_us":2,"model_us":3}',
        "label": 1_000 + number,
        "known": KNOWN,
        "hash": f"'\\x{number:02x}'" if postgres else f"x'{number:02x}'",
        "true": "true" if postgres else "1",
        "false": "false" if postgres else "0",
    }
    return [
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(columns.values())})".format(**values)  # noqa: S608
        for table, columns in tables.items()
    ]


class OnSqlite:
    """A file at a revision."""

    metadata = _tables.metadata
    folder = _migrate.MIGRATIONS

    def __init__(self, request: pytest.FixtureRequest) -> None:
        folder: Path = request.getfixturevalue("tmp_path")
        self.url = f"sqlite:///{folder / 'log.db'}"

    def engine(self) -> sa.Engine:
        return sa.create_engine(self.url)

    def insert(self, number: int) -> None:
        with made(self.engine()) as opened, opened.begin() as connection:
            for statement in inserts(OF_SQLITE, number, postgres=False):
                connection.exec_driver_sql(statement)

    def upgraded(self) -> DecisionLog:
        return SqliteDecisionLog(self.url, SCHEMA)


class OnPostgres:
    """A database at a revision."""

    metadata = tables.metadata
    folder = upgrade.MIGRATIONS

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.url: str = request.getfixturevalue("postgres_url")

    def engine(self) -> sa.Engine:
        return engine(self.url)

    def insert(self, number: int) -> None:
        with psycopg.connect(self.url) as connection:  # one commit, as a service makes it
            for statement in inserts(OF_POSTGRES, number, postgres=True):
                connection.execute(statement.encode())

    def upgraded(self) -> DecisionLog:
        with made(self.engine()) as opened:
            upgrade.upgrade(opened, "here")
        return PostgresDecisionLog(engine(self.url), SCHEMA, place="here")


@contextmanager
def made(opened: sa.Engine) -> Iterator[sa.Engine]:
    try:
        yield opened
    finally:
        opened.dispose()


def bring(database: OnSqlite | OnPostgres, revision: str) -> None:
    """Bring an empty database to the tables of a revision."""
    script = ScriptDirectory(str(database.folder))

    def steps(current: Any, context: MigrationContext) -> Any:
        return script._upgrade_revs(revision, current)

    with made(database.engine()) as opened, opened.connect() as connection:
        with EnvironmentContext(Config(), script, fn=steps) as environment:
            environment.configure(
                connection=connection, version_table=_migrate.VERSION_TABLE, transaction_per_migration=True
            )
            with environment.begin_transaction():
                environment.run_migrations()
        connection.commit()


def revisions(folder: Path) -> list[str]:
    return [step.revision for step in ScriptDirectory(str(folder)).walk_revisions()][::-1]


EARLIER = [(kind, revision) for kind in (OnSqlite, OnPostgres) for revision in revisions(kind.folder)[:-1]]


@pytest.mark.parametrize(("kind", "revision"), EARLIER, ids=lambda each: getattr(each, "__name__", each))
def test_an_earlier_database_is_upgraded_with_what_is_in_it(
    kind: type[OnSqlite | OnPostgres], revision: str, request: pytest.FixtureRequest
) -> None:
    database = kind(request)
    bring(database, revision)
    for number in (1, 2, 3):
        database.insert(number)
    log = database.upgraded()
    with made(database.engine()) as opened, opened.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": _migrate.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, database.metadata) == []
        assert _migrate.tables(connection, database.folder).missing == ()
    expected = {f"t{n}": decision(transaction(n), n) for n in (1, 2, 3)}
    assert log.find([*expected]) == expected
    database.insert(4)  # a service of the earlier revision that still runs
    expected["t4"] = decision(transaction(4), 4)
    assert log.find([*expected]) == expected
    (audited,) = log.audit_batches()
    assert audited.column("transaction_id").to_pylist() == [*expected]
    (labels,) = log.audit_labels()
    assert [tuple(row.values()) for row in labels.to_pylist()] == [
        (f"t{n}", decision(transaction(n), n).transaction.event_time_us, True, KNOWN, 1_000 + n) for n in (1, 2, 3, 4)
    ]
    assert log.append_labels([LabelReport(Label("t4", False, KNOWN + 5), 2_000)])
    assert [label.transaction_id for label in log.later_labels()] == ["t4"]
    assert {key.name for key in log.keys.all()} == {"t1", "t2", "t3", "t4"}
    log.close()


@pytest.mark.parametrize(("kind", "before"), [(OnSqlite, "0003"), (OnPostgres, "0007")])
def test_what_is_older_than_the_chain_is_counted_apart(
    kind: type[OnSqlite | OnPostgres], before: str, request: pytest.FixtureRequest
) -> None:
    database = kind(request)
    bring(database, before)
    for number in (1, 2, 3):
        database.insert(number)
    log = database.upgraded()
    assert log.append([decision(transaction(9), 5_000)]) == {}
    found = verify(log)
    assert (found.unchained, found.decisions, found.links, found.wrong) == (6, 1, 1, 0)
    assert [head.writer for head in found.heads] == [START, 0]
    database.insert(4_098)  # by a service of the earlier revision that goes on
    assert [problem.transaction_id for problem in verify(log).problems] == ["t4098"] * 2
    log.close()


def test_the_time_beside_many_labels_is_filled_in(request: pytest.FixtureRequest) -> None:
    database = OnPostgres(request)
    bring(database, "0001")
    database.insert(1)
    execute(
        database.url,
        "INSERT INTO transaction_ids SELECT 'm' || n, n * 3, n + 10 FROM generate_series(1, 12000) AS n",
        "INSERT INTO labels SELECT n + 20000, 'm' || n, 1, true, n * 4 FROM generate_series(1, 12000) AS n",
    )
    database.upgraded().close()
    right = "SELECT count(*) FROM labels JOIN transaction_ids USING (transaction_id, event_time_us)"
    assert execute(database.url, right) == [(12_001,)]


def test_who_may_add_decisions_may_use_a_table_that_is_new(request: pytest.FixtureRequest) -> None:
    """So that services go on after an upgrade with the role that they have."""
    database = OnPostgres(request)
    bring(database, "0006")
    role = f'"{database.url.rpartition("/")[2]} Clerk"'
    execute(database.url, f"CREATE ROLE {role}", f"GRANT SELECT, INSERT ON decisions TO {role}")
    try:
        database.upgraded().close()
        link = "INSERT INTO chain VALUES (0, 1, 'labels', 0, 1, 1, '', '', NULL)"
        execute(database.url, f"SET ROLE {role}", "INSERT INTO shadow_scores VALUES (1, '2', 0.5, 'review', 3)", link)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            execute(database.url, f"SET ROLE {role}", "DELETE FROM shadow_scores")
    finally:
        execute(database.url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.fixture
def at_first(request: pytest.FixtureRequest) -> OnPostgres:
    """A PostgreSQL database of the first revision with a decision in it."""
    database = OnPostgres(request)
    bring(database, "0001")
    database.insert(1)
    return database


def test_a_service_does_not_start_on_an_older_database(at_first: OnPostgres) -> None:
    with pytest.raises(DecisionLogError, match=r"older fraudml \(revision 0001.*run: fraudml db upgrade"):
        PostgresDecisionLog(engine(at_first.url), SCHEMA, place="here")
    assert execute(at_first.url, "SELECT version_num FROM fraudml_schema_version") == [("0001",)]


def test_a_service_does_not_start_on_a_newer_database(at_first: OnPostgres) -> None:
    execute(at_first.url, "UPDATE fraudml_schema_version SET version_num = '9999'")
    with pytest.raises(DecisionLogError, match=r"newer fraudml \(revision 9999"):
        PostgresDecisionLog(engine(at_first.url), SCHEMA, place="here")


def test_traffic_goes_on_while_the_tables_are_upgraded(at_first: OnPostgres) -> None:
    stop, going, failures = threading.Event(), threading.Event(), list[Exception]()
    written = 1

    def traffic() -> None:
        nonlocal written
        try:
            while not stop.is_set():
                at_first.insert(written + 1)
                written += 1
                going.set()
        except Exception as error:
            failures.append(error)
            going.set()

    thread = threading.Thread(target=traffic)
    thread.start()
    assert going.wait(30)
    log = at_first.upgraded()
    going.clear()
    assert going.wait(30)  # and afterwards
    stop.set()
    thread.join()
    assert failures == []
    assert len(log.find([f"t{n}" for n in range(1, written + 1)])) == written
    log.close()


def test_a_change_waits_for_a_lock_only_a_while_and_is_tried_again(
    at_first: OnPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for a lock stands in the way of all that come after."""
    monkeypatch.setattr(upgrade, "LOCK_MS", 20)
    tries = 0
    with psycopg.connect(at_first.url) as somebody:
        somebody.execute("LOCK TABLE labels IN SHARE MODE")

        def pause(seconds: float) -> None:
            nonlocal tries
            assert seconds == upgrade.PAUSE_S
            tries += 1
            if tries == 3:
                somebody.rollback()

        clock = SimpleNamespace(monotonic=time.monotonic, sleep=pause)  # of this module: other threads sleep too
        monkeypatch.setattr(upgrade, "time", clock)
        at_first.upgraded().close()
    assert tries == 3


def test_a_lock_that_is_never_freed_is_told(at_first: OnPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "LOCK_MS", 20)
    monkeypatch.setattr(upgrade, "PAUSE_S", 0.0)
    with psycopg.connect(at_first.url) as somebody, made(at_first.engine()) as opened:
        somebody.execute("LOCK TABLE labels IN SHARE MODE")
        with pytest.raises(DecisionLogError, match="lock timeout"):
            upgrade.upgrade(opened, "here")


def test_several_processes_upgrade_once(at_first: OnPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[Exception] = []

    def run() -> None:
        try:
            at_first.upgraded().close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    monkeypatch.setattr(upgrade, "WAIT_S", 0.0)
    with psycopg.connect(at_first.url, autocommit=True) as other, made(at_first.engine()) as opened:
        other.execute(f"SELECT pg_advisory_lock({upgrade._KEY})".encode())
        with pytest.raises(DecisionLogError, match="another process upgrades here"):
            upgrade.upgrade(opened, "here")


def test_several_services_may_start_on_an_empty_database(postgres_url: str) -> None:
    logs: list[DecisionLog] = []
    failures: list[Exception] = []

    def start() -> None:
        try:
            logs.append(PostgresDecisionLog(engine(postgres_url), SCHEMA, place="here"))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log in logs:
        log.close()
    assert failures == []


def test_an_attempt_that_failed_in_the_middle_is_done_again(at_first: OnPostgres) -> None:
    """An index that could not be made is left behind, invalid, under its name."""
    bring(at_first, "0002")
    execute(at_first.url, "CREATE INDEX transactions_event_time_brin ON transactions (arrival)")
    at_first.upgraded().close()
    ((definition,),) = execute(
        at_first.url, "SELECT indexdef FROM pg_indexes WHERE indexname = 'transactions_event_time_brin'"
    )
    assert "brin (event_time)" in str(definition)


def test_tables_of_somebody_else_are_left_alone(postgres_url: str) -> None:
    execute(postgres_url, "CREATE TABLE labels (mine text)")
    with pytest.raises(DecisionLogError, match='"labels" already exists'):
        PostgresDecisionLog(engine(postgres_url), SCHEMA, place="here")
    assert execute(postgres_url, "SELECT tablename FROM pg_tables WHERE tablename = 'decisions'") == []


@pytest.mark.parametrize("kind", [OnSqlite, OnPostgres])
def test_the_commands_tell_and_upgrade(
    kind: type[OnSqlite | OnPostgres],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = kind(request)
    monkeypatch.setenv("FRAUDML_DATABASE_URL", database.url)
    current = revisions(kind.folder)[-1]
    empty = fraudml("db", "status", "--json", cwd=tmp_path)
    assert (empty.code, empty.json["revision"], empty.json["current"]) == (1, None, current)
    assert not (tmp_path / "log.db").exists()  # looking makes nothing
    bring(database, "0001")
    told = fraudml("db", "status", cwd=tmp_path)
    assert told.code == 1
    assert "is at revision 0001; this version needs" in told.out
    assert "Run: fraudml db upgrade" in told.out
    assert "secret" not in told.out
    assert well("db", "upgrade", cwd=tmp_path).out.rstrip().endswith(f"is at revision {current}.")
    after = well("db", "status", "--json", cwd=tmp_path).json
    assert (after["revision"], after["up_to_date"], after["missing"]) == (current, True, [])
    again = well("db", "upgrade", "--json", cwd=tmp_path).json
    assert (again["done"], again["up_to_date"]) == ([], True)
    assert "up to date" in well("db", "status", cwd=tmp_path).out
