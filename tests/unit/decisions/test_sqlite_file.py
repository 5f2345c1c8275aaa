"""What is particular to the SQLite file: its mode, its migrations, and how it refuses."""

from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from fraudml import wiring
from fraudml.adapters.log import _migrate
from fraudml.adapters.log._connection import connect
from fraudml.adapters.log._tables import metadata
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.keys import Scope, new_key
from fraudml.decisions.log import Durability
from fraudml.errors import ConfigError, DecisionLogError
from fraudml.operations.verify import verify
from fraudml.settings import Settings
from tests.support.scoring import SCHEMA, decision, transaction

# The first link's members as fraudml wrote them before decisions had a source.
LINKED_BEFORE = "010000000000000040c2fc2a59170600ba3896bc55d0c00a52daf6993b395978"


def url(path: Path) -> str:
    return f"sqlite:///{path / 'fraudml.db'}"


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    log = SqliteDecisionLog(url(tmp_path / "new" / "folder"), SCHEMA)
    log.append([decision(transaction(1), 1)])
    files = list((tmp_path / "new" / "folder").iterdir())
    assert {file.name for file in files} == {"fraudml.db", "fraudml.db-wal", "fraudml.db-shm"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    log.close()


def test_the_migrations_make_the_declared_tables(tmp_path: Path) -> None:
    engine = connect(url(tmp_path))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": _migrate.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, metadata) == []
        assert _migrate.revision(connection) == "0006"
    engine.dispose()


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    connect(url(tmp_path)).dispose()
    before = _dump(tmp_path)
    connect(url(tmp_path)).dispose()
    assert _dump(tmp_path) == before


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    connect(url(tmp_path)).dispose()
    with sqlite3.connect(tmp_path / "fraudml.db") as connection:
        connection.execute("UPDATE fraudml_schema_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(DecisionLogError, match=r"newer fraudml \(revision 9999"):
        connect(url(tmp_path))


def test_a_failed_migration_leaves_nothing(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "fraudml.db")
    connection.execute("CREATE TABLE labels (mine TEXT)")
    connection.commit()
    connection.close()
    before = _dump(tmp_path)
    with pytest.raises(DecisionLogError, match="labels"):
        connect(url(tmp_path))
    assert _dump(tmp_path) == before


@pytest.mark.parametrize("name", ["sqlite://", "sqlite:///:memory:"])
def test_a_log_in_memory_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="needs a file"):
        connect(name)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fraudml.db").write_bytes(b"this is a text, and no database\n" * 100)
    with pytest.raises(DecisionLogError, match="not a database"):
        connect(url(tmp_path))


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DecisionLogError, match="opening"):
        connect(url(tmp_path / "file" / "folder"))


@pytest.mark.parametrize(("durability", "level"), [(Durability.process, 1), (Durability.power, 2)])
def test_durability_sets_what_a_commit_waits_for(tmp_path: Path, durability: Durability, level: int) -> None:
    engine = connect(url(tmp_path), durability)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == level
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
    engine.dispose()


def test_a_locked_database_is_a_decision_log_error(tmp_path: Path) -> None:
    log = SqliteDecisionLog(url(tmp_path), SCHEMA, timeout_ms=1)
    other = sqlite3.connect(tmp_path / "fraudml.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DecisionLogError, match="locked"):
        log.append([decision(transaction(1), 1)])
    other.execute("ROLLBACK")
    other.close()
    log.append([decision(transaction(1), 1)])
    log.close()


def test_a_call_waits_for_another_thread_no_longer_than_it_may(tmp_path: Path) -> None:
    log = SqliteDecisionLog(url(tmp_path), SCHEMA, timeout_ms=1)
    log.append([decision(transaction(1), 1)])
    with log._hot._writer.turn("testing"):
        with pytest.raises(DecisionLogError, match="another call took longer than 1 ms"):
            log.append([decision(transaction(2), 2)])
        assert set(log.find(["t1", "t2"])) == {"t1"}  # reading does not wait for a commit
    log.close()


def test_what_a_failed_rollback_left_is_never_found(tmp_path: Path) -> None:
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    log.append([decision(transaction(1), 1)])  # from now on this thread reads by the connection that it writes with
    with log._hot._writer.turn("testing") as driver:
        driver.execute("BEGIN IMMEDIATE")
        driver.execute("DELETE FROM decisions")
    assert set(log.find(["t1"])) == {"t1"}
    log.append([decision(transaction(2), 2)])
    assert set(log.find(["t1", "t2"])) == {"t1", "t2"}
    log.close()


def test_the_settings_say_what_a_commit_waits_for(tmp_path: Path) -> None:
    log = wiring.decision_log(Settings(home=tmp_path, durability="power", log_timeout_ms=7), SCHEMA)
    assert isinstance(log, SqliteDecisionLog)
    for line in (log._hot._writer, log._hot._reader):
        with line.turn("testing") as driver:
            assert driver.execute("PRAGMA synchronous").fetchone() == (2,)
            assert driver.execute("PRAGMA busy_timeout").fetchone() == (7,)
    log.close()


def test_a_transaction_left_open_is_rolled_back_by_the_next_commit(tmp_path: Path) -> None:
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    with log._hot._writer.turn("testing") as driver:
        driver.execute("BEGIN IMMEDIATE")
        driver.execute("DELETE FROM api_keys")
    log.append([decision(transaction(1), 1)])
    assert set(log.find(["t1"])) == {"t1"}
    log.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE decisions SET action = 'newer'",
        "UPDATE decisions SET degraded = '[\"newer\"]'",
        "UPDATE decisions SET timings = '{'",
        "UPDATE transactions SET entities = '[]'",
    ],
)
def test_a_row_of_a_newer_version_is_a_decision_log_error(tmp_path: Path, change: str) -> None:
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    log.append([decision(transaction(1), 1)])
    with log._engine.begin() as connection:
        connection.exec_driver_sql(change)
    with pytest.raises(DecisionLogError, match="newer version"):
        log.find(["t1"])
    log.close()


def test_a_key_of_a_newer_version_is_a_decision_log_error(tmp_path: Path) -> None:
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    log.keys.add(new_key("ci", [Scope.score])[1])
    with log._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE api_keys SET scopes = 'newer'")
    with pytest.raises(DecisionLogError, match="newer version"):
        log.keys.all()
    log.close()


def test_a_value_that_no_column_holds_is_a_decision_log_error(tmp_path: Path) -> None:
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    with pytest.raises(DecisionLogError, match="cannot read or write"):
        log.append([decision(transaction(1, amount=2**63), 1)])
    with pytest.raises(DecisionLogError, match="cannot read or write"):
        log.append([decision(transaction(1, country=object()), 1)])
    log.append([decision(transaction(1), 1)])
    log.close()


def test_a_database_of_the_first_tables_is_migrated_with_what_is_in_it(tmp_path: Path) -> None:
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    log.append([decision(transaction(1), 1)])
    log.close()
    with sqlite3.connect(tmp_path / "fraudml.db") as connection:
        connection.execute("CREATE INDEX ix_transactions_event_time_us ON transactions (event_time_us)")
        connection.execute("ALTER TABLE decisions DROP COLUMN trial")
        connection.execute("ALTER TABLE decisions DROP COLUMN source")
        connection.execute("ALTER TABLE decisions DROP COLUMN entered_us")
        connection.execute("ALTER TABLE api_keys DROP COLUMN expires_at_us")
        connection.execute("DROP TABLE shadow_scores")
        connection.execute("DROP TABLE chain")
        connection.execute("UPDATE fraudml_schema_version SET version_num = '0001'")
    connection.close()
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    assert log.find(["t1"]) == {"t1": decision(transaction(1), 1)}
    log.close()
    assert not any("ix_transactions" in line for line in _dump(tmp_path))


def test_a_chain_that_is_older_than_the_source_of_decisions_fits(tmp_path: Path) -> None:
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    log.append([decision(transaction(1), 1)])
    log.close()
    with sqlite3.connect(tmp_path / "fraudml.db") as connection:
        connection.execute("ALTER TABLE decisions DROP COLUMN source")
        connection.execute("ALTER TABLE decisions DROP COLUMN entered_us")
        connection.execute("ALTER TABLE api_keys DROP COLUMN expires_at_us")
        connection.execute("UPDATE fraudml_schema_version SET version_num = '0004'")
        (members,) = connection.execute("SELECT members FROM chain").fetchone()
    connection.close()
    # what a fraudml without that column had linked
    assert members.hex() == LINKED_BEFORE
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    found = verify(log)
    assert (found.decisions, found.wrong) == (1, 0)
    log.close()


def test_logged_values_of_another_type_than_declared_are_named(tmp_path: Path) -> None:
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    log.append([decision(transaction(1), 1)])
    with log._engine.begin() as connection:
        connection.execute(sa.text("""UPDATE transactions SET attributes = '{"distance":"far"}'"""))
    with pytest.raises(DecisionLogError, match="'distance'"):
        list(log.replay())
    log.close()


def test_what_was_appended_survives_kill_9(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from fraudml.adapters.log.sqlite import SqliteDecisionLog\n"
        "from tests.support.scoring import SCHEMA, decision, transaction\n"
        "log = SqliteDecisionLog(sys.argv[1], SCHEMA)\n"
        "for i in range(50): log.append([decision(transaction(i), i + 1)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code, url(tmp_path)], cwd=root, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    log = SqliteDecisionLog(url(tmp_path), SCHEMA)
    assert len(log.find([f"t{i}" for i in range(50)])) == 50
    assert log.last_arrival() == 50
    log.close()


def _dump(folder: Path) -> list[str]:
    connection = sqlite3.connect(folder / "fraudml.db")
    lines = list(connection.iterdump())
    connection.close()
    return lines
