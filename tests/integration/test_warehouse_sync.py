"""Exports of a decision log into a warehouse: whatever fails and wherever, each row arrives exactly once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import requests
from pydantic import SecretStr
from snowflake.connector.errors import OperationalError

from fraudml import wiring
from fraudml.adapters.connections.bigquery import BigQuerySession
from fraudml.adapters.connections.postgres import engine
from fraudml.adapters.connections.snowflake import SnowflakeSession
from fraudml.adapters.log.postgres import PostgresDecisionLog
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.adapters.warehouse.bigquery import BigQueryWarehouse
from fraudml.adapters.warehouse.snowflake import SnowflakeWarehouse
from fraudml.decisions.log import DecisionLog
from fraudml.decisions.record import LabelReport, pack_vector
from fraudml.decisions.warehouse import DECISIONS, LABELS, Warehouse, exported_decisions, exported_schemas
from fraudml.errors import ConfigError, ConflictError, WarehouseError
from fraudml.events.label import Label
from fraudml.operations.sync import sync
from fraudml.settings import Settings
from tests.support.commands import refused, well
from tests.support.scoring import SCHEMA, decision, transaction
from tests.support.servers.postgres import execute
from tests.support.servers.process import LOOPBACK, free_port
from tests.support.servers.snowflake import end_session
from tests.support.warehouses import SETTING, Tables, bigquery_tables, snowflake_tables

FOREVER = 2**62
KINDS = pytest.mark.parametrize("kind", ["bigquery", "snowflake"])
SECRET = "secret-of-the-tests"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    with closing(SqliteDecisionLog(f"sqlite:///{tmp_path / 'log.db'}", SCHEMA)) as opened:
        yield opened


@pytest.fixture
def tables(kind: str, request: pytest.FixtureRequest) -> Tables:
    if kind == "bigquery":
        return bigquery_tables(request.getfixturevalue("bigquery_server"))
    return snowflake_tables(request.getfixturevalue("snowflake_url"))


def decided(log: DecisionLog, *arrivals: int) -> None:
    """Add decisions; the transaction's number is the end of the arrival's."""
    log.append(
        [
            msgspec.structs.replace(
                decision(transaction(number % 1_000, country="FR" if number % 2 else None), number),
                vector=pack_vector(np.array([number / 3, np.nan, -1.0])),
            )
            for number in arrivals
        ]
    )


def reported(log: DecisionLog, *arrivals: int) -> None:
    """Add a report about the first transaction for each arrival, with alternating verdicts."""
    for number in arrivals:
        log.append_labels([LabelReport(Label("t1", number % 2 == 0, number * 10), number)])


def export(tables: Tables, log: DecisionLog, until: int = FOREVER, **options: Any) -> tuple[int, int]:
    """The numbers of rows exported."""
    with closing(tables.open()) as warehouse:
        done = sync(log, warehouse, SCHEMA, until=until, **options)
    return done[DECISIONS].rows, done[LABELS].rows


def contents(tables: Tables) -> dict[str, list[tuple[Any, ...]]]:
    return {table: tables.rows(f"fraudml_{table}", schema.names) for table, schema in exported_schemas(SCHEMA).items()}


def expected(log: DecisionLog) -> dict[str, list[tuple[Any, ...]]]:
    schema = exported_schemas(SCHEMA)[DECISIONS]
    decisions = [exported_decisions(batch, schema) for batch in log.audit_batches()]
    return {DECISIONS: _rows(decisions), LABELS: _rows(log.audit_labels())}


def _rows(batches: Iterable[pa.RecordBatch]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


@KINDS
def test_everything_is_exported_once_and_then_only_what_is_new(tables: Tables, log: DecisionLog) -> None:
    decided(log, 1, 2, 3, 4, 5)
    reported(log, 6, 7)
    assert export(tables, log, batch_size=2) == (5, 2)
    assert contents(tables) == expected(log)
    vector = contents(tables)[DECISIONS][1][-1]
    assert msgspec.json.decode(vector) == [2 / 3, None, -1.0]
    assert export(tables, log) == (0, 0)
    decided(log, 8, 9)
    reported(log, 10)
    assert export(tables, log) == (2, 1)
    assert contents(tables) == expected(log)


@KINDS
def test_an_empty_log_is_exported(tables: Tables, log: DecisionLog) -> None:
    assert export(tables, log) == (0, 0)
    assert contents(tables) == {DECISIONS: [], LABELS: []}


@KINDS
def test_the_newest_rows_wait(tables: Tables, log: DecisionLog) -> None:
    decided(log, 10, 20, 30)
    assert export(tables, log, until=29) == (2, 0)
    assert export(tables, log, until=29) == (0, 0)
    assert export(tables, log, until=30) == (1, 0)
    assert contents(tables) == expected(log)


@KINDS
def test_a_row_that_came_late_is_found_by_looking_again(tables: Tables, log: DecisionLog) -> None:
    """Another process had it in its journal while this log went on."""
    decided(log, 100, 200, 300)
    assert export(tables, log) == (3, 0)
    decided(log, 150, 400)
    assert export(tables, log) == (1, 0)
    with closing(tables.open()) as warehouse:
        done = sync(log, warehouse, SCHEMA, until=FOREVER, recheck_us=300, batch_size=2)[DECISIONS]
    assert (done.rows, done.late, done.watermark) == (1, 1, 400)
    assert contents(tables) == expected(log)


@KINDS
def test_two_logs_do_not_get_into_one_table(tables: Tables, log: DecisionLog, tmp_path: Path) -> None:
    decided(log, 10, 20)
    export(tables, log)
    with closing(SqliteDecisionLog(f"sqlite:///{tmp_path / 'other.db'}", SCHEMA)) as other:
        decided(other, 11, 21)
        with pytest.raises(ConflictError, match="exported from another decision log"):
            export(tables, other)
    assert contents(tables) == expected(log)


@KINDS
def test_a_log_whose_oldest_rows_were_removed_is_still_the_same(tables: Tables, postgres_url: str) -> None:
    """Rows are removed by the time of their transactions, so the last one exported may go before others."""
    log = PostgresDecisionLog(engine(postgres_url), SCHEMA, place="here", timeout_ms=20_000)
    log.claim()
    newest = 500_000_020  # some minutes later
    with closing(log):
        decided(log, 10, 15, newest)
        log.append_labels([LabelReport(Label(name, True, 5), at) for name, at in (("t10", 16), ("t20", 21))])
        assert export(tables, log) == (3, 2)
        exported = contents(tables)
        remove(postgres_url, "t20")
        assert export(tables, log) == (0, 0)
        decided(log, newest + 1, newest + 2)
        assert export(tables, log) == (2, 0)
        remove(postgres_url, "t10", "t15", "t22")
        assert export(tables, log) == (0, 0)
        remove(postgres_url, "t21")
        assert export(tables, log) == (0, 0)  # nothing is left
        decided(log, newest + 3)
        assert export(tables, log) == (1, 0)
    assert contents(tables)[LABELS] == exported[LABELS]
    assert contents(tables)[DECISIONS][:3] == exported[DECISIONS]
    assert len(contents(tables)[DECISIONS]) == 6


def remove(url: str, *names: str) -> None:
    """What retention does to these transactions."""
    for table in ("labels", "decisions", "transactions", "transaction_ids"):
        execute(url, f"DELETE FROM {table} WHERE transaction_id IN {(*names, '')}")  # noqa: S608


@KINDS
def test_a_busy_log_of_the_same_time_is_another_one(tables: Tables, log: DecisionLog, tmp_path: Path) -> None:
    """Some of its arrival numbers are those of the first one, by chance."""
    log.append([decision(transaction(n), n * 64) for n in range(1, 500)])
    export(tables, log)
    with closing(SqliteDecisionLog(f"sqlite:///{tmp_path / 'other.db'}", SCHEMA)) as other:
        other.append([decision(transaction(n), n * 64 + (n % 10 > 0)) for n in range(1, 490)])
        with pytest.raises(ConflictError, match="exported from another decision log"):
            export(tables, other)


@KINDS
def test_rows_are_read_part_by_part(tables: Tables, log: DecisionLog) -> None:
    """A log cut into pieces by time would be read as a whole for each part otherwise."""
    limits: list[int | None] = []

    class Told:
        def audit_batches(self, *given: Any, limit: int | None = None) -> Iterator[pa.RecordBatch]:
            limits.append(limit)
            return log.audit_batches(*given, limit=limit)

        def audit_labels(self, *given: Any, limit: int | None = None) -> Iterator[pa.RecordBatch]:
            limits.append(limit)
            return log.audit_labels(*given, limit=limit)

    decided(log, 1, 2, 3)
    reported(log, 4)
    told: Any = Told()
    assert export(tables, told, batch_size=2) == (3, 1)
    assert export(tables, told, batch_size=2) == (0, 0)
    assert len(limits) > 4
    assert set(limits) == {1, 2}


class Cut:
    """Counts what a session asks of the warehouse; from one step on there is no connection, as in a crash.

    ``answered`` says whether the step itself was still done, and only its answer was lost.
    """

    def __init__(self, at: int, *, answered: bool) -> None:
        self.at, self.answered = at, answered
        self.steps: list[str] = []

    def step(self, what: str, do: Callable[[], Any], lost: Exception) -> Any:
        self.steps.append(what)
        number = len(self.steps)
        if number > self.at or (number == self.at and not self.answered):
            raise lost
        result = do()
        if number == self.at:
            raise lost
        return result


def opened(kind: str, url: str, cut: Cut) -> Warehouse:
    """The warehouse over a session that is cut."""
    if kind == "bigquery":

        class CutBigQuery(BigQuerySession):
            def run(self, statement: str) -> None:
                cut.step(statement, lambda: super(CutBigQuery, self).run(statement), requests.ConnectionError("lost"))

            def load(self, table: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
                do = super().load
                return int(cut.step("LOAD", lambda: do(table, schema, batches), requests.ConnectionError("lost")))

        return BigQueryWarehouse(CutBigQuery(url, SETTING))

    class CutSnowflake(SnowflakeSession):
        def run(self, statement: str) -> int:
            lost = OperationalError("lost", errno=250003)
            return int(cut.step(statement, lambda: super(CutSnowflake, self).run(statement), lost))

        def close(self) -> None:
            end_session(self._connection)
            super().close()

    return SnowflakeWarehouse(CutSnowflake(url, SETTING))


def cut_export(kind: str, tables: Tables, log: DecisionLog, cut: Cut) -> None:
    with closing(opened(kind, tables.url, cut)) as warehouse:
        sync(log, warehouse, SCHEMA, until=FOREVER, batch_size=2)


@KINDS
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    kind: str, log: DecisionLog, request: pytest.FixtureRequest
) -> None:
    """The last step of each kind up to the first commit, the second commit, and those whose answer is lost; each time
    in a fresh schema. ``FRAUDML_TEST_EVERY_STEP``: each step up to the first commit, and those around the second."""
    decided(log, 1, 2, 3)
    reported(log, 4)

    def fresh() -> Tables:
        if kind == "snowflake":
            return snowflake_tables(request.getfixturevalue("snowflake_server").new_database())
        server = request.getfixturevalue("bigquery_server")
        server.empty()
        return bigquery_tables(server)

    whole = Cut(10_000, answered=True)
    cut_export(kind, fresh(), log, whole)
    commits = [i for i, step in enumerate(whole.steps, 1) if "COMMIT" in step]
    assert len(commits) == 3
    kinds = {" ".join(step.split()[:2]): i for i, step in enumerate(whole.steps[: commits[0]], 1)}
    missed = [*kinds.values(), commits[1]]
    if os.environ.get("FRAUDML_TEST_EVERY_STEP"):
        missed = [*range(1, commits[0] + 1), commits[1] - 1, commits[1]]
    for at, answered in [*((at, False) for at in missed), *((at, True) for at in commits)]:
        tables = fresh()
        with pytest.raises(WarehouseError, match="lost"):
            cut_export(kind, tables, log, Cut(at, answered=answered))
        export(tables, log, batch_size=2)
        assert contents(tables) == expected(log), whole.steps[at - 1]
        assert export(tables, log) == (0, 0)


def test_a_bigquery_script_that_fails_midway_leaves_nothing(request: pytest.FixtureRequest, log: DecisionLog) -> None:
    server = request.getfixturevalue("bigquery_server")
    tables = bigquery_tables(server)
    decided(log, 1, 2)
    for statement in ("INSERT INTO", "UPDATE", "COMMIT"):
        server.refuse = (statement, (400, "invalidQuery", "no more slots"))
        with pytest.raises(WarehouseError, match="no more slots"):
            export(tables, log)
        assert contents(tables)[DECISIONS] == []
    assert export(tables, log) == (2, 0)


def test_a_warehouse_that_cannot_be_reached() -> None:
    words = f"host={LOOPBACK}&port={free_port()}&protocol=http&login_timeout=1"
    settings = Settings(warehouse_url=SecretStr(f"snowflake://me:{SECRET}@acme/D/S?{words}"))
    with pytest.raises(WarehouseError, match="FRAUDML_WAREHOUSE_URL, and the network") as error:
        wiring.warehouse(settings)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("url", [None, "postgresql://me:secret@host/db"])
def test_without_a_warehouse_it_is_said_what_to_set(url: str | None) -> None:
    settings = Settings(warehouse_url=None if url is None else SecretStr(url))
    with pytest.raises(ConfigError, match="set FRAUDML_WAREHOUSE_URL to a URL that starts with snowflake:") as error:
        wiring.warehouse(settings)
    assert "secret" not in str(error.value)


PROJECT = """
schema:
  transaction_id: tx_id
  event_time: {column: time}
  entities: {customer: cust_no, terminal: term}
  amount: {column: amount}
  attributes:
    country: {type: category, vocabulary: [DE, FR]}
    distance: {type: number, column: dist_km}
    items: {type: integer}
features:
  - {name: amount, kind: attribute, of: amount}
"""


def test_the_command(snowflake_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fraudml.yaml").write_text(PROJECT)
    with closing(SqliteDecisionLog(f"sqlite:///{tmp_path / '.fraudml' / 'fraudml.db'}", SCHEMA)) as log:
        decided(log, 1, 2, time.time_ns() // 1_000_000 * 1_000 + 3)
    assert "set FRAUDML_WAREHOUSE_URL" in refused("warehouse", "sync", cwd=tmp_path)
    monkeypatch.setenv("FRAUDML_WAREHOUSE_URL", snowflake_url)
    done = well("warehouse", "sync", "--json", cwd=tmp_path).json
    assert done["decisions"] == {"rows": 2, "late": 0, "watermark": 2}
    told = well("warehouse", "sync", "--lag", "0", cwd=tmp_path)
    assert "1 decisions, 0 labels in" in told.err
    assert SECRET not in told.err + told.out
