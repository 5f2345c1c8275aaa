"""PostgreSQL taken away for real, from a scorer with its recorder and journal: nothing is lost, nothing is there twice,
and nothing hangs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fraudml.adapters.connections.postgres import engine, place
from fraudml.adapters.log.journal import FileJournal
from fraudml.adapters.log.postgres import PostgresDecisionLog
from fraudml.decisions import recorder as recorder_module
from fraudml.decisions.model import Model
from fraudml.decisions.record import Decision, Degradation
from fraudml.decisions.recorder import Recorder
from fraudml.decisions.scorer import Scorer
from fraudml.errors import ConfigError, DecisionLogError
from fraudml.events.label import Label
from tests.support.commands import refused
from tests.support.scoring import SCHEMA, T0, ReferenceStore, bundle, decision, transaction
from tests.support.servers.postgres import PASSWORD, PostgresServer, execute
from tests.support.servers.proxy import Proxy, proxy
from tests.support.waiting import until

TIMEOUT_MS = 400
WRITER = (
    "SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = database "
    "WHERE locktype = 'advisory' AND datname = current_database()"
)
GONE = (Degradation.decision_log,)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One to stop and kill; it is running at the start of each test."""
    made = PostgresServer("log_min_messages=fatal")
    yield made
    made.close()


class World:
    """A scorer as a service has it: it claimed the log, and what the log does not take goes to a journal."""

    def __init__(self, url: str, folder: Path, *, shared: bool = False) -> None:
        self.url = url
        self.log = PostgresDecisionLog(engine(url), SCHEMA, place=place(url), timeout_ms=TIMEOUT_MS)
        self.log.claim(shared=shared)
        self.journal = FileJournal(folder / "decisions.journal")
        self.recorder = Recorder(self.log, self.journal)
        self.recorder.replay()
        self.store = ReferenceStore()
        for batch in self.log.replay():
            self.store.load(batch)
        self.scorer = Scorer(Model(bundle()), self.store, self.log, recorder=self.recorder)

    def score(self, *numbers: int) -> list[Decision]:
        return self.scorer.score([transaction(number) for number in numbers])

    def until_it_works(self) -> None:
        """As a service does without requests: commit nothing, again and again."""
        until(lambda: not self.recorder.commit([]) and not self.recorder.unsettled)

    def logged(self) -> list[str]:
        return [key for batch in self.log.replay() for key in batch.column("transaction_id").to_pylist()]

    def close(self) -> None:
        self.recorder.close()
        self.log.close()


@pytest.fixture
def world(server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(recorder_module, "PROBE_S", 0.01)
    made = World(server.new_database(), tmp_path)
    yield made
    made.close()


@pytest.fixture
def between(server: PostgresServer) -> Iterator[Proxy]:
    """The network before the server."""
    with proxy(server.port) as made:
        yield made


def through(made: Proxy, url: str) -> str:
    """The URL of a database, by the proxy."""
    return f"{url[: url.rindex(':')]}:{made.port}/{url.rpartition('/')[2]}"


def same(first: Decision, second: Decision) -> bool:
    """But for the mark of a decision whose commit was in doubt: it may be in the log without."""
    return msgspec.structs.replace(first, degraded=()) == msgspec.structs.replace(second, degraded=())


def test_killed_and_restarted_in_the_middle_of_batches_loses_nothing(world: World, server: PostgresServer) -> None:
    answered: list[Decision] = []
    halfway, go_on, failures = threading.Event(), threading.Event(), list[Exception]()

    def load() -> None:
        try:
            for number in range(300):
                answered.extend(world.score(*range(number * 5, number * 5 + 5)))
                if number == 100:
                    halfway.set()
                if number == 200:
                    assert go_on.wait(60)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    assert halfway.wait(60)
    server.process.kill()  # with all its processes, whatever they are doing
    until(lambda: world.recorder.journaled > 0)
    server.process.start()
    go_on.set()
    thread.join()
    assert failures == []
    world.until_it_works()
    assert len(answered) == 1_500
    assert world.logged() == [made.transaction.transaction_id for made in answered]  # all, once, in order
    found = world.log.find([made.transaction.transaction_id for made in answered])
    assert all(same(found[made.transaction.transaction_id], made) for made in answered)
    assert len(world.store.events) == 1_500
    assert world.recorder.superseded == 0


def test_a_server_that_hangs_holds_up_a_batch_no_longer_than_the_timeout(world: World, server: PostgresServer) -> None:
    world.score(1)
    with server.hanging():
        for number in (2, 3):
            began = time.monotonic()
            (made,) = world.score(number)
            assert time.monotonic() - began < 3 * TIMEOUT_MS / 1_000
            assert made.degraded == GONE
        with pytest.raises(DecisionLogError, match="no answer"):
            world.log.find(["t1"])
    world.until_it_works()
    assert world.logged() == ["t1", "t2", "t3"]
    assert world.score(4)[0].degraded == ()


def test_a_network_that_swallows_packets(between: Proxy, server: PostgresServer, tmp_path: Path) -> None:
    """The server believes in the connection that was lost, and in its locks: the new one ends it."""
    world = World(through(between, server.new_database()), tmp_path)
    try:
        world.score(1)
        between.swallows.set()
        assert world.score(2)[0].degraded == GONE
        between.swallows.clear()
        world.until_it_works()
        assert world.score(3)[0].degraded == ()
        assert world.logged() == ["t1", "t2", "t3"]
    finally:
        world.close()


def test_a_connection_that_breaks_during_the_commit(
    between: Proxy, server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server did with it is not known: it is asked."""
    monkeypatch.setattr(recorder_module, "PROBE_S", 0.01)
    world = World(through(between, server.new_database()), tmp_path)
    try:
        world.score(1)
        between.breaks = lambda data: b"\x00append_linked\x00" in data
        first, second = transaction(2), transaction(3)
        with pytest.raises(DecisionLogError):
            world.log.append([decision(first, world.log.last_arrival() + 1)])
        until(lambda: "t2" in world.log.find(["t2"]))  # it was committed
        (made,) = world.scorer.score([second])
        assert made.degraded == ()
        between.breaks = lambda data: False
        world.until_it_works()
        assert world.logged() == ["t1", "t2", "t3"]
        assert world.log.decision("t3") == made
    finally:
        world.close()


def test_labels_whose_commit_is_in_doubt_are_asked_for_where_it_cannot_come_later(world: World) -> None:
    """The connection that reads would say that they are not there, and then they would be."""
    world.score(1)
    ((writer,),) = execute(world.url, WRITER)
    label = Label("t1", True, T0 * 2)
    os.kill(int(str(writer)), signal.SIGSTOP)
    try:
        with pytest.raises(DecisionLogError, match="no answer within"):
            world.scorer.add_labels([label])
        with pytest.raises(DecisionLogError):
            world.log.label_history("t1")
    finally:
        os.kill(int(str(writer)), signal.SIGCONT)
    until(lambda: recorded(world, label))
    assert [report.label for report in world.log.label_history("t1")] == [label]
    assert world.store.labels == [msgspec.structs.replace(label, entities=transaction(1).entities)]


def test_another_server_at_the_same_address(world: World, server: PostgresServer) -> None:
    """As after a failover: refused for a while, then there, with other locks."""
    world.score(1)
    server.process.stop(signal.SIGINT)
    assert world.score(2)[0].degraded == GONE
    assert world.score(1)[0].degraded == ()  # a retry, from memory
    server.process.start()
    world.until_it_works()
    assert world.logged() == ["t1", "t2"]
    second = other(world)
    with pytest.raises(ConfigError, match="another fraudml process serves from"):
        second.claim()
    second.close()
    assert world.score(3)[0].degraded == ()


def other(world: World) -> PostgresDecisionLog:
    return PostgresDecisionLog(engine(world.url), SCHEMA, place=place(world.url), timeout_ms=TIMEOUT_MS)


def test_a_connection_that_the_server_ended_is_replaced_without_a_failure(world: World) -> None:
    world.score(1)
    end_sessions(world.url)
    assert world.score(2)[0].degraded == ()
    assert set(world.log.find(["t1", "t2"])) == {"t1", "t2"}
    world.log.ping()
    assert world.log.keys.all() == []


def end_sessions(url: str) -> None:
    """End all other sessions of a database, and wait until their processes have ended, so that clients can see it."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ended = execute(url, "SELECT pid, pg_terminate_backend(pid) " + others)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid, _ in ended))


def test_who_lost_its_number_to_another_process_never_appends_again(world: World, server: PostgresServer) -> None:
    """Otherwise its state would not know what the other one decided."""
    world.score(1)
    thief = other(world)
    # as if the other process had claimed it while this one could not be reached
    execute(world.url, "UPDATE writers SET epoch = epoch + 1")
    end_sessions(world.url)
    assert world.score(2)[0].degraded == GONE
    with pytest.raises(DecisionLogError, match="in the place of this one"):
        world.log.append([decision(transaction(3), world.log.last_arrival() + 1)])
    assert thief.claim() == 1  # so it takes no arrival that the journal has
    assert world.logged() == ["t1"]
    thief.close()


def test_processes_that_share_the_log_have_numbers_of_their_own(server: PostgresServer, tmp_path: Path) -> None:
    url = server.new_database()
    logs = [PostgresDecisionLog(engine(url), SCHEMA, place="here") for _ in range(4)]
    assert [log.claim(shared=True) for log in logs[:3]] == [0, 1, 2]
    assert logs[0].claim(shared=True) == 0
    with pytest.raises(ConfigError, match="serves from here already; stop it"):
        logs[3].claim()
    logs[1].close()
    assert logs[3].claim(shared=True) == 3  # before one that was used
    with pytest.raises(ConfigError, match="otherwise"):
        logs[3].claim()
    end_sessions(url)
    for number, log in ((0, logs[0]), (2, logs[2]), (3, logs[3])):  # they come back with the same numbers
        log.append([decision(transaction(number), 100 + number)])
        assert log.claim(shared=True) == number
    for log in (logs[0], logs[2], logs[3]):
        log.close()
    alone = PostgresDecisionLog(engine(url), SCHEMA, place="here")
    assert alone.claim() == 4  # nor may one that nobody can reach any more be deciding with its number
    late = PostgresDecisionLog(engine(url), SCHEMA, place="here")
    with pytest.raises(ConfigError, match="serves from here already, alone"):
        late.claim(shared=True)
    alone.close()
    late.close()


@pytest.mark.parametrize(
    ("breaking", "mending", "said"),
    [
        ("ALTER ROLE clerk SET default_transaction_read_only = on", "ALTER ROLE clerk RESET ALL", "the primary"),
        ("REVOKE INSERT ON decisions FROM clerk", "GRANT INSERT ON decisions TO clerk", "grant the role"),
        # A disk cannot be filled without harm to whoever shares it; this is the error that PostgreSQL gives then.
        (
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$; "
            "CREATE TRIGGER full_disk BEFORE INSERT ON decisions EXECUTE FUNCTION full_disk()",
            "DROP TRIGGER full_disk ON decisions",
            "disk is full",
        ),
        (
            "ALTER ROLE clerk PASSWORD 'another'",
            f"ALTER ROLE clerk PASSWORD '{PASSWORD}'",
            "password authentication failed",
        ),
        ("ALTER ROLE clerk CONNECTION LIMIT 0", "ALTER ROLE clerk CONNECTION LIMIT -1", "too many connections"),
    ],
    ids=["read-only", "no privilege", "disk full", "wrong password", "no connection left"],
)
def test_what_the_server_refuses_goes_to_the_journal_until_it_is_mended(
    server: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    breaking: str,
    mending: str,
    said: str,
) -> None:
    monkeypatch.setattr(recorder_module, "PROBE_S", 0.01)
    owner = server.new_database()
    clerk(owner)
    world = World(server.url(owner.rpartition("/")[2], user="clerk"), tmp_path)
    try:
        world.score(1)
        execute(owner, breaking)
        end_sessions(owner)
        journaled = world.score(2) + world.score(3)
        assert [made.degraded for made in journaled] == [GONE, GONE]
        assert said in caplog.text
        assert PASSWORD not in caplog.text
        execute(owner, mending)
        world.until_it_works()
        assert world.logged() == ["t1", "t2", "t3"]
        assert [world.log.decision("t2"), world.log.decision("t3")] == journaled
    finally:
        world.close()


def clerk(owner: str) -> None:
    """A database with tables, and a role that may do what fraudml needs and nothing else."""
    PostgresDecisionLog(engine(owner), SCHEMA, place="here").close()
    if not execute(owner, "SELECT 1 FROM pg_roles WHERE rolname = 'clerk'"):
        execute(owner, f"CREATE ROLE clerk LOGIN PASSWORD '{PASSWORD}'")
    execute(
        owner,
        "GRANT SELECT ON fraudml_schema_version TO clerk",
        "GRANT SELECT, INSERT ON transaction_ids, transactions, decisions, labels, shadow_scores, chain TO clerk",
        "GRANT SELECT, INSERT, UPDATE ON writers, api_keys TO clerk",
    )


def test_labels_wait_until_the_log_is_back(world: World, server: PostgresServer) -> None:
    world.score(1)
    server.process.stop(signal.SIGINT)
    label = Label("t1", True, T0 + 10_000_000)
    with pytest.raises(DecisionLogError):
        world.scorer.add_labels([label])
    server.process.start()
    until(lambda: recorded(world, label))
    assert len(world.log.label_history("t1")) == 1


def recorded(world: World, label: Label) -> bool:
    try:
        return world.scorer.add_labels([label]) is not None
    except DecisionLogError:
        return False


def test_a_statement_that_waits_for_a_lock_ends_in_time(world: World) -> None:
    """Somebody's open transaction holds a lock on a table: a migration by hand, say."""
    world.score(1)
    import psycopg

    with psycopg.connect(world.url) as somebody:
        somebody.execute("LOCK TABLE decisions IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        assert world.score(2)[0].degraded == GONE
        assert time.monotonic() - began < 4 * TIMEOUT_MS / 1_000
    world.until_it_works()
    assert world.logged() == ["t1", "t2"]


PROJECT = """
schema:
  event_time: {column: time}
  transaction_id: tx_id
  entities: {customer: cust_no}
features:
  - {name: n_1d, kind: window, over: customer, agg: count, length: 1d}
"""


@pytest.mark.parametrize("arguments", [("serve", "--port", "0"), ("keys", "list"), ("db", "status"), ("db", "upgrade")])
def test_a_server_that_is_down_at_the_start_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: PostgresServer, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "fraudml.yaml").write_text(PROJECT)
    monkeypatch.setenv("FRAUDML_DATABASE_URL", server.url())
    server.process.stop(signal.SIGINT)
    try:
        said = refused(*arguments, cwd=tmp_path)
    finally:
        server.process.start()
    assert "check that PostgreSQL runs there" in said
    assert str(server.port) in said
    assert PASSWORD not in said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"password": "wrong"}, "password authentication failed"),
        ({"user": "nobody"}, "password authentication failed"),
        ({"database": "nowhere"}, 'database "nowhere" does not exist'),
    ],
)
def test_a_wrong_url_is_one_clear_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: PostgresServer,
    changed: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setenv("FRAUDML_DATABASE_URL", server.url(**changed))
    line = refused("db", "status", cwd=tmp_path)
    assert said in line
    assert changed.get("password", PASSWORD) not in line
