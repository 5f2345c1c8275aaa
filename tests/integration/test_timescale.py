"""TimescaleDB behind the decision log: pieces, compression, retention, and figures that are those of plain PostgreSQL.

The server of our own is a TimescaleDB 2.23 in WebAssembly with one session and no background workers: jobs are run by
hand. Locks between sessions cannot be tested there.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import yaml

from fraudml import wiring
from fraudml.adapters.connections.postgres import engine
from fraudml.adapters.log.postgres import PostgresDecisionLog, reading, retention, statements, timescale, upgrade
from fraudml.adapters.log.postgres.timescale import Policies
from fraudml.decisions.record import Action, Decision, Degradation, LabelReport, ShadowScore, Timings
from fraudml.errors import ConfigError, DecisionLogError
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.operations.verify import verify
from fraudml.settings import Settings
from tests.support.commands import Done, fraudml, refused, well
from tests.support.scoring import SCHEMA, decision
from tests.support.servers.postgres import execute

DAY_US = 86_400_000_000
NOW_US = time.time_ns() // 1_000
MIDNIGHT_US = NOW_US // DAY_US * DAY_US
TIMINGS = '{"batch":1,"state_us":2,"model_us":3}'
VIEWS = ("hourly_decisions", "hourly_fraud")


def arranged(url: str, policies: Policies | None = None) -> list[str]:
    """Do what ``fraudml db upgrade`` does; what it said."""
    made, said = engine(url), list[str]()
    upgrade.upgrade(made, "here")
    timescale.arrange(made, "here", policies or Policies(), said.append)
    made.dispose()
    return said


def found(url: str) -> timescale.Timescale:
    made = engine(url)
    state = timescale.state(made)
    made.dispose()
    assert state is not None
    return state


def opened(url: str) -> PostgresDecisionLog:
    made = PostgresDecisionLog(engine(url), SCHEMA, place="here", timeout_ms=20_000)
    made.claim()
    return made


def run_jobs(url: str, name: str) -> None:
    """What the server's scheduler does."""
    jobs = execute(url, f"SELECT job_id FROM timescaledb_information.jobs WHERE proc_name LIKE '%{name}%'")  # noqa: S608
    for (job,) in jobs:
        execute(url, f"CALL run_job({job})")


def figures(url: str) -> list[list[tuple[object, ...]]]:
    """All rows of both views."""
    return [execute(url, "SET TimeZone = 'UTC'", f"TABLE {view} ORDER BY hour, model_version, arm") for view in VIEWS]  # type: ignore[misc]


def made(count: int, seed: int, days: float, first: int = 0) -> list[Decision]:
    """Decisions about transactions of the last days."""
    rng = random.Random(seed)
    amounts = [None, -500, 0, 1, 10**12]
    return [
        decision(
            Transaction(
                f"t{number}",
                NOW_US - rng.randrange(round(days * DAY_US)),
                (f"c{rng.randrange(5)}", None),
                rng.choice([*amounts, rng.randrange(10**5)]),
                ("DE", 2.5, 3),
            ),
            1_000 + number,
            model_version=rng.choice("12"),
            arm=rng.choice(["champion", "challenger"]),
            action=rng.choice([*Action]),
            timings=Timings(batch=1, state_us=rng.randrange(5_000), model_us=rng.randrange(300)),
            degraded=rng.choice([(), (), (Degradation.online_store,)]),
        )
        for number in range(first, first + count)
    ]


def reports(numbers: range, seed: int, arrival: int) -> list[LabelReport]:
    rng = random.Random(seed)
    return [
        LabelReport(Label(f"t{n}", rng.random() < 0.4, NOW_US + arrival), arrival + i) for i, n in enumerate(numbers)
    ]


@pytest.fixture
def both(timescale_url: str, postgres_url: str) -> Iterator[tuple[PostgresDecisionLog, PostgresDecisionLog]]:
    """The log with TimescaleDB, and without."""
    arranged(timescale_url)
    logs = opened(timescale_url), opened(postgres_url)
    yield logs
    for log in logs:
        log.close()


def test_the_figures_are_those_of_plain_postgresql(
    both: tuple[PostgresDecisionLog, PostgresDecisionLog], timescale_url: str, postgres_url: str
) -> None:
    """Also those of labels that come late, are corrected, or are about compressed transactions."""
    written = made(400, 1, days=10)
    for log in both:
        log.append(written[:100])  # one statement
        log.append(written[100:])  # COPY
        log.append_labels(reports(range(300), 2, 10_000))
    told = figures(postgres_url)
    assert len(told[0]) > 200
    assert sum(int(str(row[3])) for row in told[1]) == 300
    assert figures(timescale_url) == told  # not materialized yet
    run_jobs(timescale_url, "refresh")
    run_jobs(timescale_url, "compression")
    assert execute(timescale_url, "SELECT count(*) > 4 FROM timescaledb_information.chunks WHERE is_compressed") == [
        (True,)
    ]
    assert figures(timescale_url) == told  # and now they are
    for log in both:
        log.append_labels(reports(range(200, 380), 3, 20_000))  # some say the contrary, some come late
        log.append_labels([*reports(range(380, 390), 4, 30_000), *reports(range(380, 390), 5, 40_000)])
        log.append(made(100, 6, days=10, first=500))
        assert log.find([d.transaction.transaction_id for d in written]) == {
            d.transaction.transaction_id: d for d in written
        }
        assert log.append(written[:2]) == {d.transaction.transaction_id: d for d in written[:2]}
    run_jobs(timescale_url, "refresh")
    later = figures(postgres_url)
    assert later != told
    assert figures(timescale_url) == later
    streams = [repr([b.to_pylist() for b in log.audit_batches()]) for log in both]  # NaN is not equal to itself
    assert streams[0] == streams[1]
    assert [*both[0].labels()] == [*both[1].labels()]


def test_a_log_with_rows_becomes_hypertables_while_an_older_process_goes_on(
    timescale_url: str, postgres_url: str
) -> None:
    written = made(300, 7, days=5)
    for url in (timescale_url, postgres_url):
        log = opened(url)
        log.append(written)
        log.append_labels(reports(range(100), 8, 10_000))
        log.append_labels(reports(range(100), 9, 20_000))
        log.close()
        execute(url, "UPDATE decisions SET amount_minor = NULL")  # as before revision 0005
    said = arranged(timescale_url)
    assert sum("copied into pieces" in line for line in said) == 2
    assert figures(timescale_url) == figures(postgres_url)
    event = {"arrival": "90000", "event_time_us": str(NOW_US - 60_000_000), "transaction_id": "'old'"}
    scored = {"vector": "''", "action": "'approve'", "model_version": "'1'", "fingerprint": "'f'", "arm": "'champion'"}
    scored |= {"late": "false", "degraded": "'[]'", "decided_at_us": "5", "timings": f"'{TIMINGS}'"}
    label = {"arrival": "90001", "transaction_id": "'t200'", "nth": "1", "is_fraud": "true", "known_at_us": "5"}
    rows = {
        "transaction_ids": event,
        "transactions": event | {"amount_minor": "777", "entities": "'{}'", "attributes": "'{}'"},
        "decisions": event | scored,
        "labels": label,
    }
    for url in (timescale_url, postgres_url):  # what it writes
        for table, row in rows.items():
            execute(url, f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(row.values())})")  # noqa: S608
    assert arranged(timescale_url) == ["1 decisions of an older fraudml got their amounts"]
    assert figures(timescale_url) == figures(postgres_url)


def test_a_part_of_the_log_opens_its_own_pieces_only(timescale_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export reads the log part by part. Some transactions of each part are of long ago."""
    arranged(timescale_url)
    log = opened(timescale_url)
    times = [NOW_US - round((40 if n % 100 == 50 else 30 - n / 20) * DAY_US) for n in range(600)]
    names = [f"t{n}" if n % 10 else f"{'x' * 5_000}{n}" for n in range(600)]
    events = [Transaction(name, at, (None, None), 1, ("DE", 2.5, 3)) for name, at in zip(names, times, strict=True)]
    log.append([decision(event, 1_000 + n) for n, event in enumerate(events)])
    log.append_labels([LabelReport(Label(name, True, NOW_US + n), 10_000 + n) for n, name in enumerate(names)])
    days, long_days = (len({at // DAY_US for at in some}) for some in (times[300:400], times[300:400:10]))
    assert days <= 7
    reads = (
        (statements.AUDIT, 1_299, 2 * days),
        (statements.AUDIT_LABELS, 10_299, long_days),  # reads the ids that were too long for a key
        (statements.OUTCOMES, 1_299, 2 * days),
        (statements.LABELLED_OUTCOMES, 10_299, 2 * days),
    )
    for few in (1, 5_000, 1):  # many rows, few rows, and many from the columnstore
        monkeypatch.setattr(statements, "FEW", few)
        news = (log.outcomes(1_299, 100), log.outcomes(10_299, 100, labelled=True))
        audits = (log.audit_batches(after=1_299, limit=100), log.audit_labels(after=10_299, limit=100))
        for batch, *_ in (*audits, *news):
            assert batch.column("transaction_id").to_pylist() == names[300:400]
        for text, after, pieces in reads:
            assert len(pieces_of(timescale_url, text, after, 100)) == pieces, text
            assert len(pieces_of(timescale_url, text, after, None)) > 30
        run_jobs(timescale_url, "compression")
    log.close()


def pieces_of(url: str, text: str, after: int, limit: int | None) -> set[str]:
    """Those that a plan opens."""
    with psycopg.connect(url) as driver:
        statement, parameters = reading.planned(driver, text, after, limit)
        plan = driver.execute(f"EXPLAIN {statement}", parameters).fetchall()
    return set(re.findall(r" (_hyper_\d+_\d+_chunk)", str(plan)))


def test_a_role_that_may_only_add_needs_no_new_right(timescale_url: str) -> None:
    """What docs/howto/run-on-postgresql.md grants; reports are counted for it all the same."""
    arranged(timescale_url)
    log = opened(timescale_url)
    log.append(made(20, 21, days=1))
    log.close()
    row = "SELECT 50000, 't1', 1, true, 5, event_time_us FROM transaction_ids WHERE transaction_id = 't1'"
    role = "fraudml_test_service"
    execute(
        timescale_url,
        f"DROP ROLE IF EXISTS {role}",
        f"CREATE ROLE {role}",
        f"GRANT SELECT, INSERT ON transaction_ids, transactions, decisions, labels TO {role}",
        f"SET ROLE {role}",
        f"INSERT INTO labels (arrival, transaction_id, nth, is_fraud, known_at_us, event_time_us) {row}",
        "RESET ROLE",
        f"REVOKE ALL ON transaction_ids, transactions, decisions, labels FROM {role}",
        f"DROP ROLE {role}",
    )
    assert figures(timescale_url)[1][0][3:5] == (1, 1)


def test_what_differs_is_told_and_changed(timescale_url: str) -> None:
    arranged(timescale_url)
    state = found(timescale_url)
    assert state.hypertables == {"transactions", "decisions", "label_changes"}
    assert state.differences(Policies()) == []
    wanted = Policies(compress_after_days=0, retain_days=90)
    assert state.differences(wanted)[0] == "transactions is compressed after 7 days, not never"
    assert "decisions are kept for ever, not 90 days" in state.differences(wanted)
    assert arranged(timescale_url, wanted)[-1] == "decisions are kept 90 days"
    assert found(timescale_url).differences(wanted) == []
    assert arranged(timescale_url, wanted) == []
    (job,) = found(timescale_url).retain
    execute(timescale_url, f"SELECT alter_job({job.number}, scheduled => false)")
    (text,) = found(timescale_url).differences(wanted)
    assert "is stopped" in text
    assert arranged(timescale_url, wanted) == ["decisions are kept 90 days"]


def test_what_is_too_old_goes_and_its_figures_stay(timescale_url: str, postgres_url: str) -> None:
    wanted = Policies(retain_days=4)
    arranged(timescale_url, wanted)
    written = made(400, 11, days=8)
    limit = retention.limit(4 * DAY_US)
    kept = {d.transaction.transaction_id for d in written if d.transaction.event_time_us >= limit}
    assert 100 < len(kept) < 300
    for url in (timescale_url, postgres_url):
        log = opened(url)
        for young in (False, True):
            log.append([d for d in written if (d.transaction.transaction_id in kept) is young])
        log.append_labels(reports(range(400), 12, 10_000))
        log.append_shadow([ShadowScore(d.arrival, "2", 0.5, Action.review, 3) for d in written])
        log.close()
    arranged(timescale_url, Policies())  # kept for ever so far, so all of it is materialized
    run_jobs(timescale_url, "refresh")
    arranged(timescale_url, wanted)
    before = figures(timescale_url)
    run_jobs(timescale_url, "fraudml_retain")
    run_jobs(timescale_url, "refresh")
    opened_again = engine(postgres_url)
    assert retention.remove(opened_again, limit) == 400 - len(kept)
    opened_again.dispose()
    for url in (timescale_url, postgres_url):
        for table in ("transaction_ids", "transactions", "decisions", "labels"):
            names = {str(name) for (name,) in execute(url, f"SELECT transaction_id FROM {table}")}  # noqa: S608
            assert names == kept, table
        shadows = execute(url, "SELECT transaction_id FROM shadow_scores JOIN transaction_ids USING (arrival)")
        assert {str(name) for (name,) in shadows} == kept
        assert execute(url, "SELECT count(*) FROM shadow_scores") == [(len(kept),)]
        assert execute(url, "SELECT seq FROM chain WHERE members IS NULL") == [(1,)]
    assert figures(timescale_url) == before
    log = opened(postgres_url)
    verified = verify(log, removed_before_us=lambda: limit)
    assert (verified.decisions, verified.labels, verified.wrong) == (len(kept), len(kept), 0)
    assert verified.removed == 2 * (400 - len(kept))
    assert verify(log).wrong
    log.close()
    log = opened(timescale_url)
    assert set(log.find([f"t{n}" for n in range(400)])) == kept
    again = next(d for d in written if d.transaction.transaction_id not in kept)
    assert log.append([again]) == {}  # its id is new again
    log.close()


def test_a_timescaledb_that_cannot_do_it_is_refused() -> None:
    for version, licence, said in (("2.17.2", "timescale", "2.18 or newer"), ("2.20.0", "apache", "licence")):
        state = timescale.Timescale(version, "public", licence, frozenset(), frozenset(), ())
        with pytest.raises(DecisionLogError, match=said):
            timescale.check(state, "here")


def test_retention_that_features_do_not_survive_is_refused(postgres_url: str, tmp_path: Path) -> None:
    given = Settings(database_url=postgres_url, retain_days=30)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"up to 40.5 days; set it to 41 or more"):
        wiring.upgrade_database(given, needed_us=round(40.5 * DAY_US))
    with pytest.raises(ConfigError, match="needs PostgreSQL"):
        wiring.upgrade_database(Settings(home=tmp_path, retain_days=30))
    with pytest.raises(ConfigError, match="kept for ever"):
        wiring.remove_old(Settings(database_url=postgres_url))  # type: ignore[arg-type]


def test_the_commands(timescale_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDML_DATABASE_URL", timescale_url)
    assert fraudml("db", "status", cwd=tmp_path).code == 1
    upgraded: Done = well("db", "upgrade", cwd=tmp_path)
    assert "hourly_fraud_kept is a continuous aggregate" in upgraded.err
    assert "is as the settings say" in well("db", "status", cwd=tmp_path).out
    monkeypatch.setenv("FRAUDML_RETAIN_DAYS", "90")
    told = fraudml("db", "status", "--json", cwd=tmp_path)
    assert told.code == 1
    assert "decisions are kept for ever, not 90 days" in told.json["timescale"]["differs"]
    checked = fraudml("doctor", "--json", cwd=tmp_path).json["findings"]
    assert any("kept for ever, not 90 days" in each["text"] for each in checked)
    assert "90 days: run fraudml db upgrade" in refused("db", "retain", cwd=tmp_path)  # nothing would remove any
    done = well("db", "upgrade", "--json", cwd=tmp_path)
    assert "decisions are kept 90 days" in done.json["said"]
    assert "by itself" in well("db", "retain", cwd=tmp_path).out
    monkeypatch.setenv("FRAUDML_RETAIN_DAYS", "30")
    assert "30 days: run fraudml db upgrade" in refused("db", "retain", cwd=tmp_path)
    monkeypatch.setenv("FRAUDML_RETAIN_DAYS", "90")
    (job,) = found(timescale_url).retain
    execute(timescale_url, f"SELECT alter_job({job.number}, scheduled => false)")
    assert "run fraudml db upgrade" in refused("db", "retain", cwd=tmp_path)


def test_an_extension_that_was_just_installed_removes_nothing(timescale_url: str) -> None:
    given = Settings(database_url=timescale_url, retain_days=30)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="run fraudml db upgrade"):
        wiring.remove_old(given)
    wiring.upgrade_database(given)
    assert wiring.remove_old(given) is None


@pytest.mark.parametrize("step", ["_compress", "_count_labels", "_keep", "_retain"])
def test_an_upgrade_that_is_interrupted_is_continued(
    timescale_url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What older processes wrote meanwhile is filled in, however long that took."""
    for url in (timescale_url, postgres_url):
        log = opened(url)
        log.append(made(50, 31, days=12))
        log.append_labels(reports(range(20), 32, 10_000))
        log.close()
    wanted = Policies(retain_days=30)

    def interrupted(*_: object) -> None:
        raise DecisionLogError("canceling statement due to lock timeout")

    with monkeypatch.context() as patch:
        patch.setattr(timescale, step, interrupted)
        with pytest.raises(DecisionLogError):
            arranged(timescale_url, wanted)
    for url in (timescale_url, postgres_url):
        log = opened(url)
        log.append(made(30, 33, days=12, first=100))
        log.close()
    if step in ("_compress", "_count_labels"):  # later steps come after the policies, which are for newer processes
        execute(timescale_url, "UPDATE decisions SET amount_minor = NULL")
    arranged(timescale_url, wanted)
    assert found(timescale_url).differences(wanted) == []
    assert found(timescale_url).columnar == {"transactions", "decisions", "label_changes"}
    assert figures(timescale_url) == figures(postgres_url)
    run_jobs(timescale_url, "compression")
    assert figures(timescale_url) == figures(postgres_url)
    assert arranged(timescale_url, wanted) == []


def test_an_upgrade_is_continued_where_only_one_table_was_cut(
    timescale_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = timescale._cut

    def only_transactions(do: timescale._Work, table: str, say: Callable[[str], None]) -> None:
        if table == "decisions":
            raise DecisionLogError("canceling statement due to lock timeout")
        cut(do, table, say)

    with monkeypatch.context() as patch:
        patch.setattr(timescale, "_cut", only_transactions)
        with pytest.raises(DecisionLogError):
            arranged(timescale_url)
    assert found(timescale_url).hypertables == {"transactions"}
    arranged(timescale_url)
    assert found(timescale_url).differences(Policies()) == []
    settings = "SELECT DISTINCT hypertable_name FROM timescaledb_information.compression_settings"
    assert len(execute(timescale_url, settings)) == 3


def test_the_commands_without_timescaledb(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDML_DATABASE_URL", postgres_url)
    monkeypatch.setenv("FRAUDML_RETAIN_DAYS", "10")
    monkeypatch.setenv("FRAUDML_COMPRESS_AFTER_DAYS", "3")
    said = well("db", "upgrade", cwd=tmp_path).err
    assert "does nothing without TimescaleDB" in said
    assert "fraudml db retain" in said
    log = opened(postgres_url)
    log.append(made(50, 13, days=8) + made(30, 14, days=0.5, first=100))
    long_ago = MIDNIGHT_US - 20 * DAY_US
    events = [Transaction(f"o{i}", long_ago + i, (None, None), 1, ("DE", 1.0, 1)) for i in range(20)]
    log.append([decision(event, 5 + i) for i, event in enumerate(events)])
    log.close()
    assert well("db", "retain", "--json", cwd=tmp_path).json["removed"] == 20
    assert well("db", "retain", cwd=tmp_path).out.startswith("Removed 0 decisions")
    project = {
        "schema": {
            "event_time": {"column": "time"},
            "transaction_id": "tx_id",
            "entities": {"customer": "customer"},
            "amount": {"column": "amount"},
        },
        "features": [{"kind": "window", "name": "n", "over": "customer", "agg": "count", "length": "30d"}],
    }
    (tmp_path / "fraudml.yaml").write_text(yaml.safe_dump(project))
    assert "too short" in refused("db", "retain", cwd=tmp_path)
