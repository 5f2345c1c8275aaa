"""What goes wrong with a database that computes features is told in one line that says what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from fraudml.errors import OfflineStoreError
from fraudml.events.schema import AmountColumn, Schema, TimeColumn
from fraudml.events.source import arrow_schema
from fraudml.features.spec import Aggregation, FeatureSet, WindowFeature
from fraudml.features.stores import OfflineStore
from tests.support.offline import open_bigquery, open_postgres, open_snowflake
from tests.support.servers.bigquery import BigQueryServer, Refusal
from tests.support.servers.postgres import PASSWORD, PostgresServer, execute
from tests.support.servers.process import LOOPBACK, free_port
from tests.support.servers.snowflake import SnowflakeServer
from tests.support.waiting import until

SCHEMA = Schema(TimeColumn("time"), "id", {"customer": "c"}, AmountColumn("amount"))
FEATURES = FeatureSet(
    SCHEMA,
    [WindowFeature(name="total", over="customer", agg=Aggregation.sum, of="amount", length="7d")],
)
HOUR_US = 3_600_000_000
T0 = 1_700_000_000_000_000


def history(rows: int, text: str = "") -> pa.RecordBatchReader:
    columns = [
        [f"{i:08}{text}" for i in range(rows)],
        [T0 + i * 1_000_000 for i in range(rows)],
        [f"customer {i % 50}" for i in range(rows)],
        list(range(rows)),
        [None] * rows,
        [None] * rows,
    ]
    fields = arrow_schema(SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
    return pa.Table.from_arrays(arrays, schema=fields).to_reader(5_000)


def filled(url: str, rows: int = 20_000) -> OfflineStore:
    store = open_postgres(url)
    try:
        store.put(history(rows))
    except OfflineStoreError:
        store.close()
        raise
    return store


def as_role(url: str, *options: str) -> str:
    """The URL of a new role of the database's server, with these options of its own."""
    execute(url, "DROP ROLE IF EXISTS limited", f"CREATE ROLE limited LOGIN PASSWORD '{PASSWORD}'")
    for option in options:
        execute(url, f"ALTER ROLE limited SET {option}")
    return url.replace("fraudml:", "limited:", 1)


@pytest.fixture
def role(postgres_url: str) -> Iterator[str]:
    """A database whose role ``limited`` is removed afterwards."""
    yield postgres_url
    execute(postgres_url, "DROP OWNED BY limited", "DROP ROLE limited")


def told(error: pytest.ExceptionInfo[OfflineStoreError]) -> str:
    text = str(error.value)
    assert PASSWORD not in text
    assert "\n" not in text
    assert isinstance(error.value.__cause__, Exception)
    return text


def test_a_server_that_is_down() -> None:
    url = f"postgresql://me:{PASSWORD}@{LOOPBACK}:{free_port()}/fraud"
    with pytest.raises(OfflineStoreError, match="see that the server runs, and check host, port") as error:
        open_postgres(url)
    assert "Connection refused" in told(error)


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        (f":{PASSWORD}@", ":another@", "password authentication failed"),
        ("/postgres", "/nowhere", 'database "nowhere" does not exist'),
    ],
)
def test_a_login_that_is_refused(postgres_server: str, wrong: str, right: str, said: str) -> None:
    with pytest.raises(OfflineStoreError, match="check host, port, database, user and password") as error:
        open_postgres(postgres_server.replace(wrong, right))
    assert said in told(error)


def test_a_server_that_hangs() -> None:
    import signal

    server = PostgresServer("fsync=off")
    try:
        server.process.send(signal.SIGSTOP)
        with pytest.raises(OfflineStoreError, match="see that the server runs") as error:
            open_postgres(f"{server.url()}?connect_timeout=2")
        told(error)
    finally:
        server.close()


def test_a_role_that_may_not_make_temporary_tables(role: str) -> None:
    execute(role, f"REVOKE TEMPORARY ON DATABASE {role.rpartition('/')[2]} FROM PUBLIC")
    store = open_postgres(as_role(role))
    with pytest.raises(OfflineStoreError, match="GRANT TEMPORARY ON DATABASE") as error:
        store.put(history(1))
    assert "permission denied to create temporary tables" in told(error)
    store.close()


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("temp_file_limit = '64kB'", "raise temp_file_limit for this role"),
        ("statement_timeout = '1ms'", "raise statement_timeout for this role"),
    ],
)
def test_a_limit_of_the_role(role: str, option: str, hint: str) -> None:
    url = as_role(role, "work_mem = '64kB'", option)
    with pytest.raises(OfflineStoreError, match=hint) as error, closing(filled(url)) as store:
        list(store.features(FEATURES))
    told(error)


def test_a_server_that_takes_no_writes(role: str) -> None:
    with pytest.raises(OfflineStoreError, match="name the primary") as error:
        filled(as_role(role, "default_transaction_read_only = on"))
    told(error)


@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_a_connection_that_breaks_in_the_middle_of_the_features(how: str) -> None:
    """The rows are more than the buffers of the connection hold."""
    server = PostgresServer("fsync=off")
    try:
        store = filled(server.new_database(), rows=200_000)
        batches = store.features(FEATURES, batch_size=1_000)
        assert next(batches).num_rows == 1_000
        if how == "killed":
            server.process.kill()
        else:
            kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fraudml'"
            execute(server.url(), kill)
        with pytest.raises(OfflineStoreError, match=r"failed while computing features: .*start again") as error:
            list(batches)
        told(error)
        with pytest.raises(OfflineStoreError):
            list(store.features(FEATURES))
        store.close()
    finally:
        server.close()


def test_a_text_that_postgres_cannot_store(postgres_url: str) -> None:
    store = open_postgres(postgres_url)
    with pytest.raises(OfflineStoreError, match="the character NUL, which PostgreSQL cannot store") as error:
        store.put(history(1, "\0"))
    told(error)
    assert store.put(history(1)) == 1
    store.close()


def tables_left(url: str) -> int:
    return int(str(execute(url, "SELECT count(*) FROM pg_class WHERE relname LIKE 'fraudml%'")[0][0]))


def test_nothing_is_left_by_a_process_that_was_killed(postgres_url: str) -> None:
    """The server drops temporary tables when it notices that the client is gone."""
    code = (
        "import os, sys\n"
        "from tests.integration.test_offline_faults import filled\n"
        "store = filled(sys.argv[1])\n"
        "os.write(1, b'put')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, postgres_url], cwd=root, capture_output=True, check=False)
    assert (done.stdout, done.returncode) == (b"put", -9), done.stderr.decode()
    until(lambda: not tables_left(postgres_url), "the tables are still there")


def test_nothing_is_left_by_a_store_that_was_closed(postgres_url: str) -> None:
    store = filled(postgres_url, rows=10)
    assert tables_left(postgres_url) > 0
    store.close()
    until(lambda: not tables_left(postgres_url), "the tables are still there")


def test_two_stores_in_one_database_do_not_meet(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("CREATE TABLE fraudml_history (a int)")  # nor do they meet a table of that name
        stores = [filled(postgres_url, rows=count) for count in (3, 5)]
        assert [sum(len(batch) for batch in store.features(FEATURES)) for store in stores] == [3, 5]
        for store in stores:
            store.close()
        assert other.execute("SELECT count(*) FROM fraudml_history").fetchall() == [(0,)]


def test_a_snowflake_that_cannot_be_reached() -> None:
    url = f"snowflake://me:{PASSWORD}@acme/D/S?host={LOOPBACK}&port={free_port()}&protocol=http&login_timeout=1"
    with pytest.raises(OfflineStoreError, match="check account, user and password in FRAUDML_OFFLINE_URL") as error:
        open_snowflake(url)
    told(error)


def test_a_snowflake_that_goes_away() -> None:
    server = SnowflakeServer()
    try:
        store = open_snowflake(server.new_database().replace("network_timeout=5", "network_timeout=1"))
        store.put(history(10))
        server.process.kill()
        with pytest.raises(OfflineStoreError, match="Snowflake failed while computing features") as error:
            list(store.features(FEATURES))
        told(error)
        store.close()
    finally:
        server.close()


@pytest.mark.parametrize(
    ("refused", "hint"),
    [
        ((403, "accessDenied", "Access Denied: Dataset acme-risk:fraud"), "BigQuery Data Editor"),
        ((404, "notFound", "Not found: Dataset acme-risk:fraud"), "check project and data set"),
    ],
)
def test_a_bigquery_that_refuses(bigquery_server: BigQueryServer, refused: Refusal, hint: str) -> None:
    store = open_bigquery(bigquery_server.url)
    bigquery_server.refuse = ("CREATE", refused)
    with pytest.raises(OfflineStoreError, match=hint) as error:
        store.put(history(1))
    told(error)
    store.close()
