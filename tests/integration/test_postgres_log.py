"""What is particular to the decision log in PostgreSQL: ids that are no keys, plans, sessions, roles, secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fraudml import wiring
from fraudml.adapters.connections.postgres import engine
from fraudml.adapters.log.postgres import PostgresDecisionLog, hot, reading, statements
from fraudml.decisions.keys import Scope, new_key
from fraudml.decisions.log import WRITERS
from fraudml.decisions.record import Action, LabelReport, ShadowScore
from fraudml.errors import ConfigError, DecisionLogError
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.settings import Settings
from tests.docs.blocks import DOCS
from tests.support.scoring import SCHEMA, T0, decision, transaction
from tests.support.servers.postgres import PASSWORD, execute

LONG = "x" * 5_000
NAMES = ["t1", "a\x00b", "a\x1ab", "\x1a", "\x1a0", LONG, LONG + "y", "\u00e9" * 600]


def opened(url: str, timeout_ms: int = 10_000) -> PostgresDecisionLog:
    return PostgresDecisionLog(engine(url), SCHEMA, place="here", timeout_ms=timeout_ms)


@pytest.fixture
def log(postgres_url: str) -> Iterator[PostgresDecisionLog]:
    made = opened(postgres_url)
    yield made
    made.close()


def named(name: str, number: int) -> Transaction:
    return Transaction(name, T0 + number, ("c1", "term-1"), 100, ("DE", 2.5, 3))


def test_any_text_is_an_id(log: PostgresDecisionLog, postgres_url: str) -> None:
    made = {name: decision(named(name, i), 10 + i) for i, name in enumerate(NAMES)}
    log.append([*made.values()])
    assert log.find(NAMES) == made
    assert sorted(log.transaction_ids()) == sorted(NAMES)
    reports = [LabelReport(Label(name, True, T0 + 100), 100 + i) for i, name in enumerate(NAMES)]
    assert log.append_labels(reports) == reports
    assert log.append_labels(reports) == []
    again = [LabelReport(Label(name, False, T0 + 200), 200 + i) for i, name in enumerate(NAMES)]
    assert log.append_labels(again) == again
    assert [r.label.transaction_id for name in NAMES for r in log.label_history(name)] == [
        n for n in NAMES for _ in "12"
    ]
    for streamed in (log.replay(), log.audit_batches()):
        assert [name for batch in streamed for name in batch.column("transaction_id").to_pylist()] == NAMES
    assert [label.transaction_id for label in log.later_labels()] == NAMES
    (labels,) = log.audit_labels()
    assert labels.column("transaction_id").to_pylist() == NAMES * 2
    assert labels.column("event_time_us").to_pylist() == [T0 + i for i in range(len(NAMES))] * 2
    assert execute(postgres_url, "SELECT count(*) FROM transactions WHERE original_id IS NOT NULL") == [(6,)]


@pytest.mark.parametrize("count", [1, hot.COPY_FROM - 1, hot.COPY_FROM, 3 * hot.COPY_FROM])
def test_either_way_of_writing_stores_the_same(log: PostgresDecisionLog, count: int) -> None:
    made = [decision(transaction(n, country=None if n % 2 else "a\tb\\\n\"'\x00"), 10 + n) for n in range(count)]
    assert log.append(made) == {}
    assert log.find([d.transaction.transaction_id for d in made]) == {d.transaction.transaction_id: d for d in made}
    again = [decision(transaction(n), 10_000 + n) for n in range(count + 2)]
    assert log.append(again) == {d.transaction.transaction_id: d for d in made}
    assert len(log.find([d.transaction.transaction_id for d in again])) == count + 2


@pytest.mark.parametrize("count", [1, hot.COPY_FROM])
def test_a_value_that_no_column_holds_is_refused_and_the_connection_stays(log: PostgresDecisionLog, count: int) -> None:
    rest = [decision(transaction(n), n) for n in range(2, 2 + count)]
    for broken in (transaction(1, amount=2**63), transaction(1, country=object())):
        with pytest.raises(DecisionLogError, match="cannot read or write"):
            log.append([decision(broken, 1), *rest])
    log.append(rest)
    assert set(log.find(["t1", "t2"])) == {"t2"}


def test_times_and_values_can_be_queried(log: PostgresDecisionLog, postgres_url: str) -> None:
    moments = [0, 1, T0 + 123_456, 7_258_118_399_999_999]
    log.append(
        [decision(Transaction(f"t{t}", t, ("c1", None), 5, ("DE", -0.0, None)), i) for i, t in enumerate(moments)]
    )
    rows = execute(postgres_url, "SELECT event_time_us, event_time FROM transactions ORDER BY 1")
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert all(isinstance(at, datetime) for _, at in rows)
    assert [round((at - epoch).total_seconds() * 1e6) for _, at in rows if isinstance(at, datetime)] == moments
    inside = (
        "SELECT DISTINCT entities ->> 'customer', attributes ->> 'country', attributes ->> 'distance' FROM transactions"
    )
    assert execute(postgres_url, inside) == [("c1", "DE", "-0.0")]


def test_the_plans_do_not_depend_on_what_the_server_believes(log: PostgresDecisionLog, postgres_url: str) -> None:
    """Before ANALYZE PostgreSQL would look up each id for each transaction of the day, and right after it read a whole
    table for each row of another."""
    log.append([decision(transaction(n), n) for n in range(2_000)])
    log.append_labels([LabelReport(Label(f"t{n}", True, T0 * 2), 3_000 + n) for n in range(500)])
    log.append_shadow([ShadowScore(n, "2", 0.5, Action.review, 3) for n in range(2_000)])
    found = statements.FIND.text.decode().replace("$1", "ARRAY['t1', 't2']")
    found = found.replace("$2", "0").replace("$3", f"{T0 * 2}")
    history = statements.HISTORY.text.decode().replace("$1", "ARRAY['t1', 't2']")
    for _ in range(2):
        with psycopg.connect(postgres_url) as connection:
            connection.execute(statements.BY_INDEX.format("LOCAL"))
            for text in (
                *(statements.REPLAY, statements.AUDIT, statements.AUDIT_LABELS, statements.LATER_LABELS),
                *(statements.OUTCOMES, statements.LABELLED_OUTCOMES, statements.SHADOW_SCORES),
            ):
                asked = f"EXPLAIN DECLARE each CURSOR FOR {text.replace('%s', '0')}"
                plan = "\n".join(line for (line,) in connection.execute(asked.encode()))
                assert not re.search("Seq Scan|Materialize|Hash|Merge|Sort", plan), plan
            for text in (found, history):
                plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN {text}".encode()))
                assert not re.search("Seq Scan|Materialize|Hash|Merge|Sort|labels_pkey", plan), plan
                assert not re.search("Heap Scan on (transactions|decisions)", plan), plan
        execute(postgres_url, "ANALYZE")


def test_a_decision_survives_a_crash_of_the_server_whatever_it_is_set_to(
    log: PostgresDecisionLog, postgres_url: str
) -> None:
    name = postgres_url.rpartition("/")[2]
    for set_to, counts in (("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")):
        execute(postgres_url, f"ALTER DATABASE {name} SET synchronous_commit = {set_to}")
        again = opened(postgres_url)
        with again._hot._writer.turn("testing") as session:
            assert session.driver.execute("SHOW synchronous_commit").fetchone() == (counts,)
        again.close()


@pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning")  # where an earlier test has loaded JAX
def test_a_forked_process_does_not_use_its_parents_connections(log: PostgresDecisionLog) -> None:
    log.append([decision(transaction(1), 1)])
    child = os.fork()
    if child == 0:  # no assertion may leave this: the child must end here
        try:
            log.find(["t1"])
        except DecisionLogError as error:
            os._exit(7 if "forked" in str(error) and log._engine.pool.checkedout() == 0 else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert set(log.find(["t1"])) == {"t1"}  # the child's end has not closed it


def test_a_pool_has_a_limit(postgres_url: str) -> None:
    made = wiring.decision_log(
        Settings(database_url=postgres_url, db_pool_size=4, db_pool_overflow=0, db_pool_timeout_ms=1), SCHEMA
    )
    assert isinstance(made, PostgresDecisionLog)
    made.append([decision(transaction(n), n) for n in (1, 2)])
    first, second = made.replay(batch_size=1), made.replay(batch_size=1)
    next(first), next(second)
    with pytest.raises(DecisionLogError, match="QueuePool limit"):
        made.ping()
    assert set(made.find(["t1"])) == {"t1"}  # the hot path has its own
    first.close()
    second.close()
    made.ping()
    made.close()


def test_a_database_that_cannot_hold_every_text_is_refused(postgres_url: str) -> None:
    base, _, name = postgres_url.rpartition("/")
    execute(postgres_url, f"CREATE DATABASE {name}_latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(DecisionLogError, match=r"LATIN1.*ENCODING 'UTF8'"):
        opened(f"{base}/{name}_latin")


def test_tables_in_a_schema_of_their_own_have_claims_of_their_own(postgres_url: str) -> None:
    execute(postgres_url, "CREATE SCHEMA first", "CREATE SCHEMA second")
    logs = [opened(f"{postgres_url}?options=-csearch_path%3D{schema}") for schema in ("first", "second")]
    for log in logs:
        assert log.claim() == 0
        log.append([decision(transaction(1), 1)])
        log.close()


def test_numbers_are_claimed_anew_in_the_order_of_their_last_claims(postgres_url: str) -> None:
    """So that a number comes back to somebody else as late as can be."""
    log = opened(postgres_url)
    log.claim()
    log.close()
    execute(
        postgres_url,
        f"INSERT INTO writers (number, epoch, held) SELECT n, 1, false FROM generate_series(1, {WRITERS - 1}) AS n",  # noqa: S608
        "UPDATE writers SET claimed_at = now() - (1 + number * 37 % 64) * interval '1 hour'",
    )
    oldest = [number for (number,) in execute(postgres_url, "SELECT number FROM writers ORDER BY claimed_at")]
    assert oldest != sorted(oldest)
    for wanted in oldest[:3]:
        log = opened(postgres_url)
        assert log.claim() == wanted
        log.close()


def test_a_part_is_read_as_of_one_moment(log: PostgresDecisionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed after it was planned, with an earlier number, is not among its rows."""
    log.append([decision(transaction(number), number) for number in (10, 20, 30)])
    planned = reading.planned

    def and_then(*given: Any) -> Any:
        found = planned(*given)
        log.append([decision(transaction(15), 15)])
        return found

    monkeypatch.setattr(statements, "CUT", "SELECT true")  # as of a table that is cut into pieces
    monkeypatch.setattr(reading, "planned", and_then)
    (batch,) = log.audit_batches(limit=2)
    assert batch.column("arrival").to_pylist() == [10, 20]


def test_the_grants_of_the_guide_are_enough_and_keep_decisions_from_being_changed(
    log: PostgresDecisionLog, postgres_url: str
) -> None:
    page = (DOCS / "howto" / "run-on-postgresql.md").read_text(encoding="utf-8")
    granting = "\n".join(line for line in page.splitlines() if line.startswith("GRANT")).replace(
        "fraudml_service", "clerk"
    )
    base, _, name = postgres_url.rpartition("/")
    if not execute(postgres_url, "SELECT 1 FROM pg_roles WHERE rolname = 'clerk'"):
        execute(postgres_url, f"CREATE ROLE clerk LOGIN PASSWORD '{PASSWORD}'")
    execute(postgres_url, *granting.replace("DATABASE fraud ", f"DATABASE {name} ").split(";")[:-1])
    url = f"{base.replace('fraudml:', 'clerk:', 1)}/{name}"
    clerk = opened(url)
    clerk.claim(shared=True)
    clerk.append([decision(transaction(1), 1)])
    clerk.append_labels([LabelReport(Label("t1", True, T0 * 2), 2)])
    clerk.append_shadow([ShadowScore(1, "2", 0.5, Action.review, 3)])
    clerk.keys.add(new_key("ci", [Scope.score])[1])
    clerk.keys.revoke("ci")
    assert len([*clerk.replay()]) == len([*clerk.audit_batches()]) == len([*clerk.audit_labels()]) == 1
    clerk.close()
    for statement in ("UPDATE decisions SET action = 'approve'", "DELETE FROM transactions", "TRUNCATE labels"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            execute(url, statement)


def test_no_error_and_no_journal_names_a_password(postgres_url: str, tmp_path: Path) -> None:
    wrong = postgres_url.replace(PASSWORD, "other-secret")
    with pytest.raises(DecisionLogError, match="password authentication failed") as caught:
        wiring.decision_log(Settings(database_url=wrong), SCHEMA)
    assert "other-secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="no URL of PostgreSQL") as refused:
        wiring.decision_log(Settings(database_url="postgresql://me:other-secret@[::1/x"), SCHEMA)
    assert "other-secret" not in str(refused.value)
    for url in (postgres_url, wrong, postgres_url + "?application_name=x", postgres_url + "2"):
        journal, _ = wiring.journals(Settings(database_url=url, home=tmp_path), SCHEMA)
        journal.append([decision(transaction(1), 1)])
        journal.close()
    assert len([*(tmp_path / "journal").glob("*.journal")]) == 2  # one for each database, whatever the password
    assert "other-secret" not in repr(engine(wrong)) + repr(Settings(database_url=wrong))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE decisions SET action = 'newer'",
        "UPDATE decisions SET degraded = '[\"newer\"]'",
        "UPDATE decisions SET timings = '[]'",
        "UPDATE transactions SET entities = '[]'",
    ],
)
def test_a_row_of_a_newer_version_is_a_decision_log_error(
    log: PostgresDecisionLog, postgres_url: str, change: str
) -> None:
    log.append([decision(transaction(1), 1)])
    execute(postgres_url, change)
    with pytest.raises(DecisionLogError, match="newer version"):
        log.find(["t1"])


def test_an_index_of_another_id_column_does_not_show_in_messages(log: PostgresDecisionLog) -> None:
    """A refusal says which rule was broken, never the values: they are somebody's."""
    log.append([decision(transaction(1), 1)])
    with pytest.raises(DecisionLogError, match="transaction_ids_arrival_key") as caught:
        log.append([decision(transaction(2), 1)])
    assert "t2" not in str(caught.value)
    with pytest.raises(DecisionLogError, match="foreign key") as caught:
        log.append_labels([LabelReport(Label("nobody's", True, T0), 5)])
    assert "nobody's" not in str(caught.value)
