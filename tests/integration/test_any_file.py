"""`init`'s guessing on miniatures of well-known files, up to transactions read with the schema guessed."""

from __future__ import annotations

import csv
import os
import random
from collections.abc import Callable, Sequence
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

ROWS = 2_400
START = datetime(2019, 1, 1, tzinfo=UTC)
Rows = list[dict[str, Any]]
HANDBOOK = Path(os.environ.get("FRAUDML_HANDBOOK", "../shared/data/handbook/transactions.parquet"))


def write(path: Path, rows: Rows, delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
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


def card_components(rng: random.Random) -> Rows:
    return [
        {
            "Time": float(int((time - START).total_seconds())),
            **{f"V{i}": rng.gauss(0, 1) for i in range(1, 29)},
            "Amount": round(rng.lognormvariate(3, 1), 2),
            "Class": fraud(rng),
        }
        for time in moments(2)
    ]


def e_commerce(rng: random.Random) -> Rows:
    def maybe(share: float, value: Any) -> Any:
        return value if rng.random() < share else ""

    return [
        {
            "TransactionID": 2_987_000 + number,
            "isFraud": fraud(rng),
            "TransactionDT": 86_400 + int((time - START).total_seconds()),
            "TransactionAmt": round(rng.lognormvariate(4, 1), 3),
            "ProductCD": rng.choice("WCHRS"),
            "card1": rng.randint(1_000, 1_600),
            "card2": maybe(0.98, float(rng.randint(100, 600))),
            "card3": maybe(0.99, 150.0),
            "card4": rng.choice(["visa", "mastercard", "discover"]),
            "card5": float(rng.randint(100, 240)),
            "card6": rng.choice(["debit", "credit"]),
            "addr1": maybe(0.9, float(rng.randint(100, 540))),
            "addr2": maybe(0.9, 87.0),
            "P_emaildomain": maybe(0.85, rng.choice(["gmail.com", "yahoo.com", "anonymous.com"])),
            **{f"C{i}": float(rng.randint(0, 40)) for i in range(1, 15)},
            **{f"D{i}": maybe(0.3, float(rng.randint(0, 600))) for i in range(1, 16)},
            **{f"M{i}": maybe(0.5, rng.choice("TF")) for i in range(1, 10) if i != 4},
            "M4": maybe(0.5, rng.choice(["M0", "M1", "M2"])),
            **{f"V{i}": maybe(0.1, float(rng.randint(0, 3))) for i in range(1, 60)},
        }
        for number, time in enumerate(moments(180))
    ]


def named_people(rng: random.Random) -> Rows:
    people = [
        {
            "cc_num": rng.choice([4, 5]) * 10**15 + rng.randrange(10**15),
            "first": rng.choice(["Ann", "Bob", "Eve", "Dan"]),
            "last": rng.choice(["Smith", "Jones", "Ruiz"]),
            "gender": rng.choice("MF"),
            "street": f"{rng.randrange(900)} Main Street",
            "city": rng.choice(["Bonn", "Ulm", "Jena"]),
            "state": rng.choice(["NY", "CA", "TX"]),
            "zip": rng.randint(10_000, 10_300),
            "lat": round(rng.uniform(30, 45), 4),
            "long": round(rng.uniform(-120, -70), 4),
            "city_pop": rng.randint(100, 10**6),
            "job": rng.choice(["Nurse", "Engineer, civil", 'Surveyor "land"', "Painter"]),
            "dob": (datetime(1980, 1, 1, tzinfo=UTC) - timedelta(days=rng.randrange(9_000))).date().isoformat(),
        }
        for _ in range(120)
    ]
    people[0]["cc_num"] = 4111111111111111
    rows = []
    for number, time in enumerate(moments(400)):
        person = people[number % 120]
        rows.append(
            {
                "": number,
                "trans_date_trans_time": time.strftime("%Y-%m-%d %H:%M:%S"),
                "cc_num": person["cc_num"],
                "merchant": f"fraud_Shop {rng.randrange(150)}",
                "category": rng.choice(["food", "travel", "misc_net"]),
                "amt": round(rng.lognormvariate(3, 1), 2),
                **{key: person[key] for key in list(person)[1:]},
                "trans_num": f"{rng.getrandbits(128):032x}",
                "unix_time": int(time.timestamp()),
                "merch_lat": round(person["lat"] + rng.uniform(-1, 1), 6),
                "merch_long": round(person["long"] + rng.uniform(-1, 1), 6),
                "is_fraud": fraud(rng),
            }
        )
    return rows


def mobile_money(rng: random.Random) -> Rows:
    return [
        {
            "step": 1 + int((time - START).total_seconds() // 3600),
            "type": rng.choice(["PAYMENT", "TRANSFER", "CASH_OUT"]),
            "amount": round(rng.lognormvariate(8, 1), 2),
            "nameOrig": f"C{rng.randrange(10**9)}",
            "oldbalanceOrg": round(rng.random() * 1e5, 2),
            "newbalanceOrig": round(rng.random() * 1e5, 2),
            "nameDest": f"M{rng.randrange(400)}",
            "oldbalanceDest": round(rng.random() * 1e5, 2),
            "newbalanceDest": round(rng.random() * 1e5, 2),
            "isFraud": fraud(rng),
            "isFlaggedFraud": int(rng.random() < 0.001 or number == 5),
        }
        for number, time in enumerate(moments(30))
    ]


def bank_accounts(rng: random.Random) -> Rows:
    return [
        {
            "fraud_bool": fraud(rng),
            "income": round(rng.random(), 1),
            "name_email_similarity": rng.random(),
            "prev_address_months_count": rng.randint(-1, 300),
            "customer_age": rng.randrange(10, 90, 10),
            "days_since_request": rng.random() * 10,
            "payment_type": rng.choice(["AA", "AB", "AC"]),
            "zip_count_4w": rng.randint(1, 5_000),
            "velocity_6h": rng.random() * 1e4,
            "email_is_free": rng.randint(0, 1),
            "device_os": rng.choice(["linux", "windows", "macintosh"]),
            "source": "INTERNET",
            "month": number * 8 // ROWS,
        }
        for number in range(ROWS)
    ]


def semicolons(rng: random.Random) -> Rows:
    return [
        {
            "Order No": f"A-{number:06d}",
            "Timestamp": time.isoformat(),
            "Client": f"client {rng.randrange(150)}",
            "Device ID": f"dev-{rng.randrange(400)}",
            "Price": round(rng.lognormvariate(3, 1), 2),
            "Note": rng.choice(["", "gift; wrapped", 'said "hi"']),
            "Fraudulent": rng.choice(["no"] * 30 + ["yes"]),
            "chargeback_date": (time + timedelta(days=9)).isoformat(),
        }
        for number, time in enumerate(moments(120))
    ]


@pytest.fixture
def found(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Guess, list[Feature], pa.Table]:
    make: Callable[[random.Random], Rows] = request.param
    delimiter = ";" if make is semicolons else ","
    return init(write(tmp_path / "file.csv", make(random.Random(3)), delimiter))


def names(features: Sequence[Feature], *, inputs: bool = True) -> set[str]:
    return {feature.name for feature in features if feature.input is inputs}


@pytest.mark.parametrize("found", [handbook], indirect=True)
def test_handbook(found: tuple[Guess, list[Feature], pa.Table]) -> None:
    check_handbook(found[0].schema, found[1])


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
    assert names(features) >= {"customer_amount_z_7d", "terminal_fraud_rate_30d", "customer_seconds_since_last"}


@pytest.mark.handbook
@pytest.mark.skipif(not HANDBOOK.exists(), reason="needs the Handbook's data (FRAUDML_HANDBOOK)")
def test_the_real_handbook() -> None:
    facts = profile(HANDBOOK)
    schema = guess(facts).schema
    check_handbook(schema, default_features(schema, facts))


@pytest.mark.parametrize("found", [card_components], indirect=True)
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


@pytest.mark.parametrize("found", [e_commerce], indirect=True)
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
    assert all(types[f"V{i}"] is AttributeType.number for i in range(1, 60))
    assert all(types[f"D{i}"] is AttributeType.number for i in range(1, 16))


@pytest.mark.parametrize("found", [named_people], indirect=True)
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


@pytest.mark.parametrize("found", [mobile_money], indirect=True)
def test_steps_of_hours(found: tuple[Guess, list[Feature], pa.Table]) -> None:
    schema = found[0].schema
    assert (schema.event_time.column, schema.event_time.format) == ("step", TimeFormat.hours_from)
    assert schema.entities == {"recipient": "nameDest"}
    assert set(schema.ignore) == {"nameOrig", "isFlaggedFraud"}
    assert schema.label is not None
    assert (schema.label.column, schema.label.delay) == ("isFraud", "2d")
    assert schema.attributes["type"].type is AttributeType.category


@pytest.mark.parametrize("found", [bank_accounts], indirect=True)
def test_applications_by_month(found: tuple[Guess, list[Feature], pa.Table]) -> None:
    schema = found[0].schema
    assert (schema.event_time.column, schema.event_time.format) == ("month", TimeFormat.days_from)
    assert schema.entities == {}
    assert schema.amount is None
    assert schema.ignore == ("source",)
    assert schema.label is not None
    assert schema.label.column == "fraud_bool"


@pytest.mark.parametrize("found", [semicolons], indirect=True)
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
