"""What every ``TransactionSource`` promises, whatever history is read from.

PostgreSQL and the files are real. Snowflake and BigQuery are emulators that the real clients speak to.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import fraudml.adapters.source
from fraudml import wiring
from fraudml.errors import DataError, SourceError, TooManyRejects
from fraudml.events.cards import CardHasher
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, LabelColumn, Schema, TimeColumn
from fraudml.events.source import Rejects, TransactionSource, arrow_schema
from fraudml.settings import Settings
from tests.support.histories import KINDS, History, open_history

# What the suite runs over, by module; `database` is the source whose relations the others are.
ADAPTERS = {
    "files": ("csv", "parquet"),
    "duckdb": ("duckdb",),
    "postgres": ("postgres",),
    "snowflake": ("snowflake",),
    "bigquery": ("bigquery",),
}
PARTS = {"batches", "database", "duplicates", "profile", "reading", "rejects", "relation", "rules", "tables", "zones"}

KEY = "key"
CARD = "4111111111111111"
DAY_US = 86_400_000_000
SCHEMA = Schema(
    TimeColumn("time"),
    "id",
    {"customer": "cust"},
    AmountColumn("amount"),
    {
        "country": Attribute(AttributeType.category, vocabulary=("DE", "FR")),
        "risk": Attribute(AttributeType.number),
        "items": Attribute(AttributeType.integer),
        "new": Attribute(AttributeType.boolean),
        "born": Attribute(AttributeType.time, timezone="Europe/Berlin"),
    },
    LabelColumn("fraud", known_at=TimeColumn("reported", timezone="UTC")),
)
FIELDS = pa.schema(
    [
        ("id", pa.int64()),
        ("time", pa.timestamp("us", "UTC")),
        ("cust", pa.string()),
        ("amount", pa.decimal128(12, 2)),
        ("country", pa.string()),
        ("risk", pa.float64()),
        ("items", pa.int64()),
        ("new", pa.bool_()),
        ("born", pa.date32()),
        ("fraud", pa.bool_()),
        ("reported", pa.string()),
        ("note", pa.string()),  # nothing reads it
    ]
)
NOON = datetime(2024, 5, 1, 12, 30, 0, 123456, tzinfo=UTC)
NOON_US = 1_714_566_600_123_456


@pytest.fixture(params=KINDS)
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[History]:
    yield from open_history(request.param, tmp_path, request)


def row(number: int, **values: Any) -> dict[str, Any]:
    """A genuine transaction of customer c, unless told otherwise."""
    usual = {
        "id": number,
        "time": NOON.replace(second=number % 60),
        "cust": "c",
        "amount": Decimal("12.34"),
        "country": "DE",
        "risk": 0.5,
        "items": 3,
        "new": True,
        "born": datetime(1980, 7, 1).date(),  # noqa: DTZ001 - a date
        "fraud": False,
        "reported": None,
        "note": "x",
    }
    return usual | values


def table(rows: Sequence[dict[str, Any]], without: Sequence[str] = ()) -> pa.Table:
    return pa.Table.from_pylist(list(rows), FIELDS).drop_columns(list(without))


def source(names: str | Sequence[str], tmp_path: Path, schema: Schema = SCHEMA, **settings: Any) -> TransactionSource:
    settings.setdefault("max_reject_share", 1.0)
    current = Settings(home=tmp_path, hash_key=KEY, threads=2, memory_limit="500MB", **settings)
    return wiring.source(
        current, schema, [names] if isinstance(names, str) else names, tmp_path / "out" / "rejects.csv"
    )


def rejected(rejects: Rejects) -> list[tuple[int, str, dict[str, str]]]:
    assert rejects.path is not None
    with rejects.path.open(encoding="utf-8", newline="") as file:
        return [(int(row["line"]), row["reason"], json.loads(row["row"])) for row in csv.DictReader(file)]


def ids(found: TransactionSource) -> list[str]:
    return list(found.read().read_all()["transaction_id"].to_pylist())


def test_the_suite_knows_every_adapter() -> None:
    modules = {path.stem for path in Path(fraudml.adapters.source.__path__[0]).glob("[!_]*.py")}
    assert modules - PARTS == set(ADAPTERS)
    assert {kind for kinds in ADAPTERS.values() for kind in kinds} == set(KINDS)


def test_values_keep_their_meaning(history: History, tmp_path: Path) -> None:
    """Of every type: exact amounts, times in UTC with microseconds, local dates in their zone."""
    name = history.put(table([row(1, time=NOON, amount=Decimal("1234567890.12"), fraud=True, cust=" c ")]))
    read = source(name, tmp_path).read().read_all()
    assert read.schema == arrow_schema(SCHEMA)
    assert read.to_pylist() == [
        {
            "transaction_id": "1",
            "event_time_us": NOON_US,
            "customer": "c",
            "amount_minor": 123_456_789_012,
            "country": "DE",
            "risk": 0.5,
            "items": 3,
            "new": 1,
            "born": 331_250_400_000_000,  # midnight in Berlin, which had summer time
            "is_fraud": True,
            "known_at_us": NOON_US + 7 * DAY_US,
        }
    ]


def test_what_is_missing_is_missing(history: History, tmp_path: Path) -> None:
    empty = dict.fromkeys(("cust", "country", "risk", "items", "new", "born", "fraud"))
    read = source(history.put(table([row(1, **empty)])), tmp_path).read().read_all().to_pylist()[0]
    wanted = {name: read[name] for name in ("customer", "country", "risk", "items", "new", "born")}
    assert wanted == dict.fromkeys(wanted)
    assert (read["is_fraud"], read["known_at_us"]) == (None, None)


def test_broken_rows_are_in_the_rejects_file_with_number_and_reason(history: History, tmp_path: Path) -> None:
    rows = [
        row(1),
        row(2, amount=Decimal("-1.00")),
        row(3, time=datetime(1960, 1, 1, tzinfo=UTC)),
        row(1, cust="again"),
        row(4, amount=None, cust=CARD),
        row(5, reported="soon"),
        row(6),
    ]
    found = source(history.put(table(rows)), tmp_path)
    assert ids(found) == ["1", "6"]
    summary = found.rejects()
    first_row = 2 if "csv" in str(type(history)).lower() else 1  # a CSV has a header; lines are counted there
    refused = rejected(summary)
    assert [(line - first_row, reason) for line, reason, _ in refused] == [
        (1, "amount: expected an amount that is not negative"),
        (2, "time: expected a time between the years 1970 and 2199"),
        (3, "duplicate id"),
        (4, "amount: missing"),
        (5, "reported: expected an ISO 8601 time such as 2024-05-01T12:30:00Z"),
    ]
    assert (summary.rows, summary.count) == (7, 5)
    assert summary.reasons["duplicate id"] == 1
    content = [row for _, _, row in refused]
    assert (content[0]["id"], Decimal(content[0]["amount"]), content[2]["cust"]) == ("2", Decimal(-1), "again")
    assert "note" not in content[0]
    assert content[3]["cust"] == CardHasher(KEY.encode())(CARD)
    assert summary.path is not None
    assert CARD not in summary.path.read_text()
    assert summary.path.stat().st_mode & 0o077 == 0


def test_card_numbers_become_hashes(history: History, tmp_path: Path) -> None:
    rows = [row(int(CARD)), row(2, cust=CARD), row(3, cust="4111-1111-1111-1111", country=CARD)]
    read = source(history.put(table(rows)), tmp_path).read().read_all()
    token = CardHasher(KEY.encode())(CARD)
    assert read["transaction_id"].to_pylist() == [token, "2", "3"]
    assert read["customer"].to_pylist() == ["c", token, token]
    assert read["country"].to_pylist() == ["DE", "DE", token]


def test_labels_are_known_when_reported_or_after_the_delay_and_never_before_the_event(
    history: History, tmp_path: Path
) -> None:
    rows = [
        row(1, time=NOON, fraud=True, reported="2024-05-03"),
        row(2, time=NOON, fraud=False),
        row(3, time=NOON, fraud=True, reported="2024-05-01"),
        row(4, time=NOON, fraud=None, reported="2024-05-03"),
    ]
    read = source(history.put(table(rows)), tmp_path).read().read_all()
    midnight_us = NOON_US - NOON_US % DAY_US
    assert read["known_at_us"].to_pylist() == [midnight_us + 2 * DAY_US, NOON_US + 7 * DAY_US, NOON_US, None]


def test_a_time_without_a_zone_has_the_zone_of_the_schema(history: History, tmp_path: Path) -> None:
    schema = Schema(TimeColumn("time", timezone="Europe/Berlin"), "id")
    local = pa.table(
        {
            "id": pa.array([1, 2]),
            "time": pa.array([datetime(2024, 5, 1, 14, 30), datetime(2024, 1, 1, 1, 0)], pa.timestamp("us")),  # noqa: DTZ001
        }
    )
    name = history.put(local)
    assert source(name, tmp_path, schema).read().read_all()["event_time_us"].to_pylist() == [
        1_714_566_600_000_000,
        1_704_067_200_000_000,
    ]
    found = source(name, tmp_path, Schema(TimeColumn("time"), "id"))
    assert ids(found) == []
    (reason, count), *others = found.rejects().reasons.items()
    assert (reason.startswith("time: expected a time with its zone"), count, others) == (True, 2, [])


def test_the_order_is_kept_and_rows_are_numbered_without_an_id(history: History, tmp_path: Path) -> None:
    count = 30
    schema = Schema(TimeColumn("time"), entities={"customer": "cust"}, amount=AmountColumn("amount"))
    rows = [row(number, cust=f"c{number}", amount=None if number == 3 else 1) for number in range(count)]
    read = source(history.put(table(rows)), tmp_path, schema).read().read_all()
    expected = [number for number in range(count) if number != 3]
    assert read["customer"].to_pylist() == [f"c{number}" for number in expected]
    names = read["transaction_id"].to_pylist()
    assert [name.rpartition(":")[2] for name in names] == [str(number + 1) for number in expected]
    assert {name.rpartition(":")[0].lower() for name in names} == {"history"}


def test_several_share_their_ids_and_the_limit(history: History, tmp_path: Path) -> None:
    first = history.put(table([row(1), row(2)]), "ONE")
    second = history.put(table([row(2), row(3)]), "TWO")
    found = source([first, second], tmp_path)
    assert ids(found) == ["1", "2", "3"]
    assert found.rejects().reasons == {"duplicate id": 1}
    with pytest.raises(TooManyRejects, match=r"and 1 more: 1 of 4 rows are broken"):
        ids(source([first, second], tmp_path, max_reject_share=0.1))


def test_too_many_rejects_are_an_error_at_the_end_and_ever_after(history: History, tmp_path: Path) -> None:
    name = history.put(table([row(1), row(1), row(1)]))
    found = source(name, tmp_path, max_reject_share=0.5)
    with pytest.raises(TooManyRejects, match=r"2 of 3 rows.*duplicate id \(2\).*FRAUDML_MAX_REJECT_SHARE"):
        found.read().read_all()
    with pytest.raises(TooManyRejects):
        found.rejects()
    assert ids(source(name, tmp_path, max_reject_share=0.7)) == ["1"]


def test_missing_columns_are_named_with_their_neighbours(history: History, tmp_path: Path) -> None:
    name = history.put(table([row(1)]).rename_columns(["Time" if n == "time" else n for n in FIELDS.names]), "HISTORY")
    with pytest.raises(DataError, match=r"(?i)history.* lacks the columns? 'time' \(did you mean 'Time'\?\)"):
        source(name, tmp_path).read()


def test_history_without_the_label_is_unlabelled(history: History, tmp_path: Path) -> None:
    read = source(history.put(table([row(1)], without=["fraud", "reported"])), tmp_path).read().read_all()
    assert read.schema == arrow_schema(SCHEMA)
    assert read["is_fraud"].to_pylist() == read["known_at_us"].to_pylist() == [None]


def test_no_rows_are_no_rows(history: History, tmp_path: Path) -> None:
    found = source(history.put(table([])), tmp_path)
    assert found.read().read_all().schema == arrow_schema(SCHEMA)
    assert found.rejects() == Rejects(0, 0, {}, None)


def test_what_is_not_there_is_an_error_that_names_it(history: History, tmp_path: Path) -> None:
    name = history.put(table([row(1)]), "HISTORY")
    other = name.replace("HISTORY", "HISTORIES")
    with pytest.raises((DataError, SourceError), match="HISTORIES"):
        source(other, tmp_path).read().read_all()


def test_it_can_be_read_again_and_left_in_the_middle(history: History, tmp_path: Path) -> None:
    found = source(history.put(table([row(1), row(2)])), tmp_path)
    assert found.rejects() == Rejects(0, 0, {}, None)
    left = found.read()
    left.read_next_batch()
    del left
    assert ids(found) == ids(found) == ["1", "2"]
    assert found.rejects().rows == 2


def test_progress_is_told(history: History, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    found = source(history.put(table([row(1), row(2)])), tmp_path)
    found.read(lambda done, total: told.append((done, total))).read_all()
    done, total = told[-1]
    assert done == 2
    assert total is None or total >= done  # of a CSV it is an estimate
