"""What BigQuery is asked, and what becomes of its failures; the suite of all sources holds what is read.

By an emulator that the real client speaks to: nothing here shows that BigQuery itself takes the statements.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from google.cloud.bigquery import SchemaField

from fraudml import wiring
from fraudml.adapters.source.bigquery import _kind, _selected
from fraudml.errors import ConfigError, DataError, SourceError
from fraudml.events.schema import AmountColumn, Schema, TimeColumn
from fraudml.settings import Settings
from tests.support.histories import BigQuery
from tests.support.servers.bigquery import BigQueryServer

SCHEMA = Schema(TimeColumn("time"), "id", amount=AmountColumn("amount"))


def ids(url: str, folder: Path) -> list[str]:
    found = wiring.source(Settings(home=folder, threads=1), SCHEMA, [url], folder / "rejects.csv")
    return list(found.read().read_all()["transaction_id"].to_pylist())


@pytest.fixture
def payments(bigquery_server: BigQueryServer) -> str:
    times = pa.array([datetime(2024, 5, 1, tzinfo=UTC)] * 3)
    table = pa.table({"id": [3, 1, 2], "time": times, "amount": [1.5, 2.5, 3.5], "unused": ["x"] * 3})
    return BigQuery(bigquery_server.url).put(table, "payments")


def test_only_the_columns_that_are_used_are_asked_for(
    bigquery_server: BigQueryServer, payments: str, tmp_path: Path
) -> None:
    assert ids(payments, tmp_path) == ["3", "1", "2"]
    assert bigquery_server.statements[-2:] == [
        "SELECT * FROM `acme-risk.fraud.payments`",  # looked at, not run
        "SELECT `id`, `time`, `amount` FROM `acme-risk.fraud.payments`",
    ]


def test_a_query(bigquery_server: BigQueryServer, payments: str, tmp_path: Path) -> None:
    place, _, words = payments.replace("/payments", "").partition("?")
    sql = "SELECT * FROM `acme-risk`.fraud.payments WHERE id > 1 ORDER BY id -- some"
    assert ids(f"{place}?{words}&query={sql}", tmp_path) == ["2", "3"]


def test_a_profile_reads_a_random_share(bigquery_server: BigQueryServer, tmp_path: Path) -> None:
    count = 300_000
    table = pa.table({"id": range(count), "time": pa.array([datetime(2024, 5, 1, tzinfo=UTC)] * count)})
    found = wiring.profile(Settings(home=tmp_path), BigQuery(bigquery_server.url).put(table, "large"))
    assert found.rows == count
    assert 190_000 < found.sampled < 210_000
    assert bigquery_server.statements[-1].endswith("WHERE RAND() < 0.6666666666666666")


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [(403, "accessDenied", SourceError), (400, "invalidQuery", DataError), (404, "notFound", DataError)],
)
def test_what_is_refused_is_told(
    bigquery_server: BigQueryServer, payments: str, tmp_path: Path, status: int, reason: str, error: type[Exception]
) -> None:
    bigquery_server.refuse = ("`id`", (status, reason, "it may not be"))
    with pytest.raises(error, match="it may not be") as caught:
        ids(payments, tmp_path)
    assert "\n" not in str(caught.value)
    assert "bigquery://acme-risk/fraud/payments" in str(caught.value)


def test_credentials_and_parameters_that_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", f"{tmp_path}/none.json")
    with pytest.raises(SourceError, match=r"no credentials: .*none\.json"):
        ids("bigquery://p/d/t", tmp_path)
    with pytest.raises(ConfigError, match="the source is no URL of BigQuery"):
        ids("bigquery://p/d/t?wrong=1", tmp_path)


@pytest.mark.parametrize(
    ("field", "kind", "selected"),
    [
        (SchemaField("c", "NUMERIC"), "DECIMAL(38,9)", "`c`"),
        (SchemaField("c", "NUMERIC", precision=12, scale=2), "DECIMAL(12,2)", "`c`"),
        (SchemaField("c", "NUMERIC", precision=12), "DECIMAL(12,0)", "`c`"),
        (SchemaField("c", "BIGNUMERIC"), "VARCHAR", "CAST(`c` AS STRING) AS `c`"),
        (SchemaField("c", "GEOGRAPHY"), "VARCHAR", "TO_JSON_STRING(`c`) AS `c`"),
        (SchemaField("c", "DATETIME"), "TIMESTAMP", "`c`"),
        (SchemaField("c", "TIMESTAMP"), "TIMESTAMP WITH TIME ZONE", "`c`"),
        (SchemaField("c", "STRING", mode="REPEATED"), "LIST", "`c`"),
        (SchemaField("c", "RECORD"), "LIST", "`c`"),
    ],
)
def test_types(field: SchemaField, kind: str, selected: str) -> None:
    assert _kind(field).kind == kind
    assert _selected(field) == selected
