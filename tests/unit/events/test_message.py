"""What is read from a file, written as a message and decoded by a receiver, is the same transaction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.adapters.source.files import FileSource
from fraudml.events.cards import CardHasher
from fraudml.events.decoder import TransactionDecoder
from fraudml.events.fields import FieldReader
from fraudml.events.label import Label
from fraudml.events.message import MessageWriter, time_writer
from fraudml.events.normalise import EARLIEST_ATTRIBUTE_US, LATEST_US, time_reader
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, LabelColumn, Schema, TimeColumn, TimeFormat
from fraudml.events.transaction import Transaction
from fraudml.operations.playback.timeline import Stretch, timeline

HASHER = CardHasher(b"key")
EXAMPLES = max(8, settings().max_examples // 12)  # each opens a database and holds dozens of rows
FOR_EVER_S = 1e12
START = "2020-01-01"
FIRST, LAST = datetime.fromisoformat("1970-01-02"), datetime.fromisoformat("2190-01-01")


def schema(time_format: TimeFormat, zone: str | None, decimals: int) -> Schema:
    start = START if time_format.needs_start else None
    return Schema(
        TimeColumn("t", time_format, zone, start),
        "id",
        {"customer": "cust", "card": "card"},
        AmountColumn("amount", decimals, allow_negative=True, optional=True),
        {
            "n": Attribute(AttributeType.number),
            "i": Attribute(AttributeType.integer),
            "b": Attribute(AttributeType.boolean),
            "c": Attribute(AttributeType.category),
            "born": Attribute(AttributeType.time, format=time_format, timezone="America/New_York", start=start),
            "exact": Attribute(AttributeType.number, column="amount"),  # one column, read in two ways
            "shop": Attribute(AttributeType.category, column="cust"),
        },
        LabelColumn("fraud", delay="3d"),
    ).check()


texts = st.one_of(
    st.none(),
    st.sampled_from(["4111 1111 1111 1111", "nan", "a:b", '"', "\\", " x ", "12", "12.50", "Ünï"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=12),
)
moments = st.datetimes(FIRST, LAST, timezones=st.just(UTC))
rows = st.fixed_dictionaries(
    {
        "t": moments,
        "cust": texts,
        "card": texts,
        "amount": st.one_of(st.none(), st.floats(-1e7, 1e7), st.decimals(-1000, 1000, places=3).map(float)),
        "n": st.one_of(st.none(), st.floats(-1e30, 1e30)),
        "i": st.one_of(st.none(), st.integers(-(10**12), 10**12)),
        "b": st.one_of(st.none(), st.booleans()),
        "c": texts,
        "born": st.one_of(st.none(), moments),
        "fraud": st.sampled_from(["0", "1", None]),
    }
)


def _raw(moment: datetime | None, time_format: TimeFormat) -> datetime | float | None:
    """A moment as a column of this format has it."""
    if moment is None or time_format is TimeFormat.iso:
        return moment
    zero = (
        datetime.fromisoformat(START).replace(tzinfo=UTC)
        if time_format.needs_start
        else datetime(1970, 1, 1, tzinfo=UTC)
    )
    unit = {"epoch_ms": 1e-3, "epoch_us": 1e-6, "hours_from": 3_600, "days_from": 86_400}.get(time_format.value, 1)
    return (moment - zero) / timedelta(seconds=1) / unit


def _read(declared: Schema, table: pa.Table) -> list[Transaction]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "history.parquet"
        pq.write_table(table, path)
        source = FileSource(
            path, declared, HASHER, max_reject_share=1.0, rejects_path=Path(folder) / "rejects.csv", threads=1
        )
        events = list(timeline(list(source.read()), declared, Stretch(), labels=False))
    return [event for event in events if isinstance(event, Transaction)]


@settings(max_examples=EXAMPLES)
@given(
    st.lists(rows, min_size=1, max_size=30),
    st.sampled_from(list(TimeFormat)),
    st.sampled_from([None, "UTC"]),
    st.integers(0, 8),
)
def test_a_message_is_decoded_to_what_the_file_says(
    raw: list[dict[str, object]], time_format: TimeFormat, zone: str | None, decimals: int
) -> None:
    declared = schema(time_format, zone, decimals)
    for number, row in enumerate(raw):
        row["id"] = f"t{number}"
        for name in ("t", "born"):
            row[name] = _raw(row[name], time_format)  # type: ignore[arg-type]
    columns = {name: [row[name] for row in raw] for name in raw[0]}
    kinds = {"cust": pa.string(), "card": pa.string(), "c": pa.string(), "fraud": pa.string(), "i": pa.int64()}
    kinds |= {"amount": pa.float64(), "n": pa.float64(), "b": pa.bool_()}
    if time_format is not TimeFormat.iso:
        kinds |= {"t": pa.float64(), "born": pa.float64()}
    else:
        kinds |= {"t": pa.timestamp("us", "UTC"), "born": pa.timestamp("us", "UTC")}
    table = pa.table({name: pa.array(values, kinds.get(name)) for name, values in columns.items()})
    events = _read(declared, table)
    writer = MessageWriter(declared)
    decoder = TransactionDecoder(declared, HASHER, max_ahead_s=FOR_EVER_S)
    assert [decoder.decode(writer.transaction(event)) for event in events] == events


def test_no_row_is_left_out_of_that_for_another_reason() -> None:
    declared = schema(TimeFormat.iso, None, 2)
    good = {"id": "t", "t": "2024-05-01T00:00:00Z", "cust": "c", "card": "4111111111111111", "amount": "12.345"}
    more = {"n": "2.5", "i": "3", "b": "yes", "c": "x", "born": "1990-01-01", "fraud": "1"}
    table = pa.table({name: [value] for name, value in (good | more).items()})
    (event,) = _read(declared, table)
    assert event.amount_minor == 1235
    assert event.attributes[5] == 12.345
    message = msgspec.json.decode(MessageWriter(declared).transaction(event))
    assert message["amount"] == 12.345
    assert message["card"].startswith("card:")
    assert TransactionDecoder(declared, HASHER, max_ahead_s=0).normalise(message) == event


@pytest.mark.parametrize("time_format", list(TimeFormat))
@given(st.integers(9, LATEST_US - 9), st.integers(EARLIEST_ATTRIBUTE_US + 9, LATEST_US - 9))
def test_a_time_is_read_back_in_every_format(time_format: TimeFormat, event_us: int, born_us: int) -> None:
    start = START if time_format.needs_start else None
    for column, moment_us in (
        (TimeColumn("t", time_format, None, start), event_us),
        (Attribute(AttributeType.time, format=time_format, start=start), born_us),
    ):
        read_us = time_reader(column)(msgspec.json.decode(msgspec.json.encode(time_writer(column)(moment_us))))
        distance_us = moment_us - TimeColumn("t", time_format, None, start).start_us()
        # a double does not tell every microsecond beyond seventy years
        assert abs(read_us - moment_us) <= (0 if max(abs(distance_us), abs(moment_us)) < 2**51 else 2)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), st.booleans(), st.integers(0, 10**15)
)
def test_a_label_is_read_back(name: str, is_fraud: bool, known_us: int) -> None:
    if not name.strip():
        return
    declared = schema(TimeFormat.iso, None, 2)
    label = Label(HASHER(name.strip()), is_fraud, known_us)
    assert FieldReader(declared, HASHER).label(msgspec.json.decode(MessageWriter(declared).label(label))) == label
