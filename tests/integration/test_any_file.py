"""`init`'s guessing on miniatures of well-known files, up to transactions read with the schema guessed."""

from __future__ import annotations

import csv
import os
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fraudml import project
from fraudml.adapters.source.files import FileSource
from fraudml.adapters.source.profile import label_purity, profile
from fraudml.errors import DataError
from fraudml.events.cards import CardHasher
from fraudml.events.schema import AttributeType, Schema, TimeFormat
from fraudml.features.spec import Feature
from fraudml.inference.features import default_features
from fraudml.inference.guess import Guess, guess
from fraudml.inference.text import write_yaml
from tests.support import lookalikes

ROWS = 2_400
START = datetime(2019, 1, 1, tzinfo=UTC)
Rows = list[dict[str, Any]]
HANDBOOK = Path(os.environ.get("FRAUDML_HANDBOOK", "../shared/data/handbook/transactions.parquet"))


def write(path: Path, rows: Rows) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def init(path: Path) -> tuple[Guess, list[Feature], pa.Table]:
    """Profile, guess, write, read back, and read the file with the result."""
    facts = profile(path)
    found = guess(facts)
    if found.schema.label is not None:
        columns = [found.schema.attribute_column(name) for name in found.schema.attributes]
        found = found.without_leaks(label_purity(path, found.schema.label.column, columns))
    features = default_features(found.schema, facts)
    text = write_yaml(found, features, facts, "costs: {}")
    declared = project.parse(text)
    assert declared.schema == found.schema
    assert declared.feature_set.features == tuple(features)
    assert set(found.reasons) >= {column.name for column in facts.columns}
    source = FileSource(path, declared.schema, CardHasher(b"key"), rejects_path=path.with_suffix(".rejects"))
    table = source.read().read_all()
    assert source.rejects().count == 0
    assert table.num_rows == facts.rows
    return found, features, table


def moments(days: int) -> list[datetime]:
    rng = random.Random(7)
    return sorted(START + timedelta(seconds=rng.randrange(days * 86_400)) for _ in range(ROWS))


def fraud(rng: random.Random) -> int:
    return int(rng.random() < 0.03)


def handbook(rng: random.Random) -> Rows:
    rows = []
    for number, time in enumerate(moments(180)):
        is_fraud = fraud(rng)
        rows.append(
            {
                "TRANSACTION_ID": number,
                "TX_DATETIME": time.strftime("%Y-%m-%d %H:%M:%S"),
                "CUSTOMER_ID": rng.randrange(200),
                "TERMINAL_ID": rng.randrange(300),
                "TX_AMOUNT": round(rng.lognormvariate(3, 1), 2),
                "TX_TIME_SECONDS": int((time - START).total_seconds()),
                "TX_TIME_DAYS": (time - START).days,
                "TX_FRAUD": is_fraud,
                "TX_FRAUD_SCENARIO": is_fraud * rng.randint(1, 3),
            }
        )
    return rows


@pytest.fixture
def found(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Guess, list[Feature], pa.Table]:
    return init(lookalikes.make(request.param, tmp_path / "file.csv", ROWS))


def names(features: Sequence[Feature], *, inputs: bool = True) -> set[str]:
    return {feature.name for feature in features if feature.input is inputs}


def test_handbook(tmp_path: Path) -> None:
    result, features, _ = init(write(tmp_path / "file.csv", handbook(random.Random(3))))
    check_handbook(result.schema, features)


def check_handbook(schema: Schema, features: Sequence[Feature]) -> None:
    assert schema.transaction_id == "TRANSACTION_ID"
    assert (schema.event_time.column, schema.event_time.timezone) == ("TX_DATETIME", "UTC")
    assert schema.entities == {"customer": "CUSTOMER_ID", "terminal": "TERMINAL_ID"}
    assert schema.amount is not None
    assert (schema.amount.column, schema.amount.decimals) == ("TX_AMOUNT", 2)
    assert schema.label is not None
    assert (schema.label.column, schema.label.delay) == ("TX_FRAUD", "7d")
    assert schema.ignore == ("TX_TIME_SECONDS", "TX_TIME_DAYS", "TX_FRAUD_SCENARIO")
    assert not schema.attributes
    assert names(features) >= {"customer_amount_z_7d", "terminal_fraud_rate_30d", "customer_amount_of_max_30d"}


@pytest.mark.handbook
@pytest.mark.skipif(not HANDBOOK.exists(), reason="handbook data not present (set FRAUDML_HANDBOOK)")
def test_the_real_handbook() -> None:
    facts = profile(HANDBOOK)
    schema = guess(facts).schema
    check_handbook(schema, default_features(schema, facts))


@pytest.mark.parametrize("found", ["card_components"], indirect=True)
def test_anonymous_components(found: tuple[Guess, list[Feature], pa.Table]) -> None:
    result, features, table = found
    schema = result.schema
    assert schema.event_time.format is TimeFormat.seconds_from
    assert (schema.transaction_id, schema.entities) == (None, {})
    assert schema.label is not None
    assert (schema.label.column, schema.label.delay) == ("Class", "4h")
    assert set(schema.attributes) == {f"V{i}" for i in range(1, 29)}
    assert any("transaction alone" in warning for warning in result.warnings)
    assert names(features) >= {"v1", "amount", "hour_of_day"}
    assert table["transaction_id"][0].as_py() == "file:1"


@pytest.mark.parametrize("found", ["e_commerce"], indirect=True)
def test_many_sparse_columns(found: tuple[Guess, list[Feature], pa.Table]) -> None:
    schema = found[0].schema
    assert schema.transaction_id == "TransactionID"
    assert (schema.event_time.column, schema.event_time.format) == ("TransactionDT", TimeFormat.seconds_from)
    assert schema.entities["card"] == "card1"
    assert schema.amount is not None
    assert schema.amount.decimals == 3
    assert schema.label is not None
    assert schema.label.column == "isFraud"
    types = {name: attribute.type for name, attribute in schema.attributes.items()}
    assert types["ProductCD"] is AttributeType.category
    assert types["P_emaildomain"] is AttributeType.category
    assert types["M1"] is AttributeType.boolean
    assert types["M4"] is AttributeType.category
    assert all(types[f"V{i}"] is AttributeType.number for i in range(1, 72))
    assert all(types[f"D{i}"] is AttributeType.number for i in range(1, 16))


@pytest.mark.parametrize("found", ["named_people"], indirect=True)
def test_people_places_and_cards(found: tuple[Guess, list[Feature], pa.Table]) -> None:
    result, features, table = found
    schema = result.schema
    assert schema.transaction_id == "trans_num"
    assert schema.event_time.column == "trans_date_trans_time"
    assert schema.entities == {"card": "cc_num", "merchant": "merchant"}
    assert {"column0", "first", "last", "street", "unix_time"} == set(schema.ignore)
    assert schema.attributes["dob"].type is AttributeType.time
    assert schema.attributes["zip"].type is AttributeType.category
    assert schema.attributes["job"].vocabulary
    assert names(features) >= {"km_from_home", "km_from_previous", "km_per_hour_from_previous", "dob_days"}
    assert names(features, inputs=False) >= {"lat", "merch_long", "card_last_merch_lat"}
    cards = table["card"].to_pylist()
    assert "4111111111111111" not in cards
    assert sum(card.startswith("card:") for card in cards) >= ROWS // 120


@pytest.mark.parametrize("found", ["mobile_money"], indirect=True)
def test_steps_of_hours(found: tuple[Guess, list[Feature], pa.Table]) -> None:
    schema = found[0].schema
    assert (schema.event_time.column, schema.event_time.format) == ("step", TimeFormat.hours_from)
    assert schema.entities == {"recipient": "nameDest"}
    assert set(schema.ignore) == {"nameOrig", "isFlaggedFraud"}
    assert schema.label is not None
    assert (schema.label.column, schema.label.delay) == ("isFraud", "2d")
    assert schema.attributes["type"].type is AttributeType.category


@pytest.mark.parametrize("found", ["bank_accounts"], indirect=True)
def test_applications_by_month(found: tuple[Guess, list[Feature], pa.Table]) -> None:
    schema = found[0].schema
    assert (schema.event_time.column, schema.event_time.format) == ("month", TimeFormat.days_from)
    assert schema.entities == {}
    assert schema.amount is None
    assert schema.ignore == ("source",)
    assert schema.label is not None
    assert schema.label.column == "fraud_bool"


@pytest.mark.parametrize("found", ["semicolons"], indirect=True)
def test_semicolons_and_words(found: tuple[Guess, list[Feature], pa.Table]) -> None:
    result, features, table = found
    schema = result.schema
    assert schema.transaction_id == "Order No"
    assert schema.entities == {"customer": "Client", "device": "Device ID"}
    assert schema.event_time.timezone is None
    assert schema.label is not None
    assert schema.label.known_at is not None
    assert schema.label.known_at.column == "chargeback_date"
    assert names(features) >= {"device_customers_7d", "customer_devices_7d"}
    frauds = sum(table["is_fraud"].to_pylist())
    assert 0 < frauds < ROWS / 10
    assert table["known_at_us"][0].as_py() - table["event_time_us"][0].as_py() == 9 * 86_400_000_000


def test_a_column_that_tells_the_label_is_ignored(tmp_path: Path) -> None:
    rows = handbook(random.Random(1))
    for row in rows:
        row["verdict_code"] = "x" if row["TX_FRAUD"] else "o"
    result, _, _ = init(write(tmp_path / "file.csv", rows))
    assert "verdict_code" in result.schema.ignore
    assert any("verdict_code" in warning for warning in result.warnings)


def test_a_file_without_time_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "file.csv", [{"a": f"x{i % 9}", "b": "y"} for i in range(50)])
    with pytest.raises(DataError, match="time of the transaction"):
        guess(profile(path))
