"""Facts about real servers: up, down, hanging, refusing, too old tables, other clocks; and the command itself."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fraudml.adapters.connections import engine_facts, postgres_facts, redis_facts
from fraudml.adapters.connections.postgres_facts import Use
from fraudml.adapters.log import _facts as sqlite_facts
from fraudml.adapters.log._migrate import VERSION_TABLE, Tables
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.adapters.offline import _facts as duckdb_facts
from fraudml.adapters.registry import _facts as registry_facts
from fraudml.adapters.registry.mlflow import MlflowRegistry
from fraudml.decisions.servers import ServerFacts, Trouble
from fraudml.errors import ConfigError, MissingExtra
from fraudml.operations.doctor import servers
from fraudml.operations.doctor.findings import Finding, Status
from tests.support.commands import Done, fraudml, well
from tests.support.scoring import SCHEMA
from tests.support.servers.postgres import PASSWORD, PostgresServer, execute
from tests.support.servers.redis import RedisServer
from tests.support.servers.redis_cluster import RedisClusterServers

WITHIN_MS = 2_000
WITHIN_S = 2.0
USE = Use(("decisions", "api_keys"), ("api_keys",))


def ahead() -> float:
    """A clock that is five seconds ahead of the servers'."""
    return time.time() + 5


def good(facts: ServerFacts | Trouble | None) -> ServerFacts:
    assert isinstance(facts, ServerFacts), facts
    return facts


def bad(facts: ServerFacts | Trouble | None) -> Trouble:
    assert isinstance(facts, Trouble), facts
    assert facts.do
    assert PASSWORD not in str(facts)
    return facts


def problems(facts: ServerFacts) -> dict[str, str]:
    return {trial.what: trial.problem for trial in facts.trials if trial.problem is not None}


def said(findings: Iterator[Finding], status: Status) -> str:
    return "; ".join(finding.text for finding in findings if finding.status == status)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


def test_redis_that_is_well(redis: RedisServer) -> None:
    facts = good(redis_facts.facts(redis.url, WITHIN_MS))
    assert facts.product in ("Redis", "Valkey")
    assert facts.place == f"127.0.0.1:{redis.port}/0"
    assert not problems(facts)
    assert len(facts.trials) == 4
    assert abs(facts.ahead_ms or 0) < 1_000
    assert said(servers.judge("Redis", facts), Status.failure) == ""
    with redis.client() as client:
        assert client.keys() == []  # no trace


def test_the_clock_of_redis_is_compared(redis: RedisServer) -> None:
    facts = good(redis_facts.facts(redis.url, WITHIN_MS, ahead))
    assert facts.ahead_ms == pytest.approx(-5_000, abs=500)
    assert "behind this machine's" in said(servers.judge("Redis", facts), Status.warning)


def test_redis_that_evicts_and_is_full() -> None:
    server = RedisServer("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru")
    try:
        with server.client() as client:
            for number in range(300):
                client.set(f"k{number}", b"x" * 20_000)
        found = list(servers.judge("Redis", redis_facts.facts(server.url, WITHIN_MS)))
        assert "maxmemory-policy is allkeys-lru" in said(iter(found), Status.failure)
        assert "evicted" in said(iter(found), Status.warning)
        with server.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 1)
        refused = problems(good(redis_facts.facts(server.url, WITHIN_MS)))
        assert "maxmemory" in refused["write keys"]
    finally:
        server.close()


def test_redis_with_users() -> None:
    server = RedisServer()
    try:
        with server.client() as client:
            client.execute_command("ACL SETUSER", "reader", "on", ">pass", "~*", "+@read", "+@connection", "+time")
            rights = ["on", ">p@ss", "~fraudml:*", "+@all", "-@dangerous", "+info"]
            client.execute_command("ACL SETUSER", "service", *rights)
            client.acl_setuser("default", enabled=False)
        base = f"127.0.0.1:{server.port}/0"
        assert "refuses user and password" in bad(redis_facts.facts(f"redis://{base}", WITHIN_MS)).why
        wrong = bad(redis_facts.facts(f"redis://service:wrong-pass@{base}", WITHIN_MS))
        assert "refuses user and password" in wrong.why
        assert "wrong-pass" not in str(wrong)
        service = good(redis_facts.facts(f"redis://service:p%40ss@{base}", WITHIN_MS))
        assert not problems(service)
        assert "save" not in service.details  # CONFIG is not allowed, which is no failure
        refused = problems(good(redis_facts.facts(f"redis://reader:pass@{base}", WITHIN_MS)))
        assert set(refused) == {"ask INFO", "write keys", "run scripts", "delete keys"}
    finally:
        server.close()


def test_redis_that_is_gone_or_hangs() -> None:
    server = RedisServer()
    try:
        server.process.send(signal.SIGSTOP)
        started = time.monotonic()
        assert "in time" in bad(redis_facts.facts(server.url, 200)).why
        assert time.monotonic() - started < 5
        server.process.kill()
        assert "cannot be reached" in bad(redis_facts.facts(server.url, WITHIN_MS)).why
    finally:
        server.close()
    assert "cannot be reached" in bad(redis_facts.facts("redis://127.0.0.1:1?cluster=true", WITHIN_MS)).why
    with pytest.raises(ConfigError, match="FRAUDML_REDIS_URL"):
        redis_facts.facts("http://host", WITHIN_MS)


def test_redis_that_is_a_replica(redis: RedisServer) -> None:
    server = RedisServer("--replicaof", "127.0.0.1", str(redis.port))
    try:
        found = redis_facts.facts(server.url, WITHIN_MS)
        failures = said(servers.judge("Redis", found), Status.failure)
        assert "replica" in failures or "loading" in failures
    finally:
        server.close()


def test_a_cluster_and_one_of_its_nodes_that_hangs() -> None:
    nodes = RedisClusterServers()
    try:
        facts = good(redis_facts.facts(nodes.url, WITHIN_MS))
        assert (facts.details["cluster_state"], facts.details["nodes"]) == ("ok", "3")
        assert not problems(facts)
        assert "?cluster=true" in bad(redis_facts.facts(nodes.nodes[0].url, WITHIN_MS)).do
        nodes.nodes[2].process.send(signal.SIGSTOP)
        bad(redis_facts.facts(nodes.url, 200))
    finally:
        nodes.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer("fsync=off")
    yield server
    server.close()


def test_postgres_that_is_well(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    facts = good(postgres_facts.facts(url, WITHIN_S, USE))
    assert facts.product == "PostgreSQL"
    assert facts.place == f"127.0.0.1:{postgres.port}/{url.rpartition('/')[2]}"
    assert not problems(facts)
    found = list(servers.judge("decision log", facts))
    assert said(iter(found), Status.failure) == ""
    assert "fsync is off" in said(iter(found), Status.warning)
    assert execute(url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]  # no trace


def test_the_clock_of_postgres_is_compared(postgres: PostgresServer) -> None:
    facts = good(postgres_facts.facts(postgres.url(), WITHIN_S, clock=ahead))
    assert facts.ahead_ms == pytest.approx(-5_000, abs=500)
    assert facts.trials == ()


def test_privileges_in_postgres_are_tried_for_real(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    execute(
        url,
        "CREATE TABLE decisions (arrival bigint PRIMARY KEY, made bigint GENERATED ALWAYS AS (arrival + 1) STORED)",
        "CREATE TABLE api_keys (name text PRIMARY KEY, number bigint GENERATED ALWAYS AS IDENTITY)",
        "INSERT INTO decisions VALUES (1)",
        "CREATE ROLE service LOGIN PASSWORD 'service-pass'",
    )
    other = url.replace(f"fraudml:{PASSWORD}", "service:service-pass")
    refused = problems(good(postgres_facts.facts(other, WITHIN_S, USE)))
    assert set(refused) == {"make tables", "read its tables", "add to its tables", "change its tables"}
    assert "permission denied" in refused["read its tables"]
    execute(url, "GRANT SELECT, INSERT ON decisions, api_keys TO service")
    assert set(problems(good(postgres_facts.facts(other, WITHIN_S, USE)))) == {"make tables", "change its tables"}
    execute(url, "GRANT UPDATE ON api_keys TO service")
    facts = good(postgres_facts.facts(other, WITHIN_S, USE))
    assert set(problems(facts)) == {"make tables"}
    assert said(servers.judge("decision log", facts), Status.failure) == ""  # the tables are there
    assert not problems(good(postgres_facts.facts(url, WITHIN_S, USE)))
    assert execute(url, "SELECT arrival FROM decisions") == [(1,)]


def test_postgres_that_only_reads_or_waits_for_a_lock(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    execute(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    facts = good(postgres_facts.facts(url, WITHIN_S, USE))
    assert "read-only" in problems(facts)["make tables"]
    assert "read-only by default" in said(servers.judge("decision log", facts), Status.failure)
    url = postgres.new_database()
    execute(url, "CREATE TABLE decisions (n int)")
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE decisions IN ACCESS EXCLUSIVE MODE")
        assert "too long for a lock" in problems(good(postgres_facts.facts(url, 0.4, USE)))["read its tables"]


def test_postgres_that_cannot_be_used(postgres: PostgresServer) -> None:
    place = f"127.0.0.1:{postgres.port}"
    wrong = bad(postgres_facts.facts(f"postgresql://fraudml:wrong-pass@{place}/postgres", WITHIN_S))
    assert "authentication failed" in wrong.why
    assert "correct user and password" in wrong.do
    assert "wrong-pass" not in str(wrong)
    assert "create it" in bad(postgres_facts.facts(postgres.url("nowhere"), WITHIN_S)).do
    assert "Connection refused" in bad(postgres_facts.facts("postgresql://127.0.0.1:1/x", WITHIN_S)).why
    server = PostgresServer()
    try:
        server.process.send(signal.SIGSTOP)
        hanging = bad(postgres_facts.facts(server.url(), 0.5))
        assert "timeout" in hanging.why
        assert "hangs" in hanging.do
    finally:
        server.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:sec/ret@host/db",
        "postgresql://me:secret@host:port/db",
        "postgresql://me:secret@host/db?x=secret",
    ],
)
def test_a_url_of_postgres_that_is_none_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="FRAUDML_DATABASE_URL is no URL of PostgreSQL") as refused:
        postgres_facts.facts(url, WITHIN_S)
    assert "sec" not in str(refused.value)


def test_a_sqlite_file(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    url = f"sqlite:///{path}"
    assert sqlite_facts.facts(url, WITHIN_S) is None
    assert not path.exists()
    SqliteDecisionLog(url, SCHEMA).close()
    facts = good(sqlite_facts.facts(url, WITHIN_S))
    assert not problems(facts)
    tables = Tables("1", "1", ())
    assert said(servers.judge_log(facts, lambda: tables), Status.warning) == ""
    path.chmod(0o644)
    readable = good(sqlite_facts.facts(url, WITHIN_S))
    assert "others may read" in said(servers.judge_log(readable, lambda: tables), Status.warning)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert "locked" in problems(good(sqlite_facts.facts(url, 0.2)))["write to it"]
    writer.close()
    path.write_bytes(b"no database" * 1_000)
    assert "restore it" in bad(sqlite_facts.facts(url, WITHIN_S)).do


class Mlflow(BaseHTTPRequestHandler):
    """As much of an MLflow server as is asked of it. ``status``: of all its answers."""

    status = 200

    def do_GET(self) -> None:
        is_version = self.path.startswith("/version")
        found = is_version or ("alias=champion" in self.path and "name=fraud&" in self.path)
        status = self.status if self.status != 200 or found else 404
        body = b"3.10.0" if is_version else json.dumps({"model_version": {"version": "7"}}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mlflow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_registry(tmp_path: Path, mlflow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry_facts.facts(None, tmp_path, "fraud", WITHIN_S) is None
    assert not list(tmp_path.iterdir())
    facts = good(registry_facts.facts(f"http://me:secret@{mlflow}", tmp_path, "fraud", WITHIN_S))
    assert (facts.place, facts.version, facts.details["champion"]) == (f"http://{mlflow}", "3.10.0", "7")
    assert "champion" not in good(registry_facts.facts(f"http://{mlflow}", tmp_path, "other", WITHIN_S)).details
    monkeypatch.setattr(Mlflow, "status", 401)
    assert "asks for credentials" in bad(registry_facts.facts(f"http://{mlflow}", tmp_path, "fraud", WITHIN_S)).why
    monkeypatch.setattr(Mlflow, "status", 500)
    assert "status 500" in bad(registry_facts.facts(f"http://{mlflow}", tmp_path, "fraud", WITHIN_S)).why
    assert "reached" in bad(registry_facts.facts("http://me:secret@127.0.0.1:1", tmp_path, "fraud", WITHIN_S)).why
    assert registry_facts.facts("postgresql://host/mlflow", tmp_path, "fraud", WITHIN_S) is None
    (tmp_path / "registry.db").write_bytes(b"no database" * 1_000)
    assert "cannot be read" in bad(registry_facts.facts(None, tmp_path, "fraud", WITHIN_S)).why


def test_mlflows_own_store_has_what_is_looked_for(tmp_path: Path) -> None:
    assert MlflowRegistry(None, home=tmp_path, model_name="fraud").versions() == []
    facts = good(registry_facts.facts(None, tmp_path, "fraud", WITHIN_S))
    assert "champion" not in facts.details


def test_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    def facts(url: str) -> ServerFacts | Trouble:
        return engine_facts.facts(url, "FRAUDML_OFFLINE_URL", WITHIN_S)

    assert good(duckdb_facts.facts()).product == "DuckDB"
    assert good(facts("spark:local[2]")).product == "Spark's client"
    assert "no Spark can be reached at 127.0.0.1:1" in bad(facts("spark://127.0.0.1:1")).why
    assert "127.0.0.1:1" in bad(facts("sc://127.0.0.1:1")).why
    shown = good(facts(f"snowflake://me:{PASSWORD}@acme/RISK/FRAUD?warehouse=WH"))
    assert shown.place.startswith("acme/RISK/FRAUD ")
    assert PASSWORD not in str(shown)
    for url in ("oracle://me:secret@host", "snowflake://me:secret@account", "bigquery://"):
        with pytest.raises((ConfigError, MissingExtra)) as refused:
            facts(url)
        assert "secret" not in str(refused.value)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "Java" in bad(facts("spark:local")).why
    monkeypatch.setattr(engine_facts, "version", _no_version)
    with pytest.raises(MissingExtra, match=r"fraudml\[spark\]"):
        facts("spark:local")


def _no_version(package: str) -> str:
    raise PackageNotFoundError(package)


class Surroundings:
    """A directory, and the environment of commands in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch

    def set(self, **settings: str) -> None:
        for name, value in settings.items():
            self._monkeypatch.setenv(f"FRAUDML_{name.upper()}", value)

    def doctor(self, *arguments: str) -> Done:
        return fraudml("doctor", *arguments, cwd=self.folder)

    def told(self, check: str) -> dict[str, Status]:
        """What the command finds about one thing, and how that is to be taken."""
        found = self.doctor("--json").json["findings"]
        return {finding["text"]: Status(finding["status"]) for finding in found if finding["check"] == check}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    return Surroundings(tmp_path, monkeypatch)


def test_the_command_without_anything(here: Surroundings) -> None:
    done = here.doctor()
    assert done.code == 0, done.out + done.err
    assert "tier 1, development" in done.out
    assert "FRAUDML_DATABASE_URL=" in done.out
    assert here.doctor("--quiet", "--strict").out == ""
    assert not list(here.folder.iterdir())  # it makes nothing


def test_the_command_for_machines(here: Surroundings, postgres: PostgresServer, redis: RedisServer) -> None:
    here.set(database_url=postgres.new_database(), redis_url=redis.url, hash_key="k")
    done = here.doctor("--json")
    assert done.code == 0, done.out
    document = done.json
    assert document["tier"]["number"] == 2
    assert document["status"] == "warning"  # fsync is off
    assert document["hanging"] == []
    checks = {finding["check"] for finding in document["findings"]}
    assert checks == {"settings", "project", "home", "decision log", "Redis", "Kafka", "offline engine", "registry"}
    assert set(document["findings"][0]) == {"check", "status", "text", "next"}
    assert here.doctor("--strict", "--quiet").code == 1
    assert here.doctor("--quiet").code == 0


def test_a_probe_ends_in_time_and_hides_nothing(here: Surroundings, postgres: PostgresServer) -> None:
    hanging = RedisServer()
    stopped = PostgresServer()
    try:
        hanging.process.send(signal.SIGSTOP)
        here.set(database_url=postgres.new_database(), redis_url=hanging.url)
        done = here.doctor("--json", "--timeout", "1.5")
        assert done.code == 2
        failures = [finding for finding in done.json["findings"] if finding["status"] == "failure"]
        assert {finding["check"] for finding in failures} == {"Redis"}
        assert all(finding["next"] for finding in failures)
        assert any("PostgreSQL" in finding["text"] for finding in done.json["findings"])
        assert done.json["seconds"] < 10
        stopped.process.send(signal.SIGSTOP)
        here.set(database_url=stopped.url())
        done = here.doctor("--quiet", "--timeout", "1.5")
        assert done.code == 2
        assert done.out == ""
        assert {line.partition(":")[0] for line in done.err.splitlines()} == {"decision log", "Redis"}
        assert PASSWORD not in done.err
    finally:
        hanging.close()
        stopped.close()


def test_no_secret_is_shown(here: Surroundings, tmp_path: Path) -> None:
    secret = "hunter2"
    for database, redis in (
        (f"postgresql://me:{secret}@127.0.0.1:1/x", f"redis://me:{secret}@127.0.0.1:1/0"),
        (f"postgresql://me:{secret}/x@127.0.0.1:1/x", f"redis://me:{secret}/x@127.0.0.1:1/0"),
        (f"postgresql://127.0.0.1:1/x?password={secret}", f"redis://127.0.0.1:1/0?password={secret}"),
        (f"postgresql://me:{secret}#@127.0.0.1:1/x", f"rediss://:{secret}@127.0.0.1:1?cluster=true"),
    ):
        here.set(database_url=database, redis_url=redis, registry_url=f"http://me:{secret}@127.0.0.1:1")
        here.set(offline_url=f"spark://me:{secret}@127.0.0.1:1", warehouse_url=f"snowflake://me:{secret}@account/db")
        for arguments in ((), ("--quiet",)):
            done = here.doctor(*arguments)
            assert done.code == 2
            assert secret not in done.out + done.err
            assert "Traceback" not in done.out + done.err
    (tmp_path / "fraudml.yaml").write_text("schema: 1")
    assert "fraudml.yaml" in here.doctor("--quiet").err


def test_mistakes(here: Surroundings) -> None:
    assert here.doctor("--timeout", "0").code == 2
    here.set(port="none")
    assert "setting FRAUDML_PORT is wrong" in here.doctor().err


def test_it_knows_whether_redis_has_the_history_of_the_project(here: Surroundings, redis: RedisServer) -> None:
    (here.folder / "fraudml.yaml").write_text(
        "schema: {event_time: {column: time}, entities: {customer: cust}}\n"
        "features: [{name: n_1d, kind: window, over: customer, agg: count, length: 1d}]\n"
    )
    here.set(redis_url=redis.url)
    assert any("history has not been loaded" in text for text in here.told("Redis"))
    well("features", "materialize", "--history", "", cwd=here.folder)
    assert any("all history is loaded" in text for text in here.told("Redis"))


def test_tables_of_other_versions(here: Surroundings, postgres: PostgresServer) -> None:
    for url, older in (
        (postgres.new_database(), "this version needs"),
        (f"sqlite:///{here.folder / 'log.db'}", "the next start brings them to"),
    ):
        here.set(database_url=url)
        assert any("yet" in text for text in here.told("decision log"))
        well("db", "upgrade", cwd=here.folder)
        assert any("that of this version" in text for text in here.told("decision log"))
        for revision, said in (("0001", older), ("9999", "newer fraudml")):
            change = f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'"  # noqa: S608 - our own words
            if url.startswith("sqlite"):
                with closing(sqlite3.connect(here.folder / "log.db")) as connection, connection:
                    connection.execute(change)
            else:
                execute(url, change)
            (status,) = [status for text, status in here.told("decision log").items() if said in text]
            is_well = revision == "0001" and url.startswith("sqlite")
            assert status == (Status.note if is_well else Status.failure)
