"""Files as a source: order, rejects with their lines, duplicates, card numbers, missing columns, odd formats."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraudml.adapters.source.files import FileSource
from fraudml.errors import DataError, TooManyRejects
from fraudml.events.cards import CardHasher
from fraudml.events.schema import AmountColumn, LabelColumn, Schema, TimeColumn
from fraudml.events.source import arrow_schema

CARD = "4111111111111111"
HASHER = CardHasher(b"key")
SCHEMA = Schema(
    TimeColumn("time", timezone="UTC"),
    "id",
    {"customer": "cust"},
    AmountColumn("amount"),
    label=LabelColumn("fraud", known_at=TimeColumn("reported", timezone="UTC")),
)
HEADER = "id,time,cust,amount,fraud,reported\n"


def source(path: Any, schema: Schema = SCHEMA, **options: Any) -> FileSource:
    options.setdefault("max_reject_share", 1.0)
    first = Path(path if isinstance(path, (str, Path)) else path[0])
    return FileSource(path, schema, HASHER, rejects_path=first.parent / "out" / "rejects.csv", **options)


def rejected(found: FileSource) -> list[tuple[int, str, dict[str, str]]]:
    path = found.rejects().path
    assert path is not None
    with path.open(encoding="utf-8", newline="") as file:
        return [(int(row["line"]), row["reason"], json.loads(row["row"])) for row in csv.DictReader(file)]


def ids(found: FileSource) -> list[str]:
    return list(found.read().read_all()["transaction_id"].to_pylist())


def test_every_broken_row_is_in_the_rejects_file_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        b"\xef\xbb\xbf" + HEADER.encode() + b'1,2024-01-01,"a\nb",5,0,\n'  # lines 2 and 3
        b"\n"
        b"2,yesterday,b,-1,0,\n"  # 5
        b"3,2024-01-01,c\n"  # 6
        b"4,2024-01-01,c,1,0,,x\n"  # 7
        b'5,2024-01-01,"c"d,1,0,\n'  # 8
        b"6,2024-01-01,\xff\xfe,1,0,\n"  # 9
        b"1,2024-01-02,c,1,0,\n"  # 10
        b"7,2024-01-02,c,1,perhaps,\n"  # 11
        b",,c,nan,0,\n"  # 12
        b"8,2024-01-03,c,1,1,2024-01-09\n"
        b"9,2024-01-03,c,1,,soon"  # 14
    )
    found = source(path)
    assert ids(found) == ["1", "8"]
    rows = rejected(found)
    assert [(line, reason) for line, reason, _ in rows] == [
        (
            5,
            "time: expected an ISO 8601 time such as 2024-05-01T12:30:00Z; "
            "amount: expected an amount that is not negative",
        ),
        (6, "malformed line: too few fields"),
        (7, "malformed line: too many fields"),
        (8, "malformed line: a quote is not closed"),
        (9, "malformed line: not UTF-8"),
        (10, "duplicate id"),
        (11, "fraud: expected one of the schema's values for fraud or genuine"),
        (12, "id: missing; time: missing; amount: missing"),
        (14, "reported: expected an ISO 8601 time such as 2024-05-01T12:30:00Z"),
    ]
    assert rows[0][2] == {
        "id": "2",
        "time": "yesterday",
        "cust": "b",
        "amount": "-1",
        "fraud": "0",
        "reported": None,
    }
    assert rows[2][2] == {"line": "4,2024-01-01,c,1,0,,x"}
    summary = found.rejects()
    assert (summary.rows, summary.count, summary.reasons["duplicate id"]) == (11, 9, 1)


def test_labels_are_known_when_reported_or_after_the_delay_and_never_before_the_event(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        HEADER + "1,2024-01-01T12:00,c,1,1,2024-01-05\n2,2024-01-01T12:00,c,1,0,\n"
        "3,2024-01-01T12:00,c,1,1,2024-01-01\n4,2024-01-01T12:00,c,1,,2024-01-05\n"
    )
    table = source(path).read().read_all()
    waits = [k - t if k is not None else None for t, k in zip(*(table[c].to_pylist() for c in TIMES), strict=True)]
    assert waits == [3.5 * DAY, 7 * DAY, 0, None]
    assert table["is_fraud"].to_pylist() == [True, False, True, None]


DAY = 86_400_000_000
TIMES = ("event_time_us", "known_at_us")


def test_no_card_number_gets_through(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        HEADER + f"{CARD},2024-01-01,{CARD},1,0,\n4111-1111-1111-1111,2024-01-01,c,1,0,\n"
        f"7,2024-01-01,4111 1111 1111 1111,{CARD},0,\n8,2024-01-01,c {CARD} d,x,0,\n"
        f"9,2024-01-01,c,4.111111111111111e15,0,\n"
        f"{CARD},{CARD}\n"
    )
    found = source(path)
    table = found.read().read_all()
    assert table["transaction_id"].to_pylist() == [HASHER(CARD)]
    assert table["customer"].to_pylist() == [HASHER(CARD)]
    assert [reason.partition(":")[0] for _, reason, _ in rejected(found)] == [
        "duplicate id",
        "amount",
        "amount",
        "amount",
        "malformed line",
    ]
    path = found.rejects().path or Path()
    text = path.read_text()
    assert "4111" not in text.replace(" ", "").replace("-", "")
    assert "4.1111" not in text
    assert path.stat().st_mode & 0o077 == 0


def test_several_files_keep_their_order_and_share_their_ids(tmp_path: Path) -> None:
    rows = 40_000
    table = pa.table(
        {
            "id": pa.array(range(rows)),
            "time": pa.array(range(rows), pa.timestamp("s")),
            "cust": pa.array(["c"] * rows),
            "amount": pa.array([1.5] * rows),
            "fraud": pa.array([False] * rows),
            "reported": pa.nulls(rows, pa.timestamp("s")),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7_000)
    pq.write_table(table.slice(39_990), tmp_path / "b.parquet")
    found = source(str(tmp_path / "*.parquet"), threads=2)
    assert ids(found) == [str(number) for number in range(rows)]
    assert [line for line, _, _ in rejected(found)] == list(range(1, 11))
    assert found.rejects().reasons == {"duplicate id": 10}


def test_rows_are_numbered_without_an_id_column(tmp_path: Path) -> None:
    schema = Schema(TimeColumn("time", timezone="UTC"))
    for day in ("x", "y"):
        (tmp_path / day).mkdir()
        with gzip.open(tmp_path / day / "part.csv.gz", "wt") as file:
            file.write("time|other\n2024-01-01|1\nbroken|2\n2024-01-03|3\n")
    assert ids(source(tmp_path / "x" / "part.csv.gz", schema)) == ["part:1", "part:3"]
    both = ids(source(str(tmp_path / "*" / "part.csv.gz"), schema))
    assert len(set(both)) == 4


def test_two_runs_at_once_lose_none_of_their_rejects(tmp_path: Path) -> None:
    """The second begins while the first has rejects already, and ends before it."""
    paths = [tmp_path / f"{name}.csv" for name in "abc"]
    for path in paths:
        rows = f"{path.stem}1,2024-01-01,c,1,0,\n{path.stem}2,soon,c,1,0,\n"
        path.write_text(HEADER + rows, encoding="utf-8")
    first, second = source(paths[:2]), source(paths[2])
    reading = first.read()
    assert [reading.read_next_batch()["transaction_id"].to_pylist() for _ in "ab"] == [["a1"], ["b1"]]
    assert ids(second) == ["c1"]
    assert [row["id"] for _, _, row in rejected(second)] == ["c2"]
    assert reading.read_all().num_rows == 0
    assert [row["id"] for _, _, row in rejected(first)] == ["a2", "b2"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rejects.csv"]


def test_too_many_rejects_stop_the_command(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + "1,2024-01-01,c,1,0,\n" * 3)
    found = source(path, max_reject_share=0.5)
    with pytest.raises(TooManyRejects, match=r"2 of 3 rows.*duplicate id \(2\).*FRAUDML_MAX_REJECT_SHARE"):
        found.read().read_all()
    with pytest.raises(TooManyRejects):
        found.rejects()
    assert ids(source(path, max_reject_share=0.7)) == ["1"]


def test_a_hopeless_file_is_given_up_early(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + "".join(f"{i},01/02/2024,c,1,0,\n" for i in range(120_000)))
    with pytest.raises(TooManyRejects, match="100,000 of 100,000 rows are broken so far"):
        source(path, max_reject_share=0.1).read().read_all()


def test_missing_columns_are_named_with_their_neighbours(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,Time,customer_id,amount,fraud,reported\n1,2024-01-01,c,1,0,\n")
    with pytest.raises(DataError, match=r"lacks the columns 'time' \(did you mean 'Time'\?\), 'cust'"):
        source(path).read()


def test_a_file_without_the_label_is_unlabelled(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,time,cust,amount\n1,2024-01-01,c,1\n")
    table = source(path).read().read_all()
    assert table.schema == arrow_schema(SCHEMA)
    assert table["is_fraud"].to_pylist() == table["known_at_us"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"1,2024-01-01\n2,2024-01-02\n", "no header"),
        (b"time,time\n", "twice"),
        (b"\x00\x01\x02\x00\n", "neither CSV nor Parquet"),
        (b"PAR1garbage", "as Parquet"),
    ],
)
def test_what_is_no_table_is_refused_in_words(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        source(path, Schema(TimeColumn("time"))).read()


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        source(tmp_path / "*.csv")


def test_western_code_pages_and_tabs(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("time\tcust\n2024-01-01\tJosé\n".encode("latin-1"))
    schema = Schema(TimeColumn("time", timezone="UTC"), entities={"customer": "cust"})
    assert source(path, schema).read().read_all()["customer"].to_pylist() == ["José"]


def test_progress_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + "1,2024-01-01,c,1,0,\n2,2024-01-01,c,1,0,\n")
    told: list[tuple[int, int | None]] = []
    source(path).read(lambda done, total: told.append((done, total))).read_all()
    assert told[-1][0] == 2
    assert told[-1][1] is not None


def test_a_file_that_is_damaged_further_on_is_an_error_that_names_it(tmp_path: Path) -> None:
    rows = 400_000
    path = tmp_path / "a.parquet"
    times = pa.array(range(rows), pa.timestamp("s"))
    pq.write_table(pa.table({"time": times}), path, row_group_size=50_000, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[-400_000:-200_000] = b"\xff" * 200_000
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*a\.parquet: ") as caught:
        source(path, Schema(TimeColumn("time", timezone="UTC"))).read().read_all()
    assert "\n" not in str(caught.value)
