"""History in a database, as a user types it: the same commands, and a password that is nowhere afterwards."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
import yaml

from tests.support.commands import refused, well
from tests.support.histories import Postgres
from tests.support.servers.postgres import PASSWORD

ROWS = 8_000


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    well(
        "simulate", "transactions.parquet", "--rows", str(ROWS), "--customers", "60", "--fraud-rate", "0.05", cwd=folder
    )
    return folder / "transactions.parquet"


@pytest.fixture
def table_url(simulated: Path, postgres_url: str) -> str:
    return Postgres(postgres_url).put(pq.read_table(simulated), "transactions")


def everything_in(folder: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


def test_from_a_table_to_scores(
    table_url: str, simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = table_url.replace(f":{PASSWORD}", "")
    from_table = well("init", table_url, "--json", cwd=tmp_path)
    assert any("the password is not written to fraudml.yaml" in said for said in from_table.json["warnings"])
    project = yaml.safe_load((tmp_path / "fraudml.yaml").read_text())
    assert project["source"] == public

    other = tmp_path / "file"
    other.mkdir()
    from_file = well("init", str(simulated), "--json", cwd=other).json
    assert {name: from_table.json[name] for name in ("rows", "entities", "features")} == {
        name: from_file[name] for name in ("rows", "entities", "features")
    }

    assert "PGPASSWORD" in refused("train", "--family", "logistic_regression", cwd=tmp_path)
    monkeypatch.setenv("FRAUDML_SOURCE_PASSWORD", PASSWORD)
    trained = well("train", "--family", "logistic_regression", cwd=tmp_path)
    database = public.rpartition("/")[0]
    query = "SELECT * FROM transactions WHERE amount > 0 ORDER BY random()"
    scored = well("score", database, "--query", query, "-o", "scores.parquet", cwd=tmp_path)
    well("score", str(simulated), "-o", "others.parquet", cwd=tmp_path)
    # the same transactions in another order, and from the file: the same scores
    assert pq.read_table(tmp_path / "scores.parquet").equals(pq.read_table(tmp_path / "others.parquet"))

    for done in (from_table, trained, scored):
        assert PASSWORD not in done.out + done.err
    assert PASSWORD not in everything_in(tmp_path)


def test_a_password_in_the_url_is_told_to_a_person_too(table_url: str, tmp_path: Path) -> None:
    done = well("init", table_url, cwd=tmp_path)
    assert "Note: the password is not written to fraudml.yaml: set FRAUDML_SOURCE_PASSWORD" in " ".join(
        done.err.split()
    )
    assert PASSWORD not in done.out + done.err + everything_in(tmp_path)


def test_a_query_becomes_a_part_of_the_project(simulated: Path, tmp_path: Path) -> None:
    with duckdb.connect(tmp_path / "shop.db") as connection:
        connection.execute(f"CREATE TABLE t AS SELECT * FROM '{simulated}'")  # noqa: S608 - a file of our own
    query = "SELECT * FROM t WHERE amount < 1e9 -- '100 %'"
    well("init", "duckdb:///shop.db", "--query", query, cwd=tmp_path)
    assert yaml.safe_load((tmp_path / "fraudml.yaml").read_text())["source"] == f"duckdb:///shop.db?query={query}"
    done = well("train", "--family", "logistic_regression", "--json", cwd=tmp_path)
    assert done.json["candidates"][0]["metrics"]["rows"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("init", "--query", "SELECT 1", "a.csv"), "a query needs the URL of a database"),
        (("init", "--query", "SELECT 1", "duckdb:///a.db", "duckdb:///b.db"), "--query goes with the URL of one"),
        (("init", "--query", "SELECT 1", "duckdb:///a.db?table=t"), "needs one table or one query"),
        (("init", "mysql://me:hunter2@h/db/t"), "nothing is read from mysql://"),
        (("init", "duckdb:///a.db?table=t"), "there is no file a.db"),
        (("init", "postgresql://me:hun/ter2@h/db/t"), "the postgresql:// URL cannot be read: /, ?, # and @ in"),
        (("init", "postgresql://127.0.0.1:1/db/t?connect_timeout=2"), "127.0.0.1:1/db: Connection refused"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    said = refused(*arguments, cwd=tmp_path)
    assert message in said
    assert "hun" not in said
