"""Files are normalised by SQL, requests by Python: a raw row gives the same transaction, or both refuse it."""

from __future__ import annotations

import csv
import warnings
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fraudml.adapters.source.files import FileSource
from fraudml.errors import RowError
from fraudml.events import normalise as rules
from fraudml.events.cards import CardHasher
from fraudml.events.normalise import Normaliser, read_label
from fraudml.events.schema import (
    AmountColumn,
    Attribute,
    AttributeType,
    LabelColumn,
    Schema,
    TimeColumn,
    TimeFormat,
)

HASHER = CardHasher(b"key")
EXAMPLES = max(6, settings().max_examples // 15)  # each opens a database and holds dozens of rows
COLUMNS = ("t", "cust", "amount", "n", "i", "b", "c", "born", "label")


def schema(zone: str | None, time_format: TimeFormat = TimeFormat.iso, **amount: Any) -> Schema:
    return Schema(
        event_time=TimeColumn("t", time_format, zone, "2020-01-01" if time_format.needs_start else None),
        entities={"cust": "cust"},
        amount=AmountColumn("amount", **amount),
        attributes={
            "n": Attribute(AttributeType.number),
            "i": Attribute(AttributeType.integer),
            "b": Attribute(AttributeType.boolean),
            "c": Attribute(AttributeType.category),
            "born": Attribute(AttributeType.time, timezone="America/New_York"),
        },
        label=LabelColumn("label", fraud=("1", "yes"), genuine=("0", "no")),
    )


spaces = st.sampled_from(["", " ", "\t", "\u00a0", "\u2003", "\n", "\x1c"])
odd_text = st.one_of(
    st.sampled_from(["", "nan", "NA", "n/a", "None", "null", "NULL", "'", '"', ",", ";", "r", "p", "s", "card:x"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12),
)
cards = st.sampled_from(
    ["4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111", "4111111111111112", "378282246310005"]
)
numbers = st.one_of(
    st.floats().map(repr),
    st.integers(-(10**14), 10**14).map(str),
    st.decimals(-1000, 1000, places=3, allow_nan=False).map(str),
    st.integers(0, 10**20).map(str),
    st.sampled_from(
        ["1e400", "1_000", "+5", "+-5", ".5", "5.", "1e", "inf", "-nan", "1e5", "-0", "-0.004", "0x1", "\u0661"]
    ),
    st.sampled_from(["1e30", "1.0000001e30", "1000000000000", "1000000000001", "999999999999.5", "2.675", "1.005"]),
)
moments = st.datetimes().flatmap(
    lambda moment: st.sampled_from(
        [moment.isoformat(), moment.isoformat(" "), moment.date().isoformat(), moment.isoformat(timespec="minutes")]
    )
)
# Around the changes of clocks in Berlin and New York, and at the ends of the years that are allowed.
clock_changes = st.sampled_from(
    [
        "2024-03-31 02:30:00",
        "2024-03-31 01:59:59.999999",
        "2024-03-31 03:00:00",
        "2024-10-27 02:30:00",
        "2024-10-27 03:00:00",
        "2024-10-27 01:59:59",
        "2024-03-10T02:30:00",
        "2024-11-03T01:30:00",
        "1970-01-01 00:59:59",
        "1970-01-01 01:00:00",
        "2200-01-01 00:59:59",
        "2200-01-01 01:00:00",
        "1899-12-31 19:03:57",
        "1899-12-31 19:03:58",
        "1955-06-01",
        "1945-08-14 18:30:00",
    ]
)
offsets = st.sampled_from(["", "", "Z", "+02:00", "-0530", "+14", " UTC", "UTC", "z", "+24:00", "+02:00:15", "+2"])
times = st.one_of(
    st.tuples(st.one_of(moments, clock_changes), offsets).map("".join),
    st.sampled_from(["2024-02-30", "2024-05-01T24:00:00", "2024-05-01 12:30:60", "epoch", "infinity", "20240501"]),
    st.sampled_from(["2024-05-01T12", "2024-5-1", "2024-05-01T12:30:00.", "2024-05-01T12:30:00.1234567Z"]),
)
words = st.sampled_from(["0", "1", "0.0", "1.0", "true", "FALSE", "Yes", "no", "t", "F", "2", "maybe"])
anything = st.one_of(odd_text, cards, numbers, times, words)


def padded(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(spaces, st.one_of(values, values, anything), spaces).map("".join)


rows = st.fixed_dictionaries(
    {
        "t": padded(times),
        "cust": padded(st.one_of(odd_text, cards)),
        "amount": padded(numbers),
        "n": padded(numbers),
        "i": padded(numbers),
        "b": padded(words),
        "c": padded(odd_text),
        "born": padded(times),
        "label": padded(words),
    }
)


GOOD = {"t": "2024-05-01T12:00:00Z", "cust": "c", "amount": "1", "n": "1", "i": "1", "b": "1", "c": "x", "label": "0"}


def mostly_good(strategy: st.SearchStrategy[dict[str, Any]], good: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Rows of which one or two fields are drawn: were all nine, hardly a row would ever be accepted."""
    drawn = st.sets(st.sampled_from(COLUMNS), min_size=1, max_size=2)
    return st.tuples(strategy, drawn).map(
        lambda pair: {c: pair[0][c] if c in pair[1] else good.get(c) for c in COLUMNS}
    )


def by_python(declared: Schema, row: dict[str, Any], number: int) -> tuple[Any, ...] | None:
    """The row as the Normaliser has it, with its label; ``None`` when it is refused."""
    try:
        transaction = Normaliser(declared, HASHER)({**row, "transaction_id": f"rows:{number}"})
        verdict = read_label(row["label"], declared.label) if declared.label else None
    except (RowError, rules._Wrong):
        return None
    return (
        transaction.transaction_id,
        transaction.event_time_us,
        *transaction.entities,
        transaction.amount_minor,
        *transaction.attributes,
        verdict,
    )


def by_file(declared: Schema, path: Path) -> dict[str, tuple[Any, ...]]:
    source = FileSource(path, declared, HASHER, max_reject_share=1, rejects_path=path.with_suffix(".rejects"))
    read = source.read().read_all().drop_columns(["known_at_us"]).to_pylist()
    return {row["transaction_id"]: tuple(row.values()) for row in read}


def check(declared: Schema, raw: list[dict[str, Any]], write: Any) -> None:
    with TemporaryDirectory() as folder:
        path = write(Path(folder), raw)
        found = by_file(declared, path)
    expected = {}
    for number, row in enumerate(raw, 1):
        transaction = by_python(declared, row, number)
        if transaction is not None:
            expected[transaction[0]] = transaction
    assert found == expected


def as_csv(folder: Path, raw: list[dict[str, Any]]) -> Path:
    path = folder / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=";", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(raw)
    return path


def as_parquet(folder: Path, raw: list[dict[str, Any]]) -> Path:
    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(raw, pa.schema([(name, pa.string()) for name in COLUMNS])), path)
    return path


@pytest.mark.parametrize("write", [as_csv, as_parquet])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
@settings(max_examples=EXAMPLES)
@given(raw=st.lists(mostly_good(rows, {"born": "1980-01-01", **GOOD}), min_size=1, max_size=40))
def test_text(zone: str | None, write: Any, raw: list[dict[str, str]]) -> None:
    check(schema(zone), raw, write)


@pytest.mark.parametrize("time_format", [f for f in TimeFormat if f is not TimeFormat.iso])
@settings(max_examples=EXAMPLES)
@given(counts=st.lists(padded(st.one_of(numbers, st.integers(0, 2 * 10**15).map(str))), min_size=1, max_size=30))
@example(counts=["1714521600003", "1714521600000123", "86400"])
def test_counted_times(time_format: TimeFormat, counts: list[str]) -> None:
    raw = [dict.fromkeys(COLUMNS, "") | {"t": count, "amount": "1"} for count in counts]
    check(schema(None, time_format), raw, as_csv)


@pytest.mark.parametrize("options", [{"decimals": 0}, {"allow_negative": True}, {"optional": True, "decimals": 3}])
@settings(max_examples=EXAMPLES)
@given(amounts=st.lists(padded(numbers), min_size=1, max_size=30))
def test_amounts(options: dict[str, Any], amounts: list[str]) -> None:
    raw = [dict.fromkeys(COLUMNS, "") | {"t": "2024-05-01T00:00:00Z", "amount": amount} for amount in amounts]
    check(schema(None, **options), raw, as_csv)


native = st.fixed_dictionaries(
    {
        "t": st.none() | st.datetimes(),
        "cust": st.none() | st.integers(-(2**63), 2**63 - 1),
        "amount": st.none() | st.floats(),
        "n": st.none() | st.floats() | st.floats(-1e6, 1e6),
        "i": st.none() | st.integers(-(2**63), 2**63 - 1),
        "b": st.none() | st.booleans(),
        "c": st.none() | st.floats(-1e6, 1e6) | st.floats(),
        "born": st.none() | st.datetimes(),
        "label": st.none() | st.floats(0, 1),
    }
)
GOOD_NATIVE = {"t": datetime.fromisoformat("2024-05-01"), "amount": 1.0, "label": 0.0}
NATIVE = pa.schema(
    [
        ("t", pa.timestamp("us")),
        ("cust", pa.int64()),
        ("amount", pa.float64()),
        ("n", pa.float64()),
        ("i", pa.int64()),
        ("b", pa.bool_()),
        ("c", pa.float64()),
        ("born", pa.timestamp("us")),
        ("label", pa.float64()),
    ]
)


def native_parquet(folder: Path, raw: list[dict[str, Any]]) -> Path:
    path = folder / "rows.parquet"
    with warnings.catch_warnings():
        pq.write_table(pa.Table.from_pylist(raw, NATIVE), path)
    return path


@settings(max_examples=EXAMPLES)
@given(raw=st.lists(mostly_good(native, GOOD_NATIVE), min_size=1, max_size=40))
def test_native_types(raw: list[dict[str, Any]]) -> None:
    check(schema("Europe/Berlin"), raw, native_parquet)
