"""History in PostgreSQL, on real servers: types as Parquet has them, failures in words, and never a short history."""

# ruff: noqa: S608 - SQL of our own
from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraudml import wiring
from fraudml.errors import ConfigError, DataError, FraudmlError, SourceError
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn
from fraudml.events.source import TransactionSource
from fraudml.settings import Settings
from tests.support.histories import Postgres
from tests.support.servers.postgres import PASSWORD, PostgresServer, execute

SCHEMA = Schema(TimeColumn("time", timezone="UTC"), "id", {"customer": "cust"}, AmountColumn("amount"))
BROKEN_OFF = "failed while reading its rows: .*nothing of it was used"
OURS = "FROM pg_stat_activity WHERE application_name = 'fraudml' AND datname = current_database()"
ENDLESS = (
    "SELECT g AS id, timestamp '2024-01-01' AS time, repeat('x', 100) || g AS cust, 1.5 AS amount "
    "FROM (SELECT generate_series(1, 1000000000000) AS g) AS g"  # not made before it is sent
)


def source(url: str, folder: Path, schema: Schema = SCHEMA, **given: Any) -> TransactionSource:
    given.setdefault("max_reject_share", 1.0)
    current = Settings(home=folder, hash_key="key", threads=2, memory_limit="500MB", **given)
    return wiring.source(current, schema, [url], folder / "rejects.csv")


def refusal(url: str, folder: Path, **given: Any) -> FraudmlError:
    """The error of reading everything; nothing in its text or its causes has the password."""
    with pytest.raises(FraudmlError) as caught:
        source(url, folder, **given).read().read_all()
    error: BaseException | None = caught.value
    while error is not None:
        assert PASSWORD not in f"{error} {error!r}"
        error = error.__cause__
    assert "\n" not in str(caught.value)
    return caught.value


@contextmanager
def own_server(*options: str) -> Iterator[PostgresServer]:
    """A server to be stopped and killed."""
    server = PostgresServer("fsync=off", *options)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with own_server() as made:
        yield made


def with_rows(url: str, name: str = "tx") -> str:
    """The URL of a table with two rows."""
    execute(
        url,
        f"CREATE TABLE {name} (id bigint, time timestamptz, cust text, amount numeric(12,2))",
        f"INSERT INTO {name} VALUES (1, '2024-05-01 12:00+02', 'a', 1.50), (2, '2024-05-01 12:00+00', 'b', 2.25)",
    )
    return f"{url}/{name}"


# --- types -----------------------------------------------------------------------------------------------------------


def test_a_table_reads_as_the_parquet_file_of_it_does(postgres_url: str, tmp_path: Path) -> None:
    count = 2_000
    table = pa.table(
        {
            "id": pa.array(range(count), pa.int64()),
            "time": pa.array([datetime(2024, 1, 1, 0, i // 60 % 60, i % 60, i * 7, UTC) for i in range(count)]),
            "local": pa.array([datetime(2024, 3, 31, i % 24, i % 60) for i in range(count)], pa.timestamp("us")),  # noqa: DTZ001
            "day": pa.array([date(1950 + i % 70, 1 + i % 12, 1) for i in range(count)]),
            "cust": pa.array([None if i % 11 == 0 else i * 7_919 % 500 for i in range(count)], pa.int32()),
            "amount": pa.array([Decimal(i * i) / 100 for i in range(count)], pa.decimal128(18, 2)),
            "fine": pa.array([Decimal(i) / 10_000 for i in range(count)], pa.decimal128(30, 10)),
            "whole": pa.array([Decimal(10**17 + i) for i in range(count)], pa.decimal128(20, 0)),
            "ratio": pa.array([None if i % 13 == 0 else float("nan") if i % 7 == 0 else i / 3 for i in range(count)]),
            "flag": pa.array([None if i % 5 == 0 else i % 2 == 0 for i in range(count)]),
            "word": pa.array(
                [None if i % 3 == 0 else ' "q", \n\\. é\ufeff' if i % 3 == 1 else "" for i in range(count)]
            ),
        }
    )
    kinds = AttributeType
    schema = Schema(
        TimeColumn("time"),
        "id",
        {"customer": "cust", "whole": "whole"},
        AmountColumn("amount"),
        {
            "local": Attribute(kinds.time, timezone="Europe/Berlin"),
            "day": Attribute(kinds.time, timezone="UTC"),
            "fine": Attribute(kinds.number),
            "ratio": Attribute(kinds.number),
            "flag": Attribute(kinds.boolean),
            "flag_as_text": Attribute(kinds.category, column="flag"),
            "word": Attribute(kinds.category),
            "fine_as_text": Attribute(kinds.category, column="fine"),
        },
    )
    pq.write_table(table, tmp_path / "tx.parquet")
    expected = source(str(tmp_path / "tx.parquet"), tmp_path, schema).read().read_all()
    found = source(Postgres(postgres_url).put(table, "tx"), tmp_path, schema).read().read_all()
    assert expected.num_rows == count
    assert found.equals(expected)


def test_amounts_are_exact_whatever_numeric_says_of_its_digits(postgres_url: str, tmp_path: Path) -> None:
    amounts = ["0.01", "19.99", "1234567890.12", "0.10", "2.675", "1e3", "9000000000.07", "5"]
    values = ", ".join(f"({i}, '2024-05-01', 'c', {amount})" for i, amount in enumerate(amounts))
    for kind in ("numeric", "numeric(24,6)", "numeric(50,10)", "text", "float8"):
        execute(
            postgres_url,
            "DROP TABLE IF EXISTS tx",
            f"CREATE TABLE tx (id int, time timestamp, cust text, amount {kind})",
            f"INSERT INTO tx VALUES {values}",
        )
        read = source(f"{postgres_url}/tx", tmp_path).read().read_all()
        # 2.675 is a little less than that in binary, and is rounded as in a file
        assert read["amount_minor"].to_pylist() == [1, 1999, 123_456_789_012, 10, 268, 100_000, 900_000_000_007, 500]


def test_numeric_ids_lose_no_digit(postgres_url: str, tmp_path: Path) -> None:
    execute(
        postgres_url,
        "CREATE TABLE tx (id numeric, time timestamp, cust numeric, amount int)",
        "INSERT INTO tx VALUES (98765432109876543210987, now(), 5.00, 1), (98765432109876543210988, now(), 0.50, 1)",
    )
    read = source(f"{postgres_url}/tx", tmp_path).read().read_all()
    assert read["transaction_id"].to_pylist() == ["98765432109876543210987", "98765432109876543210988"]
    assert read["customer"].to_pylist() == ["5", "0.5"]


def test_values_that_no_other_engine_has_are_refused_rows_or_missing(postgres_url: str, tmp_path: Path) -> None:
    execute(
        postgres_url,
        "CREATE TABLE tx (id int, time timestamptz, cust text, amount numeric(10,2), born date, n float8)",
        """INSERT INTO tx VALUES (1, 'infinity', 'c', 1, null, null), (2, '4713-01-01 BC', 'c', 1, null, null),
        (3, '2024-05-01', 'c', 'NaN', null, null), (4, '2024-05-01', 'c', 1, '-infinity', null),
        (5, '2024-05-01', 'c', 1, '0044-03-15 BC', null), (6, '2024-05-01', 'c', 1, null, 'infinity'),
        (7, '290000-01-01', 'c', 1, null, null), (8, '2024-05-01', 'c', 1, null, 'NaN')""",
    )
    attributes = {"born": Attribute(AttributeType.time, timezone="UTC"), "n": Attribute(AttributeType.number)}
    schema = Schema(TimeColumn("time"), "id", {"customer": "cust"}, AmountColumn("amount"), attributes)
    found = source(f"{postgres_url}/tx", tmp_path, schema)
    assert found.read().read_all()["transaction_id"].to_pylist() == ["8"]
    text = (tmp_path / "rejects.csv").read_text()
    assert "amount: missing" in text
    assert "4713-01-01" in text
    assert found.rejects().count == 7


def test_every_other_type_is_text_and_nested_ones_are_refused(postgres_url: str, tmp_path: Path) -> None:
    execute(
        postgres_url,
        "CREATE TYPE colour AS ENUM ('red', 'blue')",
        "CREATE DOMAIN small AS smallint",
        "CREATE TABLE tx (id uuid, time timestamp, cust char(8), c colour, ip inet, j jsonb, s small, tags text[])",
        "INSERT INTO tx VALUES ('b5c1e5a0-0000-4000-8000-000000000001', '2024-05-01', 'ab', 'red', '10.0.0.1', "
        "'{\"a\": 1}', 7, '{x,y}')",
    )
    words = {name: Attribute(AttributeType.category) for name in ("c", "ip", "j")}
    schema = Schema(
        TimeColumn("time", timezone="UTC"),
        "id",
        {"customer": "cust"},
        None,
        words | {"s": Attribute(AttributeType.integer)},
    )
    read = source(f"{postgres_url}/tx", tmp_path, schema).read().read_all().to_pylist()[0]
    assert (read["transaction_id"], read["customer"]) == ("b5c1e5a0-0000-4000-8000-000000000001", "ab")
    assert (read["c"], read["ip"], read["j"], read["s"]) == ("red", "10.0.0.1", '{"a": 1}', 7)
    nested = Schema(TimeColumn("time", timezone="UTC"), "id", {"tags": "tags"})
    with pytest.raises(DataError, match="column 'tags' holds nested values"):
        source(f"{postgres_url}/tx", tmp_path, nested).read()
    profile = wiring.profile(Settings(home=tmp_path, threads=1), f"{postgres_url}/tx")
    assert profile["tags"].filled == 0
    assert profile["c"].top == (("red", 1),)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.none() | texts | st.sampled_from(["", '"', "\\.", "\n", "\r\n", ",", "\ufeff", "NULL"]), min_size=1
    )
)
def test_any_text_arrives_as_it_is(postgres_url: str, tmp_path: Path, values: list[str | None]) -> None:
    table = pa.table(
        {
            "c": pa.array(values, pa.string()),
            "id": pa.array(range(len(values))),
            "time": pa.array([datetime(2024, 5, 1, tzinfo=UTC)] * len(values)),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    execute(postgres_url, "DROP TABLE IF EXISTS t")
    schema = Schema(TimeColumn("time"), "id", attributes={"c": Attribute(AttributeType.category)})
    expected = source(str(tmp_path / "t.parquet"), tmp_path, schema).read().read_all()
    assert source(Postgres(postgres_url).put(table, "t"), tmp_path, schema).read().read_all().equals(expected)


def test_a_single_column_of_nothing_keeps_its_rows(postgres_url: str, tmp_path: Path) -> None:
    execute(postgres_url, "CREATE TABLE t (time timestamptz)", "INSERT INTO t SELECT NULL FROM generate_series(1, 5)")
    found = source(f"{postgres_url}/t", tmp_path, Schema(TimeColumn("time")))
    assert found.read().read_all().num_rows == 0
    assert found.rejects().reasons == {"time: missing": 5}


def test_a_database_in_another_encoding(server: PostgresServer, tmp_path: Path) -> None:
    execute(
        server.url(),
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
        "CREATE DATABASE bytes ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    )
    with_rows(server.url("latin"))
    execute(server.url("latin"), "UPDATE tx SET cust = chr(233)")
    read = source(f"{server.url('latin')}/tx", tmp_path).read().read_all()
    assert read["customer"].to_pylist() == ["é", "é"]
    with_rows(server.url("bytes"))
    execute(server.url("bytes"), r"UPDATE tx SET cust = E'\xff\xfe'")
    assert "not UTF-8" in str(refusal(f"{server.url('bytes')}/tx", tmp_path))


# --- queries and streams ---------------------------------------------------------------------------------------------


def test_a_query_is_read_in_its_own_order(postgres_url: str, tmp_path: Path) -> None:
    with_rows(postgres_url)
    for query in (
        "SELECT * FROM tx WHERE amount > 1 ORDER BY id DESC;",
        "WITH x AS (SELECT * FROM tx) SELECT x.*, 'a%20b' AS note FROM x ORDER BY id DESC -- all of them",
        "SELECT%20*%20FROM%20tx%20ORDER%20BY%20id%20DESC",
    ):
        read = source(f"{postgres_url}?query={query}", tmp_path).read().read_all()
        assert read["transaction_id"].to_pylist() == ["2", "1"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT * FROM nowhere", 'relation "nowhere" does not exist'),
        ("SELECT wrong FROM tx", 'column "wrong" does not exist'),
        ("SELEC 1", "syntax error"),
        ("SELECT 1; DROP TABLE tx", "syntax error"),
        ("SELECT * FROM tx) AS a; DROP TABLE tx; SELECT * FROM (SELECT 1", "cannot insert multiple commands"),
        ("DELETE FROM tx RETURNING *", "syntax error"),
        ("SELECT nextval('numbers') AS id, tx.time, cust, amount FROM tx", "read-only transaction"),
        ("SELECT tx.*, tx.id FROM tx", "has the column 'id' twice; name them apart with AS"),
        ("SELECT tx.*, 'secret 7'::int AS n FROM tx", 'invalid input syntax for type integer: "..."'),
    ],
)
def test_a_wrong_query_is_an_error_and_changes_nothing(
    postgres_url: str, tmp_path: Path, query: str, message: str
) -> None:
    with_rows(postgres_url)
    execute(postgres_url, "CREATE SEQUENCE numbers")
    error = refusal(f"{postgres_url}?query={query}", tmp_path)
    assert isinstance(error, DataError)
    assert message in str(error)
    assert execute(postgres_url, "SELECT count(*) FROM tx") == [(2,)]


def test_rows_come_while_the_server_still_makes_them_and_leaving_ends_its_work(
    postgres_url: str, tmp_path: Path
) -> None:
    """Were anything collected before it is used, this test would not end."""
    reader = source(f"{postgres_url}?query={ENDLESS}", tmp_path).read()
    assert [reader.read_next_batch().num_rows for _ in range(3)] == [100_000] * 3
    busy = f"SELECT count(*) {OURS} AND state <> 'idle'"
    assert execute(postgres_url, busy) == [(1,)]
    del reader
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for _ in range(600):
            if connection.execute(busy).fetchall() == [(0,)]:
                return
            connection.execute("SELECT pg_sleep(0.05)")
    pytest.fail("the server is still at work")


def test_few_wide_rows_are_in_memory_at_a_time(postgres_url: str, tmp_path: Path) -> None:
    wide = "SELECT g AS id, timestamp '2024-01-01' AS time, repeat('x', 4000000) || g AS cust, 1 AS amount"
    reader = source(f"{postgres_url}?query={wide} FROM generate_series(1, 40) AS g", tmp_path).read()
    sizes = [batch.num_rows for batch in reader]
    assert sum(sizes) == 40
    assert max(sizes) <= 9


# --- what fails ------------------------------------------------------------------------------------------------------


def test_a_server_that_is_down(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # nobody listens
        port = bound.getsockname()[1]
        error = refusal(f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/db/tx", tmp_path)
    assert isinstance(error, SourceError)
    assert str(error) == (
        f"cannot connect to PostgreSQL at 127.0.0.1:{port}/db: Connection refused; does the server run, and may this "
        "machine reach it?"
    )


def test_a_server_that_never_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        error = refusal(f"postgresql://me:{PASSWORD}@{place}/db/tx?connect_timeout=2", tmp_path)
    assert isinstance(error, SourceError)
    assert f"{place}/db: connection timeout expired" in str(error)


def test_credentials_and_databases_that_are_wrong(server: PostgresServer, tmp_path: Path) -> None:
    with_rows(server.new_database())
    wrong = refusal(f"{server.url(password='wrong')}/tx", tmp_path)
    assert isinstance(wrong, SourceError)
    assert 'password authentication failed for user "fraudml"; check the user, and the password' in str(wrong)
    assert "no password supplied; check the user, and" in str(
        refusal(server.url().replace(f":{PASSWORD}", "") + "/tx", tmp_path)
    )
    assert 'database "nowhere" does not exist' in str(refusal(f"{server.url('nowhere')}/tx", tmp_path))


def test_the_password_may_come_from_the_settings_or_the_driver(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = with_rows(server.new_database()).replace(f":{PASSWORD}", "")
    assert source(url, tmp_path, source_password=PASSWORD).read().read_all().num_rows == 2
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert source(url, tmp_path).read().read_all().num_rows == 2
    monkeypatch.delenv("PGPASSWORD")
    secrets = tmp_path / "pgpass"
    secrets.write_text(f"*:*:*:*:{PASSWORD}\n")
    secrets.chmod(0o600)
    assert source(f"{url}?passfile={secrets}", tmp_path).read().read_all().num_rows == 2


def test_a_parameter_that_libpq_does_not_know(server: PostgresServer, tmp_path: Path) -> None:
    error = refusal(f"{server.url()}/tx?wrong=1", tmp_path)
    assert isinstance(error, ConfigError)
    assert "the source is no URL of PostgreSQL" in str(error)


def test_a_table_that_is_not_there_has_neighbours(postgres_url: str, tmp_path: Path) -> None:
    with_rows(postgres_url, "payments")
    execute(postgres_url, 'CREATE SCHEMA "Sales"', 'CREATE TABLE "Sales"."Orders" (id int)')
    public = postgres_url.replace(f":{PASSWORD}", "")
    error = refusal(f"{postgres_url}/payment", tmp_path)
    assert isinstance(error, DataError)
    assert str(error) == f"there is no {public}/payment; did you mean public.payments?"
    assert "did you mean Sales.Orders?" in str(refusal(f"{postgres_url}/sales.orders", tmp_path))
    assert "no table that you may see has a name like it" in str(refusal(f"{postgres_url}/xyz", tmp_path))


def test_a_table_in_a_schema_whose_name_needs_quotes(postgres_url: str, tmp_path: Path) -> None:
    execute(postgres_url, 'CREATE SCHEMA "My; Sales"')
    with_rows(postgres_url, '"My; Sales"."Tx ""1"""')
    assert source(f'{postgres_url}/My; Sales.Tx "1"', tmp_path).read().read_all().num_rows == 2
    assert source(f"{postgres_url}?table=My%3B Sales.Tx %221%22", tmp_path).read().read_all().num_rows == 2


def test_a_right_that_is_missing(server: PostgresServer, tmp_path: Path) -> None:
    url = server.new_database()
    with_rows(url)
    reader = f"reader_{url.rpartition('/')[2]}"
    execute(url, f"CREATE ROLE {reader} LOGIN PASSWORD '{PASSWORD}'")
    theirs = server.url(url.rpartition("/")[2], user=reader)
    error = refusal(f"{theirs}/tx", tmp_path)
    assert isinstance(error, SourceError)
    assert "permission denied for table tx; the user needs the right to read it (GRANT SELECT)" in str(error)
    execute(url, f"GRANT SELECT (id, time, cust, amount) ON tx TO {reader}")
    assert source(f"{theirs}/tx", tmp_path).read().read_all().num_rows == 2


def test_columns_that_are_gone_are_named_with_their_neighbours(postgres_url: str, tmp_path: Path) -> None:
    url = with_rows(postgres_url)
    execute(postgres_url, "ALTER TABLE tx RENAME amount TO amount_eur", "ALTER TABLE tx DROP cust")
    error = refusal(url, tmp_path)
    assert isinstance(error, DataError)
    assert "lacks the columns 'cust'" in str(error)
    assert "'amount' (did you mean 'amount_eur'?) of the schema" in str(error)


def test_a_column_that_goes_between_the_look_and_the_reading(postgres_url: str, tmp_path: Path) -> None:
    reader = source(with_rows(postgres_url), tmp_path).read()
    execute(postgres_url, "ALTER TABLE tx DROP cust")
    with pytest.raises(DataError, match='column "cust" does not exist'):
        reader.read_all()


def test_a_limit_of_the_server_on_a_statement(postgres_url: str, tmp_path: Path) -> None:
    slow = "SELECT 1 AS id, timestamp '2024-01-01' AS time, pg_sleep(30)::text AS cust, 1 AS amount"
    error = refusal(f"{postgres_url}?options=-c%20statement_timeout%3D100&query={slow}", tmp_path)
    assert isinstance(error, SourceError)
    assert "reading its rows was ended by the server: canceling statement due to statement timeout" in str(error)


def test_a_server_that_hangs(tmp_path: Path) -> None:
    """It is stopped in the middle of a result: a read waits no longer than it is told to."""
    with own_server() as stopped:
        reader = source(f"{stopped.url()}?query={ENDLESS}", tmp_path, source_timeout_s=5).read()
        reader.read_next_batch()
        with (
            stopped.hanging(),
            pytest.raises(SourceError, match=r"reading its rows took too long: nothing came for 5 s"),
        ):
            reader.read_all()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_server_that_dies_in_the_middle_is_never_a_short_history(tmp_path: Path, how: signal.Signals) -> None:
    """By a crash, and by the shutdown that an administrator asks for."""
    with own_server() as dying:
        reader = source(f"{dying.url()}?query={ENDLESS}", tmp_path).read()
        reader.read_next_batch()
        ending = threading.Thread(target=dying.process.stop, args=(how,))
        ending.start()
        with pytest.raises(SourceError, match=BROKEN_OFF):
            for _ in reader:
                pass
        ending.join()


def test_a_connection_that_is_ended_in_the_middle_is_never_a_short_history(postgres_url: str, tmp_path: Path) -> None:
    reader = source(f"{postgres_url}?query={ENDLESS}", tmp_path).read()
    reader.read_next_batch()
    execute(postgres_url, f"SELECT pg_terminate_backend(pid) {OURS}")
    with pytest.raises(SourceError, match=BROKEN_OFF):
        for _ in reader:
            pass


def test_training_data_is_never_made_of_a_part(tmp_path: Path) -> None:
    """The store that the reader is put into fails with the source's own error."""
    with own_server() as dying:
        reader = source(f"{dying.url()}?query={ENDLESS}", tmp_path).read()
        store = wiring.offline_store(Settings(home=tmp_path, threads=2, memory_limit="500MB"))

        def told(batches: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
            for number, batch in enumerate(batches):
                if number == 2:
                    dying.process.kill()
                yield batch

        with pytest.raises(SourceError, match=BROKEN_OFF):
            store.put(pa.RecordBatchReader.from_batches(reader.schema, told(reader)))
        store.close()


# --- a look at it ----------------------------------------------------------------------------------------------------


def test_a_large_table_is_profiled_by_a_random_sample(postgres_url: str, tmp_path: Path) -> None:
    count = 500_000
    execute(
        postgres_url,
        "CREATE TABLE tx AS SELECT g AS id, timestamp '2024-01-01' + g * interval '20 s' AS time, "
        "g::bigint * 7919 % 50000 AS customer_id, (g % 5000) / 100.0 AS amount, g % 4 AS kind, "
        f"g % 100 = 0 AS is_fraud FROM generate_series(1, {count}) AS g",
    )
    current = Settings(home=tmp_path, threads=2)
    found = wiring.profile(current, f"{postgres_url}/tx")
    assert found.rows == count
    assert 190_000 < found.sampled < 210_000
    assert found["customer_id"].all_distinct == pytest.approx(50_000, rel=0.05)
    assert found["id"].all_distinct == pytest.approx(count, rel=0.01)
    assert found["kind"].all_distinct == 4
    assert found["id"].rising == 1
    assert PASSWORD not in str(found.sources)

    def purity() -> dict[str, float]:
        from fraudml.events.schema import LabelColumn

        return wiring.label_purity(current, f"{postgres_url}/tx", LabelColumn("is_fraud"), ["kind", "amount"])

    assert purity()["kind"] < 0.1


def test_nothing_to_look_at_is_an_error(postgres_url: str, tmp_path: Path) -> None:
    execute(postgres_url, "CREATE TABLE tx (id int)")
    with pytest.raises(DataError, match="tx has no rows"):
        wiring.profile(Settings(home=tmp_path), f"{postgres_url}/tx")


def test_files_and_databases_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name files or URLs of databases, not both"):
        wiring.source(Settings(home=tmp_path), SCHEMA, ["a.csv", "duckdb:///a.db?table=t"], tmp_path / "r.csv")
