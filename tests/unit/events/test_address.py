"""URLs of tables and queries: what they name, and that nothing of a password is ever repeated."""

from __future__ import annotations

from typing import Any

import pytest

from fraudml.errors import ConfigError
from fraudml.events import address
from fraudml.events.address import parse

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://h/db/t", {"hosts": (("h", ""),), "places": ("db",), "table": ("t",), "stem": "t"}),
        ("postgres://me@h:5433/db/s.t", {"scheme": "postgresql", "user": "me", "hosts": (("h", "5433"),)}),
        ("postgresql://h/db?table=s.t", {"places": ("db",), "table": ("s", "t"), "parameters": {}}),
        ("postgresql://h1:1,h2:2/db/t", {"hosts": (("h1", "1"), ("h2", "2"))}),
        ("postgresql://[::1]:5432/db/t", {"hosts": (("::1", "5432"),)}),
        ("postgresql:///db/t?host=%2Frun%2Fpg", {"hosts": (), "parameters": {"host": "/run/pg"}}),
        ("postgresql://h/db/a%2Fb%25", {"table": ("a/b%",)}),
        ("postgresql://u%40x:p%2F%3F%23%40@h/db/t", {"user": "u@x", "password": "p/?#@"}),
        ("postgresql://h/db?query=SELECT 1", {"query": "SELECT 1", "table": (), "stem": "query"}),
        (
            "postgresql://h/db?sslmode=require&query=SELECT * FROM t WHERE a = '&?#@'",
            {"query": "SELECT * FROM t WHERE a = '&?#@'"},
        ),
        ("postgresql://h/db?query=SELECT%20'a%2Bb'%20%3B", {"query": "SELECT 'a+b'"}),
        ("postgresql://h/db?query=SELECT 1 WHERE 'x' LIKE '%25%'", {"query": "SELECT 1 WHERE 'x' LIKE '%25%'"}),
        ("duckdb:///data/file.db?table=t", {"places": ("data/file.db",), "table": ("t",), "hosts": ()}),
        ("duckdb:////data/my%20file.db?table=s.t", {"places": ("/data/my file.db",), "table": ("s", "t")}),
        ("duckdb:///file.db?query=SELECT 1", {"places": ("file.db",), "query": "SELECT 1"}),
        (
            "snowflake://me@acct/DB/PUBLIC/TX?warehouse=w",
            {"places": ("DB", "PUBLIC"), "parameters": {"warehouse": "w"}},
        ),
        ("snowflake://me@acct/DB/S?query=SELECT 1", {"places": ("DB", "S"), "query": "SELECT 1"}),
        (
            "bigquery://project/dataset/table",
            {"hosts": (("project", ""),), "places": ("dataset",), "table": ("table",)},
        ),
        ("bigquery://project/data?query=SELECT 1", {"places": ("data",), "query": "SELECT 1"}),
    ],
)
def test_what_a_url_names(url: str, expected: dict[str, Any]) -> None:
    found = parse(url)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "mysql://h/db/t",
            r"nothing is read from mysql://; history comes from CSV and Parquet files or from postgresql",
        ),
        ("s3://bucket/a.parquet", "nothing is read from s3://"),
        ("postgresql://h/db", "needs one table or one query"),
        ("postgresql://h", "needs one table or one query"),
        ("postgresql://h?table=t", "path of postgresql:// is too short: write postgresql://user@host"),
        ("snowflake://a/DB?table=t", "too short"),
        ("postgresql://h/db/t?query=SELECT 1", "too long"),
        ("postgresql://h/db/t?table=t", "too long"),
        ("postgresql://h/db/s/t", "too long"),
        ("postgresql://h:port/db/t", "a port is a number"),
        ("postgresql://h/db/t?sslmode", "name=value"),
        ("postgresql://h/db/t%zz", "a % is written as %25"),
        ("postgresql://h/db/t%ff", "no UTF-8"),
        ("duckdb://file.db?table=t", "three slashes"),
        ("duckdb:///file.db", "needs one table or one query"),
        ("snowflake://a/DB/PUBLIC", "needs one table or one query"),
        ("bigquery://p/d", "needs one table or one query"),
    ],
)
def test_what_names_nothing_is_refused_in_words(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(url)


@pytest.mark.parametrize(
    "secret",
    [
        "hunter2",
        "hunt%40er2",
        "hunter2@x",
        "hunter2/x",
        "12/hunter2",
        "hunter2?x",
        "12?hunter2",
        "hunter2#x",
        "12#hunter2",
        "hunter2%zz",
        "%ffhunter2",
        "hunter2:9",
        "hunter2=1",
        "hunter2&x",
    ],
)
def test_no_part_of_a_password_is_repeated(secret: str) -> None:
    """However badly it is written: where it ends cannot be told then."""
    for url in (f"postgresql://me:{secret}@h:5432/db/t", f"postgresql://h/db/t?password={secret}"):
        try:
            found = parse(url)
        except ConfigError as error:
            said = f"{error} {error.__cause__}"
        else:
            said = f"{found} {found!r} {found.public} {[found]}"
            assert found.has_secret
        assert "hunt" not in said


def test_what_may_be_written_down_is_all_but_the_secrets() -> None:
    url = f"snowflake://me:{SECRET}@a/DB/S/T?role=r&private_key_file_pwd={SECRET}&token={SECRET}&warehouse=w"
    assert address.public(url) == "snowflake://me@a/DB/S/T?role=r&warehouse=w"
    kept = "postgresql://me@h:5432/db?passfile=x&query=SELECT password FROM t WHERE a > 'x&y'"
    assert parse(kept).public == kept
    assert not parse(kept).has_secret
    assert address.public("data/*.csv") == "data/*.csv"


def test_messages_cut_a_long_query_short() -> None:
    found = parse("postgresql://h/db?sslmode=require&query=SELECT a,\n  b FROM " + "x" * 100)
    assert str(found) == "postgresql://h/db?query=SELECT a, b FROM " + "x" * 43 + "..."


def test_the_server_alone_is_for_its_driver() -> None:
    found = parse("postgresql://u%40x:p%2F@h1:1,[::1]:2/d%20b/s.t?sslmode=require&application_name=a%26b")
    assert found.server() == "postgresql://u%40x:p%2F@h1:1,[::1]:2/d%20b?sslmode=require&application_name=a%26b"
    assert parse("postgresql://u@h/d/t").server("p@") == "postgresql://u:p%40@h/d"
    assert parse("postgresql://u@h/d/t?password=q").server("p") == "postgresql://u@h/d?password=q"


def test_a_query_needs_a_database() -> None:
    assert (
        address.with_query("postgresql://h/db?sslmode=require", "SELECT 1")
        == "postgresql://h/db?sslmode=require&query=SELECT 1"
    )
    with pytest.raises(ConfigError, match="needs the URL of a database"):
        address.with_query("a.csv", "SELECT 1")
